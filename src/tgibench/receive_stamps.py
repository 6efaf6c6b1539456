"""Reads sockets with the kernel's receive stamps (Linux): when bytes arrived, however late this process came to read them.

Since a stamp does not depend on when it is read, sockets are read in turns: all that are ready, then a pause of about a millisecond. A loop
that wakes up for each token spends most of its time on waking up.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["StampedReader"]

_OPTION = 35  # SO_TIMESTAMPNS of Linux's asm-generic/socket.h, which Python does not name; its control message has the same number
_STAMP = struct.Struct("@ll")  # struct timespec: seconds, nanoseconds
_ANCILLARY_BYTES = 64  # one control message of that size, and its head
_READ_BYTES = 32 * 1024
_MOST_READS = 128  # of one turn; then whatever else is due has its turn
_PAUSE_S = 0.001
_QUICK_S = 0.004  # if many sockets had something again so soon, there is no pause: two reads might become one
_QUICK_SHARE = 4
_CLOCKS_FRESH_S = 1.0
_TOLERANCE_S = 0.0005
_UNKNOWN = float("inf")
_MOST_PROBES = 100


@attrs.define(eq=False)
class _Source:
    """A socket and whom to tell: what came and when, its end, what broke it."""

    socket: socket.socket
    recvmsg_into: Callable[[list[memoryview], int], tuple[int, list[tuple[int, int, bytes]], int, object]]
    take: Callable[[float, bytes], None]
    ended: Callable[[], None]
    broken: Callable[[OSError], None]
    last_s: float = float("-inf")


class StampedReader:
    """Reads any number of sockets on one event loop.

    Attributes:
        complete: Whether every read so far had a stamp; one that had none got the time at which it was read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.complete = True
        self._loop = loop
        self._poller = select.epoll()
        self._sources: dict[int, _Source] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._buffer = memoryview(
            bytearray(_READ_BYTES)
        )  # one for all: a fresh one for each read costs more than its copy
        self._buffers = [self._buffer]
        self._clocks = _Clocks()
        self._now_s = loop.time()
        self._quick = 0
        self._probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._probe.setblocking(False)
        self._probe.bind(("127.0.0.1", 0))
        self._probe.setsockopt(socket.SOL_SOCKET, _OPTION, 1)
        loop.add_reader(self._poller.fileno(), self._turn)

    @staticmethod
    def available(loop: asyncio.AbstractEventLoop) -> bool:
        """Whether this system and this loop have what it takes."""
        known = sys.platform == "linux" and os.uname().machine in {"x86_64", "aarch64"}
        return known and type(loop) is asyncio.SelectorEventLoop

    @classmethod
    async def open(cls) -> StampedReader | None:
        """A reader for the running loop as soon as the kernel gives stamps; None where it does not."""
        loop = asyncio.get_running_loop()
        if not cls.available(loop):
            return None
        reader = cls(loop)
        for _ in range(_MOST_PROBES):
            if reader.stamps_come():
                return reader
            await asyncio.sleep(_PAUSE_S)
        reader.close()
        return None

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
        """Read a socket from now on, through a descriptor of our own; its number, for `remove`.

        Args:
            descriptor: The socket's. Nobody else may read it.
            take: Called with each read: when it arrived by the loop's clock, and its bytes.
            ended: Called once when the peer has ended the stream, which is then no longer read.
            broken: Called once with the error that a read raised; likewise.
        """
        own = socket.socket(fileno=os.dup(descriptor))
        own.setblocking(False)
        own.setsockopt(socket.SOL_SOCKET, _OPTION, 1)
        number = own.fileno()
        self._sources[number] = _Source(own, own.recvmsg_into, take, ended, broken)
        self._poller.register(number, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        return number

    def remove(self, number: int) -> None:
        """Read a socket no longer; unknown numbers are ignored."""
        source = self._sources.pop(number, None)
        if source is not None:
            self._poller.unregister(number)
            source.socket.close()

    def close(self) -> None:
        """Let go of everything."""
        for number in tuple(self._sources):
            self.remove(number)
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._poller.fileno())
        self._poller.close()
        self._probe.close()

    def _turn(self) -> None:
        """Read every socket that something came to; then pause, or wait for the next."""
        ready = self._poller.poll(0, _MOST_READS)
        self._quick = 0
        self._now_s = self._loop.time()
        self._clocks.refresh(self._now_s)
        for number, events in ready:
            source = self._sources.get(number)
            # an edge is told once: where more may be waiting than one read takes, all of it is read now
            while source is not None and self._read(number, source, whole=events != select.EPOLLIN):
                source = self._sources.get(number)
        if len(ready) == _MOST_READS:
            self._wait(0.0)
        else:
            self._wait(_PAUSE_S if len(ready) > _QUICK_SHARE * self._quick else None)

    def _read(self, number: int, source: _Source, *, whole: bool) -> bool:
        """Read once; whether to go on."""
        try:
            size, ancillary, _, _ = source.recvmsg_into(self._buffers, _ANCILLARY_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self.remove(number)
            source.broken(error)
            return False
        if not size:
            self.remove(number)
            source.ended()
            return False
        arrived_s = self._clocks.arrived_s(ancillary[0][2]) if ancillary else _UNKNOWN
        if arrived_s > self._now_s:  # it came in the course of this turn, or its stamp cannot be trusted
            arrived_s = self._checked_s(arrived_s, ancillary)
        if arrived_s - source.last_s < _QUICK_S:
            self._quick += 1
        source.last_s = arrived_s
        source.take(arrived_s, self._buffer[:size].tobytes())
        return whole or size == _READ_BYTES

    def _checked_s(self, arrived_s: float, ancillary: list[tuple[int, int, bytes]]) -> float:
        self._now_s = self._loop.time()
        if ancillary and arrived_s > self._now_s + _TOLERANCE_S:  # wall time was set back
            self._clocks.measure(self._now_s)
            arrived_s = self._clocks.arrived_s(ancillary[0][2])
        if not ancillary:
            self.complete = False
        return min(arrived_s, self._now_s)

    def _wait(self, pause_s: float | None) -> None:
        """Until the pause is over, or without one until the next socket is ready."""
        if pause_s is None and self._pause is not None:
            self._loop.add_reader(self._poller.fileno(), self._turn)
        elif pause_s is not None and self._pause is None:
            self._loop.remove_reader(self._poller.fileno())
        self._pause = None if pause_s is None else self._loop.call_later(pause_s, self._turn)


class _Clocks:
    """Wall time, in which stamps are, and the loop's monotonic clock.

    Their distance is measured again every second, and when a stamp cannot be right: wall time may be set at any moment.
    """

    def __init__(self) -> None:
        self._wall_s = 0  # a whole second of wall time, and the loop's time then
        self._loop_s = 0.0
        self._measured_s = float("-inf")

    def arrived_s(self, stamp: bytes) -> float:
        """When what has this stamp had arrived, by the loop's clock."""
        seconds, nanoseconds = _STAMP.unpack(stamp)
        arrived_s: float = (seconds - self._wall_s) + nanoseconds * 1e-9 + self._loop_s
        return arrived_s

    def refresh(self, now_s: float) -> None:
        """Measure their distance if that was some time ago."""
        if now_s - self._measured_s > _CLOCKS_FRESH_S:
            self.measure(now_s)

    def measure(self, now_s: float) -> None:
        """Read the clocks in turn, thrice: the closest readings tell the distance best."""
        closest_ns = None
        for _ in range(3):
            before_ns, wall_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
            if closest_ns is None or after_ns - before_ns < closest_ns:
                closest_ns = after_ns - before_ns
                self._wall_s, beyond_ns = divmod(wall_ns, 1_000_000_000)
                self._loop_s = ((before_ns + after_ns) // 2 - beyond_ns) * 1e-9
        self._measured_s = now_s
