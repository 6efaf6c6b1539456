"""Fits the performance model to measurements, by the closed form, by the emulator's own engine or by both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from tgibench.predictions import predict
from tgibench.twin.calibration import calibrate_closed_form
from tgibench.twin.fitting import fit_closed_form

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tgibench.loads import LoadProfile
    from tgibench.measurements import Measurement
    from tgibench.predictions import Method
    from tgibench.requests import PromptSource
    from tgibench.twin.calibration import Calibrated
    from tgibench.twin.fitting import Simulate
    from tgibench.twin.observing import Observations
    from tgibench.twin.parameters import Prior
    from tgibench.twin.performance import PerformanceModel

    Numbers = NDArray[np.float64]

__all__ = ["calibrate", "fit"]


def fit(
    measurements: Iterable[Measurement],
    prompts: PromptSource | Mapping[str, PromptSource],
    *,
    model: PerformanceModel | None = None,
    method: Method = "closed-form",
    runs: int = 1,
    priors: Mapping[str, Prior] | None = None,
    cross_validate: bool = False,
    round_trip_s: float = 0.07,
    early_stop_ratio: float = 0.06,
    cold: bool = True,
) -> PerformanceModel:
    """Estimate the shared parameters from measurements of many deployments, of any laboratory.

    Robust least squares on the logarithms of times per token, of tokens per second and, where it is known, of latency's 90th percentile
    (with less weight where several users come together), with weak priors on every parameter. Rows are
    `Measurement`s of any source; `tgibench.measurement_of_row` makes one from plain figures. The result carries the spread of the
    errors, the range of the fit and the uncertainty of each parameter.

    Args:
        measurements: Rows of one engine's generation, under closed loops.
        prompts: What their requests said: one source for all, or by the rows' `prompts`.
        model: Machines and shapes, those of your own among them; its engine's figures are what is estimated.
        method: What the measurements are compared with: the closed form, or the simulation or the mean of both (some 100 times slower;
            the closed form then leads the way).
        runs: How many simulations of each cell to take the mean of.
        priors: In place of those of `tgibench.twin.parameters.PRIORS`, by name.
        cross_validate: Whether the model's spread, which makes its intervals, is that of deployments left out of the fit in turn (closed
            form, one fit for each) rather than that of the fit: what a deployment that was never measured deserves.
        round_trip_s: Network time of a request.
        early_stop_ratio: Share of answers that ended before their limit.
        cold: Whether the servers were fresh.

    Raises:
        InvalidValueError: There are fewer figures than parameters (in a cross-validation, of all deployments but one), rows of more
            than one engine, a cross-validation of one deployment, or a load that is no closed loop.
        DeployError: A model or machine is unknown.
        MissingExtraError: Scipy is not installed.
    """
    rows, sources = _rows(measurements, prompts)
    options = _Options(round_trip_s=round_trip_s, early_stop_ratio=early_stop_ratio, cold=cold)
    return fit_closed_form(
        rows,
        sources,
        model=model,
        priors=priors,
        cross_validate=cross_validate,
        simulate=None if method == "closed-form" else options.simulator(rows, sources, method, runs),
        **attrs.asdict(options),
    )


def calibrate(
    model: PerformanceModel,
    measurements: Iterable[Measurement],
    prompts: PromptSource | Mapping[str, PromptSource],
    *,
    method: Method = "closed-form",
    runs: int = 1,
    candidates: Sequence[LoadProfile] | None = None,
    prior_deviation: float = 0.15,
    round_trip_s: float = 0.07,
    early_stop_ratio: float = 0.06,
    cold: bool = True,
) -> Calibrated:
    """Fit two factors, of decodes and of prefills, to one to three measured loads of one deployment.

    Measure the lowest and the highest load that matter, then one between: `Calibrated.measure_next` says which. What the factors leave
    of the errors is carried over to loads near those that were measured, so that predictions agree with measurements there.

    Args:
        model: The shared parameters.
        measurements: Rows of one deployment under closed loops.
        prompts: What their requests said: one source for all, or by the rows' `prompts`.
        method: What the measurements are compared with; take the one that will predict.
        runs: How many simulations of each load to take the mean of: their chance is not the deployment's.
        candidates: Loads that could be measured next; by default the usual numbers of users up to twice the highest measured. How sure
            the factors make predictions of these is part of the intervals; where there is none, of the measured loads.
        prior_deviation: How far factors usually lie from 1: standard deviation of their logarithm.
        round_trip_s: Network time of a request.
        early_stop_ratio: Share of answers that ended before their limit.
        cold: Whether the servers were fresh.

    Raises:
        InvalidValueError: The rows are of more than one deployment, or a load is no closed loop.
        DeployError: The model or machine is unknown.
        MissingExtraError: Scipy is not installed.
    """
    rows, sources = _rows(measurements, prompts)
    options = _Options(round_trip_s=round_trip_s, early_stop_ratio=early_stop_ratio, cold=cold)
    return calibrate_closed_form(
        model,
        rows,
        sources,
        candidates=candidates,
        prior_deviation=prior_deviation,
        simulate=None if method == "closed-form" else options.simulator(rows, sources, method, runs),
        **attrs.asdict(options),
    )


def _rows(
    measurements: Iterable[Measurement], prompts: PromptSource | Mapping[str, PromptSource]
) -> tuple[tuple[Measurement, ...], Mapping[str, PromptSource]]:
    rows = tuple(measurements)
    return rows, prompts if isinstance(prompts, Mapping) else {row.prompts: prompts for row in rows}


@attrs.frozen(kw_only=True)
class _Options:
    """What fits, calibrations and their simulations share."""

    round_trip_s: float
    early_stop_ratio: float
    cold: bool

    def simulator(
        self, rows: Sequence[Measurement], sources: Mapping[str, PromptSource], method: Method, runs: int
    ) -> Simulate:
        """How far a model's predictions by a method that simulates are from the rows."""

        def simulated(row: Measurement, model: PerformanceModel) -> Measurement:
            return predict(
                row.deployment,
                row.load,
                sources[row.prompts],
                model=model,
                method=method,
                runs=runs,
                seed=row.provenance.seed or 0,
                **attrs.asdict(self),
            )

        def simulate(model: PerformanceModel, seen: Observations) -> Numbers:
            return seen.errors_of([simulated(row, model) for row in rows])

        return simulate
