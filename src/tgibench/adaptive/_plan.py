"""What an adaptive sweep is asked for, and what the model says of it beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs
import numpy as np

from tgibench.errors import InvalidValueError
from tgibench.figures import figure_of
from tgibench.loads import ClosedLoop
from tgibench.predictions import predict_study
from tgibench.provenance import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from tgibench.backends import Backend
    from tgibench.costs import CostModel
    from tgibench.deployments import Deployment
    from tgibench.endpoints import Endpoint
    from tgibench.loads import LoadProfile
    from tgibench.measurements import Measurement
    from tgibench.requests import PromptSource
    from tgibench.twin.performance import PerformanceModel
    from tgibench.twin.racing import Goal

    Predicted = dict[tuple[Deployment, LoadProfile], Measurement]

__all__ = ["Measure", "Plan"]


class Measure(Protocol):
    """Measures one load on an endpoint that is deployed."""

    async def __call__(
        self, deployment: Deployment, endpoint: Endpoint, load: LoadProfile, *, seed: int
    ) -> Measurement:
        """Run the load and return the cell."""


@attrs.frozen(kw_only=True)
class Plan:
    """What an adaptive sweep is asked for; `adaptive_sweep` documents the fields."""

    deployments: tuple[Deployment, ...]
    loads: tuple[LoadProfile, ...]
    goals: tuple[Goal, ...]
    model: PerformanceModel
    backend: Backend
    prompts: PromptSource
    costs: CostModel
    k: float
    seed: int
    measure: Measure
    tie_ratio: float
    repeats: int
    deploy_s: float
    pause_s: float
    on_measurement: Callable[[Measurement], None] | None

    def check(self) -> None:
        """Refuse what cannot be decided."""
        numbers = [len(self.deployments), len(self.loads), len(self.goals)]
        if not all(numbers):
            raise InvalidValueError(
                f"an adaptive sweep needs at least one deployment, load and goal, got {numbers[0]}, {numbers[1]} and {numbers[2]}"
            )
        for goal in self.goals:
            if goal.load not in self.loads:
                raise InvalidValueError(f"the load {goal.load.label!r} of goal {goal.name!r} is not among the loads")
            if not any(goal.competes(deployment) for deployment in self.deployments):
                raise InvalidValueError(f"no deployment competes in goal {goal.name!r}")

    def value(self, goal: Goal, measurement: Measurement) -> float | None:
        """A measurement's figure."""
        cost = self.costs.cost(measurement)
        figure = (
            getattr(cost, goal.of)
            if hasattr(cost, goal.of)
            else figure_of(measurement, goal.of, _quantile(goal)).estimate
        )
        return None if figure is None else float(figure.value)

    def loads_of(self, goals: Iterable[int]) -> tuple[LoadProfile, ...]:
        """The loads of these goals, each once."""
        return tuple(dict.fromkeys(self.goals[goal].load for goal in goals))

    def load_s(self, load: LoadProfile) -> float:
        """How long a load takes, as far as can be known."""
        duration_s = load.duration_s if isinstance(load, ClosedLoop) else None
        return (duration_s or 0.0) + self.pause_s

    def predictions(self) -> Predicted:
        """What the model says of each deployment under each goal's load."""
        loads = [load for load in self.loads_of(range(len(self.goals))) if isinstance(load, ClosedLoop)]
        study = predict_study(self.deployments, loads, self.prompts, model=self.model, seed=self.seed)
        return {(cell.deployment, cell.load): _as(self.backend.source, cell) for cell in study}

    def scores(self, predicted: Predicted) -> NDArray[np.float64]:
        """Of goals (rows) and deployments (columns): see `Race`."""
        scores = np.full((len(self.goals), len(self.deployments)), np.nan)
        for row, goal in enumerate(self.goals):
            for column, deployment in enumerate(self.deployments):
                if not goal.competes(deployment):
                    continue
                cell = predicted.get((deployment, goal.load))
                value = None if cell is None else self.value(goal, cell)
                scores[row, column] = -np.inf if value is None else goal.score(value)
        return scores

    def deviations(self) -> NDArray[np.float64]:
        """Of the scores: the model's errors."""
        spreads = [self.model.spread_of(deployment) for deployment in self.deployments]
        return np.array(
            [
                [spread.time_per_token if goal.of.endswith("_s") else spread.throughput for spread in spreads]
                for goal in self.goals
            ]
        )

    def usd_per_hour(self, place: int, predicted: Predicted) -> float:
        """The price of a deployment's hour."""
        deployment = self.deployments[place]
        like = next((cell for (owner, _), cell in predicted.items() if owner == deployment), None)
        if like is None:
            some = next(iter(predicted.values()), None)
            if some is None:
                raise InvalidValueError("the model can predict none of the deployments: use tgibench.sweep")
            like = attrs.evolve(some, deployment=deployment)
        cost = self.costs.cost(like).usd_per_hour
        if cost is None:
            raise InvalidValueError(
                f"the cost model knows no price of an hour of {deployment.label}, by which sweeps are planned"
            )
        return cost.value


def _quantile(goal: Goal) -> float | None:
    return None if goal.of.endswith(("_tps", "_rps")) else 0.5


def _as(source: Source, predicted: Measurement) -> Measurement:
    """A prediction in the terms of what it will be held against: published rows have the study's derived tokens/s only."""
    if source is not Source.PUBLISHED:
        return predicted
    metrics = attrs.evolve(predicted.metrics, output_throughput_tps=None)
    return attrs.evolve(predicted, source=source, metrics=metrics)
