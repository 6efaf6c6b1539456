"""Backends make a `Deployment` run and hand out its `Endpoint`; leaving the context stops what was started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import attrs

from tgibench.validators import above_zero, count, not_blank, not_negative

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from tgibench.deployments import Deployment
    from tgibench.endpoints import Endpoint
    from tgibench.provenance import Source

__all__ = [
    "Backend",
    "IdentifiedBackend",
    "LongestTimes",
    "RationedBackend",
    "Room",
    "TimedBackend",
    "identity_of",
    "one_at_a_time",
]


class Backend(Protocol):
    """A way of making a deployment run. It may have an `identity` too: see `IdentifiedBackend`."""

    @property
    def name(self) -> str:
        """Its name, such as ``"docker"``; part of a stored result's key where there is no `identity`."""

    @property
    def source(self) -> Source:
        """What its numbers are: MEASURED, or EMULATED."""

    def deploy(self, deployment: Deployment) -> AbstractAsyncContextManager[Endpoint]:
        """Start a server and wait until it is ready.

        Raises:
            DeployError: It could not be started or made ready; whatever had been started is stopped again.
            TeardownError: On leaving: something could not be stopped; the message says what is left.
        """


@runtime_checkable
class IdentifiedBackend(Protocol):
    """A backend that can be set to measure one thing or another: an addition to `Backend` that is asked for where it is there."""

    @property
    def identity(self) -> str:
        """A text that differs when what is measured does (a URL, a protocol, a command): part of a stored result's key.

        Equal for equal backends in every process. It is stored, so it holds no secret; and nothing that chance decides, such as a free
        port.
        """


def identity_of(backend: Backend) -> str:
    """A backend's `identity`; of one without, its name."""
    return backend.identity if isinstance(backend, IdentifiedBackend) else backend.name


@attrs.frozen(kw_only=True)
class Room:
    """What a deployment takes of something that several cannot have at once: instances of a quota, the GPUs of a machine.

    Args:
        pool: What it is; deployments of equal pools share it.
        size: How much there is in all.
        units: How much of it this deployment takes. One that takes more than there is runs alone.
    """

    pool: str = attrs.field(validator=not_blank)
    size: int = attrs.field(validator=count)
    units: int = attrs.field(default=1, validator=count)


@runtime_checkable
class RationedBackend(Protocol):
    """A backend that cannot run any number of deployments side by side: an addition to `Backend` that is asked for where it is there."""

    async def rooms(self, deployments: Sequence[Deployment]) -> Sequence[Room | None]:
        """What each deployment takes; None for one that takes nothing scarce. Asked once, before a sweep starts anything side by side.

        What cannot be found out is not raised: then deployments run one at a time.
        """


@attrs.frozen(kw_only=True)
class LongestTimes:
    """How long a deployment's stages may take at most, in seconds: a `Budget` reckons its worst case with them.

    Args:
        startup_s: From the order until it is ready or given up.
        teardown_s: Stopping it once it serves.
        abandon_s: Stopping it while it is not ready yet.
        after_load_s: What follows each load while it is still paid for, such as waiting for the server's log.

    Raises:
        InvalidValueError: A number is not above 0; `after_load_s` is below 0.
    """

    startup_s: float = attrs.field(validator=above_zero)
    teardown_s: float = attrs.field(validator=above_zero)
    abandon_s: float = attrs.field(validator=above_zero)
    after_load_s: float = attrs.field(default=0.0, validator=not_negative)


@runtime_checkable
class TimedBackend(Protocol):
    """A backend that knows its own time limits: an addition to `Backend` that is asked for where it is there."""

    def longest_times(self, deployment: Deployment) -> LongestTimes:
        """How long its stages may take."""


def one_at_a_time(pool: str, deployments: Sequence[Deployment]) -> list[Room | None]:
    """The rooms of deployments that would disturb each other: one runs after the other."""
    return [Room(pool=pool, size=1) for _ in deployments]
