"""How long one step of the engine takes: a prefill of new prompts, or a decode of one token for each running sequence.

A step is bound by the slower of two: launching its kernels from the CPU, or moving weights and cached keys and values through memory,
computing, and exchanging activations between accelerators; plus a cost for the step and for each sequence. The form is that of the
usual inference arithmetic; docs/accuracy.md says how well it does.
"""

from __future__ import annotations

import difflib
import functools
from typing import TYPE_CHECKING, Protocol

import attrs
import numpy as np

from tgibench.errors import DeployError
from tgibench.twin.engines import profile_of
from tgibench.twin.hardware import INSTANCES
from tgibench.twin.shapes import MODELS, find_model

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from tgibench.deployments import Deployment
    from tgibench.twin.engines import EngineProfile
    from tgibench.twin.hardware import Instance
    from tgibench.twin.shapes import ModelShape

    Numbers = NDArray[np.float64]

__all__ = ["ModelledTimes", "StepCosts", "StepTimes", "step_costs"]

GPTQ_DEQUANTISES_FROM = 8
GPTQ_ROW_SLOPE = 0.3

_GPTQ_BYTES_PER_PARAMETER = 0.53  # 4 bits and the groups' scales
_GPTQ_DEQUANTISED_BYTES = 4.53  # read 4 bits, write and read fp16
_USABLE_MEMORY = 0.92
_WORKSPACE_GB = 1.0


class StepTimes(Protocol):
    """The durations of an engine's steps, in seconds."""

    def decode_s(self, sequences: int, context_tokens: int) -> float:
        """One token for each of `sequences`, whose prompts and answers so far come to `context_tokens`."""

    def prefill_s(self, tokens: int, requests: int) -> float:
        """The first token of `requests` whose prompts come to `tokens`."""


@attrs.frozen(kw_only=True)
class StepCosts:
    """What step times are made of, in seconds: each an array over cells (and, in a fit, over sets of parameters).

    Args:
        launch_s: Launching all layers' kernels: a step takes at least that.
        weights_s: Reading the weights for a decode; GPTQ's column-parallel part.
        rows_s: GPTQ's row-parallel part for one sequence; 0 for fp16.
        dequantised_s: The same for `GPTQ_DEQUANTISES_FROM` sequences and more.
        prefill_weights_s: Reading the weights for a prefill; of GPTQ's row-parallel part, dequantising them.
        sequence_s: Computing one sequence's token in a decode.
        prompt_token_s: Computing one token of a prefill.
        cached_token_s: Reading one token's keys and values.
        exchange_s: Starting the all-reduces.
        exchanged_token_s: All-reducing one token's activations.
        request_s: CPU time of each sequence.
        step_s: CPU time of each step.
    """

    launch_s: Numbers
    weights_s: Numbers
    rows_s: Numbers
    dequantised_s: Numbers
    prefill_weights_s: Numbers
    sequence_s: Numbers
    prompt_token_s: Numbers
    cached_token_s: Numbers
    exchange_s: Numbers
    exchanged_token_s: Numbers
    request_s: Numbers
    step_s: Numbers

    def decode_s(self, sequences: Numbers, context_tokens: Numbers) -> Numbers:
        """One token for each of `sequences` (not necessarily whole numbers)."""
        few = sequences < GPTQ_DEQUANTISES_FROM - 0.5
        rows_s = np.where(few, self.rows_s * (1 + GPTQ_ROW_SLOPE * (sequences - 1)), self.dequantised_s)
        each_s = self.sequence_s + self.exchanged_token_s
        device_s = self.weights_s + rows_s + self.exchange_s + each_s * sequences + self.cached_token_s * context_tokens
        return np.asarray(np.maximum(self.launch_s, device_s) + self.step_s + self.request_s * sequences)

    def prefill_s(self, tokens: Numbers, requests: Numbers) -> Numbers:
        """The first token of `requests` whose prompts come to `tokens`."""
        each_s = self.prompt_token_s + self.exchanged_token_s
        device_s = self.prefill_weights_s + self.exchange_s + each_s * tokens
        return np.asarray(np.maximum(self.launch_s, device_s) + self.step_s + self.request_s * requests)


def step_costs(facts: dict[str, Numbers], rates: dict[str, Numbers]) -> StepCosts:
    """The costs of steps from what is served where (`ModelledTimes.facts`) and how fast that is done (`ModelledTimes.rates`)."""
    gptq, layers, parameters, shards = (facts[name] for name in ("gptq", "layers", "parameters", "shards"))
    shared = shards > 1
    read_s = 1 / (shards * facts["bandwidth_gb_per_s"] * 1e9 * rates["memory_efficiency"])
    column_read_s = read_s * rates["memory_efficiency"] / rates["gptq_memory_efficiency"]
    compute_s = 2 * parameters / (shards * facts["fp16_tflops"] * 1e12)
    column, weight_bytes = facts["column_share"], facts["weight_bytes"]
    ring_bytes = facts["hidden"] * 2 * 2 * (shards - 1) / shards
    gptq_launch_s = rates["launch_s_per_layer_gptq"] * rates["gptq_host_ratio"]
    launch_s = np.where(gptq, gptq_launch_s, rates["launch_s_per_layer"])
    prefill_efficiency = np.where(gptq, rates["gptq_compute_efficiency"], rates["compute_efficiency"])
    doublings = np.log2(shards)
    weights_s = np.where(gptq, column * weight_bytes * column_read_s, weight_bytes * read_s)
    dequantised_s = np.where(gptq, (1 - column) * parameters * _GPTQ_DEQUANTISED_BYTES * read_s, 0.0)
    return StepCosts(
        launch_s=layers * launch_s * rates["host_factor"],
        weights_s=weights_s,
        rows_s=np.where(gptq, (1 - column) * weight_bytes * read_s, 0.0),
        dequantised_s=dequantised_s,
        prefill_weights_s=weights_s + dequantised_s,
        sequence_s=compute_s / rates["compute_efficiency"],
        prompt_token_s=compute_s / prefill_efficiency,
        cached_token_s=facts["kv_bytes"] * read_s,
        exchange_s=2 * layers * rates["start_up_s"] * doublings,
        exchanged_token_s=np.where(shared, 2 * layers * ring_bytes / (rates["link_gb_per_s"] * 1e9), 0.0),
        request_s=rates["request_s"] * rates["host_factor"],
        step_s=rates["step_s"] * rates["host_factor"],
    )


@attrs.frozen(kw_only=True)
class ModelledTimes:
    """Step times computed from the model, the machine and the engine.

    Args:
        model: What is served.
        instance: Where.
        tensor_parallel: By how many accelerators.
        gptq: Whether in four bits.
        profile: By what engine.
        decode_factor: What calibration found decodes to take, relative to the model.
        prefill_factor: The same of prefills.
    """

    model: ModelShape
    instance: Instance
    tensor_parallel: int
    gptq: bool
    profile: EngineProfile
    decode_factor: float = 1.0
    prefill_factor: float = 1.0

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
            DeployError: The model or instance type is unknown, the machine has too few accelerators or too little memory, or the
                model's heads can't be split among so many.
        """
        model = model or find_model(deployment.model_id)
        if model is None:
            raise DeployError(_unknown("model", deployment.model_id, MODELS, "ModelShape(...)"))
        instance = instance or INSTANCES.get(deployment.instance_type)
        if instance is None:
            raise DeployError(_unknown("instance type", deployment.instance_type, INSTANCES, "Instance(...)"))
        if deployment.tensor_parallel > instance.gpus:
            raise DeployError(
                f"{deployment.label} wants {deployment.tensor_parallel} accelerators, {instance.name} has {instance.gpus}"
            )
        _check_split(model, deployment.tensor_parallel)
        quantization = (deployment.quantization or "").lower()
        if quantization not in {"", "gptq"}:
            raise DeployError(f"only fp16 and gptq are modelled, not quantization={deployment.quantization!r}")
        times = cls(
            model=model,
            instance=instance,
            tensor_parallel=deployment.tensor_parallel,
            gptq=quantization == "gptq",
            profile=profile or profile_of(deployment),
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
        """Tokens for whose keys and values, repeated ones included, there is memory beside the weights and a workspace."""
        per_gpu_gb = self.instance.gpu.memory_gb * _USABLE_MEMORY - _WORKSPACE_GB
        free_bytes = self.tensor_parallel * per_gpu_gb * 1e9 - self.weight_bytes
        return int(free_bytes // self.kv_bytes_per_token)

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token on all accelerators: where they are more than the heads, each head is on several."""
        return self.model.kv_bytes_per_token * max(1, self.tensor_parallel // self.model.kv_heads)

    @property
    def facts(self) -> dict[str, float]:
        """What is served where, as numbers that no fit changes."""
        model, gpu = self.model, self.instance.gpu
        return {
            "gptq": float(self.gptq),
            "layers": model.layers,
            "parameters": model.parameters,
            "hidden": model.hidden,
            "kv_bytes": self.kv_bytes_per_token,
            "column_share": model.column_share,
            "weight_bytes": self.weight_bytes,
            "shards": self.tensor_parallel,
            "bandwidth_gb_per_s": gpu.bandwidth_gb_per_s,
            "fp16_tflops": gpu.fp16_tflops,
        }

    @property
    def rates(self) -> dict[str, float]:
        """How fast the engine does it there: what a fit can estimate."""
        profile, link = self.profile, self.instance.link
        of_engine = {
            field.name: getattr(profile, field.name)
            for field in attrs.fields(type(profile))
            if field.name not in {"name", "source"}
        }
        of_machine = {
            "host_factor": self.instance.host_factor,
            "gptq_host_ratio": self.instance.gptq_host_ratio,
            "start_up_s": link.start_up_s,
            "link_gb_per_s": link.bandwidth_gb_per_s,
        }
        return of_engine | of_machine

    def decode_s(self, sequences: int, context_tokens: int) -> float:
        """One token for each sequence."""
        costs = self._costs
        rows_s = costs["dequantised_s"]
        if sequences < GPTQ_DEQUANTISES_FROM:
            rows_s = costs["rows_s"] * (1 + GPTQ_ROW_SLOPE * (sequences - 1))
        device_s = (
            costs["weights_s"]
            + rows_s
            + costs["exchange_s"]
            + (costs["sequence_s"] + costs["exchanged_token_s"]) * sequences
            + costs["cached_token_s"] * context_tokens
        )
        step_s = max(costs["launch_s"], device_s) + costs["step_s"] + costs["request_s"] * sequences
        return step_s * self.decode_factor

    def prefill_s(self, tokens: int, requests: int) -> float:
        """The first token of each request."""
        costs = self._costs
        each_s = costs["prompt_token_s"] + costs["exchanged_token_s"]
        device_s = costs["prefill_weights_s"] + costs["exchange_s"] + each_s * tokens
        step_s = max(costs["launch_s"], device_s) + costs["step_s"] + costs["request_s"] * requests
        return step_s * self.prefill_factor

    @functools.cached_property
    def _costs(self) -> dict[str, float]:
        """As numbers: the emulator asks at every step."""
        facts = {name: np.float64(value) for name, value in self.facts.items()}
        rates = {name: np.float64(value) for name, value in self.rates.items()}
        costs = step_costs(facts, rates)  # type: ignore[arg-type]  # numbers and arrays behave alike
        return {name: float(value) for name, value in attrs.asdict(costs).items()}


def _check_split(model: ModelShape, shards: int) -> None:
    """As servers do: TGI's FlashLlamaAttention for attention heads, vLLM's LlamaAttention for those of keys and values."""
    if model.heads % shards:
        raise DeployError(
            f"tensor parallelism cannot split the {model.heads} attention heads of {model.name} among {shards} accelerators; "
            "take a number that divides them"
        )
    if model.kv_heads % shards and shards % model.kv_heads:
        raise DeployError(
            f"tensor parallelism cannot split or repeat the {model.kv_heads} key and value heads of {model.name} among {shards} "
            "accelerators; take a number that divides them or that they divide"
        )


def _unknown(kind: str, name: str, known: Iterable[str], remedy: str) -> str:
    near = difflib.get_close_matches(name.rsplit("/", 1)[-1].lower(), list(known), n=3, cutoff=0.3)
    nearest = f"; the nearest known are {', '.join(near)}" if near else ""
    return f"the emulator does not know the {kind} {name!r}{nearest}; pass your own with {remedy}"
