"""What a run recorded: one `Exchange` a request on its way in, columns of numpy arrays in the `RequestLog` that is kept."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tgibench.client_health import ClientHealth, Worker

__all__ = [
    "Exchange",
    "Failure",
    "FailureKind",
    "RequestLog",
    "ServerTimings",
    "TokensFrom",
    "Window",
]


class FailureKind(enum.StrEnum):
    """The one reason for which a request did not succeed."""

    TRUNCATED = "truncated"  # the stream ended cleanly without a terminal event or finish reason
    OVERLOADED = "overloaded"  # HTTP 429 or 503, or an error event that says so inside a 200 stream
    VALIDATION = "validation"  # HTTP 400, 413 or 422, or an error event that says so
    GENERATION = "generation"  # the model failed: HTTP 424, or any other error event inside a stream
    HTTP_ERROR = "http_error"  # any other status of 300 and above
    CONNECTION_REFUSED = "connection_refused"  # no connection came about: refused, unknown host, TLS
    CONNECTION_RESET = "connection_reset"  # the peer reset the connection
    CONNECTION_ABORTED = "connection_aborted"  # the connection closed before the answer was whole
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_FIRST_TOKEN = "timeout_first_token"  # noqa: S105 - no password
    TIMEOUT_BETWEEN_TOKENS = "timeout_between_tokens"
    TIMEOUT_TOTAL = "timeout_total"
    UNDECODABLE = "undecodable"  # bytes that the protocol does not allow
    CANCELLED = "cancelled"  # the run was stopped while the request was in flight


class TokensFrom(enum.StrEnum):
    """Who counted the output tokens."""

    SERVER = "server"  # details.generated_tokens, usage
    CHUNKS = "chunks"  # the server gave no count: every chunk with text counted as the tokens it is known to carry
    ASSUMED = "assumed"  # neither: a figure that was asked for, not counted (the 2023 study)


def _printable(text: str) -> str:
    """Half a character, which JSON can say and no output can, as its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


@attrs.frozen
class Failure:
    """Why a request did not succeed.

    Args:
        kind: The one class it belongs to.
        message: The server's or the system's own words, cut to a reasonable length.
        status: The HTTP status, None when there was no answer. 200 when the failure came inside a stream.
    """

    kind: FailureKind
    message: str = attrs.field(converter=_printable)
    status: int | None = None


@attrs.frozen(kw_only=True)
class ServerTimings:
    """What the server said of its own time, in seconds; None for what it did not say."""

    validation_s: float | None = None
    queue_s: float | None = None
    inference_s: float | None = None
    total_s: float | None = None
    time_per_token_s: float | None = None


@attrs.frozen(kw_only=True, eq=False)
class Exchange:
    """What became of one request: what a `Client` hands back and a `RequestLog` keeps as a row.

    All instants are readings of the event loop's clock, in seconds.

    Args:
        started_s: The client took the request up.
        sent_s: Its last byte was handed to the socket: where TTFT starts. None when it never was.
        ended_s: The last byte of the answer arrived, or the request failed.
        connect_s: Seconds that opening a connection took; None when an open one was used.
        chunk_times_s: Arrival of each chunk that carried output tokens, ascending, float64.
        chunk_tokens: Tokens in each of those chunks, each at least 1.
        chunk_tokens_known: Whether the server told the tokens of each chunk; False when the total was spread evenly.
        streamed: Whether the answer came as a stream. If not, it is one chunk and says nothing of the first token.
        output_tokens: Tokens generated, by `tokens_from`; None when nothing is known. Of a failed request: those that arrived.
        tokens_from: Who counted them.
        input_tokens: Prompt tokens by the server's count, else as declared by the request; None when unknown.
        finish_reason: As the server named it.
        failure: None for success.
        server: The server's own timings where it gave any.
    """

    started_s: float
    sent_s: float | None
    ended_s: float
    connect_s: float | None = None
    chunk_times_s: NDArray[np.float64]
    chunk_tokens: NDArray[np.uint32]
    chunk_tokens_known: bool = True
    streamed: bool = True
    output_tokens: int | None = None
    tokens_from: TokensFrom = TokensFrom.SERVER
    input_tokens: int | None = None
    finish_reason: str | None = None
    failure: Failure | None = None
    server: ServerTimings | None = None


@attrs.frozen
class Window:
    """The stretch of a run over which steady-state metrics count: from the end of warm-up until the load is let go.

    Both in seconds after the run's start.
    """

    start_s: float
    stop_s: float

    @property
    def length_s(self) -> float:
        """Its length in seconds."""
        return self.stop_s - self.start_s


@attrs.frozen(kw_only=True, eq=False)
class RequestLog:
    """A run's requests as columns: row i of every column is request i, in the order of their planned start.

    Instants are seconds after the run's start. A value that does not exist is NaN in a float column and -1 in an integer one.
    Chunks of all requests lie one after the other; those of request i are ``chunk_offsets[i]:chunk_offsets[i + 1]``.
    The columns of a long run lie in temporary files, which vanish with the arrays; these are then read-only. Pickling copies them.

    Args:
        index: The request's number in the load plan (the prompt's number too), int64.
        planned_s: When the plan wanted it to start; in a closed loop, when its slot came free.
        started_s: When the client took it up.
        sent_s: When its last byte was handed to the socket.
        ended_s: When its last byte arrived or it failed.
        connect_s: Duration of opening a connection, NaN when an open one was used.
        open_loop: Whether latency counts from the plan (open loop) or from sending (closed loop), bool.
        streamed: Whether the answer was a stream, bool.
        first_token_s: Arrival of the first chunk that carried output.
        last_token_s: Arrival of the last such chunk.
        first_chunk_tokens: Tokens of the first chunk, int64.
        largest_gap_s: Longest time between two successive chunks, NaN with fewer than two.
        output_tokens: Tokens generated, int64.
        input_tokens: Prompt tokens, int64.
        tokens_from: Index into ``list(TokensFrom)``, uint8.
        chunk_tokens_known: Whether the tokens of each chunk are known or spread evenly, bool.
        failure_code: 0 for success, else 1 + index into ``list(FailureKind)``, uint8.
        status: HTTP status of a failure, int16.
        validation_s: Server's validation time.
        queue_s: Server's wait before prefill.
        inference_s: Server's inference time.
        server_total_s: Server's total time.
        server_time_per_token_s: Server's own time per token.
        chunk_offsets: int64, one longer than the other columns; None when per-chunk times were dropped.
        chunk_times_s: float64; None when dropped.
        chunk_tokens: uint32; None when dropped.
        messages: A failed row's message by row number, of the first 1,000 failures of each kind.
        finish_reasons: How often each finish reason occurred among successes.
        unsent: Planned requests that were never sent, or of which nothing is known since their worker was lost.
            issued = succeeded + failed + unsent. Of a plan whose length only drawing it would tell, such as random arrivals of a
            duration, at most two million are counted when a run is stopped: a larger number is a lower limit.
        window: Where steady-state metrics count.
        health: How the client itself fared.
        stopped: Why the run ended before its plan did; None when it did not.
        concurrency: Requests held in flight where that is constant (a closed loop), else None.
        workers: Who shared the run; empty for a run of one process.
    """

    index: NDArray[np.int64]
    planned_s: NDArray[np.float64]
    started_s: NDArray[np.float64]
    sent_s: NDArray[np.float64]
    ended_s: NDArray[np.float64]
    connect_s: NDArray[np.float64]
    open_loop: NDArray[np.bool_]
    streamed: NDArray[np.bool_]
    first_token_s: NDArray[np.float64]
    last_token_s: NDArray[np.float64]
    first_chunk_tokens: NDArray[np.int64]
    largest_gap_s: NDArray[np.float64]
    output_tokens: NDArray[np.int64]
    input_tokens: NDArray[np.int64]
    tokens_from: NDArray[np.uint8]
    chunk_tokens_known: NDArray[np.bool_]
    failure_code: NDArray[np.uint8]
    status: NDArray[np.int16]
    validation_s: NDArray[np.float64]
    queue_s: NDArray[np.float64]
    inference_s: NDArray[np.float64]
    server_total_s: NDArray[np.float64]
    server_time_per_token_s: NDArray[np.float64]
    chunk_offsets: NDArray[np.int64] | None
    chunk_times_s: NDArray[np.float64] | None
    chunk_tokens: NDArray[np.uint32] | None
    messages: Mapping[int, str]
    finish_reasons: Mapping[str, int]
    unsent: int
    window: Window
    health: ClientHealth
    stopped: str | None = None
    concurrency: int | None = None
    workers: tuple[Worker, ...] = ()

    def __len__(self) -> int:
        """Number of requests sent."""
        return len(self.planned_s)

    @property
    def succeeded(self) -> NDArray[np.bool_]:
        """Which rows are successes."""
        mask: NDArray[np.bool_] = self.failure_code == 0
        return mask

    @property
    def counts(self) -> dict[str, int]:
        """``issued``, ``succeeded``, ``failed`` and ``unsent``; the first is the sum of the others."""
        succeeded = int(np.count_nonzero(self.succeeded))
        return {
            "issued": len(self) + self.unsent,
            "succeeded": succeeded,
            "failed": len(self) - succeeded,
            "unsent": self.unsent,
        }

    @property
    def failures(self) -> dict[FailureKind, int]:
        """Failed requests by kind; kinds that did not occur are left out."""
        kinds = list(FailureKind)
        numbers = np.bincount(self.failure_code, minlength=len(kinds) + 1)[1:].tolist()
        return {kind: number for kind, number in zip(kinds, numbers, strict=True) if number}

    @property
    def degraded(self) -> bool:
        """Whether a worker was lost, and with it the record of its part."""
        return any(worker.lost is not None for worker in self.workers)

    def failure(self, row: int) -> Failure | None:
        """Why the request of a row failed; None for a success."""
        code = int(self.failure_code[row])
        if code == 0:
            return None
        status = int(self.status[row])
        message = self.messages.get(row, "one of very many of its kind: its message was not kept")
        return Failure(list(FailureKind)[code - 1], message, None if status < 0 else status)

    def without_chunk_times(self) -> RequestLog:
        """The same log without per-chunk times: inter-chunk latency and windowed token rates can no longer be had."""
        return attrs.evolve(self, chunk_offsets=None, chunk_times_s=None, chunk_tokens=None)
