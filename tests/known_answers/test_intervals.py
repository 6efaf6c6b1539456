"""Intervals against tables and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tgibench.stats import _binomial_bounds, mean_of_batches, proportion, quantile_interval, t_quantile


@pytest.mark.parametrize(
    ("degrees", "table"),
    [(1, 12.7062), (4, 2.7764), (9, 2.2622), (19, 2.0930), (30, 2.0423), (31, 2.0395), (40, 2.0211), (120, 1.9799)],
)
def test_students_t_is_that_of_the_tables(degrees, table):
    """The two-sided 95 % quantile is right to four digits behind the point."""
    assert t_quantile(degrees) == pytest.approx(table, abs=1e-4)


@pytest.mark.parametrize(("count", "share"), [(6, 0.5), (72, 0.95), (368, 0.99), (400, 0.5), (1000, 0.9)])
def test_binomial_bounds_are_exact(count, share):
    """They are those of the binomial sum in whole numbers."""
    terms = [math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)]
    sums = np.cumsum(terms)
    assert _binomial_bounds(count, share) == (int(np.argmax(sums >= 0.025)), int(np.argmax(sums >= 0.975)))


def test_binomial_bounds_of_a_hundred_million_are_the_normal_ones():
    """At 10⁸ tokens the exact bounds lie within one of the normal approximation's."""
    spread = 1.959964 * math.sqrt(1e8 * 0.25)
    assert _binomial_bounds(10**8, 0.5) == pytest.approx((5e7 - spread, 5e7 + spread), abs=1)


@pytest.mark.parametrize(("quantile", "count"), [(0.5, 60), (0.9, 200), (0.95, 500), (0.99, 1500)])
def test_quantile_intervals_hold_the_true_quantile(quantile, count):
    """95 % or a little more of the intervals of independent exponential samples hold it: order statistics are discrete."""
    samples = np.sort(np.random.default_rng(5).exponential(size=(2000, count)), axis=1)
    truth = -math.log(1 - quantile)
    held = [low <= truth <= high for low, high in (quantile_interval(sample, quantile) for sample in samples)]
    assert 0.94 <= np.mean(held) <= 0.98


def test_mean_intervals_hold_the_true_mean():
    """About 95 % of the intervals of independent samples hold it."""
    samples = np.random.default_rng(6).normal(3.0, 1.0, size=(3000, 200))
    held = [low <= 3.0 <= high for low, high in (mean_of_batches(sample).interval for sample in samples)]
    assert 0.935 <= np.mean(held) <= 0.965


def test_mean_intervals_of_dependent_values_stay_near_their_level():
    """A first-order autoregression with coefficient 0.6, which intervals for independent values hold in 67 %."""
    generator, held = np.random.default_rng(7), []
    noise = generator.normal(size=(500, 2000))
    values = np.zeros_like(noise)
    for step in range(1, noise.shape[1]):
        values[:, step] = 0.6 * values[:, step - 1] + noise[:, step]
    for series in values:
        low, high = mean_of_batches(series).interval
        held.append(low <= 0 <= high)
    assert np.mean(held) >= 0.9


def test_shares_are_held():
    """About 95 % of Wilson's intervals hold a true share of 0.3."""
    successes = np.random.default_rng(8).binomial(100, 0.3, size=2000)
    held = [low <= 0.3 <= high for low, high in (proportion(int(number), 100).interval for number in successes)]
    assert 0.93 <= np.mean(held) <= 0.97
