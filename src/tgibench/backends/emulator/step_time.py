"""How long one step of the engine takes: a prefill of new prompts, or a decode of one token for each running sequence.

A step is bound by the slower of two: launching its kernels from the CPU, or moving weights and cached keys and values through memory,
computing, and exchanging activations between accelerators; plus a cost for each sequence. The form and the parameters of TGI 1.0.3
were fitted to the 2023 study's rows (median error 3 to 4 %, 7B on ml.p4d.24xlarge left out as an anomaly); those of engines with
CUDA graphs are the middle of published ranges and rougher.
"""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Protocol

import attrs

from tgibench.backends.emulator.hardware import INSTANCES
from tgibench.backends.emulator.models import MODELS, find_model
from tgibench.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tgibench.backends.emulator.hardware import Instance
    from tgibench.backends.emulator.models import ModelShape
    from tgibench.deployments import Deployment

__all__ = ["CUDA_GRAPHS", "EAGER", "EngineProfile", "FixedTimes", "ModelledTimes", "StepTimes", "version_of"]


class StepTimes(Protocol):
    """The durations of an engine's steps, in seconds."""

    def decode_s(self, sequences: int, context_tokens: int) -> float:
        """One token for each of `sequences`, whose prompts and answers so far come to `context_tokens`."""

    def prefill_s(self, tokens: int, requests: int) -> float:
        """The first token of `requests` whose prompts come to `tokens`."""


@attrs.frozen(kw_only=True)
class FixedTimes:
    """The same duration for every step: a server of known timing, to test clients with."""

    prefill: float
    decode: float

    def decode_s(self, sequences: int, context_tokens: int) -> float:
        """The fixed decode time."""
        del sequences, context_tokens
        return self.decode

    def prefill_s(self, tokens: int, requests: int) -> float:
        """The fixed prefill time."""
        del tokens, requests
        return self.prefill


@attrs.frozen(kw_only=True)
class EngineProfile:
    """What an engine's generation adds to the hardware's own speed.

    Args:
        launch_s_per_layer: CPU time for launching one layer's kernels.
        launch_s_per_layer_gptq: The same with GPTQ's kernels.
        request_s: CPU time for each sequence of a step.
        memory_efficiency: Share of the memory bandwidth that is reached.
        compute_efficiency: Share of the dense fp16 throughput that is reached.
        gptq_memory_efficiency: The first for GPTQ's column-parallel kernel.
        gptq_compute_efficiency: The second for a GPTQ prefill.
    """

    launch_s_per_layer: float
    launch_s_per_layer_gptq: float
    request_s: float
    memory_efficiency: float
    compute_efficiency: float
    gptq_memory_efficiency: float
    gptq_compute_efficiency: float


EAGER = EngineProfile(
    launch_s_per_layer=0.454e-3,
    launch_s_per_layer_gptq=0.713e-3,
    request_s=0.17e-3,
    memory_efficiency=0.80,
    compute_efficiency=0.82,
    gptq_memory_efficiency=0.66,
    gptq_compute_efficiency=0.50,
)
CUDA_GRAPHS = EngineProfile(
    launch_s_per_layer=0.05e-3,
    launch_s_per_layer_gptq=0.05e-3,
    request_s=0.04e-3,
    memory_efficiency=0.75,
    compute_efficiency=0.65,
    gptq_memory_efficiency=0.66,
    gptq_compute_efficiency=0.50,
)

_GPTQ_BYTES_PER_PARAMETER = 0.53  # 4 bits and the groups' scales
_GPTQ_DEQUANTISED_BYTES = 4.53  # read 4 bits, write and read fp16
_GPTQ_DEQUANTISES_FROM = 8
_GPTQ_ROW_SLOPE = 0.3
_USABLE_MEMORY = 0.92
_WORKSPACE_GB = 1.0


@attrs.frozen(kw_only=True)
class ModelledTimes:
    """Step times computed from the model, the machine and the engine."""

    model: ModelShape
    instance: Instance
    tensor_parallel: int
    gptq: bool
    profile: EngineProfile

    @classmethod
    def of(
        cls,
        deployment: Deployment,
        *,
        model: ModelShape | None = None,
        instance: Instance | None = None,
        profile: EngineProfile | None = None,
    ) -> ModelledTimes:
        """The step times of a deployment, by the built-in tables where no object is given.

        Raises:
            DeployError: The model or instance type is unknown, has too few accelerators or too little memory.
        """
        model = model or find_model(deployment.model_id)
        if model is None:
            raise DeployError(_unknown("model", deployment.model_id, MODELS, "Emulator(model=ModelShape(...))"))
        instance = instance or INSTANCES.get(deployment.instance_type)
        if instance is None:
            raise DeployError(
                _unknown("instance type", deployment.instance_type, INSTANCES, "Emulator(instance=Instance(...))")
            )
        if deployment.tensor_parallel > instance.gpus:
            raise DeployError(
                f"{deployment.label} wants {deployment.tensor_parallel} accelerators, {instance.name} has {instance.gpus}"
            )
        if profile is None:
            profile = EAGER if version_of(deployment) < (1, 4, 1) else CUDA_GRAPHS
        quantization = (deployment.quantization or "").lower()
        if quantization not in {"", "gptq"}:
            raise DeployError(f"the emulator models fp16 and gptq, not quantization={deployment.quantization!r}")
        times = cls(
            model=model,
            instance=instance,
            tensor_parallel=deployment.tensor_parallel,
            gptq=quantization == "gptq",
            profile=profile,
        )
        if times.cache_tokens < 1:
            raise DeployError(
                f"{model.name} does not fit {instance.name}: its weights take {times.weight_bytes / 1e9:.1f} GB, and "
                f"{times.tensor_parallel} x {instance.gpu.memory_gb:g} GB leave no room for a KV cache"
            )
        return times

    @property
    def weight_bytes(self) -> float:
        """Size of the weights in memory."""
        return self.model.parameters * (_GPTQ_BYTES_PER_PARAMETER if self.gptq else 2)

    @property
    def cache_tokens(self) -> int:
        """Tokens for whose keys and values there is memory beside the weights and a workspace."""
        per_gpu_gb = self.instance.gpu.memory_gb * _USABLE_MEMORY - _WORKSPACE_GB
        free_bytes = self.tensor_parallel * per_gpu_gb * 1e9 - self.weight_bytes
        return int(free_bytes // self.model.kv_bytes_per_token)

    def decode_s(self, sequences: int, context_tokens: int) -> float:
        """One token for each sequence."""
        profile, instance = self.profile, self.instance
        cache_bytes = context_tokens * self.model.kv_bytes_per_token
        device_s = (
            self._weights_s(sequences)
            + self._compute_s(sequences, profile.compute_efficiency)
            + self._read_s(cache_bytes, profile.memory_efficiency)
            + self._all_reduce_s(sequences)
        )
        return max(self._launch_s, device_s) + profile.request_s * instance.host_factor * sequences

    def prefill_s(self, tokens: int, requests: int) -> float:
        """The first token of each request."""
        profile = self.profile
        efficiency = profile.gptq_compute_efficiency if self.gptq else profile.compute_efficiency
        device_s = (
            self._read_s(self.weight_bytes, profile.memory_efficiency)
            + self._compute_s(tokens, efficiency)
            + self._all_reduce_s(tokens)
        )
        return max(self._launch_s, device_s) + profile.request_s * self.instance.host_factor * requests

    @property
    def _launch_s(self) -> float:
        profile = self.profile
        per_layer_s = profile.launch_s_per_layer_gptq if self.gptq else profile.launch_s_per_layer
        return self.model.layers * per_layer_s * self.instance.host_factor

    def _read_s(self, size_bytes: float, efficiency: float) -> float:
        return size_bytes / (self.tensor_parallel * self.instance.gpu.bandwidth_gb_per_s * 1e9 * efficiency)

    def _compute_s(self, tokens: int, efficiency: float) -> float:
        flops = 2 * self.model.parameters * tokens
        return flops / (self.tensor_parallel * self.instance.gpu.fp16_tflops * 1e12 * efficiency)

    def _weights_s(self, sequences: int) -> float:
        efficiency = self.profile.memory_efficiency
        if not self.gptq:
            return self._read_s(self.weight_bytes, efficiency)
        column = self.model.column_share
        column_s = self._read_s(column * self.weight_bytes, self.profile.gptq_memory_efficiency)
        if sequences < _GPTQ_DEQUANTISES_FROM:
            row_s = self._read_s((1 - column) * self.weight_bytes, efficiency) * (1 + _GPTQ_ROW_SLOPE * (sequences - 1))
        else:
            row_s = self._read_s((1 - column) * self.model.parameters * _GPTQ_DEQUANTISED_BYTES, efficiency)
        return column_s + row_s

    def _all_reduce_s(self, tokens: int) -> float:
        """Two ring all-reduces a layer."""
        shards = self.tensor_parallel
        if shards == 1:
            return 0.0
        link = self.instance.link
        size_bytes = tokens * self.model.hidden * 2 * 2 * (shards - 1) / shards
        each_s = link.start_up_s * math.log2(shards) + size_bytes / (link.bandwidth_gb_per_s * 1e9)
        return 2 * self.model.layers * each_s


def version_of(deployment: Deployment) -> tuple[int, ...]:
    """The server's version as numbers; TGI 1.0.3, the study's, where none is given.

    Raises:
        DeployError: It is no version.
    """
    text = deployment.server_version or "1.0.3"
    try:
        return tuple(int(part) for part in text.split("."))
    except ValueError as error:
        raise DeployError(f"server_version must be numbers with dots, such as 1.0.3, got {text!r}") from error


def _unknown(kind: str, name: str, known: Iterable[str], remedy: str) -> str:
    near = difflib.get_close_matches(name.rsplit("/", 1)[-1].lower(), list(known), n=3, cutoff=0.3)
    nearest = f"; the nearest known are {', '.join(near)}" if near else ""
    return f"the emulator does not know the {kind} {name!r}{nearest}; pass your own with {remedy}"
