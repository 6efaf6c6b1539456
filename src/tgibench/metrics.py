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
from tgibench.large_samples import distribution_in_blocks
from tgibench.records import TokensFrom, Window
from tgibench.spills import row_blocks
from tgibench.stats import Distribution, Estimate, distribution, mean_of_batches, proportion
from tgibench.timelines import Timeline
from tgibench.validators import above_zero

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import ArrayLike, NDArray

    from tgibench.records import FailureKind, RequestLog

__all__ = ["SLO", "STALL_GAPS", "STALL_S", "Metrics"]

STALL_S = 1.0
STALL_GAPS = 10
"""Unless told otherwise, a gap between two chunks is a stall when it is longer than `STALL_S` and `STALL_GAPS` median gaps."""

_BINS = (10, 15, 30)  # each divides the last
_EVENTS_IN_A_BIN = 3
_SORTED_UP_TO = 2_000_000  # gaps that are held at once: 16 MB


@attrs.frozen(kw_only=True)
class SLO:
    """Limits, in seconds, that each single request must keep to count towards goodput; None sets no limit.

    A request of which the figure is not known (an answer that was no stream has no known TTFT) does not keep the limit; a stream
    to which the limit does not apply (all tokens in one chunk: no gap) does.
    """

    ttft_s: float | None = attrs.field(default=None, validator=validators.optional(above_zero))
    tpot_s: float | None = attrs.field(default=None, validator=validators.optional(above_zero))
    largest_gap_s: float | None = attrs.field(default=None, validator=validators.optional(above_zero))
    latency_s: float | None = attrs.field(default=None, validator=validators.optional(above_zero))

    def met(self, log: RequestLog) -> NDArray[np.bool_]:
        """Which rows of a log succeeded within every limit."""
        one_chunk = log.streamed & ~np.isnan(log.first_token_s) & np.isnan(log.largest_gap_s)
        kept = log.succeeded.copy()
        for limit, values, exempt in (
            (self.ttft_s, ttft_s(log), False),
            (self.tpot_s, tpot_s(log), one_chunk),
            (self.largest_gap_s, _largest_gap_s(log), one_chunk),
            (self.latency_s, latency_s(log), False),
        ):
            if limit is not None:
                kept &= (values <= limit) | exempt
        return kept


@attrs.frozen(kw_only=True)
class Metrics:
    """What a run comes to. None stands for what could not be had from it.

    Args:
        counts: ``issued``, ``succeeded``, ``failed`` and ``unsent`` of the whole run; of a published one, those that are known.
        failures: Failed requests of the whole run by kind.
        window: The stretch the other figures are about.
        latency_s: Planned start (open loop) or send (closed loop) to last byte.
        ttft_s: Send to first token; streams only.
        tpot_s: (last - first token) / (output tokens - tokens of the first chunk), for each request; streams only.
        icl_s: Gaps between successive chunks as they arrived, pooled; in single precision (7 digits) if there are more than 2 million.
        normalized_latency_s: Latency / output tokens.
        server_time_per_token_s: The server's inference time / tokens.
        queue_s: The server's wait before prefill.
        schedule_delay_s: Sent - planned; open loops only.
        connect_s: Opening a connection, of the requests that opened one.
        largest_gap_s: The largest gap of each request; streams only.
        input_tokens: Prompt tokens of each request.
        output_tokens: Output tokens of each request.
        stall_ratio: Share of requests of two and more chunks with a gap that was a stall.
        output_throughput_tps: Output tokens of successes received inside the window / its length.
        request_throughput_rps: Requests that succeeded inside the window / its length.
        goodput_rps: Those of them that kept the SLO; None without one.
        littles_law_throughput_tps: Closed loop only: concurrency · mean output tokens / mean latency: how the 2023 study got its
            tokens/s; only to compare with it.
        tokens_from: Who counted the output tokens, by number of successes.
        extra: What functions of the caller's own came to.
        timeline: How the whole run went over time.
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
    extra: Mapping[str, Distribution | Estimate | None]
    timeline: Timeline | None = None

    @classmethod
    def of(
        cls,
        log: RequestLog,
        *,
        window_s: tuple[float, float] | None = None,
        slo: SLO | None = None,
        stall_s: float | None = None,
        extra: Mapping[str, Callable[[RequestLog], ArrayLike]] | None = None,
    ) -> Self:
        """The metrics of a log.

        Args:
            log: The run.
            window_s: Start and stop, in seconds after the run's start, instead of the log's own steady-state window.
            slo: Limits for goodput.
            stall_s: A longer gap is a stall; by default the larger of `STALL_S` and, where chunk times were kept, `STALL_GAPS`
                times the median gap.
            extra: Functions from a log to one number, or to one number a row (NaN for none) that is summarised like the metrics of
                single requests.

        Raises:
            InvalidValueError: `window_s` does not end after its start, or an extra function gave neither.
        """
        window = log.window if window_s is None else Window(*window_s)
        if window_s is not None and window.length_s <= 0:
            raise InvalidValueError(f"window_s must end after its start, got {window_s!r}")
        rows = log.succeeded & (log.planned_s >= window.start_s) & (log.planned_s <= window.stop_s)

        def over(values: NDArray[np.float64], among: NDArray[np.bool_] = rows) -> Distribution | None:
            return _known(values[among])

        icl_s = _gaps(log, rows)
        return cls(
            counts=log.counts,
            failures=log.failures,
            window=window,
            latency_s=over(latency_s(log)),
            ttft_s=over(ttft_s(log)),
            tpot_s=over(tpot_s(log)),
            icl_s=icl_s,
            normalized_latency_s=over(latency_s(log) / _at_least_one(log.output_tokens)),
            server_time_per_token_s=over(_server_time_per_token_s(log)),
            queue_s=over(log.queue_s),
            schedule_delay_s=over(log.sent_s - log.planned_s, rows & log.open_loop),
            connect_s=over(log.connect_s),
            largest_gap_s=over(_largest_gap_s(log)),
            input_tokens=over(_or_nan(log.input_tokens)),
            output_tokens=over(_or_nan(log.output_tokens)),
            stall_ratio=_stalled(_largest_gap_s(log)[rows], _stall_limit_s(icl_s) if stall_s is None else stall_s),
            output_throughput_tps=_token_rate(log, window),
            request_throughput_rps=_rate(log.ended_s[log.succeeded], window),
            goodput_rps=_rate(log.ended_s[slo.met(log)], window) if slo else None,
            littles_law_throughput_tps=_littles_law(log, rows),
            tokens_from=_tokens_from(log, rows),
            extra={name: _extra(name, figure(log), rows) for name, figure in (extra or {}).items()},
            timeline=Timeline.of(log),
        )


def latency_s(log: RequestLog) -> NDArray[np.float64]:
    """Each row's latency: from the plan in an open loop, from sending in a closed one."""
    return log.ended_s - np.where(log.open_loop, log.planned_s, log.sent_s)


def ttft_s(log: RequestLog) -> NDArray[np.float64]:
    """Each row's time to first token; NaN where the answer was no stream."""
    values_s: NDArray[np.float64] = np.where(log.streamed, log.first_token_s - log.sent_s, np.nan)
    return values_s


def tpot_s(log: RequestLog) -> NDArray[np.float64]:
    """Each row's time per output token after the first chunk; NaN where nothing followed it, or no stream.

    The tokens of the first chunk arrived together: the time between first and last chunk made all the others.
    """
    following = log.output_tokens - log.first_chunk_tokens
    chunks_followed = ~np.isnan(log.largest_gap_s)
    made = log.streamed & chunks_followed & (log.first_chunk_tokens > 0) & (following > 0)
    spans_s: NDArray[np.float64] = np.where(made, log.last_token_s - log.first_token_s, np.nan)
    values_s: NDArray[np.float64] = spans_s / np.maximum(following, 1)
    return values_s


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


def _known(values: NDArray[np.float64]) -> Distribution | None:
    return distribution(values[~np.isnan(values)])


def _extra(name: str, figure: ArrayLike, rows: NDArray[np.bool_]) -> Distribution | Estimate | None:
    values = np.asarray(figure, dtype=np.float64)
    if values.ndim == 0:
        return None if np.isnan(values) else Estimate(float(values))
    if values.shape != rows.shape:
        raise InvalidValueError(
            f"extra metric {name!r} must give one number or one for each of the log's {len(rows)} rows, got {values.shape}"
        )
    return _known(values[rows])


def _stall_limit_s(icl_s: Distribution | None) -> float:
    return STALL_S if icl_s is None or icl_s.p50 is None else max(STALL_S, STALL_GAPS * icl_s.p50)


def _stalled(gaps_s: NDArray[np.float64], limit_s: float) -> Estimate | None:
    return proportion(int(np.count_nonzero(gaps_s > limit_s)), int(np.count_nonzero(~np.isnan(gaps_s))))


def _gaps(log: RequestLog, rows: NDArray[np.bool_]) -> Distribution | None:
    """All gaps between successive chunks of the given rows' streams; None without chunk times. Very many are not held at once."""
    if log.chunk_offsets is None:
        return None
    chosen = rows & log.streamed
    count = int(np.maximum(np.diff(log.chunk_offsets)[chosen] - 1, 0).sum())
    if count > _SORTED_UP_TO:
        return distribution_in_blocks(lambda: _gap_blocks(log, chosen), count)
    return distribution(np.concatenate([np.empty(0), *_gap_blocks(log, chosen)]), overwrite=True)


def _gap_blocks(log: RequestLog, chosen: NDArray[np.bool_]) -> Iterator[NDArray[np.float64]]:
    if log.chunk_times_s is None or log.chunk_offsets is None:
        return
    for block in row_blocks(log.chunk_offsets):
        offsets = log.chunk_offsets[block.start : block.stop + 1]
        wanted = np.repeat(chosen[block], np.diff(offsets))
        first_chunks = (offsets - offsets[0])[:-1][np.diff(offsets) > 0]
        wanted[first_chunks] = False  # they follow nothing
        yield np.diff(log.chunk_times_s[offsets[0] : offsets[-1]])[wanted[1:]]


def _token_rate(log: RequestLog, window: Window) -> Estimate | None:
    if log.chunk_times_s is None or log.chunk_offsets is None or log.chunk_tokens is None or window.length_s <= 0:
        return None
    fine = np.zeros(_BINS[-1])
    edges = (window.start_s, window.stop_s)
    succeeded = log.succeeded
    for block in row_blocks(log.chunk_offsets):
        offsets = log.chunk_offsets[block.start : block.stop + 1]
        chunks = slice(offsets[0], offsets[-1])
        weights = log.chunk_tokens[chunks] * np.repeat(succeeded[block], np.diff(offsets))
        fine += np.histogram(log.chunk_times_s[chunks], bins=len(fine), range=edges, weights=weights)[0]
    return _rate_of(fine, window)


def _rate(instants_s: NDArray[np.float64], window: Window) -> Estimate | None:
    """How many events a second happened inside the window."""
    if window.length_s <= 0:
        return None
    fine, _ = np.histogram(instants_s, bins=_BINS[-1], range=(window.start_s, window.stop_s))
    return _rate_of(fine.astype(np.float64), window)


def _rate_of(fine: NDArray[np.float64], window: Window) -> Estimate:
    """Total / length, with the interval of the rates in 10, 15 or 30 bins of time: as many as keep some events in each."""
    total = float(fine.sum())
    bins = max([number for number in _BINS if total >= 2 * _EVENTS_IN_A_BIN * number], default=_BINS[0])
    rates = mean_of_batches(fine.reshape(bins, -1).sum(axis=1) * (bins / window.length_s), bins)
    if rates.interval is None or total < _EVENTS_IN_A_BIN * bins:
        return Estimate(total / window.length_s, None, bins)
    low, high = rates.interval
    return Estimate(total / window.length_s, (max(low, 0.0), high), bins, rates.batch_means)


def _littles_law(log: RequestLog, rows: NDArray[np.bool_]) -> float | None:
    tokens = log.output_tokens[rows]
    if log.concurrency is None or not len(tokens) or tokens.min() < 0:
        return None
    return float(log.concurrency * tokens.mean() / latency_s(log)[rows].mean())


def _tokens_from(log: RequestLog, rows: NDArray[np.bool_]) -> dict[str, int]:
    numbers = np.bincount(log.tokens_from[rows], minlength=len(TokensFrom)).tolist()
    return {origin.value: number for origin, number in zip(TokensFrom, numbers, strict=True) if number}
