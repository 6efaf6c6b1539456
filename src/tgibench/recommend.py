"""Which deployment is the cheapest, the fastest, the highest in throughput, and whether the data can tell it from the next best."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from html import escape
from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench.comparisons import Verdict, compare, compare_estimates
from tgibench.errors import InvalidValueError
from tgibench.figures import figure_name, figure_of
from tgibench.provenance import Source
from tgibench.requirements import COST_FIGURES, cell_name, in_percent, shortfalls_of, with_unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from tgibench.comparisons import Comparison
    from tgibench.costs import Cost, CostModel
    from tgibench.deployments import Deployment
    from tgibench.measurements import Measurement
    from tgibench.requirements import Requirement, Shortfall
    from tgibench.stats import Estimate

__all__ = ["Choice", "cheapest", "fastest", "highest_throughput", "pareto_front"]

LATENCY = "normalized_latency_s"
PUBLISHED_LATENCY = "server_time_per_token_s"
_STRETCH = 1.5


@attrs.frozen(kw_only=True)
class Choice:
    """What was chosen, what came next, and how sure that is.

    Args:
        goal: ``"cheapest"``, ``"fastest"`` or ``"highest throughput"``.
        of: The figure by which it was chosen, such as ``"normalized_latency_s p50"``.
        considered: Number of measurements looked at.
        winner: The best measurement that meets the requirements; None where none does.
        cost: The winner's cost.
        value: The winner's figure.
        runner_up: The best measurement of *another deployment*: a further load of the winner's own is no alternative to it. None where
            there is no other.
        runner_up_cost: The runner-up's cost.
        margin_ratio: By how much the runner-up is worse, as a share of the winner's figure: 0.1 for a tenth.
        comparison: The winner's figure against the runner-up's. Its verdict says whether the data can tell them apart.
        tied: The best measurement of each other deployment that the data cannot tell from the winner.
        shortfalls: Where nothing was chosen: for each requirement the nearest miss, the requirement that most cells miss first.
        warnings: What a reader must be warned of, in plain sentences.
    """

    goal: str
    of: str
    considered: int
    winner: Measurement | None = None
    cost: Cost | None = None
    value: Estimate | None = None
    runner_up: Measurement | None = None
    runner_up_cost: Cost | None = None
    margin_ratio: float | None = None
    comparison: Comparison | None = None
    tied: tuple[Measurement, ...] = ()
    shortfalls: tuple[Shortfall, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The choice in one sentence, warnings aside."""
        if self.winner is None or self.value is None:
            return f"{self.goal.capitalize()}: none of {self.considered} measurements will do; {self._why_none()}."
        bounds = "" if self.value.interval is None else " ({:.4g} to {:.4g})".format(*self.value.interval)
        figure = f"{with_unit(self.value.value, self._unit_of)}{bounds}, {self.of}, {self.winner.source}"
        return f"{self.goal.capitalize()}: {cell_name(self.winner)} with {figure}; {self._against_next()}."

    def _repr_html_(self) -> str:
        """The choice for notebooks: the sentence and its warnings."""
        warnings = "".join(f"<li>{escape(warning)}</li>" for warning in self.warnings)
        return f"<p>{escape(self.sentence)}</p>" + (f"<ul>{warnings}</ul>" if warnings else "")

    @property
    def _unit_of(self) -> str:
        return self.of.split(" ", maxsplit=1)[0]

    def _why_none(self) -> str:
        if not self.shortfalls:
            return f"none has the figure {self.of}" if self.considered else "there are none"
        return "nearest misses: " + "; ".join(shortfall.sentence for shortfall in self.shortfalls)

    def _against_next(self) -> str:
        if self.runner_up is None or self.margin_ratio is None or self.comparison is None:
            return "there is no other deployment to compare it with"
        margin = f"the best other deployment, {cell_name(self.runner_up)}, is {in_percent(self.margin_ratio)} worse"
        match self.comparison.verdict:
            case Verdict.TIE:
                others = len(self.tied) - 1
                more = f", nor from {others} more" if others > 0 else ""
                return f"{margin}, which is a tie: the data cannot tell them apart{more}"
            case Verdict.CANNOT_TELL:
                return f"{margin}; whether that is more than chance cannot be told ({self.comparison.basis})"
            case _:
                return f"{margin}, which is more than chance"


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
        UnknownPrice: A price is not known.
    """
    fitting = _fitting(measurements, costs, requirements)
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
        UnknownPrice: A price is not known.
    """
    fitting = _fitting(measurements, costs, requirements)
    of, notes = _latency(fitting, by, quantile)
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
        UnknownPrice: A price is not known.
    """
    fitting = _fitting(measurements, costs, requirements)
    return _chosen("highest throughput", fitting, _Objective("throughput_tps", lower=False), noise_ratio)


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
        UnknownPrice: A price is not known.
    """
    fitting = _fitting(measurements, costs, requirements)
    objectives = [_respect(of, fitting, quantile) for of in over]
    rows = []
    for cell in fitting.cells:
        figures = [objective.figure(*cell) for objective in objectives]
        if all(figure is not None for figure in figures):
            signed = [
                figure.value if objective.lower else -figure.value
                for objective, figure in zip(objectives, figures, strict=True)
                if figure is not None
            ]
            rows.append((signed, cell[0]))
    rows.sort(key=lambda row: row[0])
    values = np.array([signed for signed, _ in rows], dtype=np.float64).reshape(len(rows), len(over))
    return tuple(rows[place][1] for place in _unbeaten(values))


def _respect(of: str, fitting: _Fitting, quantile: float | None) -> _Objective:
    if of in COST_FIGURES:
        return _Objective(of, in_cost=True)
    if of.endswith(("_tps", "_rps")):
        return _Objective(of, lower=False)
    return _Objective(_latency(fitting, of, quantile)[0], quantile)


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


_Cell = tuple["Measurement", "Cost"]


@attrs.frozen(kw_only=True)
class _Fitting:
    """The cells that meet the requirements, and what the others fell short of, requirement by requirement."""

    considered: int
    cells: list[_Cell]
    misses: dict[str, list[Shortfall]]


def _fitting(measurements: Iterable[Measurement], costs: CostModel, requirements: tuple[Requirement, ...]) -> _Fitting:
    considered, cells, misses = 0, [], defaultdict[str, list["Shortfall"]](list)
    for measurement in measurements:
        considered += 1
        cost = costs.cost(measurement)
        shortfalls = shortfalls_of(measurement, cost, requirements)
        if not shortfalls:
            cells.append((measurement, cost))
        for shortfall in shortfalls:
            misses[shortfall.requirement].append(shortfall)
    return _Fitting(considered=considered, cells=cells, misses=misses)


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
    goal: str, fitting: _Fitting, objective: _Objective, noise_ratio: float | None, notes: tuple[str, ...] = ()
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
        cost=winner.cost,
        value=winner.figure,
        runner_up=runner_up.measurement if runner_up else None,
        runner_up_cost=runner_up.cost if runner_up else None,
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


def _nearest_misses(fitting: _Fitting) -> tuple[Shortfall, ...]:
    """Of each requirement the shortfall nearest to its limit, the requirement that most cells miss first."""
    if fitting.cells:
        return ()
    by_requirement = sorted(fitting.misses.values(), key=len, reverse=True)
    return tuple(
        min(misses, key=lambda miss: math.inf if miss.by_ratio is None else miss.by_ratio) for misses in by_requirement
    )


def _latency(fitting: _Fitting, by: str, quantile: float | None) -> tuple[str, tuple[str, ...]]:
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
