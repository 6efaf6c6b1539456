"""What tables of measurements show: their columns, defined once for the terminal, Markdown and the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tgibench.formatting import MISSING, dollars, dollars_an_hour, estimate, mean_ms, quantile_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tgibench.costs import Cost, CostModel
    from tgibench.measurements import Measurement

__all__ = ["COST_FIGURES", "DERIVED", "Column", "Row", "columns", "cost_bases", "is_derived", "rows_of"]

DERIVED = "*"
"""Stands behind a throughput that was not counted but derived: users · tokens / mean latency."""

COST_FIGURES = (
    "usd_per_hour", "usd_per_million_output_tokens", "usd_per_million_total_tokens", "usd_per_thousand_requests",
    "minutes_to_million_output_tokens",
)  # fmt: skip
"""The fields of a `Cost` that are estimates."""


@attrs.frozen
class Row:
    """A measurement and what it costs; None without a cost model."""

    measurement: Measurement
    cost: Cost | None = None


@attrs.frozen
class Column:
    """A column of a table.

    Args:
        heading: What stands above it, its unit included.
        text: What it says of a row.
        brief: Whether it is also in the narrower tables of the terminal.
        numeric: Whether it holds figures, which are set to the right.
    """

    heading: str
    text: Callable[[Row], str]
    brief: bool = True
    numeric: bool = True

    @property
    def short_heading(self) -> str:
        """The heading in a table that says by itself that times are in milliseconds."""
        return self.heading.removesuffix(" (ms)").replace("output tokens", "out")


def rows_of(measurements: Iterable[Measurement], costs: CostModel | None = None) -> list[Row]:
    """A row for each measurement, in their order.

    Raises:
        UnknownPrice: The cost model knows no price of one of them.
    """
    return [Row(measurement, None if costs is None else costs.cost(measurement)) for measurement in measurements]


def columns(*, brief: bool = False, priced: bool = False) -> tuple[Column, ...]:
    """The columns of a table, from the deployment to the source of its figures.

    Args:
        brief: Only those of the terminal.
        priced: With what it costs.
    """
    chosen = (*_NAMES, *_FIGURES, *(_PRICED if priced else ()), *_COUNTS, _SOURCE)
    return tuple(column for column in chosen if column.brief or not brief)


def cost_bases(rows: Iterable[Row]) -> list[str]:
    """What the costs rest on, each once, in sentences that hold whatever was measured."""
    bases = (row.cost.basis for row in rows if row.cost is not None)
    return list(dict.fromkeys(basis.rpartition("; ")[0] or basis for basis in bases))


def is_derived(row: Row) -> bool:
    """Whether the throughput that is shown was not counted but derived."""
    return row.measurement.throughput_tps is not None and row.measurement.metrics.output_throughput_tps is None


def _throughput(row: Row) -> str:
    return estimate(row.measurement.throughput_tps) + (DERIVED if is_derived(row) else "")


def _count(name: str) -> Callable[[Row], str]:
    return lambda row: str(row.measurement.metrics.counts.get(name, MISSING))


_NAMES = (
    Column("deployment", lambda row: row.measurement.deployment.label, numeric=False),
    Column("load", lambda row: row.measurement.load.label, numeric=False),
)
_FIGURES = (
    Column("ms/token", lambda row: mean_ms(row.measurement.metrics.normalized_latency_s)),
    Column("TTFT p50 (ms)", lambda row: quantile_ms(row.measurement.metrics.ttft_s, "p50")),
    Column("TTFT p95 (ms)", lambda row: quantile_ms(row.measurement.metrics.ttft_s, "p95")),
    Column("TPOT p50 (ms)", lambda row: quantile_ms(row.measurement.metrics.tpot_s, "p50")),
    Column("latency p50 (ms)", lambda row: quantile_ms(row.measurement.metrics.latency_s, "p50"), brief=False),
    Column("latency p95 (ms)", lambda row: quantile_ms(row.measurement.metrics.latency_s, "p95"), brief=False),
    Column("tokens/s", _throughput),
)
_PRICED = (
    Column("USD/hour", lambda row: dollars_an_hour(row.cost.usd_per_hour) if row.cost else MISSING, brief=False),
    Column(
        "USD/1M output tokens", lambda row: dollars(row.cost.usd_per_million_output_tokens) if row.cost else MISSING
    ),
    Column(
        "USD/1k requests",
        lambda row: dollars(row.cost.usd_per_thousand_requests) if row.cost else MISSING,
        brief=False,
    ),
)
_COUNTS = (
    Column("ok", _count("succeeded")),
    Column("failed", _count("failed")),
    Column("unsent", _count("unsent")),
)
_SOURCE = Column("source", lambda row: row.measurement.source.value, numeric=False)
