"""Distributions, quantiles and intervals on small samples."""

from __future__ import annotations

import numpy as np
import pytest

from tgibench.stats import distribution, mean_of_batches, proportion, quantile_interval, samples_needed


def test_nothing_has_no_distribution():
    """An empty sample is None, never zeros."""
    assert distribution([]) is None
    assert proportion(0, 0) is None


def test_a_small_sample_by_hand():
    """Quantiles interpolate between order statistics; the sample is left as it was."""
    values = np.array([4.0, 1.0, 3.0, 2.0])
    summary = distribution(values)
    assert (summary.count, summary.mean, summary.min, summary.max) == (4, 2.5, 1.0, 4.0)
    assert summary.p50 == 2.5
    assert summary.p90 == pytest.approx(3.7)
    assert summary.p99 == pytest.approx(3.97)
    assert values.tolist() == [4.0, 1.0, 3.0, 2.0]
    assert set(summary.intervals.values()) == {None}


def test_one_value_is_every_quantile_of_itself():
    """A sample of one has no interval."""
    summary = distribution([0.25])
    assert {summary.mean, summary.min, summary.p50, summary.p99, summary.max} == {0.25}
    assert set(summary.intervals) == {"mean", "p50", "p90", "p95", "p99"}
    assert set(summary.intervals.values()) == {None}


@pytest.mark.parametrize(("quantile", "needed"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368), (0.01, 368)])
def test_an_interval_appears_exactly_at_the_sample_it_needs(quantile, needed):
    """The sample's ends must miss the quantile with at most 2.5 % each."""
    assert samples_needed(quantile) == needed
    assert quantile_interval(np.arange(needed - 1.0), quantile) is None
    low, high = quantile_interval(np.arange(float(needed)), quantile)
    assert low < high


def test_the_mean_of_equal_values_is_certain():
    """No spread, no width."""
    assert mean_of_batches(np.full(100, 2.0)).interval == (2.0, 2.0)


def test_the_mean_of_five_values_has_students_interval():
    """Mean 3, standard deviation 1.5811, t(4) = 2.7764: 3 ± 1.9632."""
    estimate = mean_of_batches([1.0, 2.0, 3.0, 4.0, 5.0])
    assert estimate.value == 3.0
    assert estimate.interval == pytest.approx((1.0368, 4.9632), abs=1e-4)
    assert mean_of_batches([1.0, 2.0, 3.0, 4.0]).interval is None


def test_dependent_values_widen_the_interval_of_the_mean():
    """Batches see that 40 slow values in a row are one event, which their number alone would hide."""
    ordered, mixed = np.repeat([1.0, 2.0], 100), np.tile([1.0, 2.0], 100)
    low, high = mean_of_batches(ordered).interval
    assert high - low > 5 * np.diff(mean_of_batches(mixed).interval)[0]


def test_a_share_by_wilson():
    """2 of 10 and 0 of 10 by Wilson's formula; no bound leaves [0, 1]."""
    assert proportion(2, 10).interval == pytest.approx((0.0567, 0.5098), abs=1e-4)
    assert proportion(0, 10).interval == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert proportion(10, 10).interval[1] == pytest.approx(1.0)


def test_single_precision_is_summarised_as_it_is():
    """A float32 sample gives the figures of the same sample in double precision, within its own precision."""
    values = np.random.default_rng(1).exponential(size=5000)
    wide, narrow = distribution(values), distribution(values.astype(np.float32))
    for name in ("mean", "p50", "p95", "p99", "max"):
        assert getattr(narrow, name) == pytest.approx(getattr(wide, name), rel=1e-6)
    assert narrow.intervals["p95"] == pytest.approx(wide.intervals["p95"], rel=1e-6)
