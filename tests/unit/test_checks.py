"""What a reader is warned of, and how arrivals are judged."""

from __future__ import annotations

import numpy as np
import pytest

import tgibench as tb
from logs import Row, log_of, plain

FAILURE = tb.Failure(tb.FailureKind.OVERLOADED, "Model is overloaded", 429)


def warned(log):
    """The warnings of a log, in one text."""
    return "\n".join(tb.warnings_of(tb.Metrics.of(log), log))


def steady(number=400, **fields):
    """Even requests over the window."""
    return [plain(start, tokens=4, **fields) for start in np.linspace(0, 9, number)]


def arrivals(starts, delays=0.0):
    """An open loop that sent each request `delays` after its plan."""
    sent = np.asarray(starts) + delays
    return log_of(
        *(
            Row(planned_s=start, sent_s=at, chunks=((at + 0.1, 1),), open_loop=True)
            for start, at in zip(starts, sent, strict=True)
        ),
        window=(0.0, float(max(starts))),
    )


def test_a_run_without_fault_has_no_warning():
    """400 even requests, a client at ease."""
    log = log_of(*steady(), cpu_share=0.3, loop_lag_p99_s=0.001)
    assert tb.warnings_of(tb.Metrics.of(log), log) == ()


def test_few_samples_say_how_many_more_are_needed():
    """100 requests carry a p95 but no p99."""
    text = warned(log_of(*steady(100)))
    assert "p99 (268 more)" in text
    assert "p95" not in text
    assert "p95 (62 more)" in warned(log_of(*steady(10)))


def test_failures_unsent_requests_and_an_early_end_are_told():
    """Each with its number and reason."""
    log = log_of(*steady(), Row(failure=FAILURE), unsent=7, stopped="20 requests failed in a row")
    text = warned(log)
    assert "1 of 408 requests failed (overloaded 1)" in text
    assert "7 planned requests were never sent" in text
    assert "the run stopped early: 20 requests failed in a row" in text


def test_a_run_without_success_says_so():
    """There is nothing to judge by."""
    assert "no request that was planned inside the window succeeded" in warned(log_of(Row(failure=FAILURE)))


@pytest.mark.parametrize(
    ("health", "said"),
    [({"cpu_share": 0.97}, "97% of a core"), ({"loop_lag_p99_s": 0.02}, "20.0 ms late"), ({"cpu_share": 0.5}, "")],
)
def test_a_client_that_was_the_limit_is_told(health, said):
    """By its CPU share or its event loop's lag."""
    text = warned(log_of(*steady(), **health))
    assert said in text
    assert bool(said) == ("client" in text)


def test_tokens_the_server_did_not_count_are_told():
    """With their number and how they were come by."""
    assert "400 requests: their tokens are chunks" in warned(log_of(*steady(tokens_from=tb.TokensFrom.CHUNKS)))


def test_growing_latency_is_not_steady():
    """Latency that rises through the window by half is told."""
    growing = [plain(start, tokens=4, ttft_s=0.1 + 0.05 * start) for start in np.linspace(0, 9, 400)]
    assert "the median latency went from" in warned(log_of(*growing))


def test_noise_around_a_level_is_steady():
    """Of 40 runs with independent exponential latencies at most one is called unsteady: the test errs in about 0.5 %."""
    alarms = 0
    for seed in range(40):
        noise = np.random.default_rng(seed).exponential(0.1, size=200)
        level = [
            plain(start, tokens=4, ttft_s=float(ttft_s))
            for start, ttft_s in zip(np.linspace(0, 9.5, 200), noise, strict=True)
        ]
        alarms += "not steady" in warned(log_of(*level))
    assert alarms <= 1


def test_throughput_that_falls_is_not_steady():
    """Three quarters of the requests end in the window's first half."""
    starts = np.concatenate((np.linspace(0, 4.5, 300), np.linspace(5, 9.5, 100)))
    text = warned(log_of(*(plain(start, tokens=4) for start in starts)))
    assert "300 requests succeeded in the window's first half, 100 in its second" in text


def test_a_load_that_was_sent_otherwise_than_planned_is_told():
    """A sender that waits until ten requests are due makes bursts of even arrivals."""
    starts = np.arange(400) / 40
    held = np.ceil(starts * 4) / 4 - starts
    assert "the load was not what was planned" in warned(arrivals(starts, held))
    assert "planned:" not in warned(arrivals(starts))


def test_poisson_arrivals_are_recognised():
    """Rate 50, CV 1, dispersion 1, independent gaps; sent as planned and as asked for."""
    starts = np.cumsum(np.random.default_rng(4).exponential(1 / 50, size=5000))
    test = tb.arrival_test(arrivals(starts, 1e-4), rate_rps=50, cv=1)
    assert test.verdict is None
    assert test.as_planned
    assert test.rate_rps == pytest.approx(50, rel=0.05)
    assert test.cv == pytest.approx(1, abs=0.05)
    assert 0.8 <= test.dispersion <= 1.2
    assert abs(test.lag1) < 0.05
    assert test.worst_delay_s == pytest.approx(1e-4)
    assert test.count == 5000


def test_even_arrivals_are_recognised():
    """CV and dispersion near 0; the gaps are all equal, so nothing is correlated."""
    test = tb.arrival_test(arrivals(np.arange(200) / 20), rate_rps=20, cv=0)
    assert test.verdict is None
    assert test.cv < 0.01
    assert test.dispersion < 0.1
    assert test.lag1 is None


def test_another_process_than_was_asked_for_is_named():
    """Poisson arrivals at 50/s are neither even nor 60/s."""
    starts = np.cumsum(np.random.default_rng(4).exponential(1 / 50, size=2000))
    verdict = tb.arrival_test(arrivals(starts), rate_rps=60, cv=0).verdict
    assert "60/s were asked for" in verdict
    assert "0.00 was asked for" in verdict


def test_a_sender_that_falls_behind_is_named():
    """Lag that accumulates lowers the rate."""
    starts = np.arange(200) / 20
    test = tb.arrival_test(arrivals(starts, 0.1 * starts))
    assert "where 20/s were planned" in test.verdict
    assert not test.as_planned


def test_too_few_arrivals_cannot_be_judged():
    """A closed loop has none; a burst at one instant has no rate."""
    with pytest.raises(tb.InvalidValueError, match="needs 20 sent requests of an open loop, got 0"):
        tb.arrival_test(log_of(*steady()))
    burst = arrivals(np.ones(30))
    with pytest.raises(tb.InvalidValueError, match="at one instant"):
        tb.arrival_test(burst)
    assert "planned:" not in warned(burst)
