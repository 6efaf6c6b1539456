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
    from tgibench.measurements import DeploymentFailure, Measurement, Study
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
        winner: The measurement that won; None where nothing could be measured.
        value: Its figure.
        decided: Whether no other deployment could still win; False when the budget ran out or the sweep was interrupted.
        tied: Measurements of other deployments within the tie's ratio of the winner.
        confidence: The chance that none of those that were skipped is better, by the model's errors (independent ones).
        skipped: What was not measured for it, and why.
    """

    goal: Goal
    winner: Measurement | None
    value: float | None
    decided: bool
    tied: tuple[Measurement, ...]
    confidence: float
    skipped: tuple[Skipped, ...]

    @property
    def sentence(self) -> str:
        """The outcome in one sentence."""
        if self.winner is None or self.value is None:
            return f"{self.goal.name}: nothing was measured"
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
        grid_usd: What measuring every deployment under every load would have cost, each deployed once: an estimate.
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
    failures: list[DeploymentFailure]
    missed: dict[tuple[int, LoadProfile], str]
    interrupted: bool


def outcome_of(sweep: Finished, number: int, goal: Goal) -> GoalOutcome:
    """What became of a goal."""
    place = sweep.race.winner(number)
    winner = None if place is None else sweep.cells[place, goal.load][0]
    best, scores = sweep.race.best(number), sweep.race.measured[number]
    tied = [
        sweep.cells[other, goal.load][0]
        for other in np.flatnonzero(np.isfinite(scores)).tolist()
        if other != place and scores[other] - best < sweep.plan.tie_ratio
    ]
    waiting = sweep.interrupted and bool(sweep.race.alive(number).any())
    hopeful = [
        column
        for (column, load), reason in sweep.missed.items()
        if load == goal.load and reason == OUT_OF_BUDGET and _hopes(sweep, number, column)
    ]
    return GoalOutcome(
        goal=goal,
        winner=winner,
        value=None if place is None else float(np.exp(best if goal.lower else -best)),
        decided=winner is not None and not waiting and not hopeful,
        tied=tuple(tied),
        confidence=sweep.race.confidence(number, sweep.expected.deviations),
        skipped=tuple(_skipped(sweep, number, goal)),
    )


def _hopes(sweep: Finished, number: int, column: int) -> bool:
    hope = sweep.race.predicted[number, column] - sweep.plan.k * sweep.expected.deviations[number, column]
    return bool(hope < sweep.race.best(number))


def _skipped(sweep: Finished, number: int, goal: Goal) -> list[Skipped]:
    best, found = sweep.race.best(number), []
    for column, deployment in enumerate(sweep.plan.deployments):
        if not goal.competes(deployment) or np.isfinite(sweep.race.measured[number, column]):
            continue
        away = (sweep.race.predicted[number, column] - best) / sweep.expected.deviations[number, column]
        if (missed := sweep.missed.get((column, goal.load))) is not None:
            reason = missed
        elif np.isfinite(away) and not _hopes(sweep, number, column):
            worse = np.expm1(sweep.race.predicted[number, column] - best)
            reason = f"predicted {worse:.0%} worse than the winner, {away:.1f} standard deviations of the model's error"
        else:
            reason = "the sweep ended before its turn"
        found.append(Skipped(deployment=deployment, reason=reason))
    return found
