"""Resampling in blocks: how uncertain a figure is, or the ratio of two, when requests depend on their neighbours.

Blocks are consecutive stretches of a run. Where every value was kept, overlapping blocks of values are resampled (the block bootstrap of
Künsch 1989, circular as in Politis and Romano 1992); where only the means of batches were kept, the batches are. Both are stretched to
what Student's t asks of so few blocks, as a percentile interval falls short of it (Hesterberg 2015). Nothing is left to chance: the
same arguments give the same interval.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from tgibench.stats import Estimate, t_quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from tgibench.stats import Interval

    Floats = NDArray[np.float64]

__all__ = ["block_bootstrap", "ratio_of_batches", "ratio_of_intervals", "ratio_of_samples"]

_RESAMPLES = 1000
_SHIFTS = (-2, -1, 1, 2)
_FEWEST_VALUES = 25
_VALUES_AT_ONCE = 4_000_000
_LONG_BATCH = 10
_STRETCHES = 5
_ASSUMED_CORRELATION = 0.6
_PERCENTILES = (2.5, 97.5)
_Z = t_quantile(math.inf)


def block_bootstrap(values: ArrayLike, statistic: Callable[[Floats], Floats], *, seed: int = 0) -> Estimate:
    """Any statistic of values in the order of time, with its block-bootstrap interval.

    Args:
        values: At least one.
        statistic: Of an array's last axis, such as ``lambda x: numpy.quantile(x, 0.9, axis=-1)``.
        seed: Of the resampling.

    Returns:
        The statistic; its interval is None with fewer than 25 values.
    """
    sample = np.asarray(values, dtype=np.float64)
    value = float(statistic(sample))
    if len(sample) < _FEWEST_VALUES:
        return Estimate(value, None, len(sample))
    degrees, stretch = _of_blocks(len(sample))
    deviations = (_resampled(sample, statistic, seed) - value) * (stretch * t_quantile(degrees) / _Z)
    low, high = np.percentile(deviations, _PERCENTILES)
    return Estimate(value, (value + float(low), value + float(high)), len(sample))


def ratio_of_samples(
    a: ArrayLike, b: ArrayLike, statistic: Callable[[Floats], Floats], *, seed: int = 0
) -> Interval | None:
    """The 95 % interval of ``statistic(a) / statistic(b)``, of the values of two runs in the order of time.

    Returns:
        None with fewer than 25 values in either, or where a statistic is not above 0, resampled or not.
    """
    samples = [np.asarray(values, dtype=np.float64) for values in (a, b)]
    if min(len(sample) for sample in samples) < _FEWEST_VALUES:
        return None
    figures = [float(statistic(sample)) for sample in samples]
    resampled = [_resampled(sample, statistic, seed) for sample in samples]
    if min(*figures, *(float(values.min()) for values in resampled)) <= 0:
        return None
    scatter = [
        np.log(values / figure)
        * _of_blocks(len(sample))[1]
        * math.sqrt(_hidden(_block_length(len(sample)), len(sample)))
        for sample, figure, values in zip(samples, figures, resampled, strict=True)
    ]
    variances = [float(deviations.var()) for deviations in scatter]
    degrees = _welch(variances, [_of_blocks(len(sample))[0] for sample in samples])
    return _around(figures[0] / figures[1], scatter[0], scatter[1], degrees)


def ratio_of_batches(
    a: Estimate, b: Estimate, *, batch_sizes: tuple[int | None, int | None] = (None, None)
) -> Interval | None:
    """The 95 % interval of ``a / b``, of two runs' figures that are the means of their `batch_means`.

    Batches that follow each other may still depend on each other: their correlation, where it is positive, widens the interval; so does
    what five long stretches of each run show of slower changes, where it is more; and so does what batches of fewer than ten values
    cannot show of a correlation of 0.6 between neighbours.

    Args:
        a: The numerator.
        b: The denominator.
        batch_sizes: How many values each batch of either is the mean of; None for rates in stretches of time.

    Returns:
        None where a figure has no batch means, or is not above 0, resampled or not.
    """
    if not (a.batch_means and b.batch_means and min(a.value, b.value) > 0):
        return None
    scatter, variances = [], []
    for side, batch_size in zip((a, b), batch_sizes, strict=True):
        means = np.array(side.batch_means)
        resampled = _shares(len(means)) @ means
        if resampled.min() <= 0:
            return None
        widening = _widening(means, batch_size)
        scatter.append(np.log(resampled / means.mean()) * math.sqrt(widening * len(means) / (len(means) - 1)))
        variances.append(_variance(means) * widening)
    each = [len(a.batch_means) - 1, len(b.batch_means) - 1]
    short = any(size is not None and size < _LONG_BATCH for size in batch_sizes)
    degrees = min(each) if short else _welch(variances, each)
    fine, coarse = t_quantile(degrees) * math.sqrt(sum(variances)), _coarse_reach(a.batch_means, b.batch_means)
    stretch = max(1.0, coarse / fine) if fine else 1.0
    return _around(a.value / b.value, scatter[0] * stretch, scatter[1] * stretch, degrees)


def ratio_of_intervals(
    a: Estimate,
    b: Estimate,
    *,
    batch_sizes: tuple[int | None, int | None] = (None, None),
    batch_means: tuple[tuple[float, ...], tuple[float, ...]] = ((), ()),
) -> Interval | None:
    """The 95 % interval of ``a / b`` from the intervals of two independent figures above 0 (Zou and Donner 2008, on logarithms).

    Args:
        a: The numerator.
        b: The denominator.
        batch_sizes: How many values made a batch where the dependence of either was judged; None where it does not matter. Short
            batches widen the interval as in `ratio_of_batches`.
        batch_means: Means of consecutive batches of the values that the figures are about: how much more they say than independent
            batches would, as in `ratio_of_batches`, widens the interval likewise.

    Returns:
        None where a figure has no interval or is not above 0.
    """
    if a.interval is None or b.interval is None or min(a.value, b.value) <= 0:
        return None
    (a_below, a_above), (b_below, b_above) = (
        _log_reach(side, batch_size) for side, batch_size in zip((a, b), batch_sizes, strict=True)
    )
    ratio, stretch = a.value / b.value, _persistence(*batch_means)
    below, above = stretch * math.hypot(a_below, b_above), stretch * math.hypot(a_above, b_below)
    return ratio * math.exp(-below), ratio * math.exp(above)


def _log_reach(figure: Estimate, batch_size: int | None) -> tuple[float, float]:
    """How far the interval reaches below and above the figure, in logarithms."""
    low, high = figure.interval or (figure.value, figure.value)
    widening = 1.0
    if batch_size is not None and batch_size < _LONG_BATCH and figure.count is not None:
        widening = math.sqrt(_hidden(batch_size, figure.count))
    below = math.log(figure.value / low) if low > 0 else math.inf
    return widening * below, widening * math.log(high / figure.value)


def _around(ratio: float, a: Floats, b: Floats, degrees: float) -> Interval:
    """The interval of a ratio from the scatter of both logarithms; each resample of one side meets several of the other."""
    differences = np.concatenate([a - np.roll(b, shift) for shift in _SHIFTS])
    low, high = np.percentile(differences, _PERCENTILES) * (t_quantile(degrees) / _Z)
    return ratio * math.exp(low), ratio * math.exp(high)


def _welch(variances: Sequence[float], degrees: Sequence[float]) -> float:
    """Welch's degrees of freedom of a difference."""
    parts = sum(variance**2 / degree for variance, degree in zip(variances, degrees, strict=True))
    return sum(variances) ** 2 / parts if parts else min(degrees)


def _variance(means: Floats) -> float:
    """Of the logarithm of the mean of independent batch means."""
    return float(means.var(ddof=1)) / len(means) / float(means.mean()) ** 2


def _coarse_reach(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """How far the logarithm of a ratio may be out by what five long stretches of each run show; 0 with too few batches for them."""
    if min(len(a), len(b)) < 2 * _STRETCHES:
        return 0.0
    variances = []
    for side in (a, b):
        size = len(side) // _STRETCHES
        variances.append(_variance(np.array(side[: _STRETCHES * size]).reshape(_STRETCHES, size).mean(axis=1)))
    return t_quantile(_welch(variances, [_STRETCHES - 1] * 2)) * math.sqrt(sum(variances))


def _persistence(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """By how much an interval that takes batches for independent must be stretched."""
    if not (a and b) or min(*a, *b) <= 0:
        return 1.0
    sides = [np.array(side) for side in (a, b)]
    degrees = [len(side) - 1 for side in sides]
    independent = [_variance(side) for side in sides]
    widened = [variance * _widening(side, None) for variance, side in zip(independent, sides, strict=True)]
    reach = t_quantile(_welch(independent, degrees)) * math.sqrt(sum(independent))
    fine = t_quantile(_welch(widened, degrees)) * math.sqrt(sum(widened))
    return max(1.0, max(fine, _coarse_reach(a, b)) / reach) if reach else 1.0


def _block_length(count: int) -> int:
    return math.ceil(math.sqrt(count))


def _of_blocks(count: int) -> tuple[float, float]:
    """Degrees of freedom of a series' blocks, and by how much their resampled scatter must be stretched."""
    blocks = count / _block_length(count)
    return blocks - 1, math.sqrt(blocks / (blocks - 1))


def _resampled(sample: Floats, statistic: Callable[[Floats], Floats], seed: int) -> Floats:
    """The statistic of many series made of the sample's blocks."""
    count, length = len(sample), _block_length(len(sample))
    starts = np.random.default_rng(seed).integers(count, size=(_RESAMPLES, -(-count // length)))
    rows = max(1, _VALUES_AT_ONCE // count)
    parts = []
    for first in range(0, _RESAMPLES, rows):
        places = starts[first : first + rows, :, None] + np.arange(length)
        series = sample[places.reshape(len(places), -1)[:, :count] % count]
        parts.append(np.asarray(statistic(series), dtype=np.float64))
    return np.concatenate(parts)


@functools.cache
def _shares(batches: int) -> Floats:
    """How much each batch counts in each resample."""
    draws = np.random.default_rng(batches).multinomial(batches, np.full(batches, 1 / batches), size=_RESAMPLES)
    shares: Floats = draws / batches
    return shares


def _widening(means: Floats, size: int | None) -> float:
    """By how much the variance of the mean of these batch means exceeds that of independent ones."""
    number, deviations = len(means), means - means.mean()
    total = float(deviations @ deviations)
    # the estimated correlation of neighbours is low by about 1 / number
    neighbours = float(deviations[1:] @ deviations[:-1]) / total + 1 / number if total else 0.0
    widening = 1 + 2 * min(max(neighbours, 0.0), 0.5)
    return widening if size is None or size >= _LONG_BATCH else max(widening, _hidden(size, size * number))


def _hidden(size: int, count: int) -> float:
    """What batches of so many values hide of a first-order autoregression: the variance of the mean over what the batches show of it."""

    def factor(length: int) -> float:
        r = _ASSUMED_CORRELATION
        return (1 + r) / (1 - r) - 2 * r * (1 - r**length) / (length * (1 - r) ** 2)

    return factor(count) / factor(size)
