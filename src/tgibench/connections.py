"""aiohttp's connection, with the time of each read taken below its parser.

A read's time is the kernel's receive stamp where the kernel gives one (Linux, no TLS), else it is taken when the bytes leave the socket.
Nothing else happens on that path: the bytes are set aside. aiohttp parses the head of an answer; a chunked body then passes its parser
by, is unframed in slices once its end seems to have come, and aiohttp is told of the end alone, so that it reuses or closes the
connection as ever. Any other body (of a length, up to the connection's end, compressed) goes through aiohttp's parser, which
says how much of the body each read completed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
import time
from array import array
from typing import TYPE_CHECKING, Any

import attrs
from aiohttp import client_proto

from tgibench.protocols._chunked import ChunkedFraming, MalformedChunkError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import StreamReader

__all__ = ["ChunkedReads", "KernelClock", "ParsedReads", "TimedConnection"]

_READ_BYTES = 32 * 1024
_SLICE_READS = 64  # unframed in one go; then whatever else is due has its turn
_BLANK_LINE = b"\r\n\r\n"


class KernelClock:
    """Turns the kernel's receive stamps into readings of the event loop's clock.

    Stamps are wall time and the loop's clock is monotonic: the distance between the two is measured again every second and whenever a stamp
    cannot be right, since wall time may be set.
    """

    _OPTION = 35  # SO_TIMESTAMPNS of asm-generic/socket.h, which Python does not name
    _MESSAGE = struct.Struct("@ll")  # struct timespec: seconds, nanoseconds
    ANCILLARY_BYTES = socket.CMSG_SPACE(_MESSAGE.size) if hasattr(socket, "CMSG_SPACE") else 0
    _FRESH_S, _TOLERANCE_S = 1.0, 0.0005

    def __init__(self) -> None:
        self.complete = True  # whether every read so far had a stamp
        self._wall_ahead_ns = 0
        self._measured_s = float("-inf")
        # the kernel begins to stamp some time after the first socket asks: this one asks before any connection does
        self._first = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.enable(self._first)

    @classmethod
    def available(cls, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether this system and this loop can do it."""
        known = sys.platform == "linux" and os.uname().machine in {"x86_64", "aarch64"}
        return known and type(loop) is asyncio.SelectorEventLoop and time.get_clock_info("monotonic").monotonic

    @classmethod
    def enable(cls, of: socket.socket) -> None:
        """Ask for stamps."""
        of.setsockopt(socket.SOL_SOCKET, cls._OPTION, 1)

    def close(self) -> None:
        """Let go of the socket."""
        self._first.close()

    def instant_s(self, ancillary: list[tuple[int, int, bytes]], now_s: float) -> float:
        """When what was read at `now_s` had arrived."""
        if not ancillary or ancillary[0][1] != self._OPTION:
            self.complete = False
            return now_s
        seconds, nanoseconds = self._MESSAGE.unpack(ancillary[0][2])
        stamp_ns = seconds * 1_000_000_000 + nanoseconds
        if now_s - self._measured_s > self._FRESH_S:
            self._measure(now_s)
        arrived_s: float = (stamp_ns - self._wall_ahead_ns) * 1e-9
        if arrived_s > now_s + self._TOLERANCE_S:
            self._measure(now_s)
            arrived_s = (stamp_ns - self._wall_ahead_ns) * 1e-9
        return min(arrived_s, now_s)

    def _measure(self, now_s: float) -> None:
        """Read both clocks in turn, thrice: of the closest pair the distance is known best."""
        best_ns = None
        for _ in range(3):
            before_ns, wall_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
            if best_ns is None or after_ns - before_ns < best_ns:
                best_ns = after_ns - before_ns
                self._wall_ahead_ns = wall_ns - (before_ns + after_ns) // 2
        self._measured_s = now_s


@attrs.define(eq=False)
class ChunkedReads:
    """The reads of an answer whose chunked body passes aiohttp's parser by.

    Args:
        instants_s: When each came.
        reads: What came; unframed where `unframe` has been.
        lost: What broke the connection, None when nothing did.
    """

    instants_s: array[float] = attrs.field(factory=lambda: array("d"))
    reads: list[bytes] = attrs.field(factory=list)
    lost: BaseException | None = None
    framing: ChunkedFraming = attrs.field(factory=ChunkedFraming)
    malformed: MalformedChunkError | None = None
    _unframed: int = 0
    _taken: int = 0

    def unframe(self, most_reads: int | None = None) -> bool:
        """Take the framing off the next reads; True when some are left. What is not framed stays, and is noted as malformed."""
        if self.malformed is not None:
            return False
        upto = len(self.reads) if most_reads is None else min(len(self.reads), self._unframed + most_reads)
        feed, reads = self.framing.feed, self.reads
        try:
            for number in range(self._unframed, upto):
                reads[number] = feed(reads[number])
                self._unframed = number + 1
        except MalformedChunkError as error:
            self.malformed = error
            return False
        return upto < len(reads)

    def rest(self) -> bytes:
        """What has not been unframed."""
        return b"".join(self.reads[self._unframed :])

    def take(self, content: StreamReader) -> Iterator[tuple[float, bytes]]:
        """``(instant, bytes)`` of the body since it was last called."""
        del content
        self.unframe()
        while self._taken < self._unframed:
            number, self._taken = self._taken, self._taken + 1
            data, self.reads[number] = self.reads[number], b""
            if data:
                yield self.instants_s[number], data


@attrs.define(eq=False)
class ParsedReads:
    """The reads of an answer that aiohttp parses.

    Args:
        instants_s: When each came.
        offsets: How much of the body was complete after each.
        lost: What broke the connection, None when nothing did.
    """

    instants_s: array[float] = attrs.field(factory=lambda: array("d"))
    offsets: array[int] = attrs.field(factory=lambda: array("q"))
    lost: BaseException | None = None
    _taken_reads: int = 0
    _taken_bytes: int = 0

    def take(self, content: StreamReader) -> Iterator[tuple[float, bytes]]:
        """``(instant, bytes)`` of the body since it was last called."""
        # not `read_nowait`: what came before a connection broke is wanted too
        body, base = content._read_nowait(-1), self._taken_bytes  # noqa: SLF001
        reads = range(self._taken_reads, len(self.instants_s))
        self._taken_reads, self._taken_bytes = reads.stop, base + len(body)
        begin = 0
        for read in reads:
            end = self.offsets[read] - base
            if end > begin:
                yield self.instants_s[read], body[begin:end]
                begin = end


class TimedConnection(client_proto.ResponseHandler):
    """aiohttp's connection, taking the time of each read.

    Args:
        loop: The running loop.
        clock: For the kernel's stamps; None to take the time when bytes leave the socket.
    """

    reads: ChunkedReads | ParsedReads | None = None
    """Those of the answer that is coming, or came last; None before its head is known."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: KernelClock | None) -> None:
        super().__init__(loop)
        self._clock = clock
        self._own_socket: socket.socket | None = None
        self._read_error: OSError | None = None
        self._chunked: ChunkedReads | None = None  # while a chunked body is coming
        self._unparsed: list[tuple[float, bytes]] = []
        self._head_end = b""  # the last bytes of a head that is not whole
        self._message: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_BYTES  # asyncio allocates this much for every read; its default is 256 KiB
        if self._clock is None:
            return
        if transport.get_extra_info("sslcontext") is None and isinstance(transport, asyncio.Transport):
            self._read_with_stamps(transport, self._clock)
        else:
            self._clock.complete = False

    def _read_with_stamps(self, transport: asyncio.Transport, clock: KernelClock) -> None:
        """Read through a descriptor of our own: asyncio's reads do not ask for stamps. Its transport rests, and writes."""
        transport.pause_reading()
        own = self._own_socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        own.setblocking(False)
        clock.enable(own)
        self._loop.add_reader(own.fileno(), self._readable, own.recvmsg, clock)

    def _readable(self, recvmsg: Any, clock: KernelClock) -> None:
        try:
            data, ancillary, _, _ = recvmsg(_READ_BYTES, KernelClock.ANCILLARY_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._read_error = error
            if self.transport is not None:
                self.transport.abort()
            return
        now_s = self._loop.time()
        if data:
            self._take(clock.instant_s(ancillary, now_s), data)
            return
        self._stop_own_reads()
        if self.transport is not None:
            self.transport.resume_reading()  # it finds the end of the stream too, and does what asyncio does then

    def _stop_own_reads(self) -> None:
        if self._own_socket is not None:
            self._loop.remove_reader(self._own_socket.fileno())
            self._own_socket.close()
            self._own_socket = None

    def pause_reading(self) -> None:
        """Never while reads are our own: an answer waits in memory until it is whole."""
        if self._own_socket is None:
            super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        """As little."""
        if self._own_socket is None:
            super().resume_reading(resume_parser)

    def set_response_params(self, **options: Any) -> None:
        self.reads = self._chunked = self._payload = self._message = None
        self._head_end = b""
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        """Take the time; whatever is to be parsed waits until every socket that is ready now has had its time taken."""
        if data:
            self._take(self._loop.time(), data)
        else:
            super().data_received(data)  # aiohttp itself, going on with what it held back

    def _take(self, instant_s: float, data: bytes) -> None:
        chunked = self._chunked
        if chunked is None:
            if not self._unparsed:
                self._loop.call_soon(self._parse)
            self._unparsed.append((instant_s, data))
            return
        chunked.instants_s.append(instant_s)
        chunked.reads.append(data)
        if data.endswith(_BLANK_LINE) or len(data) < len(_BLANK_LINE):
            self._loop.call_soon(self._look_for_end, chunked)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """aiohttp has parsed a head."""
        self._message = data[0]
        super().feed_data(data, size)

    def _parse(self) -> None:
        unparsed, self._unparsed = self._unparsed, []
        for instant_s, data in unparsed:
            rest = data
            while rest and self.reads is None and self._parser is not None:
                rest = self._parse_head(instant_s, rest)
            if rest:
                self._parse_body(instant_s, rest)

    def _parse_head(self, instant_s: float, data: bytes) -> bytes:
        """Have aiohttp parse what belongs to the head; what does not."""
        end = (self._head_end + data).find(_BLANK_LINE) - len(self._head_end) + len(_BLANK_LINE)
        whole = end >= len(_BLANK_LINE) - len(self._head_end)
        head, rest = (data[:end], data[end:]) if whole else (data, b"")
        self._head_end = b"" if whole else (self._head_end + data)[1 - len(_BLANK_LINE) :]
        super().data_received(head)
        message, self._message = self._message, None
        if message is not None and message.code >= 200:
            if whole and message.chunked and not message.compression and not message.upgrade:
                self.reads = self._chunked = ChunkedReads()
            else:
                self.reads = ParsedReads()
                self._mark(instant_s)
        return rest

    def _parse_body(self, instant_s: float, data: bytes) -> None:
        if self._chunked is not None:
            self._take(instant_s, data)
        else:
            super().data_received(data)
            self._mark(instant_s)

    def _mark(self, instant_s: float) -> None:
        """Note how much of the body is complete."""
        if isinstance(self.reads, ParsedReads) and self._payload is not None:
            self.reads.instants_s.append(instant_s)
            self.reads.offsets.append(self._payload.total_bytes)

    def _look_for_end(self, chunked: ChunkedReads, most_reads: int | None = _SLICE_READS) -> None:
        """See whether a chunked body has come to its end, and if so, tell aiohttp; a slice at a time."""
        if self._chunked is not chunked:
            return
        more = chunked.unframe(most_reads)
        if chunked.malformed is not None:
            self._chunked = None
            self._payload.set_exception(chunked.malformed)
            self.force_close()
            if self.transport is not None:
                self.transport.close()
        elif chunked.framing.ended:
            self._chunked = None
            super().data_received(b"0\r\n\r\n" + chunked.framing.excess + chunked.rest())
        elif more:
            self._loop.call_soon(self._look_for_end, chunked)

    def eof_received(self) -> None:
        self._finish()
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_own_reads()
        self._finish()
        error = exc or self._read_error
        if self.reads is not None:
            self.reads.lost = error
        super().connection_lost(error)

    def _finish(self) -> None:
        self._parse()
        if self._chunked is not None:
            self._look_for_end(self._chunked, None)
