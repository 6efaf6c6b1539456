"""A study as one table on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tgibench.measurements import Measurement
    from tgibench.stats import Distribution, Estimate

__all__ = ["study_table"]


def study_table(measurements: Iterable[Measurement]) -> Table:
    """A row for each measurement, its source included. Times are in milliseconds; ± is half of the 95 % interval."""
    table = Table(title="Measurements (times in ms; ± half the 95 % interval)", title_justify="left")
    table.add_column("deployment", overflow="fold")
    table.add_column("load", overflow="fold")
    for heading in ("ms/token", "TTFT p50", "TTFT p95", "TPOT p50", "tokens/s", "ok", "failed", "unsent"):
        table.add_column(heading, justify="right")
    table.add_column("source")
    for measurement in measurements:
        metrics = measurement.metrics
        counts = metrics.counts
        table.add_row(
            measurement.deployment.label,
            measurement.load.label,
            _mean_ms(metrics.normalized_latency_s),
            _ms(metrics.ttft_s, "p50"),
            _ms(metrics.ttft_s, "p95"),
            _ms(metrics.tpot_s, "p50"),
            _rate(metrics.output_throughput_tps),
            *(str(counts.get(name, "-")) for name in ("succeeded", "failed", "unsent")),
            measurement.source.value,
        )
    return table


def _ms(figure: Distribution | None, name: str) -> str:
    value = None if figure is None else getattr(figure, name)
    return "-" if value is None else f"{value * 1e3:.1f}"


def _mean_ms(figure: Distribution | None) -> str:
    if figure is None or figure.mean is None:
        return "-"
    bounds = figure.intervals.get("mean")
    return f"{figure.mean * 1e3:.1f}" + (f" ±{(bounds[1] - bounds[0]) / 2 * 1e3:.1f}" if bounds else "")


def _rate(figure: Estimate | None) -> str:
    if figure is None:
        return "-"
    bounds = figure.interval
    return f"{figure.value:.1f}" + (f" ±{(bounds[1] - bounds[0]) / 2:.1f}" if bounds else "")
