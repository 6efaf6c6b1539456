"""`PerformanceModel`: everything that predictions are computed from, as one value; and the range in which it was fitted."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.errors import DeployError
from tgibench.twin.engines import EAGER, profile_of
from tgibench.twin.hardware import INSTANCES
from tgibench.twin.policy import settings_for
from tgibench.twin.remainders import carried_over
from tgibench.twin.shapes import MODELS, find_model
from tgibench.twin.step_time import ModelledTimes
from tgibench.validators import above_zero

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tgibench.deployments import Deployment
    from tgibench.twin.engines import EngineProfile
    from tgibench.twin.hardware import Instance
    from tgibench.twin.policy import EngineSettings
    from tgibench.twin.shapes import ModelShape

__all__ = ["Calibration", "FittedRange", "PerformanceModel", "Remainder", "Spread"]


def _frozen(mapping: Mapping[Any, Any]) -> Mapping[Any, Any]:
    return MappingProxyType(dict(mapping))


def _one_replica(deployment: Deployment) -> Deployment:
    return attrs.evolve(deployment, replicas=1)


@attrs.frozen(kw_only=True)
class Spread:
    """How far measurements lie from predictions: standard deviations of the logarithm of measured / predicted.

    Args:
        time_per_token: Of times per token.
        throughput: Of tokens per second.
    """

    time_per_token: float = attrs.field(validator=above_zero)
    throughput: float = attrs.field(validator=above_zero)


@attrs.frozen(kw_only=True)
class FittedRange:
    """What the parameters were fitted to: beyond it a prediction extrapolates.

    Args:
        gpus: Names of accelerators.
        links: Names of the links between them; links that are known do not count.
        hosts: Kinds of machines' CPUs.
        engines: Names of engine profiles.
        quantizations: ``"fp16"``, ``"gptq"``.
        users: The fewest and the most users of a replica.
        rows: Number of measurements.
    """

    gpus: frozenset[str]
    links: frozenset[str]
    hosts: frozenset[str]
    engines: frozenset[str]
    quantizations: frozenset[str]
    users: tuple[float, float]
    rows: int


@attrs.frozen(kw_only=True)
class Calibration:
    """What measurements of one deployment say of it beyond the shared parameters.

    Args:
        decode_factor: Time of a decode, relative to the model.
        prefill_factor: Time of a prefill, relative to the model.
        decode_deviation: Standard deviation of the first's logarithm.
        prefill_deviation: Of the second's.
        users: The loads that were measured.
        spread: Of predictions after calibration.
        time_left: Logarithms of measured / predicted times per token that the factors left at those loads; NaN where unknown.
        throughput_left: The same of tokens per second.
    """

    decode_factor: float = attrs.field(validator=above_zero)
    prefill_factor: float = attrs.field(validator=above_zero)
    decode_deviation: float
    prefill_deviation: float
    users: tuple[float, ...]
    spread: Spread
    time_left: tuple[float, ...] = ()
    throughput_left: tuple[float, ...] = ()

    def remainder(self, users: float) -> Remainder:
        """What predictions of a load are to be multiplied by beyond the two factors."""
        left = (carried_over(users, self.users, each) for each in (self.time_left, self.throughput_left))
        time, throughput = (math.exp(each) for each in left)
        return Remainder(time=time, throughput=throughput)


@attrs.frozen(kw_only=True)
class Remainder:
    """What multiplies predicted figures of one cell.

    Args:
        time: Times per token.
        throughput: Tokens per second.
    """

    time: float = 1.0
    throughput: float = 1.0


# Rough: what leaving out a whole kind of machine does to predictions of the 2023 study (p90 errors of 40 to 50 %).
_EXTRAPOLATION = 0.3
_STUDY_RANGE = FittedRange(
    gpus=frozenset({"A10G", "A100-40GB"}),
    links=frozenset({"none", "pcie-4", "pcie-8"}),
    hosts=frozenset({"g5", "p4d"}),
    engines=frozenset({EAGER.name}),
    quantizations=frozenset({"fp16", "gptq"}),
    users=(1.0, 20.0),
    rows=56,
)
# Of deployments left out of the fit in turn: p90 errors of 15 and 14 % (docs/accuracy.md), over the normal's 1.645.
_STUDY_SPREAD = Spread(time_per_token=0.10, throughput=0.08)


@attrs.frozen(kw_only=True)
class PerformanceModel:
    """What predictions are computed from: machines, shapes and engines by name, and what fits and calibrations found.

    The default is fitted to the 2023 study (TGI 1.0.3). Add machines and models of your own with `with_instance` and `with_shape`.

    Args:
        engine: The profile of every deployment's engine; None for the one that server and version imply.
        engines: Profiles that a fit put in place of the built-in ones, by name.
        instances: Machines by name.
        shapes: Model shapes by name.
        settings: The scheduler's, of every deployment; None for those that server and version imply.
        calibrations: By deployment (with one replica).
        spread: Of a deployment that was not measured.
        fitted: The range of the fit.
        uncertainty: Standard deviation of the logarithm of each fitted parameter, by name.
    """

    engine: EngineProfile | None = None
    engines: Mapping[str, EngineProfile] = attrs.field(factory=dict, converter=_frozen)
    instances: Mapping[str, Instance] = attrs.field(factory=lambda: INSTANCES, converter=_frozen)
    shapes: Mapping[str, ModelShape] = attrs.field(factory=lambda: MODELS, converter=_frozen)
    settings: EngineSettings | None = None
    calibrations: Mapping[Deployment, Calibration] = attrs.field(factory=dict, converter=_frozen)
    spread: Spread = _STUDY_SPREAD
    fitted: FittedRange = _STUDY_RANGE
    uncertainty: Mapping[str, float] = attrs.field(factory=dict, converter=_frozen)

    def with_instance(self, *instances: Instance) -> PerformanceModel:
        """The same with further machines, or other figures for known ones."""
        return attrs.evolve(self, instances={**self.instances, **{each.name: each for each in instances}})

    def with_shape(self, *shapes: ModelShape) -> PerformanceModel:
        """The same with further model shapes."""
        return attrs.evolve(self, shapes={**self.shapes, **{each.name: each for each in shapes}})

    def with_calibration(self, deployment: Deployment, calibration: Calibration) -> PerformanceModel:
        """The same with what was found of a deployment."""
        return attrs.evolve(self, calibrations={**self.calibrations, _one_replica(deployment): calibration})

    def without_calibration(self, deployment: Deployment) -> PerformanceModel:
        """The same without what was found of a deployment."""
        kept = {each: found for each, found in self.calibrations.items() if each != _one_replica(deployment)}
        return attrs.evolve(self, calibrations=kept)

    def calibration_of(self, deployment: Deployment) -> Calibration | None:
        """What was found of a deployment, however many replicas it has; None where nothing was."""
        return self.calibrations.get(_one_replica(deployment))

    def times(self, deployment: Deployment) -> ModelledTimes:
        """A deployment's step times, calibrated where it was.

        Raises:
            DeployError: The model or instance type is unknown, has too few accelerators or too little memory.
        """
        implied = profile_of(deployment)
        times = ModelledTimes.of(
            deployment,
            model=find_model(deployment.model_id, self.shapes),
            instance=self.instances.get(deployment.instance_type),
            profile=self.engine or self.engines.get(implied.name, implied),
        )
        found = self.calibration_of(deployment)
        if found is None:
            return times
        return attrs.evolve(times, decode_factor=found.decode_factor, prefill_factor=found.prefill_factor)

    def remainder(self, deployment: Deployment, users: float) -> Remainder:
        """What a calibration says of a load beyond its factors; nothing where there was none."""
        found = self.calibration_of(deployment)
        return Remainder() if found is None else found.remainder(users)

    def policy(self, deployment: Deployment, times: ModelledTimes) -> EngineSettings:
        """How the deployment's engine schedules.

        Raises:
            DeployError: The memory does not hold one request of the longest length.
        """
        return self.settings or settings_for(deployment, times.cache_tokens)

    def spread_of(self, deployment: Deployment, *, extrapolated: bool = False) -> Spread:
        """How far a measurement of the deployment may lie from its prediction; wider where that leaves the range of the fit."""
        found = self.calibration_of(deployment)
        spread = self.spread if found is None else found.spread
        if not extrapolated:
            return spread
        return Spread(
            time_per_token=math.hypot(spread.time_per_token, _EXTRAPOLATION),
            throughput=math.hypot(spread.throughput, _EXTRAPOLATION),
        )

    def beyond(self, deployment: Deployment, times: ModelledTimes, users: float | None) -> tuple[str, ...]:
        """In plain sentences, where a prediction leaves what the fit, or a calibration of the deployment, has seen."""
        fitted, instance, found = self.fitted, times.instance, self.calibration_of(deployment)
        shared = times.tensor_parallel > 1 and not instance.link.known
        checks = (
            ("accelerator", instance.gpu.name, fitted.gpus, True),
            ("link between accelerators", instance.link.name, fitted.links, shared),
            ("host", instance.host, fitted.hosts, True),
            ("engine", times.profile.name, fitted.engines, True),
            ("precision", "gptq" if times.gptq else "fp16", fitted.quantizations, True),
        )
        sentences = [
            f"extrapolated: the {kind} {name!r} was not among those that the model was fitted to ({', '.join(sorted(known))})"
            for kind, name, known, counts in checks
            if counts and name not in known and found is None
        ]
        measured = () if found is None else found.users
        low, high = min(*fitted.users, *measured), max(*fitted.users, *measured)
        if users is not None and not low <= users <= high:
            sentences.append(f"extrapolated: {users:g} users on a replica, fitted to {low:g} to {high:g}")
        return tuple(sentences)

    def known(self, deployment: Deployment) -> bool:
        """Whether the deployment can be predicted: model and machine are known, and it fits."""
        try:
            self.policy(deployment, self.times(deployment))
        except DeployError:
            return False
        return True
