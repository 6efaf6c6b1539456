"""The page's tables, as texts in rows under headings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tgibench.formatting import MISSING, dollars, quantile_ms
from tgibench.reports.columns import columns
from tgibench.reports.definitions import FORMULAS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tgibench.measurements import Measurement
    from tgibench.provenance import Provenance
    from tgibench.reports.columns import Row
    from tgibench.reports.plots import Series

__all__ = ["CostTable", "Grid", "Heading", "cost_table", "distributions", "facts", "formulas", "measurements", "prices"]

_QUANTILES = ("p50", "p90", "p95", "p99")
_SPREADS = {"TTFT": "ttft_s", "TPOT": "tpot_s", "gap": "icl_s"}
_MOST_VALUES = 8


@attrs.frozen
class Heading:
    """What stands above a column, and whether the column holds figures."""

    text: str
    numeric: bool = False


@attrs.frozen(kw_only=True)
class Grid:
    """A table: its caption, its headings, and its rows, whose first text names the row."""

    caption: str
    headings: tuple[Heading, ...]
    rows: list[list[str]]


@attrs.frozen
class _CostCell:
    text: str
    share: float = 0.0
    best: bool = False


@attrs.frozen
class _CostLine:
    name: str
    source: str
    cells: list[_CostCell]


@attrs.frozen
class CostTable:
    """Deployments down, loads across: what a million output tokens cost, the least under each load marked."""

    loads: list[str]
    lines: list[_CostLine]


def measurements(rows: Sequence[Row], *, priced: bool) -> Grid:
    """Every measurement with its main figures."""
    shown = columns(priced=priced)
    return Grid(
        caption="± is half of the 95 % interval",
        headings=tuple(Heading(column.heading, column.numeric) for column in shown),
        rows=[[column.text(row) for column in shown] for row in rows],
    )


def distributions(rows: Sequence[Row]) -> Grid:
    """TTFT, TPOT and gaps of every measurement, their quantiles in milliseconds."""
    quantiles = [(name, field, quantile) for name, field in _SPREADS.items() for quantile in _QUANTILES]
    return Grid(
        caption="Milliseconds",
        headings=(
            Heading("deployment"),
            Heading("load"),
            *(Heading(f"{name} {quantile}", numeric=True) for name, _, quantile in quantiles),
            Heading("source"),
        ),
        rows=[
            [
                row.measurement.deployment.label,
                row.measurement.load.label,
                *(quantile_ms(getattr(row.measurement.metrics, field), quantile) for _, field, quantile in quantiles),
                row.measurement.source.value,
            ]
            for row in rows
        ],
    )


def cost_table(series: Sequence[Series]) -> CostTable:
    """What a million output tokens cost. A deployment measured more than once under loads of one name counts as last measured."""
    loads = list(dict.fromkeys(row.measurement.load.label for each in series for row in each.rows))
    found = [{row.measurement.load.label: row for row in each.rows} for each in series]
    ends = {load: _ends([usd for cells in found if (usd := _usd(cells.get(load))) is not None]) for load in loads}

    def cell(row: Row | None, load: str) -> _CostCell:
        usd = _usd(row)
        if row is None or row.cost is None or usd is None:
            return _CostCell(MISSING)
        least, most = ends[load]
        return _CostCell(dollars(row.cost.usd_per_million_output_tokens), usd / most if most else 0.0, usd == least)

    return CostTable(
        loads,
        [
            _CostLine(each.name, each.rows[0].measurement.source.value, [cell(cells.get(load), load) for load in loads])
            for each, cells in zip(series, found, strict=True)
        ],
    )


def facts(rows: Sequence[Row]) -> Grid:
    """What one must know to judge or repeat the runs: each fact with its values and how many measurements have each."""
    seen: dict[str, dict[str, int]] = {}
    for row in rows:
        for name, value in _facts_of(row.measurement).items():
            values = seen.setdefault(name, {})
            values[value] = values.get(value, 0) + 1
    return Grid(
        caption="The runs: what was the same for all, and how many measurements had what was not",
        headings=(Heading("fact"), Heading("value")),
        rows=[[name, _listed(values, len(rows))] for name, values in seen.items()],
    )


def prices(rows: Sequence[Row]) -> Grid:
    """The prices that the costs rest on."""
    used = dict.fromkeys(price for row in rows if row.cost is not None for price in row.cost.prices)
    return Grid(
        caption="Prices",
        headings=(
            Heading("machine"), Heading("USD/hour", numeric=True), Heading("provider"), Heading("region"),
            Heading("priced on"), Heading("source"),
        ),
        rows=[
            [
                price.instance_type, f"{price.usd_per_hour:,.6g}", price.provider, price.region,
                price.effective_date.isoformat() if price.effective_date else "undated", price.source,
            ]
            for price in used
        ],
    )  # fmt: skip


def formulas() -> Grid:
    """What the figures mean."""
    return Grid(
        caption="The formulas",
        headings=(Heading("figure"), Heading("definition")),
        rows=[[name, text] for name, text in FORMULAS.items()],
    )


def _facts_of(measurement: Measurement) -> dict[str, str]:
    """What is known of a run, by name; what the endpoint said of itself bears its own name."""
    deployment, provenance = measurement.deployment, measurement.provenance
    day = None if provenance.began_at is None else provenance.began_at.date().isoformat()
    told: dict[str, str | None] = {
        "backend": provenance.backend,
        "model": " at ".join(filter(None, (deployment.model_id, deployment.revision))),
        "server": " ".join(filter(None, (deployment.server, deployment.server_version))),
        "image": deployment.image,
        "prompts": measurement.prompts,
        "seed": "none" if provenance.seed is None else str(provenance.seed),
        "day (UTC)": day,
        "ready after": _seconds(provenance.ready_after_s),
        "first token after ready": _seconds(provenance.first_token_after_ready_s),
        "start-up": _start_up(provenance),
    }
    known = {name: value for name, value in told.items() if value is not None}
    return known | {f"{name} (as found)" if name in known else name: value for name, value in provenance.facts.items()}


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g} s"


def _start_up(provenance: Provenance) -> str | None:
    """What it cost at most, and by which price."""
    if provenance.startup_usd is None:
        return None
    return f"at most {provenance.startup_usd:,.4g} USD ({provenance.startup_price})"


def _listed(values: dict[str, int], count: int) -> str:
    if list(values.values()) == [count]:
        return next(iter(values))
    shown = [f"{value} ({number})" for value, number in list(values.items())[:_MOST_VALUES]]
    left = len(values) - len(shown)
    return "; ".join([*shown, *([f"and {left} more"] if left else [])])


def _ends(values: list[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values else (0.0, 0.0)


def _usd(row: Row | None) -> float | None:
    figure = None if row is None or row.cost is None else row.cost.usd_per_million_output_tokens
    return None if figure is None else figure.value
