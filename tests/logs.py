"""Request logs whose every figure is known by hand."""

from __future__ import annotations

import attrs
import numpy as np

import tgibench as tb
from tgibench.client_health import ClientHealth
from tgibench.recording import LogBuilder
from tgibench.records import Exchange, ServerTimings, Window

BEGAN_S = 1000.0  # the loop's clock at the start of the run: no figure may depend on it


@attrs.frozen(kw_only=True)
class Row:
    """One request: `chunks` are its (instant, tokens), `tokens` the server's count (by default their sum)."""

    planned_s: float = 0.0
    sent_s: float | None = None
    ended_s: float | None = None
    chunks: tuple = ((0.1, 1), (0.2, 1))
    tokens: int | None = None
    tokens_from: tb.TokensFrom = tb.TokensFrom.SERVER
    input_tokens: int | None = None
    streamed: bool = True
    open_loop: bool = False
    connect_s: float | None = None
    failure: tb.Failure | None = None
    server: ServerTimings | None = None


def plain(start_s, *, tokens=64, ttft_s=0.1, tpot_s=0.01, **fields):
    """A streamed request of one token a chunk."""
    times = start_s + ttft_s + tpot_s * np.arange(tokens)
    return Row(planned_s=start_s, chunks=tuple((time, 1) for time in times), **fields)


def builder_of(*rows, **options):
    """A builder that was given these requests."""
    builder = LogBuilder(BEGAN_S, **options)
    for index, row in enumerate(rows):
        builder.add(index, BEGAN_S + row.planned_s, _exchange(row), open_loop=row.open_loop)
    return builder


def log_of(*rows, keep_chunks=True, **of_the_run):
    """The log of a run of these requests."""
    return built(builder_of(*rows, keep_chunks=keep_chunks), **of_the_run)


def built(builder, *, window=(0.0, 10.0), unsent=0, concurrency=None, stopped=None, **health):
    """A builder's log."""
    return builder.build(
        unsent=unsent,
        window=Window(*window),
        health=ClientHealth(**{"stamps": tb.StampSource.VIRTUAL, **health}),
        stopped=stopped,
        concurrency=concurrency,
    )


def _exchange(row):
    sent_s = row.planned_s if row.sent_s is None else row.sent_s
    times = np.array([BEGAN_S + time for time, _ in row.chunks], dtype=float)
    tokens = np.array([number for _, number in row.chunks], dtype=np.uint32)
    last_s = row.chunks[-1][0] if row.chunks else sent_s
    return Exchange(
        started_s=BEGAN_S + sent_s,
        sent_s=BEGAN_S + sent_s,
        ended_s=BEGAN_S + (last_s if row.ended_s is None else row.ended_s),
        connect_s=row.connect_s,
        chunk_times_s=times,
        chunk_tokens=tokens,
        streamed=row.streamed,
        output_tokens=int(tokens.sum()) if row.tokens is None else row.tokens,
        tokens_from=row.tokens_from,
        input_tokens=row.input_tokens,
        failure=row.failure,
        server=row.server,
    )
