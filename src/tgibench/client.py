"""The streaming client: sends a request, lets its answer arrive untouched, then decodes it."""

from __future__ import annotations

import asyncio
import os
from array import array
from contextlib import asynccontextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from tgibench.errors import InvalidValueError
from tgibench.open_files import make_room_for
from tgibench.protocols import Completion
from tgibench.protocols._answers import is_stream
from tgibench.protocols._tokens import settle_tokens
from tgibench.protocols.tgi import TgiProtocol
from tgibench.records import Exchange, Failure, FailureKind
from tgibench.secret_headers import is_secret, without_secrets
from tgibench.transports import Arrivals, open_transport
from tgibench.validators import header_lines, http_url, one_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from numpy.typing import NDArray

    from tgibench.client_health import StampSource
    from tgibench.endpoints import StartUp, Timeouts
    from tgibench.protocols import StreamDecoder, WireProtocol
    from tgibench.requests import GenerationRequest
    from tgibench.transports import Transport

__all__ = ["HttpClient", "HttpEndpoint"]

_SAID_KINDS = {FailureKind.OVERLOADED, FailureKind.VALIDATION, FailureKind.GENERATION, FailureKind.HTTP_ERROR}
_SLICE_READS = 64  # decoded in one go; then whatever else is due has its turn


@attrs.frozen
class HttpEndpoint:
    """A server that is reached over HTTP.

    Args:
        url: Its base address, such as ``"http://127.0.0.1:8080"``; the protocol adds the path.
        protocol: How it is spoken to.
        api_key: Sent as a bearer token; shown nowhere, and not pickled: an endpoint that holds one stays in its process. Where a
            server repeats it in an error it is masked, unless it has fewer than 6 characters.
        api_key_env: Name of the environment variable that holds the bearer token instead, looked up where the endpoint is connected.
        headers: Further headers of each request, as ``(name, value)`` pairs; their values are in no representation. Those that
            hold credentials by their name (``Authorization``, ``Cookie``, ``X-Api-Key``, …) are kept as the key is.
        verify_tls: Whether a server's certificate must be valid.
        facts: What is known of the server.
        start_up: How it was started; None where it already ran.

    Raises:
        InvalidValueError: The URL is none, or the key is given twice.
    """

    url: str = attrs.field(validator=http_url)
    protocol: WireProtocol = attrs.field(factory=TgiProtocol)
    api_key: str | None = attrs.field(default=None, validator=one_line, repr=False, kw_only=True)
    api_key_env: str | None = attrs.field(default=None, kw_only=True)
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), validator=header_lines, repr=False, kw_only=True)
    verify_tls: bool = attrs.field(default=True, kw_only=True)
    facts: Mapping[str, str] = attrs.field(factory=dict, hash=False, kw_only=True)
    start_up: StartUp | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.api_key is not None and self.api_key_env is not None:
            raise InvalidValueError("give either api_key or api_key_env, not both")

    def __getstate__(self) -> dict[str, Any]:
        """All fields, but no secret leaves the process.

        Raises:
            InvalidValueError: It holds a key, or a header whose name sounds secret.
        """
        secret = [name for name, _ in self.headers if is_secret(name)]
        if self.api_key is not None or secret:
            held = "an api_key" if self.api_key is not None else f"the header {secret[0]!r}"
            raise InvalidValueError(
                f"the endpoint holds {held}, and no secret is sent to another process: "
                "name the environment variable that holds the key there with api_key_env"
            )
        return attrs.asdict(self, recurse=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The fields as they were."""
        for name, value in state.items():
            object.__setattr__(self, name, value)

    @property
    def all_headers(self) -> tuple[tuple[str, str], ...]:
        """The headers of each request, the key among them.

        Raises:
            InvalidValueError: The environment variable that should hold the key is not set, or holds none.
        """
        key = self.api_key
        if self.api_key_env is not None:
            key = os.environ.get(self.api_key_env)
            if not key or not (key.isprintable() and key.isascii()):
                raise InvalidValueError(f"api_key_env names {self.api_key_env}, which holds no key here")
        return self.headers if key is None else (*self.headers, ("Authorization", f"Bearer {key}"))

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[HttpClient]:
        """A client with connections of its own, opened as they are needed."""
        async with open_transport(self.url, headers=self.all_headers, verify_tls=self.verify_tls) as transport:
            yield HttpClient(transport, self.protocol)


@attrs.frozen(eq=False)
class HttpClient:
    """Speaks a protocol over a transport.

    Args:
        transport: Carries the bytes.
        protocol: Says what they mean.
    """

    transport: Transport
    protocol: WireProtocol

    @property
    def stamps(self) -> StampSource:
        """The transport's."""
        return self.transport.stamps

    def make_room_for(self, connections: int) -> None:
        """See that this process may hold so many connections.

        Raises:
            InvalidValueError: It may not.
        """
        make_room_for(connections)

    async def generate(self, request: GenerationRequest, timeouts: Timeouts) -> Exchange:
        """Send one request and wait for the end of its answer; every failure is in the `Exchange`.

        Raises:
            CancelledError: The caller was cancelled; the `Exchange` is its argument where the server had told of an error before.
        """
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        arrivals = Arrivals()
        answer = _Answer(self.protocol, arrivals)
        try:
            failure = await self._carry(request, arrivals, answer, timeouts, started_s)
            while answer.decode(_SLICE_READS):  # noqa: ASYNC110 - not a wait: a turn for whatever else is due
                await asyncio.sleep(0)
        except asyncio.CancelledError as cancelled:
            answer.decode_all()
            stopped = Failure(FailureKind.CANCELLED, "cancelled while in flight")
            exchange = answer.exchange(request, stopped, started_s=started_s, ended_s=loop.time())
            if exchange.failure != stopped:
                cancelled.args = (exchange,)
            raise
        ended_s = arrivals.ended_s if failure is None and arrivals.ended_s is not None else loop.time()
        return answer.exchange(request, failure, started_s=started_s, ended_s=ended_s)

    async def _carry(
        self, request: GenerationRequest, arrivals: Arrivals, answer: _Answer, timeouts: Timeouts, started_s: float
    ) -> Failure | None:
        """Have the request carried, within its limits; what failed of that."""
        http_request = self.protocol.encode(request)
        try:
            async with asyncio.timeout(None) as limit:
                watch = _Watch(answer, timeouts, limit, started_s)
                try:
                    return await self.transport.exchange(http_request, arrivals, connect_timeout_s=timeouts.connect_s)
                finally:
                    watch.stop()
        except TimeoutError:
            head = arrivals.head
            return watch.failure and attrs.evolve(watch.failure, status=None if head is None else head.status)


class _Answer:
    """One answer as far as it is decoded: a count and an instant for each chunk, no object for any."""

    def __init__(self, protocol: WireProtocol, arrivals: Arrivals) -> None:
        self._protocol, self._arrivals = protocol, arrivals
        self._decoder: StreamDecoder | None = None
        self._pieces: Iterator[tuple[float, bytes]] = iter(())
        self._counts = array("L")
        self.instants_s = array("d")
        self._last_s: float | None = None

    @property
    def sent_s(self) -> float | None:
        """When the request had been handed to the socket."""
        return self._arrivals.sent_s

    def decode(self, most_reads: int) -> bool:
        """Decode at most so many of the reads that have arrived; True when there may be more."""
        if self._arrivals.head is None:
            return False
        if self._decoder is None:
            self._decoder = self._protocol.decoder(self._arrivals.head)
        self._arrivals.catch_up()
        pieces = list(islice(self._pieces, most_reads))
        if not pieces:
            self._pieces = self._arrivals.take()
            pieces = list(islice(self._pieces, most_reads))
        feed, counts, instants_s = self._decoder.feed, self._counts, self.instants_s
        for instant_s, data in pieces:
            if data:
                self._last_s = instant_s
                for number in feed(data):
                    counts.append(number)
                    instants_s.append(instant_s)
        return bool(pieces)

    def decode_all(self) -> None:
        """Decode what has arrived."""
        while self.decode(_SLICE_READS):
            pass

    def exchange(
        self, request: GenerationRequest, failure: Failure | None, *, started_s: float, ended_s: float
    ) -> Exchange:
        """What became of the request."""
        completion = Completion() if self._decoder is None else self._decoder.close(clean=failure is None)
        failure = _decisive(completion.failure, failure)
        if failure is not None:
            failure = attrs.evolve(failure, message=without_secrets(failure.message, self._arrivals.sent_headers))
        completion = attrs.evolve(completion, failure=failure)
        head = self._arrivals.head
        streamed = head is not None and is_stream(head.headers)
        if not streamed:
            self._take_whole(completion)
        tokens = settle_tokens(self._counts, completion, known=self._protocol.tokens_per_chunk_known)
        times_s, chunk_tokens = _by_arrival(np.array(self.instants_s)[tokens.kept], tokens.chunk_tokens)
        return Exchange(
            started_s=started_s,
            sent_s=self._arrivals.sent_s,
            ended_s=ended_s,
            connect_s=self._arrivals.connect_s,
            chunk_times_s=times_s,
            chunk_tokens=chunk_tokens,
            chunk_tokens_known=tokens.known,
            streamed=streamed,
            output_tokens=tokens.output_tokens,
            tokens_from=tokens.tokens_from,
            input_tokens=completion.input_tokens or request.input_tokens,
            finish_reason=completion.finish_reason,
            failure=failure,
            server=completion.server,
        )

    def _take_whole(self, completion: Completion) -> None:
        """An answer that is no stream is one chunk, which came with its last byte."""
        if completion.failure is None and self._last_s is not None:
            self._counts.append(1)
            self.instants_s.append(self._last_s)


def _decisive(decoded: Failure | None, carried: Failure | None) -> Failure | None:
    """Of what the answer's bytes say and what became of the request: a server that said why knows better than a broken connection."""
    if carried is None or (decoded and decoded.kind in _SAID_KINDS and carried.kind not in _SAID_KINDS):
        return decoded
    return carried


def _by_arrival(
    times_s: NDArray[np.float64], tokens: NDArray[np.uint32]
) -> tuple[NDArray[np.float64], NDArray[np.uint32]]:
    """What came in one read arrived as one chunk: a server or proxy that writes several events at once must not look faster."""
    apart = times_s[1:] != times_s[:-1]
    if apart.all():
        return times_s, tokens
    first = np.concatenate(([0], np.flatnonzero(apart) + 1))
    return times_s[first], np.add.reduceat(tokens, first, dtype=np.uint32)


class _Watch:
    """Ends a request that takes too long. One timer, set again only when it goes off; keep-alives are no tokens."""

    def __init__(self, answer: _Answer, timeouts: Timeouts, limit: asyncio.Timeout, started_s: float) -> None:
        self._answer, self._timeouts, self._limit, self._started_s = answer, timeouts, limit, started_s
        self._loop = asyncio.get_running_loop()
        self.failure: Failure | None = None
        self._timer: asyncio.Handle = self._loop.call_soon(self._check)

    def stop(self) -> None:
        """The request ended by itself."""
        self._timer.cancel()

    def _due(self) -> tuple[float, Failure]:
        """The next instant at which a limit would be exceeded, and the failure that this would be."""
        limits, answer = self._timeouts, self._answer
        total = (self._started_s + limits.total_s, FailureKind.TIMEOUT_TOTAL, limits.total_s)
        if answer.instants_s:
            last_s, between_s = answer.instants_s[-1], limits.between_tokens_s
            token = (last_s + between_s, FailureKind.TIMEOUT_BETWEEN_TOKENS, between_s)
        else:
            since_s = self._loop.time() if answer.sent_s is None else answer.sent_s
            token = (since_s + limits.first_token_s, FailureKind.TIMEOUT_FIRST_TOKEN, limits.first_token_s)
        due_s, kind, limit_s = min(total, token)
        return due_s, Failure(kind, f"limit of {limit_s:g} s exceeded")

    def _check(self) -> None:
        self._answer.decode_all()
        due_s, failure = self._due()
        now_s = self._loop.time()
        if due_s <= now_s:
            self.failure = failure
            self._limit.reschedule(now_s)
        else:
            # the first token may come at any time: look again before the gap after it could have grown too long
            self._timer = self._loop.call_at(min(due_s, now_s + self._timeouts.between_tokens_s), self._check)
