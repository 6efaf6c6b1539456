"""Fakes for the runner: servers of known behaviour behind the `Endpoint` seam, on the running loop's clock."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import attrs
import numpy as np

import tgibench as tb
from tgibench.records import Exchange


@attrs.define(slots=False)
class FakeServer:
    """An endpoint that serves `slots` requests at once, each for `service_s`, in the order of arrival; None is no limit.

    `fails` decides by request number (from 0, in order of arrival) whether a request is refused.
    """

    service_s: float
    slots: int | None = None
    fails: object = None
    facts: dict = attrs.field(factory=dict)
    in_flight: int = 0
    most_in_flight: int = 0
    received: list = attrs.field(factory=list)
    closed: bool = False

    @asynccontextmanager
    async def connect(self):
        self._free = asyncio.Semaphore(self.slots) if self.slots else None
        try:
            yield self
        finally:
            self.closed = True

    stamps = tb.StampSource.VIRTUAL

    async def generate(self, request, timeouts):
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        number = len(self.received)
        self.received.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.fails and self.fails(number):
                await asyncio.sleep(0.01)
                failure = tb.Failure(tb.FailureKind.OVERLOADED, "Model is overloaded", 429)
                return exchange(started_s, loop.time(), [], failure=failure)
            if self._free:
                async with self._free:
                    await asyncio.sleep(self.service_s)
            else:
                await asyncio.sleep(self.service_s)
            return exchange(started_s, loop.time(), [loop.time()])
        finally:
            self.in_flight -= 1


def exchange(started_s, ended_s, times, *, failure=None):
    """An exchange with one token at each of the given instants."""
    return Exchange(
        started_s=started_s,
        sent_s=started_s,
        ended_s=ended_s,
        chunk_times_s=np.array(times, dtype=float),
        chunk_tokens=np.ones(len(times), dtype=np.uint32),
        output_tokens=len(times),
        finish_reason=None if failure else "length",
        failure=failure,
    )
