"""Reads sockets below asyncio, so that bytes have the time at which they arrived, however late this process came to read them.

Linux gives the kernel's receive stamps. Since such a stamp does not depend on when it is read, sockets are read in turns: all that are
ready, then a pause of about a millisecond; a loop that wakes up for each token spends most of its time on waking up. Where the kernel
gives none (some sandboxes), bytes have the time at which their socket was seen to be ready: sockets are polled again in the course of a
turn, so that none waits for its time until a thousand others have been read.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
import sys
from collections import deque
from typing import TYPE_CHECKING, Protocol

import attrs

from tgibench.wall_clock import WallClock

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable

__all__ = ["StampedReader"]

_OPTION = 35  # SO_TIMESTAMPNS of Linux's asm-generic/socket.h, which Python does not name; its control message has the same number
_STAMP = struct.Struct("@ll")  # struct timespec: seconds, nanoseconds
_ANCILLARY_BYTES = 64  # one control message of that size, and its head
_EDGES = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET if sys.platform == "linux" else 0
_READ_BYTES = 32 * 1024
_MOST_READS = 128  # of one turn; then whatever else is due has its turn
_POLLED_AFTER = 64  # reads, where the time of the poll is that of the bytes
_MOST_POLLED = 4096
_PAUSE_S = 0.001
_QUICK_S = 0.004  # if many sockets had something again so soon, there is no pause: two reads might become one
_QUICK_SHARE = 4
_MOST_PROBES = 100
_ENDS_A_BODY = b"\r\n\r\n"


class Body(Protocol):
    """Where the reads of a chunked body gather."""

    instants_s: array[float]
    reads: list[bytes]


@attrs.define(eq=False)
class _Source:
    """A socket and whom to tell: what came and when, its end, what broke it."""

    socket: socket.socket
    recvmsg_into: Callable[[list[memoryview], int], tuple[int, list[tuple[int, int, bytes]], int, object]]
    take: Callable[[float, bytes], None]
    ended: Callable[[], None]
    broken: Callable[[OSError], None]
    body: Body | None = None
    may_have_ended: Callable[[], None] = lambda: None
    last_s: float = float("-inf")


class StampedReader:
    """Reads any number of sockets on one event loop.

    Args:
        loop: The loop.
        kernel: Whether the kernel stamps what arrives; else bytes have the time at which their socket was seen to be ready.

    Attributes:
        complete: Whether all that was read so far had such a time; what had none got that at which it was read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, kernel: bool = True) -> None:
        self.kernel, self.complete = kernel, True
        self._loop = loop
        self._poller = select.epoll()
        self._sources: dict[int, _Source] = {}
        self._next: asyncio.Handle | None = None  # the turn after a pause
        self._turned_s = loop.time()
        self._buffer = memoryview(bytearray(_READ_BYTES))  # for all: a fresh one for each read costs more than its copy
        self._clock = WallClock(loop.time())
        self._waiting: deque[int] = deque()
        self._ready: dict[int, tuple[float, int]] = {}  # since when, and the events
        self._probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._probe.setblocking(False)
        self._probe.bind(("127.0.0.1", 0))
        self._probe.setsockopt(socket.SOL_SOCKET, _OPTION, 1)
        self._turn = self._stamped_turn if kernel else self._polled_turn
        loop.add_reader(self._poller.fileno(), self._turn)

    @staticmethod
    def available(loop: asyncio.AbstractEventLoop) -> bool:
        """Whether this system and this loop have what it takes."""
        known = sys.platform == "linux" and os.uname().machine in {"x86_64", "aarch64"}
        return known and type(loop) is asyncio.SelectorEventLoop

    @classmethod
    async def open(cls) -> StampedReader | None:
        """A reader for the running loop, as soon as the kernel gives stamps or is seen not to; None where there can be none."""
        loop = asyncio.get_running_loop()
        if not cls.available(loop):
            return None
        reader = cls(loop)
        for _ in range(_MOST_PROBES):
            if reader.stamps_come():
                return reader
            await asyncio.sleep(_PAUSE_S)
        reader.close()
        return cls(loop, kernel=False)

    def stamps_come(self) -> bool:
        """Whether a datagram to ourselves has a stamp: the kernel begins to give them some time after the first socket asks."""
        self._probe.sendto(b"?", self._probe.getsockname())
        try:
            _, ancillary, _, _ = self._probe.recvmsg(1, _ANCILLARY_BYTES)
        except BlockingIOError:
            return False
        return bool(ancillary)

    def add(
        self,
        descriptor: int,
        take: Callable[[float, bytes], None],
        *,
        ended: Callable[[], None],
        broken: Callable[[OSError], None],
    ) -> int:
        """Read a socket from now on, through a descriptor of our own; its number, for `gather` and `remove`.

        Args:
            descriptor: The socket's. Nobody else may read it.
            take: Called with each read: when it arrived by the loop's clock, and its bytes.
            ended: Called once when the peer has ended the stream, which is then no longer read; or when this reader is closed before.
            broken: Called once with the error that a read raised; likewise.
        """
        own = socket.socket(fileno=os.dup(descriptor))
        own.setblocking(False)
        if self.kernel:
            own.setsockopt(socket.SOL_SOCKET, _OPTION, 1)
        number = own.fileno()
        self._sources[number] = _Source(own, own.recvmsg_into, take, ended, broken)
        self._poller.register(number, _EDGES)
        return number

    def gather(self, number: int, body: Body | None, may_have_ended: Callable[[], None] = lambda: None) -> None:
        """Put what comes to a socket into a body, and tell only when that may have ended; with None, call `take` again."""
        source = self._sources.get(number)
        if source is not None:
            source.body, source.may_have_ended = body, may_have_ended

    def remove(self, number: int) -> None:
        """Read a socket no longer; unknown numbers are ignored."""
        source = self._sources.pop(number, None)
        if source is not None:
            self._ready.pop(number, None)
            self._poller.unregister(number)
            source.socket.close()

    def close(self) -> None:
        """Let go of everything: whoever still waits for a socket's end, as TLS does in closing, reads it himself."""
        for number, source in tuple(self._sources.items()):
            self._end(number, source)
        if self._next is not None:
            self._next.cancel()
        self._loop.remove_reader(self._poller.fileno())
        self._poller.close()
        self._probe.close()

    def catch_up(self) -> None:
        """Read now what waits, if that was not done just before.

        For whoever is about to hold the loop for long, or is one of many who do: two tokens that wait in one socket become one read, with
        the time of the later.
        """
        if self._sources and self._loop.time() - self._turned_s > _PAUSE_S:
            if self._next is not None:
                self._next.cancel()
            self._turn()

    def _stamped_turn(self) -> None:
        """Read every socket that something came to; then pause, or wait for the next."""
        ready = self._poller.poll(0, _MOST_READS)
        number_ready = len(ready)
        quick = self._read_stamped(ready)
        if number_ready == _MOST_READS:
            self._wait(0.0)
        else:
            self._wait(_PAUSE_S if number_ready > _QUICK_SHARE * quick else None)

    def _read_stamped(self, ready: list[tuple[int, int]]) -> int:  # noqa: C901, PLR0912 - runs once a token: all is done in line
        """Read sockets; how many had something again very soon."""
        sources, clock, unpack, time = self._sources, self._clock, _STAMP.unpack, self._loop.time
        self._turned_s = now_s = time()
        buffer, buffers, quick = self._buffer, [self._buffer], 0
        clock.check(now_s)
        for number, events in ready:
            source = sources.get(number)
            if source is None:  # removed in the course of this turn
                continue
            recvmsg_into = source.recvmsg_into
            try:
                size, ancillary, _, _ = recvmsg_into(buffers, _ANCILLARY_BYTES)
            except OSError as error:
                self._not_read(number, source, error)
                continue
            if not size:
                self._end(number, source)
                continue
            data = buffer[:size].tobytes()
            if ancillary:
                seconds, nanoseconds = unpack(ancillary[0][2])
                arrived_s = (seconds - clock.wall_s) + nanoseconds * 1e-9 + clock.loop_s
                if arrived_s > now_s:  # in the course of this turn
                    now_s = time()
                    if arrived_s > now_s:
                        arrived_s = clock.not_after(now_s, seconds, nanoseconds)
            else:
                arrived_s, self.complete = time(), False
            if arrived_s - source.last_s < _QUICK_S:
                quick += 1
            source.last_s = arrived_s
            body = source.body
            if body is None:
                take = source.take
                take(arrived_s, data)
            else:
                body.instants_s.append(arrived_s)
                body.reads.append(data)
                if data.endswith(_ENDS_A_BODY) or size < len(_ENDS_A_BODY):
                    source.may_have_ended()
            if events != select.EPOLLIN or size == _READ_BYTES:
                ready.append((number, events))  # an edge is told once: where more may be waiting, all of it is read now
        return quick

    def _wait(self, pause_s: float | None) -> None:
        """Until the pause is over, or without one until the next socket is ready."""
        if pause_s is None and self._next is not None:
            self._loop.add_reader(self._poller.fileno(), self._turn)
        elif pause_s is not None and self._next is None:
            self._loop.remove_reader(self._poller.fileno())
        self._next = None if pause_s is None else self._loop.call_later(pause_s, self._turn)

    def _polled_turn(self) -> None:
        """Read the sockets that something came to, in that order; polled again and again, so that each is seen when it is ready."""
        if self._poller.closed:
            return
        self._poll()
        for number_read in range(1, _MOST_READS + 1):
            if not self._waiting:
                return
            number = self._waiting.popleft()
            ready_s, events = self._ready.pop(number, (0.0, 0))
            source = self._sources.get(number) if events else None
            if source is not None:
                self._read_polled(number, source, ready_s, whole=events != select.EPOLLIN)
            if number_read % _POLLED_AFTER == 0:
                self._poll()
        self._next = self._loop.call_soon(self._turn)

    def _poll(self) -> None:
        """Note which sockets became ready; where that comes before the last was read, the later time counts, as in the kernel's stamps."""
        events_of = self._poller.poll(0, _MOST_POLLED)
        self._turned_s = now_s = self._loop.time()
        for number, events in events_of:
            if number not in self._ready:
                self._waiting.append(number)
            self._ready[number] = now_s, events

    def _read_polled(self, number: int, source: _Source, ready_s: float, *, whole: bool) -> None:
        """Read a socket; all of it where more may be waiting, since an edge is told once."""
        while self._sources.get(number) is source:
            try:
                data = source.socket.recv(_READ_BYTES)
            except OSError as error:
                self._not_read(number, source, error)
                return
            if not data:
                self._end(number, source)
                return
            if source.body is None:
                source.take(ready_s, data)
            else:
                source.body.instants_s.append(ready_s)
                source.body.reads.append(data)
                if data.endswith(_ENDS_A_BODY) or len(data) < len(_ENDS_A_BODY):
                    source.may_have_ended()
            if not whole and len(data) < _READ_BYTES:
                return
            ready_s = self._loop.time()  # what comes with the next read may have come meanwhile

    def _not_read(self, number: int, source: _Source, error: OSError) -> None:
        if not isinstance(error, BlockingIOError | InterruptedError):
            self.remove(number)
            source.broken(error)

    def _end(self, number: int, source: _Source) -> None:
        self.remove(number)
        source.ended()
