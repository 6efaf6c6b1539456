"""A study as a flat table for programs: one row a measurement, every figure with its interval, in seconds."""

from __future__ import annotations

import csv
import functools
import io
import json
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.errors import MissingExtraError
from tgibench.measurements import describe_load
from tgibench.reports.columns import COST_FIGURES, rows_of
from tgibench.stats import Distribution, Estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import pandas as pd  # type: ignore[import-untyped]

    from tgibench.costs import CostModel
    from tgibench.measurements import Measurement, Study
    from tgibench.reports.columns import Row

__all__ = ["to_csv", "to_dataframe"]

_DISTRIBUTIONS = (
    "latency_s", "ttft_s", "tpot_s", "icl_s", "normalized_latency_s", "server_time_per_token_s", "queue_s",
    "schedule_delay_s", "connect_s", "largest_gap_s", "input_tokens", "output_tokens",
)  # fmt: skip
_ESTIMATES = ("stall_ratio", "output_throughput_tps", "request_throughput_rps", "goodput_rps")
_FIGURES = ("count", "mean", "min", "max", "p50", "p90", "p95", "p99")
_WITH_INTERVAL = ("mean", "p50", "p90", "p95", "p99")
_NO_INTERVAL = (None, None)


@attrs.frozen
class _Cells:
    """Neighbouring cells of a row that are written together: how each looks in CSV, and how all look where none is missing."""

    formats: tuple[str, ...]
    absent: tuple[None, ...] = attrs.field(init=False)
    whole: str = attrs.field(init=False)

    @absent.default
    def _nothing(self) -> tuple[None, ...]:
        return (None,) * len(self.formats)

    @whole.default
    def _together(self) -> str:
        return ",".join(self.formats)

    def text(self, values: tuple[Any, ...]) -> str:
        """The cells as CSV: formatting them one by one is what most of the time would go to."""
        if values is self.absent:
            return "," * (len(values) - 1)
        try:
            return self.whole % values
        except TypeError:  # one is missing
            pass
        return ",".join("" if value is None else form % value for form, value in zip(self.formats, values, strict=True))


_DISTRIBUTION = _Cells(("%d", *("%.9g",) * (len(_FIGURES) - 1 + 2 * len(_WITH_INTERVAL))))
_ESTIMATE = _Cells(("%.9g", "%.9g", "%.9g", "%d"))
_NUMBER = _Cells(("%.9g",))
_RANGE = _Cells(("%.9g", "%.9g"))


def to_csv(study: Study, costs: CostModel | None = None) -> str:
    """A study as CSV with a header: times in seconds, intervals as ``<name>_low`` and ``<name>_high``; missing figures are empty.

    Figures have nine significant digits: a second to the nanosecond.

    Args:
        study: What was measured.
        costs: What it costs; without it there are no columns of costs.

    Raises:
        UnknownPrice: The cost model knows no price of one of the measurements.
    """
    rows, extras = rows_of(study, costs), _extras(study)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="")
    writer.writerow(_header(extras, priced=costs is not None))
    for row in rows:
        text.write("\n")
        writer.writerow(_texts(row))
        text.write("," + ",".join([cells.text(values) for cells, values in _figures(row, extras)]))
    text.write("\n")
    return text.getvalue()


def to_dataframe(study: Study, costs: CostModel | None = None) -> pd.DataFrame:
    """The table of `to_csv` as a pandas data frame.

    Raises:
        MissingExtraError: pandas is not installed.
        UnknownPrice: The cost model knows no price of one of the measurements.
    """
    try:
        import pandas as pd  # noqa: PLC0415 - an extra, and slow to import
    except ModuleNotFoundError as error:
        raise MissingExtraError('a data frame needs pandas: pip install "tgibench[pandas]"') from error
    extras = _extras(study)
    records = [
        [*_texts(row), *(value for _, values in _figures(row, extras) for value in values)]
        for row in rows_of(study, costs)
    ]
    return pd.DataFrame.from_records(records, columns=_header(extras, priced=costs is not None))


def _extras(study: Study) -> list[str]:
    return sorted({name for measurement in study for name in measurement.metrics.extra})


def _header(extras: list[str], *, priced: bool) -> list[str]:
    return [
        *_FACTS,
        *(("cost_basis",) if priced else ()),
        *(part for name in _DISTRIBUTIONS for part in _distribution_header(name)),
        *(part for name in _ESTIMATES for part in _estimate_header(name)),
        "littles_law_throughput_tps",
        *(part for name in extras for part in (f"extra_{name}", *_distribution_header(f"extra_{name}"))),
        *((part for name in COST_FIGURES for part in _estimate_header(name)) if priced else ()),
        *(("run_usd_low", "run_usd_high") if priced else ()),
    ]


def _texts(row: Row) -> list[Any]:
    """The cells that must be quoted where they hold commas."""
    facts = [value(row.measurement) for value in _FACTS.values()]
    return facts if row.cost is None else [*facts, row.cost.basis]


def _figures(row: Row, extras: list[str]) -> Iterator[tuple[_Cells, tuple[Any, ...]]]:
    """All other cells, in the order of the header."""
    metrics, cost = row.measurement.metrics, row.cost
    for name in _DISTRIBUTIONS:
        yield _DISTRIBUTION, _of_distribution(getattr(metrics, name))
    for name in _ESTIMATES:
        yield _ESTIMATE, _of_estimate(getattr(metrics, name))
    yield _NUMBER, (metrics.littles_law_throughput_tps,)
    for name in extras:
        figure = metrics.extra.get(name)
        yield _NUMBER, (figure.value if isinstance(figure, Estimate) else None,)
        yield _DISTRIBUTION, _of_distribution(figure if isinstance(figure, Distribution) else None)
    if cost is not None:
        for name in COST_FIGURES:
            yield _ESTIMATE, _of_estimate(getattr(cost, name))
        yield _RANGE, cost.run_usd or _RANGE.absent


def _distribution_header(name: str) -> list[str]:
    figures = [f"{name}_{figure}" for figure in _FIGURES]
    return figures + [f"{name}_{figure}_{end}" for figure in _WITH_INTERVAL for end in ("low", "high")]


def _estimate_header(name: str) -> tuple[str, ...]:
    return (name, f"{name}_low", f"{name}_high", f"{name}_count")


def _of_distribution(figure: Distribution | None) -> tuple[Any, ...]:
    if figure is None:
        return _DISTRIBUTION.absent
    bounds = figure.intervals.get
    mean_low, mean_high = bounds("mean") or _NO_INTERVAL
    p50_low, p50_high = bounds("p50") or _NO_INTERVAL
    p90_low, p90_high = bounds("p90") or _NO_INTERVAL
    p95_low, p95_high = bounds("p95") or _NO_INTERVAL
    p99_low, p99_high = bounds("p99") or _NO_INTERVAL
    return (
        figure.count, figure.mean, figure.min, figure.max, figure.p50, figure.p90, figure.p95, figure.p99,
        mean_low, mean_high, p50_low, p50_high, p90_low, p90_high, p95_low, p95_high, p99_low, p99_high,
    )  # fmt: skip


def _of_estimate(figure: Estimate | None) -> tuple[Any, ...]:
    return _ESTIMATE.absent if figure is None else (figure.value, *(figure.interval or _NO_INTERVAL), figure.count)


def _tally(numbers: Mapping[Any, int]) -> str | None:
    """``"overloaded 3, timeout_total 1"``; None for none."""
    return ", ".join(f"{name} {number}" for name, number in numbers.items()) or None


def _profile(load: Any) -> str:
    """A load as JSON. Measurements share their loads, and describing one takes its time."""
    try:
        return _hashable_profile(load)
    except TypeError:  # a profile of the caller's own need not be hashable
        return json.dumps(describe_load(load))


@functools.lru_cache(maxsize=1000)
def _hashable_profile(load: Any) -> str:
    return json.dumps(describe_load(load))


def _count(name: str) -> Callable[[Measurement], int | None]:
    return lambda measurement: measurement.metrics.counts.get(name)


_FACTS: dict[str, Callable[[Measurement], Any]] = {
    "deployment": lambda m: m.deployment.label,
    "load": lambda m: m.load.label,
    "source": lambda m: m.source.value,
    "model_id": lambda m: m.deployment.model_id,
    "revision": lambda m: m.deployment.revision,
    "quantization": lambda m: m.deployment.quantization,
    "instance_type": lambda m: m.deployment.instance_type,
    "tensor_parallel": lambda m: m.deployment.tensor_parallel,
    "replicas": lambda m: m.deployment.replicas,
    "server": lambda m: m.deployment.server,
    "server_version": lambda m: m.deployment.server_version,
    "image": lambda m: m.deployment.image,
    "max_input_tokens": lambda m: m.deployment.max_input_tokens,
    "max_total_tokens": lambda m: m.deployment.max_total_tokens,
    "load_profile": lambda m: _profile(m.load),
    "prompts": lambda m: m.prompts,
    "backend": lambda m: m.provenance.backend,
    "seed": lambda m: m.provenance.seed,
    "began_at": lambda m: m.provenance.began_at and m.provenance.began_at.isoformat(),
    "ended_at": lambda m: m.provenance.ended_at and m.provenance.ended_at.isoformat(),
    "ready_after_s": lambda m: m.provenance.ready_after_s,
    "first_token_after_ready_s": lambda m: m.provenance.first_token_after_ready_s,
    "startup_usd": lambda m: m.provenance.startup_usd,
    "startup_price": lambda m: m.provenance.startup_price,
    "partial": lambda m: m.partial,
    "window_start_s": lambda m: m.metrics.window and m.metrics.window.start_s,
    "window_stop_s": lambda m: m.metrics.window and m.metrics.window.stop_s,
    **{name: _count(name) for name in ("issued", "succeeded", "failed", "unsent")},
    "failures": lambda m: _tally(m.metrics.failures),
    "tokens_from": lambda m: _tally(m.metrics.tokens_from),
    "warnings": lambda m: "; ".join(m.warnings) or None,
    "client_valid": lambda m: m.client and m.client.valid,
    "client_workers": lambda m: m.client and m.client.workers,
}
