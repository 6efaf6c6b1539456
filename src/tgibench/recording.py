"""Collects `Exchange`s into the columns of a `RequestLog` while a run goes on, in memory that does not grow with its length."""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from tgibench.records import FailureKind, RequestLog, ServerTimings, TokensFrom
from tgibench.spills import MOST_IN_MEMORY, Spill, columns_of, row_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from tgibench.client_health import ClientHealth
    from tgibench.records import Exchange, Window

__all__ = ["LogBuilder"]

_MESSAGE_LIMIT = 500
_MESSAGES_OF_A_KIND = 1000
_FAILURE_CODES = {kind: code for code, kind in enumerate(FailureKind, start=1)}
_TOKENS_FROM_CODES = {origin: code for code, origin in enumerate(TokensFrom)}
_COLUMNS = {
    **dict.fromkeys(("planned_s", "started_s", "sent_s", "ended_s", "connect_s"), "d"),
    **dict.fromkeys(("first_token_s", "last_token_s", "largest_gap_s"), "d"),
    **dict.fromkeys(("validation_s", "queue_s", "inference_s", "server_total_s", "server_time_per_token_s"), "d"),
    **dict.fromkeys(("index", "first_chunk_tokens", "output_tokens", "input_tokens"), "q"),
    "status": "h",
    **dict.fromkeys(("open_loop", "streamed", "chunk_tokens_known"), "?"),
    **dict.fromkeys(("tokens_from", "failure_code"), "B"),
}  # the types' codes are those of `struct` and of numpy
_ROW = np.dtype([*_COLUMNS.items(), ("first_chunk", "q"), ("chunks", "q")])
_PACK = struct.Struct("=" + "".join(_COLUMNS.values()) + "qq").pack
_BLOCK_ROWS = 100_000
_MOST_HELD = 1 << 16  # of each kind: a run is then soon as large as it ever gets
_NAN = float("nan")


def _or_nan(value: float | None) -> float:
    return _NAN if value is None else value


def _or_minus_one(value: int | None) -> int:
    return -1 if value is None else value


class LogBuilder:
    """Grows the columns of one run.

    Args:
        began_s: The loop-clock reading that becomes second 0 of the log.
        keep_chunks: Whether per-chunk times are kept (12 bytes a chunk).
        most_in_memory: Bytes of rows, of chunk times and of chunk tokens, each, that a finished log, or a run that can write no
            temporary file, has in memory. During a run the oldest go to such a file before (beyond 64 KiB).
    """

    def __init__(self, began_s: float, *, keep_chunks: bool = True, most_in_memory: int = MOST_IN_MEMORY) -> None:
        self.began_s = began_s
        self._keep_chunks, self._most_in_memory = keep_chunks, most_in_memory
        self._rows, self._chunk_times, self._chunk_tokens = (Spill(min(most_in_memory, _MOST_HELD)) for _ in range(3))
        self._length = self._chunks = 0
        self._messages: dict[int, str] = {}
        self._messages_of: Counter[FailureKind] = Counter()
        self._finish_reasons: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._length

    @property
    def problem(self) -> str | None:
        """Why the run should end although nothing is lost yet: what is recorded has no room on the disk. None as long as it has."""
        for spill in (self._rows, self._chunk_times, self._chunk_tokens):
            if spill.failure is not None and spill.held > self._most_in_memory:
                return (
                    f"the records of so long a run need a temporary file, which could not be written ({spill.failure}): "
                    "have TMPDIR name a folder with more room, or keep no chunk times"
                )
        return None

    def add(self, index: int, planned_s: float, exchange: Exchange, *, open_loop: bool) -> None:
        """Append one finished request; `planned_s` is a reading of the loop's clock like the exchange's own."""
        began_s = self.began_s
        times = exchange.chunk_times_s
        failure, server = exchange.failure, exchange.server or ServerTimings()
        self._note(exchange)
        row: dict[str, float] = {
            "index": index,
            "planned_s": planned_s - began_s,
            "started_s": exchange.started_s - began_s,
            "sent_s": _or_nan(exchange.sent_s) - began_s,
            "ended_s": exchange.ended_s - began_s,
            "connect_s": _or_nan(exchange.connect_s),
            "open_loop": open_loop,
            "streamed": exchange.streamed,
            "first_token_s": times[0] - began_s if len(times) else _NAN,
            "last_token_s": times[-1] - began_s if len(times) else _NAN,
            "first_chunk_tokens": int(exchange.chunk_tokens[0]) if len(times) else -1,
            "largest_gap_s": float(np.diff(times).max()) if len(times) > 1 else _NAN,
            "output_tokens": _or_minus_one(exchange.output_tokens),
            "input_tokens": _or_minus_one(exchange.input_tokens),
            "tokens_from": _TOKENS_FROM_CODES[exchange.tokens_from],
            "chunk_tokens_known": exchange.chunk_tokens_known,
            "failure_code": 0 if failure is None else _FAILURE_CODES[failure.kind],
            "status": _or_minus_one(None if failure is None else failure.status),
            "validation_s": _or_nan(server.validation_s),
            "queue_s": _or_nan(server.queue_s),
            "inference_s": _or_nan(server.inference_s),
            "server_total_s": _or_nan(server.total_s),
            "server_time_per_token_s": _or_nan(server.time_per_token_s),
        }
        self._rows.append(_PACK(*map(row.__getitem__, _COLUMNS), self._chunks, len(times)))
        self._length += 1
        if self._keep_chunks:
            self._chunk_times.append((times - began_s).tobytes())
            self._chunk_tokens.append(exchange.chunk_tokens.astype(np.uint32, copy=False).tobytes())
            self._chunks += len(times)

    def _note(self, exchange: Exchange) -> None:
        failure = exchange.failure
        if failure is None:
            if exchange.finish_reason:
                self._finish_reasons[exchange.finish_reason] += 1
        elif self._messages_of[failure.kind] < _MESSAGES_OF_A_KIND:
            self._messages_of[failure.kind] += 1
            self._messages[len(self)] = failure.message[:_MESSAGE_LIMIT]

    def build(
        self,
        *,
        unsent: int,
        window: Window,
        health: ClientHealth,
        stopped: str | None = None,
        concurrency: int | None = None,
    ) -> RequestLog:
        """The finished log, its rows in the order of their planned start; called once."""
        rows = np.frombuffer(self._rows.contents(), _ROW)
        order = np.lexsort((rows["index"], rows["planned_s"]))
        columns: dict[str, Any] = columns_of(
            {name: (kind, len(rows)) for name, kind in _COLUMNS.items()},
            lambda: ({name: block[name] for name in _COLUMNS} for block in _in_order(rows, order)),
            most_in_memory=self._most_in_memory,
        )
        return RequestLog(
            **columns,
            **self._chunks_in(order, rows),
            messages=self._messages_in(order),
            finish_reasons=dict(self._finish_reasons),
            unsent=unsent,
            window=window,
            health=health,
            stopped=stopped,
            concurrency=concurrency,
        )

    def _messages_in(self, order: NDArray[np.intp]) -> dict[int, str]:
        rows = list(self._messages)
        places = np.flatnonzero(np.isin(order, rows)) if rows else np.empty(0, np.intp)
        return {place: self._messages[int(order[place])] for place in places.tolist()}

    def _chunks_in(self, order: NDArray[np.intp], rows: NDArray[Any]) -> dict[str, Any]:
        if not self._keep_chunks:
            return {"chunk_offsets": None, "chunk_times_s": None, "chunk_tokens": None}
        times_s = np.frombuffer(self._chunk_times.contents(), np.float64)
        tokens = np.frombuffer(self._chunk_tokens.contents(), np.uint32)
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(rows["chunks"][order], out=offsets[1:])

        def blocks() -> Iterator[Mapping[str, NDArray[Any]]]:
            for block in row_blocks(offsets):
                chosen = rows[order[block]]
                first, lengths = offsets[block], chosen["chunks"]
                # where each chunk of the new order stood in the old one
                source = np.repeat(chosen["first_chunk"] - first, lengths) + np.arange(
                    first[0], first[0] + lengths.sum()
                )
                yield {"chunk_times_s": times_s[source], "chunk_tokens": tokens[source]}

        kinds = {"chunk_times_s": (np.float64, len(times_s)), "chunk_tokens": (np.uint32, len(tokens))}
        return {"chunk_offsets": offsets, **columns_of(kinds, blocks, most_in_memory=self._most_in_memory)}


def _in_order(rows: NDArray[Any], order: NDArray[np.intp]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(order), _BLOCK_ROWS):
        yield rows[order[start : start + _BLOCK_ROWS]]
