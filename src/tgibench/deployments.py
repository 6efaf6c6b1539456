"""What is deployed: a `Deployment` names a model, a machine and the server's settings, and no backend or price."""

from __future__ import annotations

import re
from typing import Any, cast

import attrs
from attrs import validators

from tgibench.errors import InvalidValueError
from tgibench.validators import count, not_blank

__all__ = ["Deployment", "sounds_secret"]

_SECRET = re.compile(r"TOKEN(?!S)|KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


def sounds_secret(name: str) -> bool:
    """Whether a variable of that name is taken to hold a secret."""
    return _SECRET.search(name) is not None


def _total_above_input(deployment: Deployment, attribute: attrs.Attribute[int | None], total: int | None) -> None:
    if total is None:
        return
    count(deployment, cast("attrs.Attribute[int]", attribute), total)
    if deployment.max_input_tokens is not None and total <= deployment.max_input_tokens:
        raise InvalidValueError(
            f"max_total_tokens must exceed max_input_tokens ({deployment.max_input_tokens}), got {total}: "
            "it counts the prompt and the answer together"
        )


@attrs.frozen
class Deployment:
    """One way of serving a model: which model on which machine under which server.

    It knows no backend and no price, so that the same value can be emulated, run in Docker, deployed to SageMaker and priced.

    Args:
        model_id: The model's name on the hub or a path, such as ``"meta-llama/Llama-2-7b-hf"``.
        instance_type: The machine's name, such as ``"ml.g5.2xlarge"``; any text for a machine of your own.
        tensor_parallel: Number of accelerators that share the model.
        replicas: Number of machines (copies of the model) behind one endpoint.
        quantization: The server's name for it (``"gptq"``, ``"awq"``, …); None for the model's own precision.
        server: ``"tgi"``, ``"vllm"``, ``"sglang"``, … or any text.
        server_version: Such as ``"1.0.3"``; None where it is unknown.
        revision: The model's revision on the hub.
        max_input_tokens: Longest prompt that the server accepts, in tokens; None for the server's default.
        max_total_tokens: Longest prompt and answer together, in tokens; None for the server's default.
        image: The container image, where one is used and not derived from the version.
        environment: Further environment variables of the server, as ``(name, value)`` pairs.

    Raises:
        InvalidValueError: A text is blank, a count is below 1, or the total does not exceed the input.
    """

    model_id: str = attrs.field(validator=not_blank)
    instance_type: str = attrs.field(validator=not_blank)
    tensor_parallel: int = attrs.field(default=1, validator=count, kw_only=True)
    replicas: int = attrs.field(default=1, validator=count, kw_only=True)
    quantization: str | None = attrs.field(default=None, validator=validators.optional(not_blank), kw_only=True)
    server: str = attrs.field(default="tgi", validator=not_blank, kw_only=True)
    server_version: str | None = attrs.field(default=None, validator=validators.optional(not_blank), kw_only=True)
    revision: str | None = attrs.field(default=None, validator=validators.optional(not_blank), kw_only=True)
    max_input_tokens: int | None = attrs.field(default=None, validator=validators.optional(count), kw_only=True)
    max_total_tokens: int | None = attrs.field(default=None, validator=_total_above_input, kw_only=True)
    image: str | None = attrs.field(default=None, validator=validators.optional(not_blank), kw_only=True)
    environment: tuple[tuple[str, str], ...] = attrs.field(
        default=(), kw_only=True, repr=lambda pairs: repr([name for name, _ in pairs])
    )

    def described(self) -> dict[str, Any]:
        """The fields as plain values, for results and keys: what an environment variable whose name sounds secret holds is masked."""
        pairs = [[name, "***" if sounds_secret(name) else value] for name, value in self.environment]
        return {**attrs.asdict(self), "environment": pairs}

    @property
    def label(self) -> str:
        """A short name for tables: model (without its owner), quantization, machine and how often."""
        parts = [self.model_id.rsplit("/", 1)[-1]]
        if self.quantization and self.quantization.lower() not in parts[0].lower():
            parts.append(self.quantization)
        machine = self.instance_type if self.replicas == 1 else f"{self.replicas} x {self.instance_type}"
        if self.tensor_parallel > 1:
            machine += f" tp{self.tensor_parallel}"
        return f"{' '.join(parts)} @ {machine}"
