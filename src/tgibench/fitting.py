"""Which measurements meet the requirements, and what the others fall short of."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import attrs

from tgibench.costs import Cost
from tgibench.figures import figure_of
from tgibench.provenance import Source
from tgibench.requirements import COST_FIGURES, AtLeast, AtMost, Concurrency, shortfalls_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tgibench.costs import CostModel
    from tgibench.measurements import Measurement
    from tgibench.requirements import Requirement, Shortfall

__all__ = ["LATENCY", "Fitting", "fitting_of", "latency_by"]

LATENCY = "normalized_latency_s"
PUBLISHED_LATENCY = "server_time_per_token_s"

Cell = tuple["Measurement", "Cost"]


@attrs.frozen(kw_only=True)
class Fitting:
    """The cells that meet the requirements, and what the others fell short of, requirement by requirement.

    Where nothing asks for costs, they are not reckoned for every cell: `cost` does it for those that are named.
    """

    considered: int
    cells: list[Cell]
    misses: dict[str, list[Shortfall]]
    costs: CostModel

    def cost(self, measurement: Measurement, cost: Cost) -> Cost:
        """What a cell costs, whether or not anything asked for it."""
        return self.costs.cost(measurement) if cost is _NOT_ASKED else cost


_NOT_ASKED = Cost(basis="nothing asked for it")


def _asks_for_cost(requirement: Requirement) -> bool:
    """Whether a requirement may look at the cost: one of the caller's own may."""
    if isinstance(requirement, AtMost | AtLeast):
        return requirement.of in COST_FIGURES
    return not isinstance(requirement, Concurrency)


def fitting_of(
    measurements: Iterable[Measurement], costs: CostModel, requirements: tuple[Requirement, ...], *, priced: bool
) -> Fitting:
    """Which cells meet the requirements.

    Args:
        measurements: All of them.
        costs: What things cost.
        requirements: What must be kept.
        priced: Whether every cell's cost is asked for anyhow.
    """
    priced = priced or any(_asks_for_cost(requirement) for requirement in requirements)
    considered, cells, misses = 0, [], defaultdict[str, list["Shortfall"]](list)
    for measurement in measurements:
        considered += 1
        cost = costs.cost(measurement) if priced else _NOT_ASKED
        shortfalls = shortfalls_of(measurement, cost, requirements)
        if not shortfalls:
            cells.append((measurement, cost))
        for shortfall in shortfalls:
            misses[shortfall.requirement].append(shortfall)
    return Fitting(considered=considered, cells=cells, misses=misses, costs=costs)


def latency_by(fitting: Fitting, by: str, quantile: float | None) -> tuple[str, tuple[str, ...]]:
    """Which latency all cells are judged by: the published ones may know their server's only."""
    lacking = [
        measurement
        for measurement, _ in fitting.cells
        if measurement.source is Source.PUBLISHED and figure_of(measurement, by, quantile).estimate is None
    ]
    if by != LATENCY or not lacking:
        return by, ()
    note = (
        f"{len(lacking)} published measurements have no {by}: all are judged by {PUBLISHED_LATENCY}, the server's own time, "
        "which leaves out the network and the wait for a place in the batch"
    )
    return PUBLISHED_LATENCY, (note,)
