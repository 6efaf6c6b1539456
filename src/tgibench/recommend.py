"""Which deployment is the cheapest, the fastest, the highest in throughput, and whether the data can tell it from the next best."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import attrs

from tgibench.choices import Choice
from tgibench.comparisons import Verdict, compare, compare_estimates
from tgibench.errors import InvalidValueError
from tgibench.figures import figure_name, figure_of
from tgibench.fitting import LATENCY, fitting_of, latency_by
from tgibench.requirements import COST_FIGURES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tgibench.comparisons import Comparison
    from tgibench.costs import Cost, CostModel
    from tgibench.deployments import Deployment
    from tgibench.fitting import Fitting
    from tgibench.measurements import Measurement
    from tgibench.requirements import Requirement, Shortfall
    from tgibench.stats import Estimate

__all__ = ["cheapest", "fastest", "highest_throughput"]

_STRETCH = 1.5


def cheapest(
    measurements: Iterable[Measurement],
    costs: CostModel,
    *requirements: Requirement,
    by: str = "usd_per_million_output_tokens",
    noise_ratio: float | None = None,
) -> Choice:
    """The measurement of least cost among those that meet the requirements.

    Args:
        measurements: A study or any measurements.
        costs: What things cost.
        requirements: What must be kept (see `tgibench.requirements`).
        by: Which figure of `Cost` is meant.
        noise_ratio: The figure's relative standard deviation from run to run, where it is known (see `compare`).

    Raises:
        InvalidValueError: `by` is no figure of `Cost`.
        UnknownPrice: A price that is asked for is not known.
    """
    fitting = fitting_of(measurements, costs, requirements, priced=True)
    return _chosen("cheapest", fitting, _Objective(by, in_cost=True), noise_ratio)


def fastest(
    measurements: Iterable[Measurement],
    costs: CostModel,
    *requirements: Requirement,
    by: str = LATENCY,
    quantile: float | None = 0.5,
    noise_ratio: float | None = None,
) -> Choice:
    """The measurement of least latency among those that meet the requirements.

    Args:
        measurements: A study or any measurements.
        costs: What things cost.
        requirements: What must be kept (see `tgibench.requirements`).
        by: Which latency is meant: a distribution of `Metrics`. If PUBLISHED measurements lack the default, all are judged by the
            server's time per token instead, and the choice says so.
        quantile: 0.5, 0.9, 0.95 or 0.99; None for the mean.
        noise_ratio: The figure's relative standard deviation from run to run, where it is known (see `compare`).

    Raises:
        InvalidValueError: There is no such figure or quantile.
        UnknownPrice: A price that is asked for is not known.
    """
    fitting = fitting_of(measurements, costs, requirements, priced=False)
    of, notes = latency_by(fitting, by, quantile)
    return _chosen("fastest", fitting, _Objective(of, quantile), noise_ratio, notes)


def highest_throughput(
    measurements: Iterable[Measurement],
    costs: CostModel,
    *requirements: Requirement,
    noise_ratio: float | None = None,
) -> Choice:
    """The measurement of most output tokens per second among those that meet the requirements.

    Args:
        measurements: A study or any measurements.
        costs: What things cost.
        requirements: What must be kept (see `tgibench.requirements`).
        noise_ratio: The figure's relative standard deviation from run to run, where it is known (see `compare`).

    Raises:
        UnknownPrice: A price that is asked for is not known.
    """
    fitting = fitting_of(measurements, costs, requirements, priced=False)
    return _chosen("highest throughput", fitting, _Objective("throughput_tps", lower=False), noise_ratio)


@attrs.frozen
class _Objective:
    """The figure by which is chosen."""

    of: str
    quantile: float | None = None
    lower: bool = attrs.field(default=True, kw_only=True)
    in_cost: bool = attrs.field(default=False, kw_only=True)

    @property
    def name(self) -> str:
        return figure_name(self.of, self.quantile)

    def figure(self, measurement: Measurement, cost: Cost) -> Estimate | None:
        """A cell's; None where it has none."""
        if not self.in_cost:
            return figure_of(measurement, self.of, self.quantile).estimate
        if self.of not in COST_FIGURES:
            raise InvalidValueError(
                f"there is no figure {self.of!r} of a cost; there are {', '.join(sorted(COST_FIGURES))}"
            )
        figure: Estimate | None = getattr(cost, self.of)
        return figure

    def compare(self, a: _Ranked, b: _Ranked, noise_ratio: float | None) -> Comparison:
        """One cell against another."""
        if self.in_cost:
            return compare_estimates(a.figure, b.figure, of=self.name, noise_ratio=noise_ratio)
        return compare(a.measurement, b.measurement, of=self.of, quantile=self.quantile, noise_ratio=noise_ratio)


@attrs.frozen
class _Ranked:
    measurement: Measurement
    cost: Cost
    figure: Estimate


def _chosen(
    goal: str, fitting: Fitting, objective: _Objective, noise_ratio: float | None, notes: tuple[str, ...] = ()
) -> Choice:
    ranked = [_Ranked(*cell, figure) for cell in fitting.cells if (figure := objective.figure(*cell)) is not None]
    ranked.sort(key=lambda cell: cell.figure.value if objective.lower else -cell.figure.value)
    if not ranked:
        return Choice(
            goal=goal,
            of=objective.name,
            considered=fitting.considered,
            shortfalls=_nearest_misses(fitting),
            warnings=notes,
        )
    winner, others = ranked[0], _best_of_others(ranked)
    runner_up = others[0] if others else None
    comparison = objective.compare(winner, runner_up, noise_ratio) if runner_up else None
    near = (other for other in others if _may_tie(winner.figure, other.figure, noise_ratio))
    tied = [cell for cell in near if objective.compare(winner, cell, noise_ratio).verdict is Verdict.TIE]
    return Choice(
        goal=goal,
        of=objective.name,
        considered=fitting.considered,
        winner=winner.measurement,
        cost=fitting.cost(winner.measurement, winner.cost),
        value=winner.figure,
        runner_up=runner_up.measurement if runner_up else None,
        runner_up_cost=fitting.cost(runner_up.measurement, runner_up.cost) if runner_up else None,
        margin_ratio=_margin(winner.figure, runner_up.figure) if runner_up else None,
        comparison=comparison,
        tied=tuple(cell.measurement for cell in tied),
        warnings=(*notes, *_warnings(winner, ranked, lacking=len(fitting.cells) - len(ranked), of=objective.name)),
    )


def _best_of_others(ranked: list[_Ranked]) -> list[_Ranked]:
    """The best cell of each deployment but the winner's, in order."""
    best: dict[Deployment, _Ranked] = {}
    for cell in ranked:
        best.setdefault(cell.measurement.deployment, cell)
    return list(best.values())[1:]


def _margin(winner: Estimate, other: Estimate) -> float | None:
    return abs(other.value / winner.value - 1) if winner.value else None


def _may_tie(winner: Estimate, other: Estimate, noise_ratio: float | None) -> bool:
    """Whether a comparison is worth its time: intervals half as wide again, and known noise, still touch."""
    if not noise_ratio and (winner.interval is None or other.interval is None):
        return False
    reach = sum(_STRETCH * (high - low) for low, high in (figure.interval or (0.0, 0.0) for figure in (winner, other)))
    reach += 4 * (noise_ratio or 0.0) * max(winner.value, other.value)
    return abs(winner.value - other.value) <= reach


def _nearest_misses(fitting: Fitting) -> tuple[Shortfall, ...]:
    """Of each requirement the shortfall nearest to its limit, the requirement that most cells miss first."""
    if fitting.cells:
        return ()
    by_requirement = sorted(fitting.misses.values(), key=len, reverse=True)
    return tuple(
        min(misses, key=lambda miss: math.inf if miss.by_ratio is None else miss.by_ratio) for misses in by_requirement
    )


def _warnings(winner: _Ranked, ranked: list[_Ranked], *, lacking: int, of: str) -> Iterator[str]:
    sources = Counter(cell.measurement.source for cell in ranked)
    if len(sources) > 1:
        mixed = " and ".join(f"{number} {source}" for source, number in sources.most_common())
        yield f"figures of different kinds are compared: {mixed}"
    models = {cell.measurement.deployment.model_id for cell in ranked}
    if len(models) > 1:
        yield f"{len(models)} models are compared with each other: {', '.join(sorted(models))}"
    prompts = {cell.measurement.prompts for cell in ranked}
    if len(prompts) > 1:
        yield f"the measurements were made with {len(prompts)} different sets of prompts"
    if lacking:
        yield f"{lacking} measurements that meet the requirements have no {of} and were left out"
    yield from (f"the winner's run: {warning}" for warning in winner.measurement.warnings)
