"""What an engine's generation adds to the hardware's own speed, and how it schedules. Pass a profile of your own for others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from tgibench.errors import DeployError
from tgibench.validators import above_zero, not_blank, not_negative

if TYPE_CHECKING:
    from tgibench.deployments import Deployment

__all__ = ["CUDA_GRAPHS", "EAGER", "EngineProfile", "profile_of", "version_of"]

_VERSION = re.compile(r"\d+(?:\.\d+)*")


@attrs.frozen(kw_only=True)
class EngineProfile:
    """What an engine's generation adds to the hardware's own speed.

    Args:
        name: What results and warnings call it.
        launch_s_per_layer: CPU time for launching one layer's kernels.
        launch_s_per_layer_gptq: The same with GPTQ's kernels.
        request_s: CPU time for each sequence of a step.
        step_s: CPU time of each step that no work on the accelerator hides.
        memory_efficiency: Share of the memory bandwidth that is reached.
        compute_efficiency: Share of the dense fp16 throughput that is reached.
        gptq_memory_efficiency: The first for GPTQ's column-parallel kernel.
        gptq_compute_efficiency: The second for a GPTQ prefill.
        tuning_s: Stall of a fresh GPTQ server for each size class of a step that it has not met yet; 0 for an engine that tunes nothing
            on line.
        compile_s: The same for each specialisation of its kernels that it has not met yet.
        source: Where the figures come from.
    """

    name: str = attrs.field(default="own", validator=not_blank)
    launch_s_per_layer: float = attrs.field(validator=above_zero)
    launch_s_per_layer_gptq: float = attrs.field(validator=above_zero)
    request_s: float = attrs.field(validator=not_negative)
    step_s: float = attrs.field(default=0.0, validator=not_negative)
    memory_efficiency: float = attrs.field(validator=above_zero)
    compute_efficiency: float = attrs.field(validator=above_zero)
    gptq_memory_efficiency: float = attrs.field(validator=above_zero)
    gptq_compute_efficiency: float = attrs.field(validator=above_zero)
    tuning_s: float = attrs.field(default=0.0, validator=not_negative)
    compile_s: float = attrs.field(default=0.0, validator=not_negative)
    source: str = attrs.field(default="given by the caller", eq=False)


EAGER = EngineProfile(
    name="eager",
    launch_s_per_layer=0.467e-3,
    launch_s_per_layer_gptq=0.676e-3,
    request_s=0.209e-3,
    step_s=0.432e-3,
    memory_efficiency=0.804,
    compute_efficiency=0.865,
    gptq_memory_efficiency=0.938,
    gptq_compute_efficiency=0.502,
    tuning_s=1.079,
    compile_s=2.550,
    source="fitted by simulation to the 2023 study's medians and rates, TGI 1.0.3, 7B on ml.p4d.24xlarge left out; see docs/accuracy.md",
)
CUDA_GRAPHS = EngineProfile(
    name="cuda-graphs",
    launch_s_per_layer=0.05e-3,
    launch_s_per_layer_gptq=0.05e-3,
    request_s=0.04e-3,
    memory_efficiency=0.75,
    compute_efficiency=0.65,
    gptq_memory_efficiency=0.66,
    gptq_compute_efficiency=0.50,
    source="the middle of what fits to public results of engines with CUDA graphs give; rough",
)


def profile_of(deployment: Deployment) -> EngineProfile:
    """The profile that server and version imply: TGI launched each kernel by itself until 1.4.0; others have CUDA graphs."""
    old = deployment.server == "tgi" and version_of(deployment) < (1, 4, 1)
    return EAGER if old else CUDA_GRAPHS


def version_of(deployment: Deployment) -> tuple[int, ...]:
    """The numbers that the server's version begins with; those of TGI 1.0.3, the study's, where none is given.

    Raises:
        DeployError: It begins with none.
    """
    text = deployment.server_version or "1.0.3"
    numbers = _VERSION.match(text)
    if numbers is None:
        raise DeployError(f"server_version must begin with numbers with dots, such as 1.0.3, got {text!r}")
    return tuple(int(part) for part in numbers[0].split("."))
