"""Predicts what was not measured: by an instant closed form, by the emulator's own engine in virtual time, or by both."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Literal

import attrs
import numpy as np

from tgibench import virtual_time
from tgibench.backends.emulator import Emulator
from tgibench.backends.emulator.lengths import EarlyStops
from tgibench.checks import unfinished
from tgibench.errors import DeployError, InvalidValueError, RunningLoopError
from tgibench.loads import ClosedLoop
from tgibench.measurements import DeploymentFailure, Measurement, Study
from tgibench.metrics import Metrics
from tgibench.runner import run_load
from tgibench.twin.asking import PromptTable, Question, busy_replicas
from tgibench.twin.forecasting import (
    as_predicted,
    closed_form_measurements,
    published_throughput_tps,
    to_the_middle,
    with_model_intervals,
    with_remainder,
)
from tgibench.twin.limits import refuse_what_never_fits, where_closed_form_is_rough
from tgibench.twin.performance import PerformanceModel, Remainder
from tgibench.twin.tuning import TunedOnLine

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tgibench.deployments import Deployment
    from tgibench.loads import LoadProfile
    from tgibench.records import RequestLog
    from tgibench.requests import PromptSource
    from tgibench.twin.step_time import ModelledTimes

__all__ = ["Method", "predict", "predict_study"]

# Enough that users whose answers end together do not ask again in one instant, as they never do over a network.
_JITTER_S = 0.002

Method = Literal["closed-form", "simulation", "both"]


def predict(
    deployment: Deployment,
    load: LoadProfile,
    prompts: PromptSource,
    *,
    model: PerformanceModel | None = None,
    method: Method = "closed-form",
    runs: int = 1,
    seed: int = 0,
    round_trip_s: float = 0.07,
    early_stop_ratio: float = 0.06,
    cold: bool = True,
) -> Measurement:
    """What a measurement of this cell would give, each figure PREDICTED with an interval that holds 95 % of measurements.

    The closed form answers at once and knows closed loops only; the simulation runs the emulator's engine under any load and gives
    whole distributions. The third method takes the geometric mean of the two, in the time per token and in throughput, and the rest from
    the simulation. docs/accuracy.md says how far each was from measurements. Warnings say where the prediction extrapolates.

    Args:
        deployment: What would be deployed.
        load: How it would be loaded.
        prompts: What requests would say: only their lengths matter.
        model: What to compute from; by default the one fitted to the 2023 study.
        method: ``"closed-form"``, ``"simulation"`` or ``"both"``.
        runs: How many simulations to take the geometric mean of. They differ by chance (which answers end early, milliseconds on the way),
            by some 3 % in the time per token of several users.
        seed: Of arrivals, prompts and answers' lengths.
        round_trip_s: Network time of a request.
        early_stop_ratio: Share of answers that end before their limit.
        cold: Whether the server is fresh, so that GPTQ kernels are tuned while it serves where the engine does that.

    Raises:
        DeployError: The model or machine is unknown, or the model does not fit it.
        InvalidValueError: The closed form does not know the load, the method's name is no method's, or runs is below 1.
        RunningLoopError: A simulation was asked for where an event loop runs.
    """
    model = model or PerformanceModel()
    table = _table(prompts, seed, early_stop_ratio)
    question = Question(deployment=deployment, load=load, prompts=table, round_trip_s=round_trip_s, cold=cold)
    if method == "closed-form":
        return closed_form_measurements([question], model, prompts=prompts.identity, seed=seed)[0]
    if method not in {"simulation", "both"}:
        raise InvalidValueError(f'method must be "closed-form", "simulation" or "both", got {method!r}')
    if runs < 1:
        raise InvalidValueError(f"runs must be at least 1, got {runs}")
    times = model.times(deployment)
    policy = model.policy(deployment, times)
    refuse_what_never_fits(deployment, table, policy)
    simulated = [
        _simulated(question, prompts, model, times, seed=seed, run=run, early_stop_ratio=early_stop_ratio)
        for run in range(runs)
    ]
    metrics = to_the_middle([each.metrics for each in simulated])
    rough: tuple[str, ...] = ()
    if method == "both":
        metrics = to_the_middle([metrics, _closed_form(question, model, seed)])
        rough = tuple(where_closed_form_is_rough(question, policy))
    users = simulated[0].users
    spread = model.spread_of(deployment, extrapolated=bool(rough or model.beyond(deployment, times, users)))
    remainder = model.remainder(deployment, users) if isinstance(load, ClosedLoop) else Remainder()
    return as_predicted(
        question,
        with_model_intervals(with_remainder(metrics, remainder), spread),
        times,
        model,
        prompts=prompts.identity,
        seed=seed,
        method=method,
        users=users,
        further_warnings=(*rough, *simulated[0].warnings),
    )


def predict_study(
    deployments: Iterable[Deployment],
    loads: Iterable[LoadProfile],
    prompts: PromptSource,
    *,
    model: PerformanceModel | None = None,
    seed: int = 0,
    round_trip_s: float = 0.07,
    early_stop_ratio: float = 0.06,
    cold: bool = True,
) -> Study:
    """Predict every deployment under every load by the closed form: a thousand cells in well under a second.

    What cannot be deployed (unknown, or too large for its machine) becomes a `DeploymentFailure` as in a sweep.

    Raises:
        InvalidValueError: A load is no closed loop.
    """
    model = model or PerformanceModel()
    table = _table(prompts, seed, early_stop_ratio)
    loads = tuple(loads)
    questions: list[Question] = []
    failures = []
    for deployment in deployments:
        try:
            refuse_what_never_fits(deployment, table, model.policy(deployment, model.times(deployment)))
        except DeployError as error:
            failures.append(DeploymentFailure(deployment, str(error)))
            continue
        questions += [
            Question(deployment=deployment, load=load, prompts=table, round_trip_s=round_trip_s, cold=cold)
            for load in loads
        ]
    measurements = closed_form_measurements(questions, model, prompts=prompts.identity, seed=seed)
    return Study(tuple(measurements), tuple(failures))


def _closed_form(question: Question, model: PerformanceModel, seed: int) -> Metrics:
    """Its answer, calibrated by factors alone."""
    factors = {
        deployment: attrs.evolve(found, time_left=(), throughput_left=())
        for deployment, found in model.calibrations.items()
    }
    bare = attrs.evolve(model, calibrations=factors)
    return closed_form_measurements([question], bare, prompts="", seed=seed)[0].metrics


def _table(prompts: PromptSource, seed: int, early_stop_ratio: float) -> PromptTable:
    return _tables(prompts.identity, seed, early_stop_ratio, _Unhashed(prompts))


@attrs.frozen
class _Simulated:
    """One simulation: its metrics, requests in flight on a replica that has any, and what was not done."""

    metrics: Metrics
    users: float
    warnings: tuple[str, ...]


@attrs.frozen(eq=False)
class _Unhashed:
    """A prompt source beside its identity, which is what the cache goes by."""

    prompts: PromptSource

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unhashed)

    def __hash__(self) -> int:
        return 0


@functools.lru_cache(maxsize=32)
def _tables(identity: str, seed: int, early_stop_ratio: float, source: _Unhashed) -> PromptTable:
    del identity
    return PromptTable.of(source.prompts, seed=seed, early_stop_ratio=early_stop_ratio)


def _simulated(
    question: Question,
    prompts: PromptSource,
    model: PerformanceModel,
    times: ModelledTimes,
    *,
    seed: int,
    run: int,
    early_stop_ratio: float,
) -> _Simulated:
    """Run the load on the emulator's engine in virtual time. Runs get the same arrivals and prompts, and differ in what else is chance."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RunningLoopError(
            "an event loop is running here: write `await asyncio.to_thread(tgibench.predict, ...)` for a simulation"
        )
    emulator = Emulator(
        step_times=TunedOnLine.where_needed(times) if question.cold else times,
        settings=model.policy(question.deployment, times),
        lengths=EarlyStops(early_stop_ratio),
        round_trip_s=question.round_trip_s,
        jitter_s=_JITTER_S,
        seed=seed + run,
    )
    endpoint = emulator.endpoint(question.deployment)
    log = virtual_time.run(run_load(endpoint, question.load, prompts, seed=seed))
    metrics = Metrics.of(log)
    if log.concurrency is not None and log.succeeded.any():
        served_s = float(np.mean((log.queue_s + log.inference_s)[log.succeeded]))
        shown = published_throughput_tps(log.concurrency, question.prompts.longest_output, served_s)
        metrics = attrs.evolve(metrics, littles_law_throughput_tps=shown)
    return _Simulated(metrics, _in_flight(question, log), tuple(unfinished(metrics, log)))


def _in_flight(question: Question, log: RequestLog) -> float:
    """Requests in flight on a replica that has any: a closed loop's users; an open one's mean, or one where that is less."""
    replicas = busy_replicas(question.load, question.deployment)
    if isinstance(question.load, ClosedLoop):
        return question.load.concurrency / replicas
    if not len(log.started_s):
        return 1.0
    span_s = float(log.ended_s.max() - log.started_s.min())
    return max(1.0, float((log.ended_s - log.started_s).sum()) / max(span_s, 1e-9) / replicas)
