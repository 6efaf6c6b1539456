"""Every metric on logs whose figures are known by hand."""

from __future__ import annotations

import numpy as np
import pytest

import tgibench as tb
from logs import Row, log_of, plain
from tgibench.records import ServerTimings

RESET = tb.Failure(tb.FailureKind.CONNECTION_RESET, "reset by peer")


def test_a_plain_stream_by_hand():
    """TTFT 100 ms, 10 ms a token, 64 tokens: latency 730 ms."""
    metrics = tb.Metrics.of(log_of(plain(1.0, input_tokens=20)))
    assert metrics.ttft_s.mean == pytest.approx(0.1)
    assert metrics.tpot_s.mean == pytest.approx(0.01)
    assert metrics.latency_s.mean == pytest.approx(0.73)
    assert metrics.normalized_latency_s.mean == pytest.approx(0.73 / 64)
    assert (metrics.icl_s.count, metrics.icl_s.p50) == (63, pytest.approx(0.01))
    assert (metrics.input_tokens.mean, metrics.output_tokens.mean) == (20, 64)
    assert metrics.output_throughput_tps.value == pytest.approx(6.4)
    assert metrics.request_throughput_rps.value == pytest.approx(0.1)
    assert metrics.tokens_from == {"server": 1}


def test_open_loop_latency_counts_from_the_plan():
    """A request sent 0.5 s late is 0.5 s slower in an open loop and not in a closed one; TTFT starts at its sending."""
    fields = {"planned_s": 1.0, "sent_s": 1.5, "chunks": ((1.7, 1), (2.0, 1))}
    late = tb.Metrics.of(log_of(Row(**fields, open_loop=True)))
    assert late.latency_s.mean == pytest.approx(1.0)
    assert late.schedule_delay_s.mean == pytest.approx(0.5)
    assert late.ttft_s.mean == pytest.approx(0.2)
    closed = tb.Metrics.of(log_of(Row(**fields)))
    assert closed.latency_s.mean == pytest.approx(0.5)
    assert closed.schedule_delay_s is None


def test_several_tokens_in_a_chunk_do_not_change_the_time_per_token():
    """16 chunks of 4 tokens, 40 ms apart: the 60 tokens after the first chunk took 600 ms."""
    chunks = tuple((0.1 + 0.04 * number, 4) for number in range(16))
    metrics = tb.Metrics.of(log_of(Row(chunks=chunks)))
    assert metrics.tpot_s.mean == pytest.approx(0.01)
    assert metrics.icl_s.mean == pytest.approx(0.04)
    assert metrics.output_throughput_tps.value == pytest.approx(6.4)


def test_all_tokens_in_one_chunk_have_no_time_per_token():
    """What was not seen is None, not 0."""
    metrics = tb.Metrics.of(log_of(Row(chunks=((0.5, 8),)), Row(chunks=((0.5, 1),), tokens=64)))
    assert (metrics.tpot_s, metrics.icl_s, metrics.largest_gap_s, metrics.stall_ratio) == (None, None, None, None)
    assert metrics.ttft_s.count == 2


def test_an_answer_that_was_no_stream_says_nothing_of_its_tokens_times():
    """Its latency counts, its TTFT is None."""
    metrics = tb.Metrics.of(log_of(Row(chunks=((0.7, 64),), streamed=False)))
    assert metrics.latency_s.mean == pytest.approx(0.7)
    assert (metrics.ttft_s, metrics.tpot_s, metrics.icl_s) == (None, None, None)


def test_a_stall_of_two_seconds_shows():
    """One of four streams stands still for 2 s: a quarter stalled, and the gap is the largest inter-chunk latency."""
    stalled = Row(chunks=((0.1, 1), (0.11, 1), (2.11, 1), (2.12, 1)))
    metrics = tb.Metrics.of(log_of(plain(0.0), plain(1.0), plain(2.0), stalled))
    assert metrics.stall_ratio.value == 0.25
    assert metrics.icl_s.max == pytest.approx(2.0)
    assert metrics.largest_gap_s.max == pytest.approx(2.0)


def test_a_slow_model_is_not_a_stalled_one():
    """At 0.3 s a token a gap of 2 s is less than ten median gaps; a limit of the caller's own decides alone."""
    slow = Row(chunks=(*((0.3 * number, 1) for number in range(20)), (7.7, 1)))
    assert tb.Metrics.of(log_of(slow)).stall_ratio.value == 0
    assert tb.Metrics.of(log_of(slow), stall_s=1.5).stall_ratio.value == 1


def test_the_window_chooses_requests_by_their_plan_and_tokens_by_their_arrival():
    """Warm-up requests give no latency but their tokens inside the window count; those that end in the drain give latency."""
    warm_up = Row(planned_s=0.0, chunks=((0.5, 1), (1.5, 1)))
    draining = Row(planned_s=2.5, chunks=((2.9, 1), (3.5, 1)))
    after = Row(planned_s=3.2, chunks=((3.3, 1), (3.4, 1)))
    metrics = tb.Metrics.of(log_of(warm_up, draining, after, window=(1.0, 3.0)))
    assert (metrics.latency_s.count, metrics.latency_s.mean) == (1, pytest.approx(1.0))
    assert metrics.output_throughput_tps.value == pytest.approx(2 / 2.0)
    assert metrics.request_throughput_rps.value == pytest.approx(1 / 2.0)
    assert metrics.counts["issued"] == 3


def test_a_window_of_the_callers_replaces_the_logs_own():
    """`window_s` is kept beside the figures; one without length is refused."""
    log = log_of(plain(1.0), plain(6.0))
    metrics = tb.Metrics.of(log, window_s=(5.0, 7.0))
    assert (metrics.window.start_s, metrics.window.stop_s, metrics.latency_s.count) == (5.0, 7.0, 1)
    assert metrics.output_throughput_tps.value == pytest.approx(32.0)
    with pytest.raises(tb.InvalidValueError, match="must end after its start"):
        tb.Metrics.of(log, window_s=(5.0, 5.0))


def test_a_log_without_a_window_has_no_rates():
    """A run that was stopped during warm-up: None, not 0."""
    metrics = tb.Metrics.of(log_of(plain(0.0), window=(5.0, 5.0)))
    assert (metrics.latency_s, metrics.output_throughput_tps, metrics.request_throughput_rps) == (None, None, None)


def test_failures_are_counted_and_feed_no_other_figure():
    """Partial tokens of a failed stream are no output; issued = succeeded + failed + unsent."""
    failed = Row(chunks=((0.1, 1), (5.0, 1)), failure=RESET)
    metrics = tb.Metrics.of(log_of(plain(0.0), failed, unsent=3))
    assert metrics.counts == {"issued": 5, "succeeded": 1, "failed": 1, "unsent": 3}
    assert metrics.failures == {tb.FailureKind.CONNECTION_RESET: 1}
    assert metrics.latency_s.max == pytest.approx(0.73)
    assert metrics.output_throughput_tps.value == pytest.approx(6.4)


def test_nothing_but_failures_leaves_distributions_none_and_a_measured_zero():
    """Over a window of 10 s nothing was finished: 0 a second was measured, a latency was not."""
    metrics = tb.Metrics.of(log_of(Row(chunks=(), failure=RESET)), slo=tb.SLO(ttft_s=1))
    assert (metrics.latency_s, metrics.ttft_s, metrics.stall_ratio, metrics.tokens_from) == (None, None, None, {})
    assert metrics.output_throughput_tps.value == metrics.goodput_rps.value == 0
    assert metrics.output_throughput_tps.interval is None


def test_an_empty_log_has_metrics():
    """A run in which nothing could be sent."""
    metrics = tb.Metrics.of(log_of(unsent=4))
    assert metrics.counts == {"issued": 4, "succeeded": 0, "failed": 0, "unsent": 4}
    assert metrics.latency_s is None


def test_dropped_chunk_times_leave_what_the_columns_hold():
    """Without per-chunk times there is no ICL and no windowed token rate; TPOT and stalls remain."""
    log = log_of(plain(0.0), plain(1.0))
    metrics, dropped = tb.Metrics.of(log), tb.Metrics.of(log.without_chunk_times())
    assert (dropped.icl_s, dropped.output_throughput_tps) == (None, None)
    assert (dropped.tpot_s, dropped.latency_s, dropped.stall_ratio) == (
        metrics.tpot_s, metrics.latency_s, metrics.stall_ratio,
    )  # fmt: skip


def test_the_servers_own_times_are_kept_apart():
    """Its time per token as it said, else inference time / tokens; queue and connect time of the rows that have one."""
    told = Row(server=ServerTimings(time_per_token_s=0.02, queue_s=0.3), connect_s=0.05)
    derived = Row(tokens=10, server=ServerTimings(inference_s=0.4))
    metrics = tb.Metrics.of(log_of(told, derived, Row()))
    assert (metrics.server_time_per_token_s.min, metrics.server_time_per_token_s.max) == pytest.approx((0.02, 0.04))
    assert (metrics.queue_s.count, metrics.queue_s.mean) == (1, 0.3)
    assert (metrics.connect_s.count, metrics.connect_s.mean) == (1, 0.05)
    assert metrics.input_tokens is None


def test_unknown_token_counts_are_none():
    """A success whose tokens nobody counted has a latency but no figure per token."""
    metrics = tb.Metrics.of(log_of(Row(tokens=-1), concurrency=1))
    assert (metrics.output_tokens, metrics.normalized_latency_s, metrics.tpot_s) == (None, None, None)
    assert metrics.littles_law_throughput_tps is None


def test_littles_law_of_a_closed_loop():
    """2 users, 64 tokens in 0.73 s each; an open loop has no such figure."""
    rows = (plain(0.0), plain(1.0))
    assert tb.Metrics.of(log_of(*rows, concurrency=2)).littles_law_throughput_tps == pytest.approx(2 * 64 / 0.73)
    assert tb.Metrics.of(log_of(*rows)).littles_law_throughput_tps is None


@pytest.mark.parametrize(
    ("slo", "kept"),
    [
        (tb.SLO(), 4),
        (tb.SLO(ttft_s=0.2), 2),  # the slow start breaks it; the answer that was no stream cannot show that it keeps it
        (tb.SLO(tpot_s=0.1), 3),  # nothing came after the single chunk: there is nothing to break
        (tb.SLO(largest_gap_s=0.005), 1),
        (tb.SLO(latency_s=0.8), 3),
        (tb.SLO(ttft_s=0.2, latency_s=0.6), 1),
    ],
)
def test_goodput_counts_requests_that_kept_every_limit(slo, kept):
    """An unknown figure keeps no limit; a limit that does not apply is not broken; failures keep none."""
    single_chunk = Row(chunks=((0.1, 4),))
    rows = (plain(0.0), plain(0.0, ttft_s=1.0), single_chunk, Row(chunks=((0.5, 9),), streamed=False))
    log = log_of(*rows, Row(failure=RESET))
    assert np.count_nonzero(slo.met(log)) == kept
    assert tb.Metrics.of(log, slo=slo).goodput_rps.value == pytest.approx(kept / 10)
    assert tb.Metrics.of(log).goodput_rps is None


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_a_limit_is_a_number_above_zero(limit):
    """Anything else is refused with the field's name."""
    with pytest.raises(tb.InvalidValueError, match="ttft_s"):
        tb.SLO(ttft_s=limit)


def test_metrics_of_the_callers_own():
    """A function gives one number a row or one for the log; NaN is missing, another shape an error."""
    log = log_of(plain(0.0), plain(1.0), Row(failure=RESET))
    extra = {
        "tail_s": lambda log: log.ended_s - log.last_token_s,
        "rows": len,
        "none": lambda log: np.full(len(log), np.nan),
        "no_number": lambda _: float("nan"),
    }
    metrics = tb.Metrics.of(log, extra=extra)
    assert (metrics.extra["tail_s"].count, metrics.extra["tail_s"].mean) == (2, 0)
    assert metrics.extra["rows"].value == 3
    assert metrics.extra["none"] is metrics.extra["no_number"] is None
    with pytest.raises(tb.InvalidValueError, match="one number or one for each of the log's 3 rows"):
        tb.Metrics.of(log, extra={"pair": lambda _: [1, 2]})


def test_throughput_has_an_interval_where_its_bins_hold_enough():
    """100 even requests of 64 tokens: the interval holds the true rate and is narrow; three tokens carry none."""
    rows = [plain(start, tpot_s=0.001) for start in np.arange(0, 10, 0.1)]
    estimate = tb.Metrics.of(log_of(*rows)).output_throughput_tps
    low, high = estimate.interval
    assert estimate.count == 30
    assert low <= estimate.value <= high <= 1.1 * low
    assert tb.Metrics.of(log_of(plain(1.0, tokens=3))).output_throughput_tps.interval is None
