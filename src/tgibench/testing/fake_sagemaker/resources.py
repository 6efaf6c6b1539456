"""What a fake account holds and what befalls it: models, configurations and endpoints, refusals and troubles."""

from __future__ import annotations

from typing import Any

import attrs

__all__ = ["Endpoint", "Refused", "Resource", "Trouble"]


class Refused(Exception):  # noqa: N818 - an answer of the service
    """The service refuses a call."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


@attrs.define(eq=False)
class Trouble:
    """What befalls the next calls of an operation.

    Args:
        operation: Such as ``"DeleteEndpoint"``; ``"*"`` for any.
        code: The error's code.
        status: Its HTTP status.
        times: How many calls it befalls.
        message: Its message; None for one that only names the operation.
        after: Whether the call is carried out all the same before the error is answered.
    """

    operation: str
    code: str = attrs.field(default="ThrottlingException", kw_only=True)
    status: int = attrs.field(default=400, kw_only=True)
    times: int = attrs.field(default=1, kw_only=True)
    message: str | None = attrs.field(default=None, kw_only=True)
    after: bool = attrs.field(default=False, kw_only=True)

    def befalls(self, operation: str) -> bool:
        """Whether it befalls this call; counts it if so."""
        if self.times < 1 or self.operation not in {operation, "*"}:
            return False
        self.times -= 1
        return True


@attrs.define(eq=False, kw_only=True)
class Resource:
    """A model or an endpoint configuration."""

    arn: str
    created: float
    visible: float
    request: dict[str, Any]
    tags: dict[str, str]


@attrs.define(eq=False, kw_only=True)
class Endpoint:
    """An endpoint and when it changes its status by itself."""

    arn: str
    created: float
    visible: float
    config: dict[str, Any]
    model: dict[str, Any]
    tags: dict[str, str]
    settles: float
    failure: str | None
    gone: float | None = None

    def status(self, now: float) -> str:
        """As DescribeEndpoint tells it."""
        if self.gone is not None:
            return "Deleting"
        if now < self.settles:
            return "Creating"
        return "InService" if self.failure is None else "Failed"

    @property
    def variant(self) -> dict[str, Any]:
        """Its one production variant."""
        variant: dict[str, Any] = self.config["ProductionVariants"][0]
        return variant
