"""Fits a model to one deployment from a few measured loads: how much slower or faster its decodes and prefills are than the model's.

What two factors leave of the errors at the measured loads is kept too, and carried over to the loads near them (see `remainders`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from tgibench.errors import InvalidValueError
from tgibench.twin.asking import asked
from tgibench.twin.fitting import least_squares
from tgibench.twin.observing import observations
from tgibench.twin.performance import Calibration, PerformanceModel, Spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from tgibench.deployments import Deployment
    from tgibench.loads import LoadProfile
    from tgibench.measurements import Measurement
    from tgibench.requests import PromptSource
    from tgibench.twin.asking import Asked, Question
    from tgibench.twin.fitting import Simulate
    from tgibench.twin.observing import Observations

    Numbers = NDArray[np.float64]

__all__ = ["HEALTHY_FACTORS", "Calibrated", "calibrate_closed_form"]

HEALTHY_FACTORS = (0.7, 1.4)
"""Factors outside this range say that the host is bad, or that it is not what the model takes it for."""

_NOISE = 0.05
_LEFT = Spread(time_per_token=0.08, throughput=0.07)
"""Errors at loads between calibrated ones, in the 2023 study: 90th percentiles of 13 and 11 % over the normal's 1.645."""
_FITTED = slice(0, 2)  # times and throughputs: the tails of one deployment hang on few requests
_STEP = 1e-4
_ROUNDS = 2
_COMMON_USERS = (1, 2, 5, 10, 20, 50, 100)


@attrs.frozen(kw_only=True)
class Calibrated:
    """What a calibration found.

    Args:
        model: The model, calibrated for the deployment.
        deployment: Which.
        calibration: The two factors and how sure they are.
        warnings: In plain sentences: a bad host, or few or high loads.
        measure_next: The load that would tell most; None when those that were measured settle it.
    """

    model: PerformanceModel
    deployment: Deployment
    calibration: Calibration
    warnings: tuple[str, ...]
    measure_next: LoadProfile | None


def calibrate_closed_form(
    model: PerformanceModel,
    measurements: Iterable[Measurement],
    prompts: PromptSource | Mapping[str, PromptSource],
    *,
    candidates: Sequence[LoadProfile] | None,
    prior_deviation: float,
    round_trip_s: float,
    early_stop_ratio: float,
    cold: bool,
    simulate: Simulate | None,
) -> Calibrated:
    """Calibrate the closed form, corrected by simulations where they are given; `tgibench.calibrate` documents the arguments."""
    rows = tuple(measurements)
    if len({row.deployment for row in rows}) > 1:
        labels = sorted({row.deployment.label for row in rows})
        raise InvalidValueError(f"calibrate one deployment at a time, got {', '.join(labels)}")
    seen = observations(rows, prompts, round_trip_s=round_trip_s, early_stop_ratio=early_stop_ratio, cold=cold)
    deployment = rows[0].deployment
    bare = model.without_calibration(deployment)
    batch = asked(seen.questions, bare)
    correction = np.zeros_like(seen.figures)
    solution = _solved(np.zeros(2), seen, batch, correction, prior_deviation)
    for _ in range(_ROUNDS if simulate is not None else 0):
        if simulate is not None:
            found = _calibration(solution, seen)
            correction = simulate(bare.with_calibration(deployment, found), seen) - _errors(solution.x, seen, batch)
            solution = _solved(solution.x, seen, batch, correction, prior_deviation)
    loads = _candidates(candidates, seen.questions)
    deviations = np.sqrt(_explained(loads, _covariance(solution), bare))
    calibration = _calibration(solution, seen, float(np.sqrt(np.mean(deviations**2))))
    errors = _errors(solution.x, seen, batch)
    if simulate is not None:
        errors = simulate(bare.with_calibration(deployment, calibration), seen)
    calibration = attrs.evolve(
        calibration, time_left=tuple((-errors[0]).tolist()), throughput_left=tuple((-errors[1]).tolist())
    )
    return Calibrated(
        model=bare.with_calibration(deployment, calibration),
        deployment=deployment,
        calibration=calibration,
        warnings=_warnings(calibration, deployment),
        measure_next=_most_uncertain(loads, deviations, calibration.users),
    )


def _solved(start: Numbers, seen: Observations, batch: Asked, correction: Numbers, prior_deviation: float) -> Any:
    """Scipy's solution for the factors' logarithms; residuals are in units of their deviations: the figures', then the priors'."""

    def residuals(theta: Numbers) -> Numbers:
        errors = (_errors(theta, seen, batch) + correction)[_FITTED]
        return np.concatenate([errors[np.isfinite(errors)] / _NOISE, theta / prior_deviation])

    return least_squares(residuals, start)


def _errors(theta: Numbers, seen: Observations, batch: Asked) -> Numbers:
    """log(predicted / measured) of all figures."""
    ones = np.ones(len(seen.questions))
    answer = batch.forecast(decode_factor=np.exp(theta[0]) * ones, prefill_factor=np.exp(theta[1]) * ones)
    return seen.residuals(answer, batch.cells)


def _covariance(solution: Any) -> Numbers:
    return np.asarray(np.linalg.inv(solution.jac.T @ solution.jac))


def _calibration(solution: Any, seen: Observations, factors_deviation: float = 0.0) -> Calibration:
    decode, prefill = (float(value) for value in np.exp(solution.x))
    deviations = np.sqrt(np.diag(_covariance(solution)))
    return Calibration(
        decode_factor=decode,
        prefill_factor=prefill,
        decode_deviation=float(deviations[0]),
        prefill_deviation=float(deviations[1]),
        users=tuple(question.users for question in seen.questions),
        spread=Spread(
            time_per_token=float(np.hypot(factors_deviation, _LEFT.time_per_token)),
            throughput=float(np.hypot(factors_deviation, _LEFT.throughput)),
        ),
    )


def _candidates(candidates: Sequence[LoadProfile] | None, questions: Sequence[Question]) -> list[Question]:
    """Questions about the loads that could be measured next; by default up to twice the highest load that was. Never none."""
    like = questions[0]
    if candidates is not None:
        return [attrs.evolve(like, load=load) for load in candidates] or list(questions)
    highest = max(question.closed.concurrency for question in questions)
    loads = [attrs.evolve(like.closed, concurrency=users) for users in _COMMON_USERS if users <= 2 * max(highest, 10)]
    return [
        attrs.evolve(like, load=load) for load in loads if load.requests is None or load.requests >= load.concurrency
    ]


def _explained(questions: Sequence[Question], covariance: Numbers, model: PerformanceModel) -> Numbers:
    """How much of the variance of the candidates' predictions the factors' uncertainty makes."""
    batch = asked(questions, model)
    ones = np.ones(len(questions))

    def logarithm(decode: float, prefill: float) -> Numbers:
        return np.log(batch.forecast(decode_factor=decode * ones, prefill_factor=prefill * ones).latency_s)

    middle = logarithm(1.0, 1.0)
    step = np.exp(_STEP)
    slopes = np.stack([logarithm(step, 1.0) - middle, logarithm(1.0, step) - middle], axis=1) / _STEP
    return np.asarray(np.einsum("ij,jk,ik->i", slopes, covariance, slopes))


def _most_uncertain(questions: Sequence[Question], deviations: Numbers, users: Sequence[float]) -> LoadProfile | None:
    """The load not yet measured at which the factors' uncertainty matters most; None where it is below the noise everywhere."""
    open_ones = [
        (deviation, question.load)
        for deviation, question in zip(deviations, questions, strict=True)
        if question.users not in users and deviation > _NOISE / 2
    ]
    return max(open_ones, key=lambda pair: pair[0])[1] if open_ones else None


def _warnings(calibration: Calibration, deployment: Deployment) -> tuple[str, ...]:
    low, high = HEALTHY_FACTORS
    factors = (("decodes", calibration.decode_factor), ("prefills", calibration.prefill_factor))
    found = [
        f"bad host? {name} of {deployment.label} take {factor:.2f} times what the model says, outside {low} to {high}: "
        "measure it again on a fresh machine"
        for name, factor in factors
        if not low <= factor <= high
    ]
    if max(calibration.users) == min(calibration.users):
        found.append(
            f"one load only ({calibration.users[0]:g} users) was measured: decodes and prefills can hardly be told apart"
        )
    return tuple(found)
