"""What is expected of each cell of an adaptive sweep before it is measured: figures and how far they may be off, dollars and seconds."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench.errors import InvalidValueError
from tgibench.loads import ClosedLoop, ClosedPhase, count_requests, planned_s
from tgibench.predictions import predict_study
from tgibench.provenance import Source
from tgibench.stats import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tgibench.adaptive._plan import Plan
    from tgibench.deployments import Deployment
    from tgibench.loads import LoadProfile
    from tgibench.measurements import Measurement

    Predicted = dict[tuple[Deployment, LoadProfile], Measurement]

__all__ = ["Expected"]

_Z = 1.96  # intervals hold 95 %


@attrs.frozen(kw_only=True, eq=False)
class Expected:
    """What is expected beforehand. Deployments and goals are known by their places in the plan.

    Args:
        scores: Of goals (rows) and deployments (columns): see `tgibench.twin.racing.Race`.
        deviations: Of the logarithm of measured / predicted, from each figure's own interval; 0 where nothing is predicted.
        usd_per_hour: Of each deployment.
        load_s: Seconds of each load on each deployment.
    """

    scores: NDArray[np.float64]
    deviations: NDArray[np.float64]
    usd_per_hour: tuple[float, ...]
    load_s: dict[tuple[int, LoadProfile], float]

    @classmethod
    def of(cls, plan: Plan) -> Expected:
        """Ask the model and the cost model."""
        predicted = _predicted(plan)
        scores, deviations = _figures(plan, predicted)
        return cls(
            scores=scores,
            deviations=deviations,
            usd_per_hour=tuple(_usd_per_hour(plan, deployment, predicted) for deployment in plan.deployments),
            load_s={
                (place, load): _load_s(plan, deployment, load, predicted) + plan.pause_s
                for place, deployment in enumerate(plan.deployments)
                for load in plan.loads
            },
        )


def _predicted(plan: Plan) -> Predicted:
    """Of each deployment that the model knows, under each load that its closed form knows."""
    numbered = (loop for load in plan.loads for loop, _ in _numbered(load, plan.seed))
    loads = dict.fromkeys([*(goal.load for goal in plan.goals), *numbered])
    known = [load for load in loads if isinstance(load, ClosedLoop) and not load.think_time_s]
    study = predict_study(plan.deployments, known, plan.prompts, model=plan.model, seed=plan.seed)
    return {(cell.deployment, cell.load): _as_measured(plan, cell) for cell in study}


def _figures(plan: Plan, predicted: Predicted) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scores = np.full((len(plan.goals), len(plan.deployments)), np.nan)
    deviations = np.zeros(scores.shape)
    for row, goal in enumerate(plan.goals):
        for column, deployment in enumerate(plan.deployments):
            if not goal.competes(deployment):
                continue
            scores[row, column] = -np.inf
            cell = predicted.get((deployment, goal.load))
            figure = None if cell is None else plan.figure(goal, cell)
            if figure is not None and figure.value > 0 and figure.interval is not None and figure.interval[0] > 0:
                low, high = figure.interval
                scores[row, column] = goal.score(figure.value)
                deviations[row, column] = math.log(high / low) / (2 * _Z)
    return scores, deviations


def _usd_per_hour(plan: Plan, deployment: Deployment, predicted: Predicted) -> float:
    """A price of an hour may depend on the load, where tokens are billed: then any prediction tells it."""
    own = (cell for (owner, _), cell in predicted.items() if owner == deployment)
    like = next(itertools.chain(own, predicted.values(), [plan.nothing_known_of(deployment)]))
    cost = plan.costs.cost(attrs.evolve(like, deployment=deployment)).usd_per_hour
    if cost is None:
        raise InvalidValueError(
            f"the cost model knows no price of an hour of {deployment.label}, by which sweeps are planned"
        )
    return cost.value


def _load_s(plan: Plan, deployment: Deployment, load: LoadProfile, predicted: Predicted) -> float:
    """As planned, and of phases that end with a number of requests as predicted."""
    seconds = planned_s(load, plan.seed)
    for loop, think_time_s in _numbered(load, plan.seed):
        known = {owner: cell for (owner, under), cell in predicted.items() if under == loop}
        cells = [known[deployment]] if deployment in known else list(known.values())
        each_s = max((loop.concurrency / rate for cell in cells if (rate := _rate_rps(cell))), default=0.0)
        seconds += (loop.requests or 0) / loop.concurrency * (each_s + think_time_s)
    return seconds


def _numbered(load: LoadProfile, seed: int) -> Iterator[tuple[ClosedLoop, float]]:
    """Phases that end with a number of requests, as loads that the closed form knows, and what each user waits between requests."""
    for phase in load.phases(seed):
        if not isinstance(phase, ClosedPhase) or phase.duration_s is not None:
            continue
        requests = count_requests(phase.indices) if phase.requests is None else phase.requests
        if requests:
            yield ClosedLoop(min(phase.users, requests), requests=requests), phase.think_time_s


def _rate_rps(cell: Measurement) -> float | None:
    rate = cell.metrics.request_throughput_rps
    return None if rate is None else rate.value


def _as_measured(plan: Plan, predicted: Measurement) -> Measurement:
    """A prediction in the terms of what it will be held against: published rows have the study's derived tokens/s only."""
    predicted = attrs.evolve(predicted, provenance=attrs.evolve(predicted.provenance, ready_after_s=plan.deploy_s))
    counted, derived = predicted.metrics.output_throughput_tps, predicted.metrics.littles_law_throughput_tps
    if plan.backend.source is not Source.PUBLISHED or counted is None or derived is None or counted.value <= 0:
        return predicted
    ends = counted.interval
    interval = None if ends is None else (ends[0] * derived / counted.value, ends[1] * derived / counted.value)
    metrics = attrs.evolve(predicted.metrics, output_throughput_tps=Estimate(derived, interval))
    return attrs.evolve(predicted, metrics=metrics)
