"""Every metric's definition: what a `RequestLog` comes to. The words are explained in docs/terms.md.

All fields are in seconds, tokens per second (`_tps`), requests per second (`_rps`) or shares (`_ratio`). Latencies and other figures of
single requests are those of the successes whose planned start lies in the window, wherever they end; throughputs count what
arrived inside the window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import attrs
import numpy as np
from attrs import validators

from tgibench.errors import InvalidValueError
from tgibench.records import TokensFrom, Window
from tgibench.stats import Distribution, Estimate, distribution, mean_of_batches, proportion
from tgibench.validators import above_zero

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import ArrayLike, NDArray

    from tgibench.records import FailureKind, RequestLog

__all__ = ["SLO", "STALL_S", "Metrics"]

STALL_S = 1.0
"""A gap between two chunks longer than this is a stall, unless `Metrics.of` is told otherwise."""

_THROUGHPUT_BINS = 20


@attrs.frozen(kw_only=True)
class SLO:
    """Limits, in seconds, that each single request must keep to count towards goodput; None sets no limit.

    A request that lacks the figure a limit is about (one token has no gap) does not break that limit.
    """

    ttft_s: float | None = attrs.field(default=None, validator=validators.optional(above_zero))
    tpot_s: float | None = attrs.field(default=None, validator=validators.optional(above_zero))
    largest_gap_s: float | None = attrs.field(default=None, validator=validators.optional(above_zero))
    latency_s: float | None = attrs.field(default=None, validator=validators.optional(above_zero))

    def met(self, log: RequestLog) -> NDArray[np.bool_]:
        """Which rows of a log succeeded within every limit."""
        kept = log.succeeded.copy()
        figures = {"ttft_s": ttft_s, "tpot_s": tpot_s, "largest_gap_s": _largest_gap_s, "latency_s": latency_s}
        for name, figure in figures.items():
            limit: float | None = getattr(self, name)
            if limit is not None:
                values = figure(log)
                kept &= (values <= limit) | np.isnan(values)
        return kept


@attrs.frozen(kw_only=True)
class Metrics:
    """What a run comes to. None stands for what could not be had from it.

    Args:
        counts: ``issued``, ``succeeded``, ``failed`` and ``unsent`` of the whole run.
        failures: Failed requests of the whole run by kind.
        window: The stretch the other figures are about.
        latency_s: Planned start (open loop) or send (closed loop) to last byte.
        ttft_s: Send to first token; streams only.
        tpot_s: (last - first token) / (output tokens - tokens of the first chunk), for each request; streams only.
        icl_s: Gaps between successive chunks as they arrived, pooled.
        normalized_latency_s: Latency / output tokens.
        server_time_per_token_s: The server's inference time / tokens.
        queue_s: The server's wait before prefill.
        schedule_delay_s: Sent - planned; open loops only.
        connect_s: Opening a connection, of the requests that opened one.
        largest_gap_s: The largest gap of each request; streams only.
        input_tokens: Prompt tokens of each request.
        output_tokens: Output tokens of each request.
        stall_ratio: Share of streamed requests with a gap longer than the stall limit.
        output_throughput_tps: Output tokens of successes received inside the window / its length.
        request_throughput_rps: Requests that succeeded inside the window / its length.
        goodput_rps: Those of them that kept the SLO; None without one.
        littles_law_throughput_tps: Closed loop only: concurrency · mean output tokens / mean latency: how the 2023 study got its
            tokens/s; only to compare with it.
        tokens_from: Who counted the output tokens, by number of successes.
        extra: What functions of the caller's own came to.
    """

    counts: Mapping[str, int]
    failures: Mapping[FailureKind, int]
    window: Window | None
    latency_s: Distribution | None
    ttft_s: Distribution | None
    tpot_s: Distribution | None
    icl_s: Distribution | None
    normalized_latency_s: Distribution | None
    server_time_per_token_s: Distribution | None
    queue_s: Distribution | None
    schedule_delay_s: Distribution | None
    connect_s: Distribution | None
    largest_gap_s: Distribution | None
    input_tokens: Distribution | None
    output_tokens: Distribution | None
    stall_ratio: Estimate | None
    output_throughput_tps: Estimate | None
    request_throughput_rps: Estimate | None
    goodput_rps: Estimate | None
    littles_law_throughput_tps: float | None
    tokens_from: Mapping[str, int]
    extra: Mapping[str, Distribution | None]

    @classmethod
    def of(
        cls,
        log: RequestLog,
        *,
        window_s: tuple[float, float] | None = None,
        slo: SLO | None = None,
        stall_s: float = STALL_S,
        extra: Mapping[str, Callable[[RequestLog], ArrayLike]] | None = None,
    ) -> Self:
        """The metrics of a log.

        Args:
            log: The run.
            window_s: Start and stop, in seconds after the run's start, instead of the log's own steady-state window.
            slo: Limits for goodput.
            stall_s: A longer gap is a stall.
            extra: Functions from a log to one number a row (NaN for none); each is summarised like the metrics of single requests.

        Raises:
            InvalidValueError: `window_s` does not end after its start.
        """
        window = log.window if window_s is None else Window(*window_s)
        if window_s is not None and window.length_s <= 0:
            raise InvalidValueError(f"window_s must end after its start, got {window_s!r}")
        rows = log.succeeded & (log.planned_s >= window.start_s) & (log.planned_s <= window.stop_s)

        def over(values: NDArray[np.float64], among: NDArray[np.bool_] = rows) -> Distribution | None:
            chosen = values[among]
            return distribution(chosen[~np.isnan(chosen)])

        gaps_s = _largest_gap_s(log)[rows]
        gaps_s = gaps_s[~np.isnan(gaps_s)]
        return cls(
            counts=log.counts,
            failures=log.failures,
            window=window,
            latency_s=over(latency_s(log)),
            ttft_s=over(ttft_s(log)),
            tpot_s=over(tpot_s(log)),
            icl_s=distribution(_gaps_s(log, rows)),
            normalized_latency_s=over(latency_s(log) / _at_least_one(log.output_tokens)),
            server_time_per_token_s=over(_server_time_per_token_s(log)),
            queue_s=over(log.queue_s),
            schedule_delay_s=over(log.sent_s - log.planned_s, rows & log.open_loop),
            connect_s=over(log.connect_s),
            largest_gap_s=distribution(gaps_s),
            input_tokens=over(_or_nan(log.input_tokens)),
            output_tokens=over(_or_nan(log.output_tokens)),
            stall_ratio=proportion(int(np.count_nonzero(gaps_s > stall_s)), len(gaps_s)),
            output_throughput_tps=_token_rate(log, window),
            request_throughput_rps=_rate(log.ended_s[log.succeeded], window),
            goodput_rps=_rate(log.ended_s[slo.met(log)], window) if slo else None,
            littles_law_throughput_tps=_littles_law(log, rows),
            tokens_from=_tokens_from(log, rows),
            extra={name: over(np.asarray(figure(log), dtype=float)) for name, figure in (extra or {}).items()},
        )


def latency_s(log: RequestLog) -> NDArray[np.float64]:
    """Each row's latency: from the plan in an open loop, from sending in a closed one."""
    return log.ended_s - np.where(log.open_loop, log.planned_s, log.sent_s)


def ttft_s(log: RequestLog) -> NDArray[np.float64]:
    """Each row's time to first token; NaN where the answer was no stream."""
    return np.where(log.streamed, log.first_token_s - log.sent_s, np.nan)


def tpot_s(log: RequestLog) -> NDArray[np.float64]:
    """Each row's time per output token after the first chunk; NaN where nothing followed it, or no stream.

    The tokens of the first chunk arrived together: the time between first and last chunk made all the others.
    """
    following = log.output_tokens - log.first_chunk_tokens
    made = log.streamed & (log.first_chunk_tokens > 0) & (following > 0)
    return np.where(made, log.last_token_s - log.first_token_s, np.nan) / np.maximum(following, 1)


def _largest_gap_s(log: RequestLog) -> NDArray[np.float64]:
    return np.where(log.streamed, log.largest_gap_s, np.nan)


def _server_time_per_token_s(log: RequestLog) -> NDArray[np.float64]:
    derived = log.inference_s / _at_least_one(log.output_tokens)
    return np.where(np.isnan(log.server_time_per_token_s), derived, log.server_time_per_token_s)


def _at_least_one(tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Token counts to divide by; NaN for none."""
    return np.where(tokens > 0, tokens, np.nan)


def _or_nan(column: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(column >= 0, column, np.nan)


def _gaps_s(log: RequestLog, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """All gaps between successive chunks of the given rows' streams; none without chunk times."""
    if log.chunk_times_s is None or log.chunk_offsets is None:
        return np.empty(0)
    lengths = np.diff(log.chunk_offsets)
    of_rows = np.repeat(rows & log.streamed, lengths)
    inside = np.ones(len(log.chunk_times_s), dtype=bool)
    inside[log.chunk_offsets[:-1][lengths > 0]] = False  # a stream's first chunk follows nothing
    gaps_s: NDArray[np.float64] = np.diff(log.chunk_times_s, prepend=0.0)
    chosen: NDArray[np.float64] = gaps_s[inside & of_rows]
    return chosen


def _token_rate(log: RequestLog, window: Window) -> Estimate | None:
    if log.chunk_times_s is None or log.chunk_offsets is None or log.chunk_tokens is None:
        return None
    of_successes = np.repeat(log.succeeded, np.diff(log.chunk_offsets))
    return _rate(log.chunk_times_s[of_successes], window, weights=log.chunk_tokens[of_successes])


def _rate(
    instants_s: NDArray[np.float64], window: Window, weights: NDArray[np.uint32] | None = None
) -> Estimate | None:
    """What happened per second inside the window, with the interval of the rates in equal bins of time."""
    if window.length_s <= 0:
        return None
    edges = np.linspace(window.start_s, window.stop_s, _THROUGHPUT_BINS + 1)
    totals, _ = np.histogram(instants_s, bins=edges, weights=weights)
    rates = mean_of_batches(totals / (window.length_s / _THROUGHPUT_BINS), _THROUGHPUT_BINS)
    few = np.count_nonzero(totals) < _THROUGHPUT_BINS // 2
    return attrs.evolve(rates, interval=None) if few else rates


def _littles_law(log: RequestLog, rows: NDArray[np.bool_]) -> float | None:
    tokens = log.output_tokens[rows]
    if log.concurrency is None or not len(tokens) or tokens.min() < 0:
        return None
    return float(log.concurrency * tokens.mean() / latency_s(log)[rows].mean())


def _tokens_from(log: RequestLog, rows: NDArray[np.bool_]) -> dict[str, int]:
    origins, numbers = np.unique(log.tokens_from[rows], return_counts=True)
    return {list(TokensFrom)[origin].value: int(number) for origin, number in zip(origins, numbers, strict=True)}
