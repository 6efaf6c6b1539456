"""Carries one request over HTTP and notes when each piece of the answer arrived.

aiohttp does the HTTP (connections, TLS, compression); `tgibench.connections` takes the time below its parser. Nothing wakes up until the
answer is whole; decoding comes after. An aiohttp without the parts this stands on is read chunk by chunk instead, and the result
says so.
"""

from __future__ import annotations

import asyncio
import functools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import attrs
from aiohttp import client_proto

from tgibench.client_health import StampSource
from tgibench.connections import MalformedBodyError, TimedConnection
from tgibench.protocols import HttpRequest, ResponseHead
from tgibench.receive_stamps import StampedReader
from tgibench.records import Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tgibench.connections import ChunkedReads, ParsedReads

__all__ = ["AiohttpTransport", "Arrivals", "Transport", "open_transport"]

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
        sent_headers: All that the request was sent with, credentials among them; empty before.
        take: Hands out what came since it was last called, as ``(instant, bytes)`` pieces.
        catch_up: Reads what waits for any request; to be called before each piece of work on the answer, since hundreds may end at once.
    """

    head: ResponseHead | None = None
    sent_s: float | None = None
    connect_s: float | None = None
    ended_s: float | None = None
    sent_headers: tuple[tuple[str, str], ...] = attrs.field(default=(), repr=False)
    take: Callable[[], Iterator[tuple[float, bytes]]] = lambda: iter(())
    catch_up: Callable[[], None] = lambda: None
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
    reader = await StampedReader.open()
    hooked = _hook(connector, reader)
    try:
        async with aiohttp.ClientSession(
            connector=connector,
            headers={"Accept-Encoding": "identity", "User-Agent": "tgibench", **dict(headers)},
            timeout=aiohttp.ClientTimeout(total=None),
            trace_configs=[_timing_trace()],
            response_class=_TimedResponse if hooked else aiohttp.ClientResponse,
            read_bufsize=_BUFFER_BYTES,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            yield AiohttpTransport(session, url.rstrip("/"), hooked=hooked, reader=reader)
    finally:
        if reader is not None:
            reader.close()


@attrs.frozen(eq=False)
class AiohttpTransport:
    """The transport over aiohttp."""

    _session: aiohttp.ClientSession
    _url: str
    _hooked: bool = attrs.field(kw_only=True)
    _reader: StampedReader | None = attrs.field(kw_only=True)

    @property
    def stamps(self) -> StampSource:
        """KERNEL or SOCKET_READY as long as every read had such a time, else SOCKET_READ; STREAM_READ without the hooks."""
        if not self._hooked:
            return StampSource.STREAM_READ
        if self._reader is None or not self._reader.complete:
            return StampSource.SOCKET_READ
        return StampSource.KERNEL if self._reader.kernel else StampSource.SOCKET_READY

    async def exchange(self, request: HttpRequest, arrivals: Arrivals, *, connect_timeout_s: float) -> Failure | None:
        """Send and wait; nothing is ever sent a second time."""
        response: aiohttp.ClientResponse | None = None
        if self._reader is not None:
            arrivals.catch_up = self._reader.catch_up
            arrivals.catch_up()
        arrivals.sent_headers = (*self._session.headers.items(), *request.headers)
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
            arrivals.catch_up()
            arrivals.head = ResponseHead(
                response.status, {name.lower(): value for name, value in response.headers.items()}
            )
            if isinstance(response, _TimedResponse):
                await _timed_body(response, arrivals)
            else:
                await _streamed_body(response, arrivals)
        except (aiohttp.ClientError, OSError, TimeoutError, MalformedBodyError) as error:
            return _failure(error, response, connect_timeout_s)
        finally:
            if response is not None:
                response.close() if arrivals.ended_s is None else response.release()
        return _lost(response)


class _TimedResponse(aiohttp.ClientResponse):
    """An answer that keeps the reads of its own, when its connection may serve another request already."""

    reads: ChunkedReads | ParsedReads | None = None

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        await super().start(connection)
        self.reads = protocol.reads
        return self


def _hook(connector: aiohttp.TCPConnector, reader: StampedReader | None) -> bool:
    """Have a connector make timed connections; False where this aiohttp is built otherwise."""
    parts = (
        hasattr(connector, "_factory"),
        hasattr(client_proto.ResponseHandler, "set_response_params"),
        hasattr(client_proto.ResponseHandler, "feed_data"),
        hasattr(aiohttp.ClientResponse, "start"),
        hasattr(aiohttp.StreamReader, "total_bytes"),
        hasattr(aiohttp.StreamReader, "_read_nowait"),
    )
    if not all(parts):
        return False
    factory: Any = functools.partial(TimedConnection, loop=asyncio.get_running_loop(), reader=reader)
    connector._factory = factory  # noqa: SLF001
    return True


async def _timed_body(response: _TimedResponse, arrivals: Arrivals) -> None:
    content, reads = response.content, response.reads
    if reads is not None and not isinstance(content, aiohttp.streams.EmptyStreamReader):
        arrivals.take = functools.partial(reads.take, content)
    if (error := content.exception()) is not None:
        raise error
    await content.wait_eof()
    instants_s = () if reads is None else reads.instants_s
    arrivals.ended_s = instants_s[-1] if instants_s else asyncio.get_running_loop().time()


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
    error = _reset(response)
    if response is None or error is None:
        return None
    return Failure(FailureKind.CONNECTION_RESET, str(error), response.status)


def _reset(response: aiohttp.ClientResponse | None) -> ConnectionError | None:
    reads = response.reads if isinstance(response, _TimedResponse) else None
    return reads.lost if reads is not None and isinstance(reads.lost, ConnectionError) else None


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
            if _reset(response) is not None:
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

    async def sending(_: aiohttp.ClientSession, context: Any, __: object) -> None:
        arrivals = context.trace_request_ctx
        arrivals.catch_up()
        arrivals.sent_s = clock()

    async def sent(_: aiohttp.ClientSession, context: Any, __: object) -> None:
        context.trace_request_ctx.sent_s = clock()

    trace.on_connection_create_start.append(connecting)
    trace.on_connection_create_end.append(connected)
    trace.on_request_headers_sent.append(sending)
    trace.on_request_chunk_sent.append(sent)
    return trace
