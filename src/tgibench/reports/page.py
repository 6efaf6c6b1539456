"""A study as one HTML page that stands alone: it opens without a network and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import attrs

from tgibench._version import __version__
from tgibench.errors import MissingExtraError
from tgibench.formatting import MISSING
from tgibench.remembered_costs import RememberedCosts
from tgibench.reports import grids, plots
from tgibench.reports.answers import answer, choices, front, latency_field
from tgibench.reports.columns import cost_bases, is_derived, rows_of
from tgibench.reports.definitions import SOURCES
from tgibench.reports.timeline_plots import timeline_plots
from tgibench.requirements import cell_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tgibench.costs import CostModel
    from tgibench.measurements import DeploymentFailure, Measurement, Study
    from tgibench.reports.columns import Row
    from tgibench.requirements import Requirement

__all__ = ["html_page"]

_NUMBERS = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*")
_TIMELINE_HEADINGS = ("seconds", "in flight", "tokens/s", "succeeded", "failed")


def html_page(
    study: Study,
    costs: CostModel | None = None,
    *,
    requirements: Sequence[Requirement] = (),
    title: str | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The page's HTML: the answer first, then what it rests on.

    Args:
        study: What was measured.
        costs: What it costs; without it there are no dollars and nothing is the cheapest.
        requirements: What must be kept to be chosen (see `tgibench.requirements`).
        title: The page's heading; by default what the study is about.
        notes: Sentences of your own, shown at the top.

    Raises:
        MissingExtraError: jinja2 or plotly is not installed.
        UnknownPrice: The cost model knows no price of one of the measurements.
    """
    try:
        import jinja2  # noqa: PLC0415 - an extra
        from plotly.offline import get_plotlyjs  # type: ignore[import-untyped] # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise MissingExtraError(f'the page needs {package}: pip install "tgibench[report]"') from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tgibench.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = {"plotly": get_plotlyjs(), "script": _template("page.js")}
    return environment.get_template("page.html.j2").render(
        **_content(study, None if costs is None else RememberedCosts(costs), requirements),
        title=title or _title(study),
        notes=notes,
        version=__version__,
        style=_template("page.css"),
        script_hashes=" ".join(_hash(text) for text in scripts.values()),
        **scripts,
    )


def _template(name: str) -> str:
    return files("tgibench.reports").joinpath(f"templates/{name}").read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """A source of the content security policy: this script and no other may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _content(study: Study, costs: CostModel | None, requirements: Sequence[Requirement]) -> dict[str, Any]:
    rows, priced = rows_of(study, costs), costs is not None
    chosen = choices(study.measurements, costs, requirements)
    best = front(study.measurements, costs, requirements)
    drawn = _figures(rows, best, priced=priced)
    waited = any(getattr(row.measurement.metrics, name) is not None for row in rows for name in plots.SPREADS)
    with_timeline = sum(row.measurement.metrics.timeline is not None for row in rows)
    return {
        "summary": _summary(study),
        "sources": _sources(rows),
        "parts": _parts(rows, priced=priced, waited=waited, timelines=bool(with_timeline)),
        "answers": [answer(choice) for choice in chosen],
        "cautions": _common([choice.warnings for choice in chosen]),
        "by_model": _by_model(study, costs, requirements),
        "requirements": [str(requirement) for requirement in requirements],
        "rows": rows,
        "on_front": len(best),
        "key_to_marks": plots.key_to_marks(rows),
        "costs": grids.cost_table(plots.series_of(rows)) if priced else None,
        "loads": drawn["spread-0"],
        "waited": waited,
        "spreads": plots.SPREADS,
        "distributions": grids.distributions(rows),
        "timelines": drawn["timeline"],
        "timelines_left_out": with_timeline - len(drawn["timeline"]),
        "timeline_headings": _TIMELINE_HEADINGS,
        "measurements": grids.measurements(rows, priced=priced),
        "derived": any(is_derived(row) for row in rows),
        "warnings": _warnings(rows),
        "failures": [_failed(failure) for failure in study.failures],
        "facts": grids.facts(rows),
        "prices": grids.prices(rows),
        "bases": _further_bases(rows),
        "formulas": grids.formulas(),
        "figures": {name: [attrs.asdict(figure) for figure in choices] for name, choices in drawn.items()},
    }


def _figures(rows: list[Row], best: Sequence[Measurement], *, priced: bool) -> dict[str, list[plots.Figure]]:
    """What the page draws, by name: of each the figures to choose from."""
    series = plots.series_of(rows)
    return {
        "throughput": [plots.throughput_plot(series, latency_field(row.measurement for row in rows), best)],
        "cost": [plots.cost_plot(series)] if priced else [],
        **{f"spread-{number}": spread for number, spread in enumerate(plots.distribution_plots(rows))},
        "timeline": timeline_plots(rows),
    }


def _by_model(study: Study, costs: CostModel | None, requirements: Sequence[Requirement]) -> grids.Grid | None:
    """The choices among the deployments of each model; None where all deployments are of one."""
    models: dict[str, list[Measurement]] = {}
    for measurement in study:
        models.setdefault(measurement.deployment.model_id, []).append(measurement)
    if len(models) < 2:
        return None
    found = [
        (model, answer(choice)) for model, cells in models.items() for choice in choices(cells, costs, requirements)
    ]
    return grids.Grid(
        caption="The same for each model by itself",
        headings=(
            grids.Heading("model"), grids.Heading("goal"), grids.Heading("deployment and load"),
            grids.Heading("figure", numeric=True), grids.Heading("how sure"), grids.Heading("source"),
        ),
        rows=[
            [
                model,
                given.choice.goal,
                MISSING if given.choice.winner is None else cell_name(given.choice.winner),
                MISSING if given.headline is None else f"{given.headline} {given.unit}",
                f"{given.mark} {given.verdict}",
                MISSING if given.choice.winner is None else given.choice.winner.source.value,
            ]
            for model, given in found
        ],
    )  # fmt: skip


def _title(study: Study) -> str:
    models = list(dict.fromkeys(measurement.deployment.model_id.rsplit("/", 1)[-1] for measurement in study))
    if not models:
        return "Nothing was measured"
    return f"How to serve {' and '.join(models)}" if len(models) <= 2 else f"How to serve {len(models)} models"


def _summary(study: Study) -> str:
    deployments = {measurement.deployment.label for measurement in study}
    loads = {measurement.load.label for measurement in study}
    days = sorted(
        {at.date().isoformat() for measurement in study if (at := measurement.provenance.began_at) is not None}
    )
    parts = [_number(len(study), "measurement"), _number(len(deployments), "deployment"), _number(len(loads), "load")]
    if days:
        parts.append(days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}")
    return " · ".join([*parts, *(["interrupted before its end"] if study.interrupted else [])])


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _sources(rows: list[Row]) -> list[tuple[str, str, str]]:
    """Each source with what it means and which share of the figures has it."""
    counts = Counter(row.measurement.source for row in rows)
    shares = {
        source: "all figures here" if count == len(rows) else f"{count} of {len(rows)} measurements"
        for source, count in counts.items()
    }
    return [(source.value, SOURCES[source], shares[source]) for source in counts]


def _parts(rows: list[Row], *, priced: bool, waited: bool, timelines: bool) -> list[tuple[str, str]]:
    parts = {
        "answer": ("Answer", True),
        "throughput": ("Throughput", bool(rows)),
        "cost": ("Cost", bool(rows) and priced),
        "distributions": ("Waiting", waited),
        "timeline": ("Over time", timelines),
        "measurements": ("All figures", bool(rows)),
        "warnings": ("Warnings", True),
        "provenance": ("Provenance", True),
    }
    return [(part, name) for part, (name, shown) in parts.items() if shown]


def _warnings(rows: list[Row]) -> list[tuple[str, list[str]]]:
    """The warnings, those that differ by their numbers alone together: what they say, and of which measurement."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        for warning in row.measurement.warnings:
            alike.setdefault(_NUMBERS.sub("…", warning), []).append((cell_name(row.measurement), warning))
    return [
        (found[0][1], [found[0][0]])
        if len(found) == 1
        else (pattern, [f"{cell}: {warning}" for cell, warning in found])
        for pattern, found in alike.items()
    ]


def _further_bases(rows: list[Row]) -> list[str]:
    """What costs rest on beside a price that the table of prices tells in full."""
    told = {str(price) for row in rows if row.cost is not None for price in row.cost.prices}
    return [basis for basis in cost_bases(rows) if basis not in told]


def _common(warnings: Sequence[tuple[str, ...]]) -> list[str]:
    """What is said of every choice, which is said once."""
    return [warning for warning in (warnings[0] if warnings else ()) if all(warning in others for others in warnings)]


def _failed(failure: DeploymentFailure) -> str:
    where = f"{failure.deployment.label}, {failure.load}" if failure.load else failure.deployment.label
    return f"{where}: {failure.message}"
