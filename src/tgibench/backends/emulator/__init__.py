"""The embedded default: an emulated TGI. Everything it yields says EMULATED."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs

from tgibench.backends.emulator.in_process import EmulatedEndpoint
from tgibench.backends.emulator.lengths import EarlyStops
from tgibench.identities import changed, identity
from tgibench.provenance import Source
from tgibench.twin.policy import settings_for
from tgibench.twin.step_time import ModelledTimes
from tgibench.twin.tuning import TunedOnLine
from tgibench.validators import not_negative

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tgibench.backends.emulator.lengths import OutputLengths
    from tgibench.deployments import Deployment
    from tgibench.twin.engines import EngineProfile
    from tgibench.twin.hardware import Instance
    from tgibench.twin.policy import EngineSettings
    from tgibench.twin.shapes import ModelShape
    from tgibench.twin.step_time import StepTimes

__all__ = ["Emulator", "settings_for"]

_DEFAULT_LENGTHS = EarlyStops()


@attrs.frozen(kw_only=True)
class Emulator:
    """Emulates TGI in this process: its scheduler exactly, its step times by a model fitted to the 2023 study.

    In virtual time (`tgibench.virtual_time.run`) 90 s of load take well under a second and repeat to the bit; under `asyncio.run` they
    take 90 s.

    Args:
        settings: The scheduler's settings; by default those of the deployment's TGI version and memory.
        step_times: Step times of your own, instead of those computed from model, instance and profile.
        model: The model's shape, where its name is not known.
        instance: The machine, where its name is not known.
        profile: The engine's generation, instead of the one its version implies.
        lengths: How long answers are.
        round_trip_s: Network time of a request; 70 ms is what the study's rows show between client and SageMaker.
        jitter_s: Mean of what the way to the server takes longer at times, exponentially distributed. Without it users whose answers
            end together ask again together, for ever.
        cold: Whether each deployment is a fresh server, which tunes its GPTQ kernels while it serves where the engine does that (TGI 1.0):
            its first load has stalls of seconds that later ones have not. Replicas tune as one.
        ready_after_s: How long a deployment takes to become ready.
        seed: Of the answers' lengths and the jitter.
    """

    settings: EngineSettings | None = None
    step_times: StepTimes | None = None
    model: ModelShape | None = None
    instance: Instance | None = None
    profile: EngineProfile | None = None
    lengths: OutputLengths = _DEFAULT_LENGTHS
    round_trip_s: float = attrs.field(default=0.07, validator=not_negative)
    jitter_s: float = attrs.field(default=0.0, validator=not_negative)
    cold: bool = False
    ready_after_s: float = attrs.field(default=0.0, validator=not_negative)
    seed: int = 0

    @property
    def name(self) -> str:
        """Its name."""
        return "emulator"

    @property
    def identity(self) -> str:
        """Its name, and a digest of all that is not the default."""
        return identity(self.name, **changed(self))

    @property
    def source(self) -> Source:
        """EMULATED."""
        return Source.EMULATED

    @asynccontextmanager
    async def deploy(self, deployment: Deployment) -> AsyncIterator[EmulatedEndpoint]:
        """An endpoint in this process.

        Raises:
            DeployError: Model or instance type is unknown, or the model does not fit.
        """
        endpoint = self.endpoint(deployment)
        await asyncio.sleep(self.ready_after_s)
        yield endpoint

    def endpoint(self, deployment: Deployment) -> EmulatedEndpoint:
        """The emulated endpoint of a deployment, at once."""
        step_times = self.step_times
        cache_tokens = None
        if step_times is None:
            times = ModelledTimes.of(deployment, model=self.model, instance=self.instance, profile=self.profile)
            step_times = TunedOnLine.where_needed(times) if self.cold else times
            cache_tokens = times.cache_tokens
        version = deployment.server_version or "1.0.3"
        return EmulatedEndpoint(
            settings=self.settings or settings_for(deployment, cache_tokens),
            step_times=step_times,
            replicas=deployment.replicas,
            lengths=self.lengths,
            round_trip_s=self.round_trip_s,
            jitter_s=self.jitter_s,
            seed=self.seed,
            facts={"server": "tgi", "version": version, "model_id": deployment.model_id, "emulated": "true"},
        )
