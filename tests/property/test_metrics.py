"""What holds of the metrics of any log."""

from __future__ import annotations

import math

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tgibench as tb
from logs import Row, builder_of, built, log_of
from tgibench.large_samples import distribution_in_blocks
from tgibench.stats import distribution, quantile_interval

FINITE = st.floats(min_value=0, max_value=1e6, allow_nan=False)
GAPS = st.lists(st.tuples(st.floats(min_value=0.001, max_value=3.0), st.integers(1, 5)), max_size=6)


@st.composite
def rows(draw):
    """One request of any outcome."""
    planned_s = draw(st.floats(min_value=0, max_value=12))
    sent_s = planned_s + draw(st.floats(min_value=0, max_value=2))
    chunks, now_s = [], sent_s
    for gap_s, tokens in draw(GAPS):
        now_s += gap_s
        chunks.append((now_s, tokens))
    failed = not chunks or draw(st.booleans())
    return Row(
        planned_s=planned_s,
        sent_s=sent_s,
        ended_s=now_s,
        chunks=tuple(chunks),
        streamed=draw(st.booleans()),
        open_loop=draw(st.booleans()),
        failure=tb.Failure(draw(st.sampled_from(list(tb.FailureKind))), "") if failed else None,
    )


@given(st.lists(FINITE, min_size=1, max_size=500))
def test_the_figures_of_a_sample_are_in_order(values):
    """Smallest ≤ p50 ≤ p90 ≤ p95 ≤ p99 ≤ largest, and each interval holds its figure's order statistics."""
    summary = distribution(values)
    figures = [summary.min, summary.p50, summary.p90, summary.p95, summary.p99, summary.max]
    assert figures == sorted(figures)
    assert summary.min <= summary.mean * (1 + 1e-12) <= summary.max * (1 + 1e-11) + 1e-300
    for name in ("p50", "p90", "p95", "p99"):
        bounds = summary.intervals[name]
        assert bounds is None or summary.min <= bounds[0] <= getattr(summary, name) <= bounds[1] <= summary.max


@given(st.lists(FINITE, min_size=1, max_size=200), st.randoms(use_true_random=False))
def test_the_order_of_a_sample_matters_to_intervals_only(values, random):
    """All figures are the same for any order; a quantile's interval is never narrower than that of independent values."""
    mixed = list(values)
    random.shuffle(mixed)
    first, second = distribution(values), distribution(mixed)
    without = {"mean": 0.0, "intervals": {}, "batch_means": ()}
    assert attrs.evolve(first, **without) == attrs.evolve(second, **without)
    assert math.isclose(first.mean, second.mean, rel_tol=1e-9)
    for name, quantile in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95)):
        independent, bounds = quantile_interval(np.sort(values), quantile), first.intervals[name]
        assert bounds is None or bounds[0] <= independent[0] <= independent[1] <= bounds[1]


@given(st.lists(rows(), max_size=30), st.integers(0, 5))
def test_nothing_is_lost(requests, unsent):
    """Nothing issued is unaccounted for, failures add up by kind, and tokens over all time are those of the successes."""
    log = log_of(*requests, unsent=unsent)
    metrics = tb.Metrics.of(log, window_s=(-1.0, 1000.0))
    counts = metrics.counts
    assert counts["issued"] == counts["succeeded"] + counts["failed"] + counts["unsent"] == len(requests) + unsent
    assert sum(metrics.failures.values()) == counts["failed"]
    assert sum(metrics.tokens_from.values()) == counts["succeeded"]
    tokens = int(log.output_tokens[log.succeeded].sum())
    assert metrics.output_throughput_tps.value * 1001.0 == pytest.approx(tokens)
    assert metrics.request_throughput_rps.value * 1001.0 == pytest.approx(counts["succeeded"])


@given(st.lists(rows(), max_size=30))
def test_metrics_of_any_log_are_finite_and_sane(requests):
    """No NaN, no negative figure; goodput never exceeds the request rate; parts never exceed the whole."""
    log = log_of(*requests)
    metrics = tb.Metrics.of(log, slo=tb.SLO(latency_s=2.0))
    for field in attrs.fields(tb.Metrics):
        figure = getattr(metrics, field.name)
        if isinstance(figure, tb.Distribution):
            assert np.all(np.isfinite([figure.mean, figure.min, figure.p50, figure.p99, figure.max])), field.name
            assert figure.min >= 0, field.name
            assert figure.count > 0
    assert metrics.goodput_rps.value <= metrics.request_throughput_rps.value
    if metrics.ttft_s:
        assert metrics.ttft_s.max <= metrics.latency_s.max + 1e-9
    if metrics.icl_s:
        assert metrics.icl_s.max == metrics.largest_gap_s.max
    assert all(isinstance(text, str) for text in tb.warnings_of(metrics, log))


@given(st.lists(rows(), max_size=12))
def test_where_a_log_lies_changes_no_figure(requests):
    """A log that was written to disk has the metrics of one in memory, to the last bit."""
    assert repr(tb.Metrics.of(built(builder_of(*requests, most_in_memory=0)))) == repr(tb.Metrics.of(log_of(*requests)))


@given(
    st.lists(
        st.one_of(st.floats(-(2.0**100), 2.0**100, width=32), st.sampled_from([-2.5, 0.0, 0.02, 2.0**110])),
        max_size=300,
    ),
    st.lists(st.integers(0, 300), max_size=4),
)
def test_a_sample_gone_through_in_blocks_has_the_figures_of_a_sorted_one(values, cuts):
    """Whatever the blocks: quantiles and their intervals to the last bit, means but for the order of summing."""
    sample = np.array(values, dtype=np.float32)
    blocks = np.split(sample, sorted(min(cut, len(sample)) for cut in cuts))
    found, expected = distribution_in_blocks(lambda: iter(blocks), len(sample)), distribution(sample)
    if expected is None or expected.intervals["mean"] is None:
        assert found == expected
        return
    scale = max(abs(expected.min), abs(expected.max))
    assert found.mean == pytest.approx(expected.mean, abs=1e-12 * scale)
    assert found.intervals["mean"] == pytest.approx(expected.intervals["mean"], abs=1e-9 * scale)
    assert found.batch_means == pytest.approx(expected.batch_means, abs=1e-12 * scale)
    mean = {"mean": expected.mean, "batch_means": expected.batch_means}
    assert attrs.evolve(found, **mean, intervals={**found.intervals, "mean": None}) == attrs.evolve(
        expected, intervals={**expected.intervals, "mean": None}
    )
