"""Merges the logs of a run's parts into the one that a single process would have recorded."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from tgibench.client_health import ClientHealth, StampSource
from tgibench.errors import InvalidValueError
from tgibench.records import RequestLog, Window
from tgibench.spills import columns_of, row_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from tgibench.client_health import Worker

__all__ = ["ROW_COLUMNS", "merge_logs", "worst_health"]

_CHUNK_COLUMNS = ("chunk_offsets", "chunk_times_s", "chunk_tokens")
_BLOCK_ROWS = 100_000
_OTHERS = ("messages", "finish_reasons", "unsent", "window", "health", "stopped", "concurrency", "workers")
ROW_COLUMNS = tuple(field.name for field in attrs.fields(RequestLog) if field.name not in {*_CHUNK_COLUMNS, *_OTHERS})
"""The columns of a log that have one value a request."""


def merge_logs(parts: Sequence[RequestLog], workers: tuple[Worker, ...] = ()) -> RequestLog:
    """The log of a whole run from those of its parts, whose second 0 is one and the same instant.

    Rows are those of all parts in the order of their planned start. Requests that went with a lost worker count as unsent. The window
    ends where a single process would have ended it: in a closed loop when the first user of any part idles, or when the run was stopped,
    else with the last part.

    Args:
        parts: At least one.
        workers: Who shared the run, lost ones included.

    Raises:
        InvalidValueError: There is no part.
    """
    if not parts:
        raise InvalidValueError("a merged log needs at least one part, got none")
    index, planned_s = (np.concatenate([getattr(part, name) for part in parts]) for name in ("index", "planned_s"))
    order = np.lexsort((index, planned_s))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    firsts = np.cumsum([0, *(len(part) for part in parts)])
    owners = np.searchsorted(firsts, order, side="right") - 1
    rows = order - firsts[owners]
    columns = _rows(parts, owners, rows)
    lost = sum(worker.lost_requests for worker in workers)
    whole = not any(worker.lost for worker in workers)
    users = [part.concurrency for part in parts if part.concurrency is not None]
    return RequestLog(
        **columns,
        **_chunks(parts, owners, rows),
        messages={
            int(rank[first + row]): message
            for first, part in zip(firsts, parts, strict=False)
            for row, message in part.messages.items()
        },
        finish_reasons=dict(sum((Counter(part.finish_reasons) for part in parts), Counter[str]())),
        unsent=sum(part.unsent for part in parts) + lost,
        window=_window(parts, ends_open=not len(rows) or bool(columns["open_loop"][-1])),
        health=worst_health([part.health for part in parts]),
        stopped=next((part.stopped for part in parts if part.stopped), None),
        concurrency=sum(users) if whole and len(users) == len(parts) else None,
        workers=workers,
    )


def worst_health(healths: Sequence[ClientHealth]) -> ClientHealth:
    """The largest of each figure, and the least exact stamps: a run is as sound as the worst of its workers."""
    exactness = list(StampSource)

    def largest(name: str) -> float | None:
        return max((value for health in healths if (value := getattr(health, name)) is not None), default=None)

    worst = max(healths, key=lambda health: health.loop_lag_p99_s or 0.0)
    return attrs.evolve(
        worst,
        stamps=max((health.stamps for health in healths), key=exactness.index),
        cpu_share=largest("cpu_share"),
        loop_lag_p50_s=largest("loop_lag_p50_s"),
        loop_lag_max_s=largest("loop_lag_max_s"),
        samples=sum(health.samples for health in healths),
        run_delay_share=largest("run_delay_share"),
        held_up_share=largest("held_up_share"),
        workers=sum(health.workers for health in healths),
    )


def _window(parts: Sequence[RequestLog], *, ends_open: bool) -> Window:
    stops_s = [part.window.stop_s for part in parts]
    stopped = any(part.stopped for part in parts)
    stop_s = max(stops_s) if ends_open and not stopped else min(stops_s)
    start_s = max(part.window.start_s for part in parts)
    return Window(start_s, max(start_s, stop_s))


def _rows(parts: Sequence[RequestLog], owners: NDArray[np.intp], rows: NDArray[np.intp]) -> dict[str, Any]:
    """The columns of one value a request: request i is that of a row of its owner."""

    def blocks() -> Iterator[Mapping[str, NDArray[Any]]]:
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            yield {
                name: _picked([getattr(part, name) for part in parts], owners[block], rows[block])
                for name in ROW_COLUMNS
            }

    return columns_of({name: (getattr(parts[0], name).dtype, len(rows)) for name in ROW_COLUMNS}, blocks)


def _chunks(parts: Sequence[RequestLog], owners: NDArray[np.intp], rows: NDArray[np.intp]) -> dict[str, Any]:
    """The chunks of all parts in the new order."""
    kept = [
        (part.chunk_offsets, part.chunk_times_s, part.chunk_tokens)
        for part in parts
        if part.chunk_offsets is not None and part.chunk_times_s is not None and part.chunk_tokens is not None
    ]
    if len(kept) < len(parts):
        return dict.fromkeys(_CHUNK_COLUMNS)
    starts = [part_offsets for part_offsets, _, _ in kept]
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(_picked([np.diff(part_offsets) for part_offsets in starts], owners, rows), out=offsets[1:])

    def blocks() -> Iterator[Mapping[str, NDArray[Any]]]:
        for block in row_blocks(offsets):
            new = offsets[block.start : block.stop + 1]
            lengths = np.diff(new)
            # where each chunk of the new order stands in its owner's
            places = np.repeat(_picked(starts, owners[block], rows[block]) - new[:-1], lengths) + np.arange(
                new[0], new[-1]
            )
            of = np.repeat(owners[block], lengths)
            yield {
                "chunk_times_s": _picked([times_s for _, times_s, _ in kept], of, places),
                "chunk_tokens": _picked([tokens for _, _, tokens in kept], of, places),
            }

    kinds = {"chunk_times_s": (np.float64, int(offsets[-1])), "chunk_tokens": (np.uint32, int(offsets[-1]))}
    return {"chunk_offsets": offsets, **columns_of(kinds, blocks)}


def _picked(arrays: Sequence[NDArray[Any]], owners: NDArray[np.intp], places: NDArray[np.intp]) -> NDArray[Any]:
    """From the array of each owner, the value at the place."""
    values = np.empty(len(places), arrays[0].dtype)
    for number, array in enumerate(arrays):
        own = owners == number
        values[own] = array[places[own]]
    return values
