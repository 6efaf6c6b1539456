"""Streams of server-sent events as TGI writes them, and as a misbehaving server writes them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import attrs
from aiohttp import web

from tgibench.backends.emulator.bodies import RequestRefusedError
from tgibench.backends.emulator.faults import Fault, FaultKind
from tgibench.backends.emulator.wire import KEEP_ALIVE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tgibench.backends.emulator.serving import Run

__all__ = ["Dialect", "EventWriter", "pump"]


class Dialect(Protocol):
    """How one kind of stream shows tokens and errors."""

    def tokens(self, place: int, run: Run, indices: range) -> list[bytes]:
        """The events of some tokens of the run at `place`."""

    def error(self, refusal: RequestRefusedError) -> list[bytes]:
        """The events of a failure."""

    def ending(self) -> list[bytes]:
        """What follows the last token."""


@attrs.define(eq=False, kw_only=True)
class EventWriter:
    """Writes events to one response.

    Args:
        request: Whose answer it is.
        response: The answer, its head already sent.
        faults: What goes wrong with it.
        keep_alive_s: After so long without an event a comment is written.
    """

    request: web.Request
    response: web.StreamResponse
    faults: Mapping[FaultKind, Fault]
    keep_alive_s: float
    _held: list[bytes] = attrs.field(factory=list, init=False)

    @classmethod
    async def open(
        cls, request: web.Request, headers: Mapping[str, str], faults: Mapping[FaultKind, Fault], keep_alive_s: float
    ) -> EventWriter:
        """Send the head of a stream."""
        response = web.StreamResponse(headers=dict(headers))
        response.enable_chunked_encoding()
        await response.prepare(request)
        return cls(request=request, response=response, faults=faults, keep_alive_s=keep_alive_s)

    async def write(self, events: Sequence[bytes]) -> None:
        """Send events, or hold them until there are as many as leave in one write."""
        self._held += [self._disguised(event) for event in events]
        coalesce = self.faults.get(FaultKind.COALESCE)
        if coalesce is None or len(self._held) >= coalesce.tokens:
            await self.flush()

    async def flush(self) -> None:
        """Send what is held."""
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            await self.response.write(data)

    async def wait(self, woken: asyncio.Event) -> None:
        """Wait for something to write, with comments meanwhile."""
        while not woken.is_set():
            try:
                async with asyncio.timeout(self.keep_alive_s):
                    await woken.wait()
            except TimeoutError:
                await self.response.write(KEEP_ALIVE)
        woken.clear()

    def _disguised(self, event: bytes) -> bytes:
        if FaultKind.NO_SPACE in self.faults:
            event = event.replace(b"data: ", b"data:", 1)
        if FaultKind.CRLF in self.faults:
            event = event.replace(b"\n", b"\r\n")
        return event

    def abort(self) -> None:
        """Close the connection in the middle of the answer."""
        if self.request.transport is not None:
            self.request.transport.abort()


async def pump(writer: EventWriter, runs: Sequence[Run], dialect: Dialect) -> bool:
    """Send the runs' tokens as they are made; whether they were all sent."""
    sent = [0] * len(runs)
    several = writer.faults.get(FaultKind.SEVERAL_TOKENS)
    group = several.tokens if several else 1
    woken = runs[0].woken
    while any(done < run.answer.tokens for done, run in zip(sent, runs, strict=True)):
        await writer.wait(woken)
        for place, run in enumerate(runs):
            while ready := _ready(run, sent[place], group):
                if not await _goes_well(writer, dialect, run, ready):
                    return False
                await writer.write(dialect.tokens(place, run, ready))
                sent[place] = ready.stop
    await writer.write(dialect.ending())
    await writer.flush()
    return True


def _ready(run: Run, sent: int, group: int) -> range:
    """The tokens of the next event, if they are all made."""
    stop = min(sent + group, run.answer.tokens)
    return range(sent, stop) if run.made >= stop > sent else range(0)


async def _goes_well(writer: EventWriter, dialect: Dialect, run: Run, ready: range) -> bool:
    """Let happen what is to happen before these tokens; whether the stream goes on."""
    for kind, fault in writer.faults.items():
        due = min(fault.after_tokens, run.answer.tokens - 1)
        if due not in ready:
            continue
        if kind is FaultKind.STALL:
            await writer.flush()
            await asyncio.sleep(fault.seconds)
        elif kind is FaultKind.ERROR:
            await writer.write(dialect.error(RequestRefusedError.failed()))
            await writer.flush()
            return False
        elif kind in {FaultKind.TRUNCATE, FaultKind.ABORT}:
            await writer.flush()
            if kind is FaultKind.ABORT:
                writer.abort()
            return False
    return True
