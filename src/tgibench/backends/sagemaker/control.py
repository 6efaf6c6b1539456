"""The control plane: create a model, a configuration, an endpoint and its schedule, wait, and delete them until they are gone."""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from tgibench.errors import AwsError, DeployError, TeardownError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tgibench.backends.sagemaker.aws import Aws

__all__ = ["SERVING", "ControlPlane", "Kind"]

_CREATE_PATIENCE_S = 180.0
_BACKOFF_S = 0.5
_SETTLING = frozenset({"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"})


class Kind(enum.StrEnum):
    """What a deployment consists of, in the order in which it is deleted: the dead-man switch last."""

    ENDPOINT = "endpoint"
    CONFIG = "endpoint configuration"
    MODEL = "model"
    SCHEDULE = "schedule"

    @property
    def suffix(self) -> str:
        """Of the operations' names."""
        return "endpoint_config" if self is Kind.CONFIG else self.value

    @property
    def argument(self) -> str:
        """The operations' argument that names it."""
        return {Kind.ENDPOINT: "EndpointName", Kind.CONFIG: "EndpointConfigName", Kind.MODEL: "ModelName"}.get(
            self, "Name"
        )

    @property
    def looked_up_with(self) -> str:
        """The operation that tells of one."""
        return "get_schedule" if self is Kind.SCHEDULE else f"describe_{self.suffix}"


SERVING = (Kind.ENDPOINT, Kind.CONFIG, Kind.MODEL)
"""What every deployment consists of."""


def _no_news(event: str, **facts: Any) -> None:
    del event, facts


def _no_warning() -> None:
    pass


@attrs.define(eq=False)
class ControlPlane:
    """Calls to SageMaker that bear with throttling, broken connections, late reads and ended credentials.

    Args:
        aws: The account and region.
        poll_s: Seconds between two looks, give or take 30 %.
        consistent_after_s: Reads are eventually consistent: for so long after a creation "not found" is not believed.
        note: Called with each thing that happened, for the journal.
        warn_expired: Called once when nothing can be deleted because the credentials have ended.
    """

    aws: Aws
    poll_s: float = attrs.field(default=15.0, kw_only=True)
    consistent_after_s: float = attrs.field(default=30.0, kw_only=True)
    note: Callable[..., None] = attrs.field(default=_no_news, kw_only=True)
    warn_expired: Callable[[], None] = attrs.field(default=_no_warning, kw_only=True)
    _clients: dict[str, Any] = attrs.field(factory=dict, init=False)
    _warned: bool = attrs.field(default=False, init=False)
    _tried_s: dict[Kind, float] = attrs.field(factory=dict, init=False)

    @property
    def _backoff_s(self) -> float:
        """The first wait before something is asked again: no longer than between two looks."""
        return min(_BACKOFF_S, self.poll_s)

    async def create(self, kind: Kind, name: str, **request: Any) -> None:
        """Create one thing. A name of ours that is taken is ours: an earlier answer did not reach us.

        Raises:
            AwsError: It was refused, or the service was not reached for long.
        """
        loop = asyncio.get_running_loop()
        deadline_s, wait_s = loop.time() + _CREATE_PATIENCE_S, self._backoff_s
        tried_before = False
        while True:
            self.note("create", kind=kind.value, name=name)
            self._tried_s[kind] = loop.time()
            try:
                await self.call(f"create_{kind.suffix}", {kind.argument: name, **request})
            except AwsError as error:
                self.note("refused", kind=kind.value, name=name, code=error.code)
                taken = "already existing" in str(error) or error.code == "ConflictException"
                if tried_before and taken:
                    break
                unseen = "Could not find" in str(error)  # what it refers to was created a moment ago
                if not (error.busy or unseen) or loop.time() > deadline_s:
                    if not (error.busy or tried_before):
                        del self._tried_s[kind]  # refused for good: there is nothing
                    raise
                tried_before = tried_before or error.busy
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, self.poll_s)
            else:
                break
        self.note("created", kind=kind.value, name=name)

    async def wait_in_service(self, name: str, timeout_s: float) -> None:
        """Wait until the endpoint serves.

        Raises:
            DeployError: It failed, or did not settle in time; with AWS's reason.
        """
        status = "Creating"
        try:
            async with asyncio.timeout(timeout_s):
                while status in _SETTLING:
                    await self._pause()
                    described = await self.describe(Kind.ENDPOINT, name)
                    status = "Creating" if described is None else str(described["EndpointStatus"])
        except TimeoutError:
            raise DeployError(
                f"endpoint {name} was still {status} after {timeout_s:g} s; without a line in its log group "
                f"/aws/sagemaker/Endpoints/{name} suspect capacity, the image or the host's driver"
            ) from None
        if status != "InService":
            reason = "" if described is None else described.get("FailureReason")
            raise DeployError(f"endpoint {name} is {status}: {reason or 'AWS gives no reason'}")

    async def describe(self, kind: Kind, name: str) -> dict[str, Any] | None:
        """What is known of it; None where it is not found, or cannot be seen yet. Busy answers are borne with.

        Raises:
            AwsError: It was refused.
        """
        try:
            return await self.patient_call(kind.looked_up_with, {kind.argument: name})
        except AwsError as error:
            if _not_found(error):
                return None
            raise

    async def remove(
        self, name: str, *, timeout_s: float, kinds: tuple[Kind, ...] = SERVING, worth: str | None = None
    ) -> None:
        """Delete endpoint, configuration and model of this name, in this order, until none is found any more.

        Args:
            name: Of all of them.
            timeout_s: After so long it is given up.
            kinds: What there may be.
            worth: What runs and its price, for the error.

        Raises:
            TeardownError: Something is left when the time is up; the message says what.
        """
        left: list[str] = []
        try:
            async with asyncio.timeout(timeout_s):
                for number, kind in enumerate(kinds):
                    left = [other.value for other in kinds[number:]]
                    await self._remove_one(kind, name)
        except TimeoutError:
            raise TeardownError(
                f"not known to be gone after {timeout_s:g} s: {', '.join(left)} {name} in {self.aws.region}"
                f"{f' ({worth})' if worth else ''}; look with `tgibench cleanup`, remove with `tgibench cleanup --yes`"
            ) from None
        self.note("gone")

    async def _remove_one(self, kind: Kind, name: str) -> None:
        """Ask until it is not found. An endpoint that is being created cannot be deleted yet: ask again when it has settled."""
        while True:
            try:
                await self.patient_call(f"delete_{kind.suffix}", {kind.argument: name}, forever=True)
                self.note("deleted", kind=kind.value, name=name)
                if kind is not Kind.ENDPOINT:  # those go at once: asking again shows it
                    await asyncio.sleep(self._backoff_s)
                    continue
            except AwsError as error:
                if _not_found(error):
                    if self._believable(kind):
                        return
                else:
                    self.note("not deleted", kind=kind.value, name=name, code=error.code)
                    self._clients.clear()  # other credentials may be allowed to
            await self._pause()

    async def patient_call(self, operation: str, arguments: dict[str, Any], *, forever: bool = False) -> dict[str, Any]:
        """A call that may be repeated: bears with busy answers and, where it must not fail, with ended credentials too.

        Raises:
            AwsError: It was refused; or, unless forever, the service stayed busy.
        """
        loop = asyncio.get_running_loop()
        deadline_s, wait_s = loop.time() + _CREATE_PATIENCE_S, self._backoff_s
        while True:
            try:
                return await self.call(operation, arguments)
            except AwsError as error:
                again = error.busy or (forever and error.expired)
                if forever and error.expired and not self._warned:
                    self._warned = True
                    self.note("credentials ended")
                    self.warn_expired()
                if not again or (not forever and loop.time() > deadline_s):
                    raise
            await asyncio.sleep(wait_s * _jitter())
            wait_s = min(2 * wait_s, self.poll_s)

    async def call(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """One call, with credentials looked up anew after they have ended.

        Raises:
            AwsError: It was refused, or not reached.
        """
        service = "scheduler" if "schedule" in operation else "sagemaker"
        if service not in self._clients:
            self._clients[service] = await asyncio.to_thread(self.aws.client, service)
        try:
            return await self.aws.call(self._clients[service], operation, arguments)
        except AwsError as error:
            if error.expired:
                self._clients.clear()
            raise

    def _believable(self, kind: Kind) -> bool:
        tried_s = self._tried_s.get(kind)
        return tried_s is None or asyncio.get_running_loop().time() - tried_s >= self.consistent_after_s

    async def _pause(self) -> None:
        await asyncio.sleep(self.poll_s * _jitter())


def _not_found(error: AwsError) -> bool:
    in_sagemaker = error.code in {"ValidationException", "ResourceNotFound"} and "Could not find" in str(error)
    return in_sagemaker or error.code == "ResourceNotFoundException"


def _jitter() -> float:
    """Between 0.7 and 1.3, so that many clients do not ask in step; no result depends on it."""
    return float(np.random.default_rng().uniform(0.7, 1.3))
