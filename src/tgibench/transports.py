"""Carries one request over HTTP and notes when each piece of the answer left the socket.

aiohttp does the HTTP (connections, TLS, framing, compression). Two small hooks below its parser take the time: a connection's
`data_received` reads the clock and sets the bytes aside; once every ready socket had its turn they are parsed, and it is noted how
much of the body each read completed. Nothing wakes up until the
answer is whole; decoding comes after. An aiohttp without these parts is read chunk by chunk instead, and the result says so.
"""

from __future__ import annotations

import asyncio
import functools
from array import array
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import attrs
from aiohttp import client_proto

from tgibench.protocols import HttpRequest, ResponseHead
from tgibench.records import Failure, FailureKind, StampSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

__all__ = ["AiohttpTransport", "Arrivals", "Transport", "open_transport"]

_READ_BYTES = 32 * 1024
_BUFFER_BYTES = 1 << 26  # an answer waits here until it is whole: never stop reading for it
_KEEP_ALIVE_S = 4.0  # shorter than the 5 s after which common servers close: a stale connection would fail a request


@attrs.define(eq=False)
class Arrivals:
    """What arrived for one request so far. Instants are readings of the loop's clock.

    Args:
        head: Status and headers; None before they came.
        sent_s: When the request had been handed to the socket; None before.
        connect_s: How long opening a connection took; None when an open one was used.
        ended_s: When the last byte came; None before the body was whole.
        take: Hands out what came since it was last called, as ``(instant, bytes)`` pieces.
    """

    head: ResponseHead | None = None
    sent_s: float | None = None
    connect_s: float | None = None
    ended_s: float | None = None
    take: Callable[[], Iterator[tuple[float, bytes]]] = lambda: iter(())
    _connecting_since_s: float | None = None


class Transport(Protocol):
    """Carries requests. Made for one server; serves any number at once."""

    async def exchange(
        self,
        request: HttpRequest,
        arrivals: Arrivals,
        *,
        connect_timeout_s: float,
    ) -> Failure | None:
        """Send a request and wait until its answer's body is whole, filling `arrivals` on the way.

        Returns:
            None when the body is whole (whatever its status and content say); the failure otherwise.
        """

    @property
    def stamps(self) -> StampSource:
        """Where arrival times are taken."""


@asynccontextmanager
async def open_transport(
    url: str, *, headers: tuple[tuple[str, str], ...] = (), verify_tls: bool = True
) -> AsyncIterator[AiohttpTransport]:
    """A transport to one server; leaving the context closes its connections."""
    connector = aiohttp.TCPConnector(limit=0, ssl=verify_tls, keepalive_timeout=_KEEP_ALIVE_S)
    hooked = _hook(connector)
    async with aiohttp.ClientSession(
        connector=connector,
        headers={"Accept-Encoding": "identity", "User-Agent": "tgibench", **dict(headers)},
        timeout=aiohttp.ClientTimeout(total=None),
        trace_configs=[_timing_trace()],
        response_class=_MarkedResponse if hooked else aiohttp.ClientResponse,
        read_bufsize=_BUFFER_BYTES,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield AiohttpTransport(session, url.rstrip("/"), hooked=hooked)


@attrs.frozen(eq=False)
class AiohttpTransport:
    """The transport over aiohttp."""

    _session: aiohttp.ClientSession
    _url: str
    _hooked: bool = attrs.field(kw_only=True)

    @property
    def stamps(self) -> StampSource:
        """SOCKET_READ with the hooks, STREAM_READ without."""
        return StampSource.SOCKET_READ if self._hooked else StampSource.STREAM_READ

    async def exchange(self, request: HttpRequest, arrivals: Arrivals, *, connect_timeout_s: float) -> Failure | None:
        """Send and wait; nothing is ever sent a second time."""
        response: aiohttp.ClientResponse | None = None
        try:
            response = await self._session.request(
                request.method,
                self._url + request.path,
                data=request.body,
                headers=dict(request.headers),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s),
                trace_request_ctx=arrivals,
            )
            arrivals.head = ResponseHead(
                response.status, {name.lower(): value for name, value in response.headers.items()}
            )
            if isinstance(response, _MarkedResponse):
                await _marked_body(response, arrivals)
            else:
                await _streamed_body(response, arrivals)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return _failure(error, response, connect_timeout_s)
        finally:
            if response is not None:
                response.close() if arrivals.ended_s is None else response.release()
        return _lost(response)


@attrs.define(eq=False)
class _Marks:
    """Reads of one answer: when, and how much of the body was complete after each."""

    instants: array[float] = attrs.field(factory=lambda: array("d"))
    offsets: array[int] = attrs.field(factory=lambda: array("q"))
    lost: BaseException | None = None


class _MarkingHandler(client_proto.ResponseHandler):
    """aiohttp's connection, taking the time of each read."""

    marks: _Marks

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._unparsed: list[tuple[float, bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_BYTES  # asyncio allocates this much for every read; its default is 256 KiB
        super().connection_made(transport)

    def set_response_params(self, **options: Any) -> None:
        self.marks = _Marks()
        self._payload = None
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        """Take the time; parsing waits until every socket that is ready now has had its time taken."""
        if not self._unparsed:
            self._loop.call_soon(self._parse)
        self._unparsed.append((self._loop.time(), data))

    def _parse(self) -> None:
        unparsed, self._unparsed = self._unparsed, []
        for now_s, data in unparsed:
            super().data_received(data)
            payload = self._payload
            if payload is not None:
                self.marks.instants.append(now_s)
                self.marks.offsets.append(payload.total_bytes)

    def eof_received(self) -> None:
        self._parse()
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._parse()
        if hasattr(self, "marks"):
            self.marks.lost = exc
        super().connection_lost(exc)


class _MarkedResponse(aiohttp.ClientResponse):
    """An answer that keeps the marks of its own connection, which may serve another request by the time it is read."""

    marks: _Marks

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        self.marks = connection.protocol.marks
        return await super().start(connection)


def _hook(connector: aiohttp.TCPConnector) -> bool:
    """Have a connector make marking connections; False where this aiohttp is built otherwise."""
    parts = (
        hasattr(connector, "_factory"),
        hasattr(client_proto.ResponseHandler, "set_response_params"),
        hasattr(aiohttp.ClientResponse, "start"),
        hasattr(aiohttp.StreamReader, "total_bytes"),
        hasattr(aiohttp.StreamReader, "_read_nowait"),
    )
    if not all(parts):
        return False
    factory: Any = functools.partial(_MarkingHandler, loop=asyncio.get_running_loop())
    connector._factory = factory  # noqa: SLF001
    return True


async def _marked_body(response: _MarkedResponse, arrivals: Arrivals) -> None:
    content, marks = response.content, response.marks
    taken_reads = taken_bytes = 0

    def take() -> Iterator[tuple[float, bytes]]:
        nonlocal taken_reads, taken_bytes
        if isinstance(content, aiohttp.streams.EmptyStreamReader):
            return
        # not `read_nowait`: what came before a connection broke is wanted too
        body, base = content._read_nowait(-1), taken_bytes  # noqa: SLF001
        reads = range(taken_reads, len(marks.instants))
        taken_reads, taken_bytes = reads.stop, base + len(body)
        begin = 0
        for read in reads:
            end = marks.offsets[read] - base
            if end > begin:
                yield marks.instants[read], body[begin:end]
                begin = end

    arrivals.take = take
    if (error := content.exception()) is not None:
        raise error
    await content.wait_eof()
    arrivals.ended_s = marks.instants[-1] if marks.instants else asyncio.get_running_loop().time()


async def _streamed_body(response: aiohttp.ClientResponse, arrivals: Arrivals) -> None:
    loop = asyncio.get_running_loop()
    pieces: list[tuple[float, bytes]] = []

    def take() -> Iterator[tuple[float, bytes]]:
        taken, pieces[:] = pieces[:], []
        return iter(taken)

    arrivals.take = take
    async for data in response.content.iter_any():
        pieces += ((loop.time(), data),)
    arrivals.ended_s = pieces[-1][0] if pieces else loop.time()


def _lost(response: aiohttp.ClientResponse | None) -> Failure | None:
    """A reset that aiohttp took for the end of a body that only the connection's end delimits."""
    if isinstance(response, _MarkedResponse) and isinstance(response.marks.lost, ConnectionError):
        return Failure(FailureKind.CONNECTION_RESET, str(response.marks.lost), response.status)
    return None


def _failure(error: BaseException, response: aiohttp.ClientResponse | None, connect_timeout_s: float) -> Failure:
    status = None if response is None else response.status
    message = str(error) or type(error).__name__
    match error:
        case aiohttp.ConnectionTimeoutError():
            kind, message = FailureKind.TIMEOUT_CONNECT, f"no connection within {connect_timeout_s:g} s"
        case aiohttp.ClientConnectorError() | aiohttp.ClientSSLError():
            kind = FailureKind.CONNECTION_REFUSED
        case aiohttp.ClientPayloadError():
            kind = FailureKind.CONNECTION_ABORTED
            if isinstance(response, _MarkedResponse) and isinstance(response.marks.lost, ConnectionError):
                kind = FailureKind.CONNECTION_RESET
        case aiohttp.ServerDisconnectedError():
            kind = FailureKind.CONNECTION_ABORTED
        case OSError():
            kind = FailureKind.CONNECTION_RESET
        case _:
            kind = FailureKind.UNDECODABLE
    return Failure(kind, message, status)


def _timing_trace() -> aiohttp.TraceConfig:
    """Notes when a connection was opened and when the request was handed to the socket."""
    trace = aiohttp.TraceConfig()
    clock = asyncio.get_running_loop().time

    async def connecting(_: aiohttp.ClientSession, context: Any, __: object) -> None:
        context.trace_request_ctx._connecting_since_s = clock()  # noqa: SLF001 - this module's own

    async def connected(_: aiohttp.ClientSession, context: Any, __: object) -> None:
        arrivals = context.trace_request_ctx
        arrivals.connect_s = clock() - arrivals._connecting_since_s  # noqa: SLF001 - this module's own

    async def sent(_: aiohttp.ClientSession, context: Any, __: object) -> None:
        context.trace_request_ctx.sent_s = clock()

    trace.on_connection_create_start.append(connecting)
    trace.on_connection_create_end.append(connected)
    trace.on_request_headers_sent.append(sent)
    trace.on_request_chunk_sent.append(sent)
    return trace
