"""A server without a network or a model, for tests of loads, metrics and sweeps: `FakeServer`."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench.client_health import StampSource
from tgibench.records import Exchange, Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from tgibench.endpoints import Timeouts
    from tgibench.requests import GenerationRequest

__all__ = ["FakeServer", "exchange"]

_REFUSAL_S = 0.01


@attrs.define(eq=False)
class FakeServer:
    """An endpoint that serves `slots` requests at once, each for `service_s`, in the order of arrival, and keeps count.

    It works on the running loop's clock: under `tgibench.virtual_time.run` its times are exact. Each answer is one token.

    Args:
        service_s: How long a request is served.
        slots: How many at once; None is no limit.
        fails: Decides by a request's number (from 0, in order of arrival) whether it is refused as overload; None refuses none.
        facts: What it says of itself.
        in_flight: Requests that are with it now.
        most_in_flight: The most there ever were.
        received: All requests, in order of arrival.
        closed: Whether its client was closed.
    """

    service_s: float
    slots: int | None = None
    fails: Callable[[int], bool] | None = None
    facts: Mapping[str, str] = attrs.field(factory=dict)
    in_flight: int = 0
    most_in_flight: int = 0
    received: list[GenerationRequest] = attrs.field(factory=list)
    closed: bool = False
    _free: asyncio.Semaphore | None = attrs.field(default=None, init=False)

    @property
    def stamps(self) -> StampSource:
        """Its times are made, not measured."""
        return StampSource.VIRTUAL

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[FakeServer]:
        """Itself: it is its own client."""
        self._free = asyncio.Semaphore(self.slots) if self.slots else None
        try:
            yield self
        finally:
            self.closed = True

    async def generate(self, request: GenerationRequest, timeouts: Timeouts) -> Exchange:
        """Wait for a slot, then for the service."""
        del timeouts
        loop = asyncio.get_running_loop()
        started_s, number = loop.time(), len(self.received)
        self.received.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.fails and self.fails(number):
                await asyncio.sleep(_REFUSAL_S)
                failure = Failure(FailureKind.OVERLOADED, "Model is overloaded", 429)
                return exchange(started_s, loop.time(), [], failure=failure)
            async with self._free or nullcontext():
                await asyncio.sleep(self.service_s)
            return exchange(started_s, loop.time(), [loop.time()])
        finally:
            self.in_flight -= 1


def exchange(started_s: float, ended_s: float, times_s: Sequence[float], *, failure: Failure | None = None) -> Exchange:
    """An exchange with one token at each of the given instants."""
    return Exchange(
        started_s=started_s,
        sent_s=started_s,
        ended_s=ended_s,
        chunk_times_s=np.array(times_s, dtype=float),
        chunk_tokens=np.ones(len(times_s), dtype=np.uint32),
        output_tokens=len(times_s),
        finish_reason=None if failure else "length",
        failure=failure,
    )
