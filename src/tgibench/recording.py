"""Collects `Exchange`s into the columns of a `RequestLog` while a run goes on; no object per token or per request is kept."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from tgibench.records import FailureKind, RequestLog, ServerTimings, TokensFrom

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tgibench.records import ClientHealth, Exchange, Window

__all__ = ["LogBuilder"]

_MESSAGE_LIMIT = 500
_FAILURE_CODES = {kind: code for code, kind in enumerate(FailureKind, start=1)}
_TOKENS_FROM_CODES = {origin: code for code, origin in enumerate(TokensFrom)}
_FLOAT_COLUMNS = (
    "planned_s", "started_s", "sent_s", "ended_s", "connect_s", "first_token_s", "last_token_s", "largest_gap_s",
    "validation_s", "queue_s", "inference_s", "server_total_s", "server_time_per_token_s",
)  # fmt: skip
_INT_COLUMNS = ("index", "first_chunk_tokens", "output_tokens", "input_tokens", "status")
_BYTE_COLUMNS = ("open_loop", "streamed", "tokens_from", "chunk_tokens_known", "failure_code")
_DTYPES = {
    "open_loop": np.bool_, "streamed": np.bool_, "chunk_tokens_known": np.bool_,
    "tokens_from": np.uint8, "failure_code": np.uint8, "status": np.int16,
}  # fmt: skip
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
    """

    def __init__(self, began_s: float, *, keep_chunks: bool = True) -> None:
        self.began_s = began_s
        self._columns: dict[str, array[Any]] = {
            **{name: array("d") for name in _FLOAT_COLUMNS},
            **{name: array("q") for name in _INT_COLUMNS},
            **{name: array("B") for name in _BYTE_COLUMNS},
        }
        self._keep_chunks = keep_chunks
        self._chunk_offsets = array("q", [0])
        self._chunk_times = bytearray()
        self._chunk_tokens = bytearray()
        self._messages: dict[int, str] = {}
        self._finish_reasons: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._columns["planned_s"])

    def add(self, index: int, planned_s: float, exchange: Exchange, *, open_loop: bool) -> None:
        """Append one finished request; `planned_s` is a reading of the loop's clock like the exchange's own."""
        began_s = self.began_s
        times = exchange.chunk_times_s
        failure, server = exchange.failure, exchange.server or ServerTimings()
        if failure is not None:
            self._messages[len(self)] = failure.message[:_MESSAGE_LIMIT]
        elif exchange.finish_reason:
            self._finish_reasons[exchange.finish_reason] += 1
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
        for name, column in self._columns.items():
            column.append(row[name])
        if self._keep_chunks:
            self._chunk_times += (times - began_s).tobytes()
            self._chunk_tokens += exchange.chunk_tokens.astype(np.uint32, copy=False).tobytes()
            self._chunk_offsets.append(self._chunk_offsets[-1] + len(times))

    def build(
        self,
        *,
        unsent: int,
        window: Window,
        health: ClientHealth,
        stopped: str | None = None,
        concurrency: int | None = None,
    ) -> RequestLog:
        """The finished log, its rows in the order of their planned start."""
        columns: dict[str, Any] = {
            name: np.array(column, dtype=_DTYPES.get(name, np.float64 if column.typecode == "d" else np.int64))
            for name, column in self._columns.items()
        }
        order = np.lexsort((columns["index"], columns["planned_s"]))
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return RequestLog(
            **{name: column[order] for name, column in columns.items()},
            **self._ordered_chunks(order),
            messages={int(rank[row]): message for row, message in self._messages.items()},
            finish_reasons=dict(self._finish_reasons),
            unsent=unsent,
            window=window,
            health=health,
            stopped=stopped,
            concurrency=concurrency,
        )

    def _ordered_chunks(self, order: NDArray[np.intp]) -> dict[str, Any]:
        if not self._keep_chunks:
            return {"chunk_offsets": None, "chunk_times_s": None, "chunk_tokens": None}
        offsets = np.array(self._chunk_offsets, dtype=np.int64)
        lengths = np.diff(offsets)[order]
        new_offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        # where each chunk of the new order stood in the old one
        source = np.repeat(offsets[:-1][order] - new_offsets[:-1], lengths) + np.arange(new_offsets[-1])
        return {
            "chunk_offsets": new_offsets,
            "chunk_times_s": np.frombuffer(self._chunk_times, dtype=np.float64)[source],
            "chunk_tokens": np.frombuffer(self._chunk_tokens, dtype=np.uint32)[source],
        }
