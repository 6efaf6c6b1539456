"""How each server's image is run: its name, its command line, its port. A small value for each; a server of one's own is one more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs import validators

from tgibench.errors import DeployError
from tgibench.protocols.openai import OpenAICompletionsProtocol
from tgibench.protocols.tgi import TgiProtocol
from tgibench.validators import above_zero

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tgibench.deployments import Deployment
    from tgibench.protocols import WireProtocol

__all__ = ["LLAMA_CPP", "SERVERS", "TGI", "VLLM", "Accelerator", "ServerImage"]

_MOST_PREFILL_TOKENS = 4096  # TGI's default until 1.4; the longest prompt must not exceed it


@attrs.frozen(kw_only=True)
class ServerImage:
    """How one kind of server is run from its image.

    Args:
        repository: The image's name without the tag.
        tag: The tag by version.
        arguments: The command line behind the image's entry point, by deployment; whether there are GPUs is told too.
        port: On which the server listens inside the container.
        protocol: How it is spoken to.
        health_path: Answered by less than 500 once the server is ready.
        cache_folder: Where weights are kept inside the container.
        environment: Variables that every deployment of it gets.
        logs_requests: Whether it logs TGI's line for each request and counts by TGI's names at `/metrics`.
        stop_timeout_s: How long it may take to finish what is in flight.
    """

    repository: str
    tag: Callable[[str], str]
    arguments: Callable[[Deployment, bool], tuple[str, ...]]
    port: int = attrs.field(validator=[validators.ge(1), validators.le(65535)])
    protocol: Callable[[Deployment], WireProtocol]
    health_path: str = "/health"
    cache_folder: str
    environment: tuple[tuple[str, str], ...] = ()
    logs_requests: bool = False
    stop_timeout_s: float = attrs.field(default=30.0, validator=above_zero)

    def image_of(self, deployment: Deployment, variant: str | None = None) -> str:
        """The image of a deployment: its own, else the one of its version, with the variant at the tag's end.

        Raises:
            DeployError: It names neither.
        """
        if deployment.image is not None:
            return deployment.image
        if deployment.server_version is None:
            raise DeployError(
                f"{deployment.label} names no server_version, so there is no image to run: give one, such as "
                f'server_version="3.3.7", or image="{self.repository}:..."'
            )
        tag = self.tag(deployment.server_version)
        return f"{self.repository}:{tag}" + (f"-{variant}" if variant else "")


@attrs.frozen(kw_only=True)
class Accelerator:
    """What an image computes on, by its tag's ending, and what its container is given for that besides GPUs.

    Args:
        nvidia: Whether NVIDIA's GPUs are handed in.
        amd: Whether AMD's are.
        host: Further entries of the engine's ``HostConfig``.
    """

    nvidia: bool
    amd: bool = False
    host: tuple[tuple[str, object], ...] = ()

    @classmethod
    def of(cls, image: str) -> Accelerator:
        """That of an image: ``-rocm``, ``-intel-cpu`` or ``-cpu`` at the tag's end, else NVIDIA's."""
        tag = image.rpartition("/")[2].partition(":")[2]
        if tag.endswith("-intel-cpu"):
            return cls(nvidia=False, host=(("CapAdd", ["SYS_NICE"]), ("IpcMode", "host")))
        if tag.endswith("-rocm"):
            devices = [
                {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"}
                for path in ("/dev/kfd", "/dev/dri")
            ]
            return cls(
                nvidia=False,
                amd=True,
                host=(
                    ("Devices", devices),
                    ("GroupAdd", ["video"]),
                    ("CapAdd", ["SYS_PTRACE"]),
                    ("SecurityOpt", ["seccomp=unconfined"]),
                    ("IpcMode", "host"),
                ),
            )
        return cls(nvidia=not tag.endswith("-cpu"))


def _tgi_arguments(deployment: Deployment, has_gpus: bool) -> tuple[str, ...]:  # noqa: FBT001 - a seam's signature
    """TGI's launcher: the input limit's flag changed its name with 2.0."""
    version = _numbers(deployment.server_version)
    old = version is not None and version < (2,)
    longest = deployment.max_input_tokens
    prefill = longest if old and longest is not None and longest > _MOST_PREFILL_TOKENS else None
    flags = {
        "--model-id": deployment.model_id,
        "--revision": deployment.revision,
        "--num-shard": deployment.tensor_parallel,
        "--quantize": deployment.quantization,
        "--max-input-length" if old else "--max-input-tokens": longest,
        "--max-total-tokens": deployment.max_total_tokens,
        "--max-batch-prefill-tokens": prefill,
    }
    alone = () if has_gpus else ("--disable-custom-kernels",)
    return _given(flags) + alone


def _vllm_arguments(deployment: Deployment, has_gpus: bool) -> tuple[str, ...]:  # noqa: FBT001 - a seam's signature
    del has_gpus
    flags = {
        "--model": deployment.model_id,
        "--revision": deployment.revision,
        "--tensor-parallel-size": deployment.tensor_parallel,
        "--quantization": deployment.quantization,
        "--max-model-len": deployment.max_total_tokens,
        "--port": VLLM.port,
    }
    return _given(flags)


def _llama_cpp_arguments(deployment: Deployment, has_gpus: bool) -> tuple[str, ...]:  # noqa: FBT001 - a seam's signature
    """llama.cpp takes a file of weights (.gguf) or the name of a repository of such, with the quantization behind a colon."""
    is_file = deployment.model_id.endswith(".gguf")
    repository = ":".join(filter(None, (deployment.model_id, deployment.quantization)))
    flags = {
        "--model" if is_file else "--hf-repo": deployment.model_id if is_file else repository,
        "--ctx-size": deployment.max_total_tokens,
        "--host": "0.0.0.0",  # noqa: S104 - inside the container; the engine publishes it on 127.0.0.1 alone
        "--port": LLAMA_CPP.port,
        "--n-gpu-layers": 999 if has_gpus else None,
    }
    return (*_given(flags), "--metrics")


def _given(flags: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(part for flag, value in flags.items() if value is not None for part in (flag, str(value)))


def _numbers(version: str | None) -> tuple[int, ...] | None:
    """The version as numbers; None where it is unknown or is none (a name such as ``"latest"``)."""
    parts = (version or "").partition("-")[0].split(".")
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else None


TGI = ServerImage(
    repository="ghcr.io/huggingface/text-generation-inference",
    tag=lambda version: version,
    arguments=_tgi_arguments,
    port=80,
    protocol=lambda _: TgiProtocol(),
    cache_folder="/data",
    environment=(("PORT", "80"), ("USAGE_STATS", "off"), ("HF_HUB_DISABLE_TELEMETRY", "1")),
    logs_requests=True,
    stop_timeout_s=100.0,  # it finishes what is in flight for up to 90 s
)
VLLM = ServerImage(
    repository="vllm/vllm-openai",
    tag=lambda version: version if version.startswith("v") or not version[:1].isdigit() else f"v{version}",
    arguments=_vllm_arguments,
    port=8000,
    protocol=lambda deployment: OpenAICompletionsProtocol(model=deployment.model_id),
    cache_folder="/root/.cache/huggingface",
    environment=(("DO_NOT_TRACK", "1"), ("VLLM_NO_USAGE_STATS", "1"), ("HF_HUB_DISABLE_TELEMETRY", "1")),
)
LLAMA_CPP = ServerImage(
    repository="ghcr.io/ggml-org/llama.cpp",
    tag=lambda version: version,  # such as server, server-cuda, server-cuda-b4719
    arguments=_llama_cpp_arguments,
    port=8080,
    protocol=lambda deployment: OpenAICompletionsProtocol(model=deployment.model_id),
    cache_folder="/root/.cache",
)
SERVERS = {"tgi": TGI, "vllm": VLLM, "llama.cpp": LLAMA_CPP}
