"""What a container is told: a deployment as environment variables, for each server that SageMaker can run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from tgibench.errors import InvalidValueError
from tgibench.protocols.openai import OpenAIChatProtocol
from tgibench.protocols.tgi import TgiCompatProtocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from tgibench.deployments import Deployment
    from tgibench.protocols import WireProtocol

__all__ = ["SERVERS", "Server", "environment_of", "server_of"]

_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@attrs.frozen
class Server:
    """How one kind of server is told what to serve, and spoken to.

    Args:
        environment: The deployment as variables; None for what it leaves to the server.
        protocol: What its `/invocations` understands.
        logs_requests: Whether it logs TGI's line for each request.
    """

    environment: Callable[[Deployment], dict[str, str | None]]
    protocol: Callable[[Deployment], WireProtocol]
    logs_requests: bool = False


def _tgi(deployment: Deployment) -> dict[str, str | None]:
    """TGI's image takes HF_* and SM_NUM_GPUS at its entry point and passes its launcher's own variables on.

    MAX_INPUT_LENGTH was renamed in 2.0; both together are an error. Versions from 2.2 report usage unless told not to.
    """
    version = _version(deployment)
    longest = "MAX_INPUT_TOKENS" if version >= (2, 0, 0) else "MAX_INPUT_LENGTH"
    return {
        "HF_MODEL_ID": deployment.model_id,
        "HF_MODEL_REVISION": deployment.revision,
        "SM_NUM_GPUS": str(deployment.tensor_parallel),
        "HF_MODEL_QUANTIZE": deployment.quantization,
        longest: _text(deployment.max_input_tokens),
        "MAX_TOTAL_TOKENS": _text(deployment.max_total_tokens),
        "USAGE_STATS": "off" if version >= (2, 2, 0) else None,
    }


def _vllm(deployment: Deployment) -> dict[str, str | None]:
    """AWS's image turns SM_VLLM_<NAME> into the server's option (aws.github.io/deep-learning-containers/vllm/configuration)."""
    return {
        "SM_VLLM_MODEL": deployment.model_id,
        "SM_VLLM_REVISION": deployment.revision,
        "SM_VLLM_TENSOR_PARALLEL_SIZE": str(deployment.tensor_parallel),
        "SM_VLLM_QUANTIZATION": deployment.quantization,
        "SM_VLLM_MAX_MODEL_LEN": _text(deployment.max_total_tokens),
        "VLLM_NO_USAGE_STATS": "1",
    }


def _sglang(deployment: Deployment) -> dict[str, str | None]:
    """Likewise SM_SGLANG_<NAME> (sgl-project/sglang, docker/serve)."""
    return {
        "SM_SGLANG_MODEL_PATH": deployment.model_id,
        "SM_SGLANG_REVISION": deployment.revision,
        "SM_SGLANG_TP_SIZE": str(deployment.tensor_parallel),
        "SM_SGLANG_QUANTIZATION": deployment.quantization,
        "SM_SGLANG_CONTEXT_LENGTH": _text(deployment.max_total_tokens),
    }


def _lmi(deployment: Deployment) -> dict[str, str | None]:
    """DJL's large-model image takes OPTION_<NAME> (docs.djl.ai, LMI)."""
    return {
        "HF_MODEL_ID": deployment.model_id,
        "HF_REVISION": deployment.revision,
        "OPTION_TENSOR_PARALLEL_DEGREE": str(deployment.tensor_parallel),
        "OPTION_QUANTIZE": deployment.quantization,
        "OPTION_MAX_MODEL_LEN": _text(deployment.max_total_tokens),
    }


def _chat(deployment: Deployment) -> WireProtocol:
    return OpenAIChatProtocol(model=deployment.model_id)


SERVERS = {
    "tgi": Server(_tgi, lambda _: TgiCompatProtocol(), logs_requests=True),
    "vllm": Server(_vllm, _chat),
    "sglang": Server(_sglang, _chat),
    "lmi": Server(_lmi, _chat),
}


def server_of(deployment: Deployment) -> Server:
    """How a deployment's server is told and spoken to.

    Raises:
        InvalidValueError: It is none of those known.
    """
    if deployment.server not in SERVERS:
        raise InvalidValueError(f"server must be one of {', '.join(SERVERS)} for SageMaker, got {deployment.server!r}")
    return SERVERS[deployment.server]


def environment_of(deployment: Deployment) -> dict[str, str]:
    """All variables of the container: the deployment's fields, and over them its own variables.

    A hub token under either of its names is given under both, as TGI's parts read different ones.

    Raises:
        InvalidValueError: The server or its version is none.
    """
    derived = server_of(deployment).environment(deployment)
    own = dict(deployment.environment)
    token = next((own[name] for name in _TOKENS if name in own), None)
    tokens = {} if token is None else dict.fromkeys(_TOKENS, token)
    return {**{name: value for name, value in derived.items() if value is not None}, **tokens, **own}


def _version(deployment: Deployment) -> tuple[int, ...]:
    told = re.match(r"\d+(?:\.\d+)*", deployment.server_version or "")
    if told is None:
        raise InvalidValueError(
            f"server_version must be an exact version, such as '3.3.6', got {deployment.server_version!r}"
        )
    return tuple(int(part) for part in told[0].split("."))


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)
