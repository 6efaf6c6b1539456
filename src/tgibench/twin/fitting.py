"""Estimates the model's shared parameters from measurements of many deployments: robust least squares on logarithms."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from tgibench.errors import InvalidValueError, MissingExtraError
from tgibench.twin.asking import asked
from tgibench.twin.observing import observations
from tgibench.twin.parameters import PRIORS, fitted_range, parameters_of, with_parameters
from tgibench.twin.performance import PerformanceModel, Spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from tgibench.measurements import Measurement
    from tgibench.requests import PromptSource
    from tgibench.twin.asking import Asked
    from tgibench.twin.observing import Observations
    from tgibench.twin.parameters import Parameter, Prior

    Numbers = NDArray[np.float64]
    Simulate = Callable[[PerformanceModel, Observations], Numbers]

__all__ = ["fit_closed_form", "least_squares", "robust_deviation"]

_STEP = 1e-4
_NOISE = 0.05
_MOST_EVALUATIONS = 60
_ROUNDS = 2
_NORMAL_90 = 1.645
_NORMAL_MAD = 1.4826


def least_squares(*arguments: Any, **options: Any) -> Any:
    """Scipy's.

    Raises:
        MissingExtraError: Scipy is not installed.
    """
    try:
        optimize = importlib.import_module("scipy.optimize")
    except ImportError as error:
        raise MissingExtraError('fitting and calibrating need scipy: pip install "tgibench[twin]"') from error
    return optimize.least_squares(*arguments, **options)


def fit_closed_form(
    measurements: Iterable[Measurement],
    prompts: PromptSource | Mapping[str, PromptSource],
    *,
    model: PerformanceModel | None = None,
    priors: Mapping[str, Prior] | None = None,
    round_trip_s: float = 0.07,
    early_stop_ratio: float = 0.06,
    cold: bool = True,
    simulate: Simulate | None = None,
    cross_validate: bool = False,
) -> PerformanceModel:
    """Fit the closed form; `tgibench.fit` documents the arguments.

    Args:
        measurements: Rows of one engine.
        prompts: What their requests said.
        model: Machines and shapes; its engine's figures are what is estimated.
        priors: In place of those of `PRIORS`, by the rate's name.
        round_trip_s: Network time of a request.
        early_stop_ratio: Share of answers that end before their limit.
        cold: Whether the servers were fresh.
        simulate: How far the discrete-event form of a model is from the observations. The closed form is then corrected, cell by cell,
            to agree with it, which needs no measurement.
        cross_validate: Whether the spread is that of deployments left out in turn rather than that of the fit.

    Raises:
        InvalidValueError: There are fewer figures than parameters (in a cross-validation, of all deployments but one), rows of more
            than one engine, or a cross-validation of one deployment.
        DeployError: A model or machine is unknown.
        MissingExtraError: Scipy is not installed.
    """
    model = attrs.evolve(model or PerformanceModel(), calibrations={})
    rows = tuple(measurements)
    if cross_validate and len({row.deployment for row in rows}) == 1:
        raise InvalidValueError(
            "cross-validation leaves out each deployment in turn and needs rows of at least 2 deployments, got 1: add rows of "
            "others, or fit without it"
        )
    seen = observations(rows, prompts, round_trip_s=round_trip_s, early_stop_ratio=early_stop_ratio, cold=cold)
    batch = asked(seen.questions, model)
    parameters = parameters_of(batch.times, {**PRIORS, **(priors or {})}, cold=cold)
    figures = int(np.isfinite(seen.figures[:2]).sum())
    if figures <= len(parameters):
        raise InvalidValueError(
            f"a fit of {len(parameters)} parameters needs more figures than that, got {figures} from {len(seen.questions)} "
            "measurements: add rows, or calibrate a model that was fitted to others"
        )
    problem = _Problem(seen, batch, parameters)
    solution = problem.solve()
    for _ in range(_ROUNDS if simulate is not None else 0):
        if simulate is not None:
            problem.correct(solution.x, simulate(problem.model_at(model, solution.x), seen))
            solution = problem.solve(solution.x)
    fitted = problem.result(model, solution)
    if not cross_validate:
        return fitted
    options = {"round_trip_s": round_trip_s, "early_stop_ratio": early_stop_ratio, "cold": cold}
    return attrs.evolve(fitted, spread=_held_out_spread(rows, prompts, model, priors, options))


def _held_out_spread(
    rows: Sequence[Measurement],
    prompts: PromptSource | Mapping[str, PromptSource],
    model: PerformanceModel,
    priors: Mapping[str, Prior] | None,
    options: dict[str, Any],
) -> Spread:
    """How far the closed form is from each deployment's rows when it is fitted to the others'."""
    times, throughputs = [], []
    for deployment in dict.fromkeys(row.deployment for row in rows):
        others = [row for row in rows if row.deployment != deployment]
        left_out = [row for row in rows if row.deployment == deployment]
        try:
            fitted = fit_closed_form(others, prompts, model=model, priors=priors, **options)
        except InvalidValueError as error:
            raise InvalidValueError(f"cross-validation cannot leave out {deployment.label}: {error}") from error
        seen = observations(left_out, prompts, **options)
        batch = asked(seen.questions, fitted)
        time_errors, throughput_errors, *_ = seen.residuals(batch.forecast(), batch.cells)
        times.append(time_errors)
        throughputs.append(throughput_errors)
    return Spread(
        time_per_token=robust_deviation(np.concatenate(times)), throughput=robust_deviation(np.concatenate(throughputs))
    )


class _Problem:
    """A fit's arrays, and what the simulation corrects."""

    def __init__(self, seen: Observations, batch: Asked, parameters: Sequence[Parameter]) -> None:
        self._seen, self._batch, self._parameters = seen, batch, parameters
        priors = [parameter.prior for parameter in parameters]
        self._likely = np.log([prior.value for prior in priors])
        self._deviations = np.array([prior.deviation for prior in priors])
        self._upper = np.log([prior.upper for prior in priors])
        weights = seen.weights(batch.cells)
        self._known, self._weights = weights > 0, weights[weights > 0]
        self._correction = np.zeros(seen.figures.shape)

    def solve(self, start: Numbers | None = None) -> Any:
        """Scipy's solution, from the priors' middle or from another's."""
        return least_squares(
            lambda theta: self._residuals(theta[None])[0],
            self._likely if start is None else start,
            jac=self._jacobian,
            loss="soft_l1",
            f_scale=_NOISE,
            x_scale="jac",
            max_nfev=_MOST_EVALUATIONS,
            bounds=(np.full(len(self._likely), -np.inf), self._upper),
        )

    def correct(self, theta: Numbers, simulated: Numbers) -> None:
        """Make the closed form agree with a simulation at these parameters, whose errors are given."""
        self._correction = simulated - self._logarithms(theta[None])[0]

    def model_at(self, model: PerformanceModel, theta: Numbers) -> PerformanceModel:
        """The model with these parameters."""
        values = {
            parameter.name: float(value) for parameter, value in zip(self._parameters, np.exp(theta), strict=True)
        }
        return with_parameters(model, self._batch.times, values, self._parameters)

    def result(self, model: PerformanceModel, solution: Any) -> PerformanceModel:
        """The fitted model, with its range, its errors and the uncertainty of each parameter."""
        errors = self._logarithms(solution.x[None])[0] + self._correction
        figures = self._known[:2].sum()
        inflated = np.sqrt(figures / (figures - len(self._parameters)))
        spread = Spread(
            time_per_token=float(robust_deviation(errors[0]) * inflated),
            throughput=float(robust_deviation(errors[1]) * inflated),
        )
        jacobian = self._jacobian(solution.x)
        rows = len(jacobian) - len(self._parameters)
        scale = np.concatenate(
            [np.full(rows, max(spread.time_per_token, spread.throughput)), np.full(len(self._likely), _NOISE)]
        )
        weighted = jacobian / scale[:, None]
        covariance = np.linalg.inv(weighted.T @ weighted)
        uncertainty = {
            parameter.name: float(deviation)
            for parameter, deviation in zip(self._parameters, np.sqrt(np.diag(covariance)), strict=True)
        }
        return attrs.evolve(
            self.model_at(model, solution.x),
            spread=spread,
            fitted=fitted_range(self._batch.times, self._batch.cells.users),
            uncertainty=uncertainty,
        )

    def _logarithms(self, thetas: Numbers) -> Numbers:
        """log(predicted / measured) of all figures of all cells, for each row of parameters."""
        rates = {
            name: np.broadcast_to(values, (len(thetas), len(values))) for name, values in self._batch.rates.items()
        }
        values = np.exp(thetas)
        for place, parameter in enumerate(self._parameters):
            rates[parameter.rate] = np.where(parameter.cells, values[:, place, None], rates[parameter.rate])
        answer = self._batch.forecast(rates)
        return self._seen.residuals(answer, self._batch.cells)

    def _residuals(self, thetas: Numbers) -> Numbers:
        errors = (self._logarithms(thetas) + self._correction)[:, self._known] * self._weights
        prior = (thetas - self._likely) / self._deviations * _NOISE
        return np.concatenate([errors, prior], axis=1)

    def _jacobian(self, theta: Numbers) -> Numbers:
        moved = self._residuals(np.concatenate([theta[None], theta - _STEP * np.eye(len(theta))]))
        return np.asarray((moved[0] - moved[1:]).T / _STEP)


def robust_deviation(errors: Numbers) -> float:
    """A standard deviation that covers both the middle and the tail of errors around 0, few outliers aside; at least 1 %."""
    known = np.abs(errors[np.isfinite(errors)])
    if not len(known):
        return _NOISE
    return float(max(np.median(known) * _NORMAL_MAD, np.quantile(known, 0.9) / _NORMAL_90, 0.01))
