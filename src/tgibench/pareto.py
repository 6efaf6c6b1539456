"""The Pareto front: what no other measurement beats in every respect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tgibench.figures import figure_of
from tgibench.fitting import LATENCY, fitting_of, latency_by
from tgibench.requirements import COST_FIGURES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from tgibench.costs import Cost, CostModel
    from tgibench.measurements import Measurement
    from tgibench.requirements import Requirement
    from tgibench.stats import Estimate

__all__ = ["pareto_front"]


def pareto_front(
    measurements: Iterable[Measurement],
    costs: CostModel,
    *requirements: Requirement,
    over: tuple[str, ...] = ("usd_per_million_output_tokens", LATENCY, "throughput_tps"),
    quantile: float | None = 0.5,
) -> tuple[Measurement, ...]:
    """The measurements that no other beats: none is at least as good in every respect and better in one.

    Args:
        measurements: A study or any measurements.
        costs: What things cost.
        requirements: What must be kept (see `tgibench.requirements`).
        over: The respects: figures of `Cost` and latencies, of which less is better; throughputs and goodput (``_tps``, ``_rps``), of
            which more is. Measurements that lack one are left out. Of PUBLISHED latencies the same holds as for `fastest`.
        quantile: Of the latencies; None for the mean.

    Returns:
        In ascending order of the first respect. Whether neighbours differ by more than chance, `compare` tells.

    Raises:
        InvalidValueError: There is no such figure or quantile.
        UnknownPrice: A price that is asked for is not known.
    """
    fitting = fitting_of(measurements, costs, requirements, priced=not COST_FIGURES.isdisjoint(over))
    respects = [latency_by(fitting, of, quantile)[0] if of == LATENCY else of for of in over]
    rows = []
    for measurement, cost in fitting.cells:
        values = [_less_is_better(measurement, cost, of, quantile) for of in respects]
        if None not in values:
            rows.append((values, measurement))
    rows.sort(key=lambda row: row[0])
    table = np.array([values for values, _ in rows], dtype=np.float64).reshape(len(rows), len(over))
    return tuple(rows[place][1] for place in _unbeaten(table))


def _less_is_better(measurement: Measurement, cost: Cost, of: str, quantile: float | None) -> float | None:
    if of in COST_FIGURES:
        figure: Estimate | None = getattr(cost, of)
        return None if figure is None else figure.value
    rate = of.endswith(("_tps", "_rps"))
    figure = figure_of(measurement, of, None if rate else quantile).estimate
    return None if figure is None else -figure.value if rate else figure.value


def _unbeaten(values: NDArray[np.float64]) -> list[int]:
    """Which rows no other is at most equal to everywhere and below somewhere; the rows are in lexical order."""
    front: list[int] = []
    kept = np.empty_like(values)
    for place, row in enumerate(values):
        # only an earlier row can beat a later one, and a row equal to it does not
        better = kept[: len(front)]
        if not np.any(np.all(better <= row, axis=1) & np.any(better < row, axis=1)):
            kept[len(front)] = row
            front.append(place)
    return front
