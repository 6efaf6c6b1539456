"""What an adaptive sweep came to: of each goal the winner, how sure that is, and what was left out for which reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs
import numpy as np

if TYPE_CHECKING:
    from tgibench.adaptive._expected import Expected
    from tgibench.adaptive._plan import Plan
    from tgibench.deployments import Deployment
    from tgibench.loads import LoadProfile
    from tgibench.measurements import Measurement, Study
    from tgibench.twin.racing import Goal, Race

__all__ = ["OUT_OF_BUDGET", "AdaptiveStudy", "Finished", "GoalOutcome", "Skipped", "outcome_of"]

OUT_OF_BUDGET = "the budget did not reach"


@attrs.frozen(kw_only=True)
class Skipped:
    """A deployment that a goal did without.

    Args:
        deployment: Which.
        reason: Why, in one sentence.
    """

    deployment: Deployment
    reason: str


@attrs.frozen(kw_only=True)
class GoalOutcome:
    """What became of a goal.

    Args:
        goal: Which.
        winner: The measurement that won; None where none gave the figure.
        value: Its figure.
        decided: Whether no other deployment could still win; False without a winner, and where one that could win was not measured: the
            budget ran out, the sweep was interrupted, or its load failed. One that cannot be deployed cannot win.
        tied: Measurements of other deployments within the tie's ratio of the winner.
        confidence: The chance that none of those that were not measured is better, by the model's errors (independent ones); 0 where
            nothing is predicted of one of them.
        skipped: What it did without, and why.
        without_figure: Measurements that gave no such figure.
    """

    goal: Goal
    winner: Measurement | None
    value: float | None
    decided: bool
    tied: tuple[Measurement, ...]
    confidence: float
    skipped: tuple[Skipped, ...]
    without_figure: tuple[Measurement, ...] = ()

    @property
    def sentence(self) -> str:
        """The outcome in one sentence."""
        if self.winner is None or self.value is None:
            found = f"{len(self.without_figure)} measured, none with a {self.goal.of}"
            return f"{self.goal.name}: {found if self.without_figure else 'nothing was measured'}"
        tie = f", tied with {', '.join(other.deployment.label for other in self.tied)}" if self.tied else ""
        how = f"confidence {self.confidence:.0%}" if self.decided else "not decided"
        return (
            f"{self.goal.name}: {self.winner.deployment.label} under {self.goal.load.label} with {self.goal.of} {self.value:.4g}"
            f"{tie} ({how}; {len(self.skipped)} skipped)"
        )


@attrs.frozen(kw_only=True)
class AdaptiveStudy:
    """What an adaptive sweep came to.

    Args:
        study: The cells that were measured, and what failed.
        outcomes: Of each goal.
        spent_usd: Paid for machines by this call, from the order to deploy until they were let go; cells from the store cost nothing.
        grid_usd: What measuring every deployment under every load would have cost, each deployed once: an estimate. A load of a number of
            requests counts for as long as predicted, and for none of its length where no deployment's is.
        deployed: How many deployments were started.
    """

    study: Study
    outcomes: tuple[GoalOutcome, ...]
    spent_usd: float
    grid_usd: float
    deployed: int

    @property
    def saved_usd(self) -> float:
        """The grid's dollars less those spent."""
        return self.grid_usd - self.spent_usd


class Finished(Protocol):
    """A sweep's state, as far as outcomes are read from it."""

    plan: Plan
    race: Race
    expected: Expected
    cells: dict[tuple[int, LoadProfile], list[Measurement]]
    missed: dict[tuple[int, LoadProfile], str]


def outcome_of(sweep: Finished, number: int, goal: Goal) -> GoalOutcome:
    """What became of a goal."""
    race, scores = sweep.race, sweep.race.measured[number]
    place, best = race.winner(number), race.best(number)
    cells = {
        column: sweep.cells[column, goal.load][0]
        for column, deployment in enumerate(sweep.plan.deployments)
        if (column, goal.load) in sweep.cells and goal.competes(deployment)
    }
    return GoalOutcome(
        goal=goal,
        winner=None if place is None else cells[place],
        value=None if place is None else float(np.exp(best if goal.lower else -best)),
        decided=place is not None and not race.open(number).any(),
        tied=tuple(
            cell
            for column, cell in cells.items()
            if place not in {None, column} and (scores[column] == best or scores[column] - best < sweep.plan.tie_ratio)
        ),
        confidence=race.confidence(number, sweep.expected.deviations),
        skipped=tuple(
            Skipped(deployment=deployment, reason=_reason(sweep, number, goal, column))
            for column, deployment in enumerate(sweep.plan.deployments)
            if goal.competes(deployment) and not scores[column] < np.inf
        ),
        without_figure=tuple(cell for column, cell in cells.items() if not scores[column] < np.inf),
    )


def _reason(sweep: Finished, number: int, goal: Goal, column: int) -> str:
    """Why a goal did without a deployment."""
    race, best = sweep.race, sweep.race.best(number)
    if (column, goal.load) in sweep.cells:
        return _without_figure(goal, sweep.cells[column, goal.load][0])
    if (column, goal.load) in sweep.missed:
        return sweep.missed[column, goal.load]
    if race.open(number)[column]:
        return "the sweep ended before its turn"
    if np.isneginf(best):
        return f"nothing is better than the winner's {goal.of} of 0"
    gap, deviation = race.predicted[number, column] - best, sweep.expected.deviations[number, column]
    away = (
        f"{gap / deviation:.1f} standard deviations of the model's error" if deviation else "by a figure that is known"
    )
    return f"predicted {np.expm1(gap):.0%} worse than the winner, {away}"


def _without_figure(goal: Goal, cell: Measurement) -> str:
    counts = cell.metrics.counts
    requests = f": {counts['succeeded']} of {counts['issued']} requests succeeded" if "issued" in counts else ""
    if cell.partial:
        return f"measured, but stopped early{requests}"
    return f"measured, but without a {goal.of}{'' if goal.lower else ' above 0'}{requests}"
