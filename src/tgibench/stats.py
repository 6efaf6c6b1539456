"""Distributions, quantiles and their confidence intervals: pure functions of arrays. All intervals are at 95 %."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Distribution",
    "Estimate",
    "Interval",
    "dependent_proportion",
    "distribution",
    "mean_of_batches",
    "proportion",
    "quantile_interval",
    "samples_needed",
    "t_quantile",
]

Interval = tuple[float, float]

_TAIL = 0.025
QUANTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
_MOST_BATCHES = 20
_FEWEST_BATCHES = 5
_BATCH_SIZE = 10
THRESHOLDS_FROM = 50_000
_Z = NormalDist().inv_cdf(1 - _TAIL)


@attrs.frozen(kw_only=True)
class Distribution:
    """A sample in short. A published or small sample may lack some of its figures: they are None.

    Args:
        count: Sample size.
        mean: Arithmetic mean.
        min: Smallest value.
        max: Largest value.
        p50: Median. Quantiles interpolate linearly between order statistics (Hyndman and Fan's type 7).
        p90: 90th percentile.
        p95: 95th percentile.
        p99: 99th percentile.
        intervals: 95 % confidence intervals by field name (``"mean"``, ``"p50"``, …); None where the sample cannot carry one.
        batch_means: Means of consecutive equal batches, which tell how much requests depend on their neighbours; empty where there were
            none.
    """

    count: int
    mean: float | None = None
    min: float | None = None
    max: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    intervals: Mapping[str, Interval | None] = attrs.field(factory=dict)
    batch_means: tuple[float, ...] = ()


@attrs.frozen
class Estimate:
    """One figure with its 95 % confidence interval.

    Args:
        value: The figure.
        interval: None where the sample cannot carry one.
        count: What it rests on: batches for a throughput, requests for a share.
        batch_means: Its values in consecutive equal batches; empty where there were none.
    """

    value: float
    interval: Interval | None = None
    count: int | None = None
    batch_means: tuple[float, ...] = ()


def distribution(values: ArrayLike, *, overwrite: bool = False) -> Distribution | None:
    """Summarise a sample given in the order of time; None when it is empty.

    Requests in one run are not independent, and consecutive batches of them tell how far: the mean's interval is that of the batches'
    means, and a quantile's, of order statistics and free of any distribution, is that of a sample smaller by the factor by which its
    share of the batches varies more than independent values would let it.

    Args:
        values: The sample. A float32 array is not widened.
        overwrite: Whether an array may be sorted in place, which saves its size in memory.
    """
    sample = np.asarray(values)
    if sample.dtype != np.float32:
        sample = sample.astype(np.float64, copy=False)
    if not len(sample):
        return None
    mean, dependence = mean_of_batches(sample), _dependence(sample)
    ordered = sample if overwrite else sample.copy()
    ordered.sort()
    return Distribution(
        count=len(sample),
        mean=mean.value,
        min=float(ordered[0]),
        max=float(ordered[-1]),
        **{name: quantile_of(ordered, quantile) for name, quantile in QUANTILES.items()},
        intervals={
            "mean": mean.interval,
            **{name: quantile_interval(ordered, quantile, dependence[name]) for name, quantile in QUANTILES.items()},
        },
        batch_means=mean.batch_means,
    )


def mean_of_batches(values: ArrayLike, batches: int | None = None) -> Estimate:
    """The mean of values in the order of time, with the t-interval of the means of consecutive equal batches.

    Args:
        values: The values, at least one; those that do not fill the last batch count towards the mean only.
        batches: How many; by default 5 to 20, of at least 10 values where the sample allows it. Fewer than 5 values, or
            batches, carry no interval.
    """
    sample = np.asarray(values)
    number = batches_of(len(sample)) if batches is None else batches
    value = float(sample.mean(dtype=np.float64))
    if number < _FEWEST_BATCHES or len(sample) < number:
        return Estimate(value, None, len(sample))
    size = len(sample) // number
    return mean_by_batches(value, sample[: size * number].reshape(number, size).mean(axis=1, dtype=np.float64))


def mean_by_batches(value: float, means: NDArray[np.float64]) -> Estimate:
    """A mean with the t-interval that the means of its batches, at least two, give it."""
    half = t_quantile(len(means) - 1) * float(means.std(ddof=1)) / math.sqrt(len(means))
    return Estimate(value, (value - half, value + half), len(means), tuple(means.tolist()))


def quantile_interval(ordered: NDArray[np.floating[Any]], quantile: float, dependence: float = 1.0) -> Interval | None:
    """Order statistics that hold a quantile with at least 95 % confidence, at most 2.5 % beyond each, of any distribution.

    Args:
        ordered: The sample, ascending.
        quantile: Between 0 and 1, both excluded.
        dependence: How many values are worth one independent value.

    Returns:
        None for a sample worth fewer independent values than `samples_needed`.
    """
    places = interval_places(len(ordered), quantile, dependence)
    return places and (float(ordered[places[0]]), float(ordered[places[1]]))


def interval_places(count: int, quantile: float, dependence: float) -> tuple[int, int] | None:
    """Where in so many ascending values the ends of a quantile's interval stand; None where they carry none."""
    worth = int(count / dependence)
    if worth < samples_needed(quantile):
        return None
    below, above = _binomial_bounds(worth, quantile)
    return below * count // worth - 1, -(-(above + 1) * count // worth) - 1


def quantile_place(count: int, quantile: float) -> tuple[int, float]:
    """Where in so many ascending values a quantile stands: the value below it, and its share of the way to the next."""
    place = quantile * (count - 1)
    return int(place), place - int(place)


def samples_needed(quantile: float) -> int:
    """The smallest sample whose ends have each at most a 2.5 % chance to miss a quantile: 6 (p50), 36, 72, 368 (p99)."""
    return math.ceil(math.log(_TAIL) / math.log(max(quantile, 1 - quantile)))


def dependent_proportion(successes: NDArray[np.bool_]) -> Estimate | None:
    """The share of successes in the order of time, with Wilson's interval for as many independent ones as they are worth."""
    number = batches_of(len(successes))
    size = len(successes) // number
    worth = len(successes) / (_overdispersion(successes[: number * size].reshape(number, size)) if size else 1.0)
    share = proportion(float(successes.mean()) * worth, worth) if worth else None
    return share and Estimate(share.value, share.interval, len(successes))


def proportion(successes: float, count: float) -> Estimate | None:
    """A share with Wilson's score interval; None of nothing."""
    if not count:
        return None
    share, z2 = successes / count, _Z**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return Estimate(share, (max(0.0, centre - half), min(1.0, centre + half)), int(count))


def batches_of(count: int) -> int:
    """Into how many equal batches so many values are divided."""
    return min(_MOST_BATCHES, max(_FEWEST_BATCHES, count // _BATCH_SIZE))


def _dependence(sample: NDArray[np.floating[Any]]) -> dict[str, float]:
    """By how much the variance of each quantile's share exceeds that of independent values; at least 1, and 1 where it is not known.

    The share of values above a quantile is taken batch by batch. A regular part of a very large sample tells the quantile well enough.
    """
    number = batches_of(len(sample))
    size = len(sample) // number
    if not size:
        return dict.fromkeys(QUANTILES, 1.0)
    part = np.sort(sample[:: len(sample) // THRESHOLDS_FROM + 1])
    batches = sample[: number * size].reshape(number, size)
    return {name: _overdispersion(batches > quantile_of(part, quantile)) for name, quantile in QUANTILES.items()}


def _overdispersion(batches: NDArray[np.bool_]) -> float:
    """By how much the batches' shares vary more than those of independent values; at least 1, and 1 where it is not known."""
    return overdispersion(np.count_nonzero(batches, axis=1), len(batches[0]))


def overdispersion(successes: NDArray[np.integer[Any]], size: int) -> float:
    """The same of batches of one size, given the successes in each."""
    shares = successes / size
    share = float(shares.mean())
    if not 0 < share < 1:
        return 1.0
    independent = share * (1 - share) / float(size - 1 / len(shares))
    return max(1.0, float(shares.var(ddof=1)) / independent)


def quantile_of(ordered: NDArray[np.floating[Any]], quantile: float) -> float:
    """A quantile of ascending values, at least one."""
    low, way = quantile_place(len(ordered), quantile)
    return interpolated(float(ordered[low]), float(ordered[min(low + 1, len(ordered) - 1)]), way)


def interpolated(below: float, above: float, way: float) -> float:
    """What lies so far on the way from one order statistic to the next."""
    return min(below + way * (above - below), above)


def _binomial_bounds(count: int, share: float) -> tuple[int, int]:
    """The smallest numbers that a Binomial(count, share) stays at or below with probability 2.5 % and 97.5 %.

    The terms follow from each other by their ratio; those beyond 8 standard deviations are below double precision.
    """
    centre, reach = count * share, 8 * math.sqrt(count * share * (1 - share)) + 10
    numbers = np.arange(max(0, math.floor(centre - reach)), min(count, math.ceil(centre + reach)) + 1)
    ratios = (count - numbers[:-1]) / numbers[1:] * (share / (1 - share))
    logarithms = np.concatenate(([0.0], np.cumsum(np.log(ratios))))
    reached = np.cumsum(np.exp(logarithms - logarithms.max()))
    low, high = np.searchsorted(reached, np.array([_TAIL, 1 - _TAIL]) * reached[-1])
    return int(numbers[low]), int(numbers[high])


# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom (any statistical table).
_T_TABLE = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


def t_quantile(degrees: float) -> float:
    """The two-sided 95 % quantile of Student's t; degrees of freedom are rounded down."""
    if degrees < len(_T_TABLE) + 1:
        return _T_TABLE[max(1, int(degrees)) - 1]
    # Abramowitz and Stegun 26.7.5: within 0.0001 beyond 30 degrees
    first = (_Z**3 + _Z) / 4
    second = (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96
    third = (3 * _Z**7 + 19 * _Z**5 + 17 * _Z**3 - 15 * _Z) / 384
    return _Z + first / degrees + second / degrees**2 + third / degrees**3
