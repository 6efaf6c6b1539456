"""aiohttp's connection, with the time of each read taken below its parser.

A read's time is the kernel's receive stamp where there is one (`tgibench.receive_stamps`: Linux; under TLS it is that of the bytes that
completed a record), else it is taken when the bytes leave the socket.
Nothing else happens on that path: the bytes are set aside. aiohttp parses the head of an answer; a chunked body then passes its parser
by, is unframed in slices once its end seems to have come, and aiohttp is told of the end alone, so that it reuses or closes the
connection as ever. Any other body (of a length, up to the connection's end, compressed) goes through aiohttp's parser, which
says how much of the body each read completed.
"""

from __future__ import annotations

import asyncio
import functools
from array import array
from typing import TYPE_CHECKING, Any

import attrs
from aiohttp import client_proto

from tgibench.protocols._chunked import ChunkedFraming
from tgibench.tls_reads import Ciphertext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import StreamReader

    from tgibench.receive_stamps import StampedReader

__all__ = ["ChunkedReads", "MalformedBodyError", "ParsedReads", "TimedConnection"]

_READ_BYTES = 32 * 1024
_SLICE_READS = 64  # unframed in one go; then whatever else is due has its turn
_BLANK_LINE = b"\r\n\r\n"


class MalformedBodyError(Exception):
    """A body whose chunks are none."""


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
    _unframed: int = 0
    _taken: int = 0

    def unframe(self, most_reads: int | None = None) -> bool:
        """Take the framing off the next reads; True when some are left."""
        upto = len(self.reads) if most_reads is None else min(len(self.reads), self._unframed + most_reads)
        self.framing.feed_each(self.reads, self._unframed, upto)
        self._unframed = upto
        return upto < len(self.reads)

    def rest(self) -> bytes:
        """What has not been unframed."""
        return b"".join(self.reads[self._unframed :])

    def take(self, content: StreamReader) -> Iterator[tuple[float, bytes]]:
        """``(instant, bytes)`` of the body since it was last called."""
        del content
        self.unframe()
        part, self._taken = slice(self._taken, self._unframed), self._unframed
        taken = self.reads[part]
        self.reads[part] = [b""] * len(taken)
        return zip(self.instants_s[part], taken, strict=True)


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
        reader: Reads it, and knows when bytes arrived; None to take the time when asyncio reads them.
    """

    reads: ChunkedReads | ParsedReads | None = None
    """Those of the answer that is coming, or came last; None before its head is known."""

    def __init__(self, loop: asyncio.AbstractEventLoop, reader: StampedReader | None) -> None:
        super().__init__(loop)
        self._reader = reader
        self._number: int | None = None  # the reader's, while it reads this connection
        self._raw: asyncio.BaseTransport | None = None  # whose reading it does
        self._read_error: OSError | None = None
        self._ciphertext: Ciphertext | None = None
        self._arrived_s: float | None = None  # when what is being decrypted came
        self._chunked: ChunkedReads | None = None  # while a chunked body is coming
        self._unparsed: list[tuple[float, bytes]] = []
        self._head_end = b""  # the last bytes of a head that is not whole
        self._message: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open: have it read."""
        super().connection_made(transport)
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_BYTES  # asyncio allocates this much for every read; its default is 256 KiB
        if self._reader is None:
            return
        plain = transport.get_extra_info("sslcontext") is None
        self._ciphertext = None if plain else Ciphertext.below(transport)
        self._raw = transport if self._ciphertext is None else self._ciphertext.transport
        if not isinstance(self._raw, asyncio.Transport) or (not plain and self._ciphertext is None):
            self._reader.complete = False
            return
        self._raw.pause_reading()  # asyncio's own reads do not tell when bytes came; it goes on writing
        descriptor = self._raw.get_extra_info("socket").fileno()
        take = self._take if plain else self._take_ciphertext
        self._number = self._reader.add(descriptor, take, ended=self._read_to_end, broken=self._read_failed)

    def _read_to_end(self) -> None:
        self._number = None
        if isinstance(self._raw, asyncio.Transport):
            self._raw.resume_reading()  # asyncio finds the end of the stream too, and does what it does then

    def _read_failed(self, error: OSError) -> None:
        self._number, self._read_error = None, error
        if self.transport is not None:
            self.transport.abort()

    def pause_reading(self) -> None:
        """Never while it is read with stamps: an answer waits in memory until it is whole."""
        if self._number is None:
            super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        """As little."""
        if self._number is None:
            super().resume_reading(resume_parser)

    def set_response_params(self, **options: Any) -> None:
        """The next request begins."""
        if self._chunked is not None:
            self._gather(None)
        self.reads = self._payload = self._message = None
        self._head_end = b""
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        """Take the time; whatever is to be parsed waits until every socket that is ready now has had its time taken."""
        if not data:
            super().data_received(data)  # aiohttp itself, going on with what it held back
        elif self._arrived_s is not None:
            self._take(self._arrived_s, data)
        else:
            if self._number is not None and self._reader is not None:
                self._reader.complete = False
            self._take(self._loop.time(), data)

    def _take_ciphertext(self, arrived_s: float, data: bytes) -> None:
        if self._ciphertext is not None:
            self._arrived_s = arrived_s
            self._ciphertext.feed(data)
            self._arrived_s = None

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
            self._look_soon(chunked)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """A head has been parsed."""
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
                self.reads = chunked = ChunkedReads()
                self._gather(chunked)
            else:
                self.reads = ParsedReads()
                self._mark(instant_s)
        return rest

    def _gather(self, chunked: ChunkedReads | None) -> None:
        """Have the reader put what comes where it belongs, and tell of nothing but the end; with None, tell of everything again."""
        self._chunked = chunked
        if self._number is None or self._reader is None or self._ciphertext is not None:
            return
        if chunked is None:
            self._reader.gather(self._number, None)
        else:
            self._reader.gather(self._number, chunked, functools.partial(self._look_soon, chunked))

    def _look_soon(self, chunked: ChunkedReads) -> None:
        self._loop.call_soon(self._look_for_end, chunked)

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
        if chunked.framing.malformed is not None:
            self._gather(None)
            if self._payload is not None:
                self._payload.set_exception(MalformedBodyError(chunked.framing.malformed))
            self.force_close()
            if self.transport is not None:
                self.transport.close()
        elif chunked.framing.ended:
            self._gather(None)
            super().data_received(b"0\r\n\r\n" + chunked.framing.excess + chunked.rest())
        elif more:
            self._loop.call_soon(self._look_for_end, chunked)

    def eof_received(self) -> None:
        """The peer sends no more."""
        self._finish()
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is closed, by `exc` or in order."""
        if self._number is not None and self._reader is not None:
            self._reader.remove(self._number)
        self._finish()
        error = exc or self._read_error
        if self.reads is not None:
            self.reads.lost = error
        super().connection_lost(error)

    def _finish(self) -> None:
        self._parse()
        if self._chunked is not None:
            self._look_for_end(self._chunked, None)
