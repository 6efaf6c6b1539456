"""Distributions, quantiles and their confidence intervals: pure functions of arrays. All intervals are at 95 %."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import attrs
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Distribution",
    "Estimate",
    "Interval",
    "distribution",
    "mean_of_batches",
    "proportion",
    "quantile_interval",
    "samples_needed",
]

Interval = tuple[float, float]

_LEVEL = 0.95
_QUANTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
_MOST_BATCHES = 20
_FEWEST_BATCHES = 5
_EXACT_BINOMIAL_UP_TO = 2000
_Z = NormalDist().inv_cdf(0.5 + _LEVEL / 2)


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


@attrs.frozen
class Estimate:
    """One figure with its 95 % confidence interval.

    Args:
        value: The figure.
        interval: None where the sample cannot carry one.
        count: What it rests on: batches for a throughput, requests for a share.
    """

    value: float
    interval: Interval | None = None
    count: int | None = None


def distribution(values: ArrayLike) -> Distribution | None:
    """Summarise a sample given in the order of time; None when it is empty.

    Quantiles carry distribution-free intervals of order statistics. The mean's interval is that of the means of consecutive
    batches, because requests in one run are not independent.
    """
    sample = np.asarray(values, dtype=np.float64)
    if not len(sample):
        return None
    ordered = np.sort(sample)
    figures = dict(zip(_QUANTILES, np.quantile(ordered, list(_QUANTILES.values())).tolist(), strict=True))
    mean = mean_of_batches(sample)
    return Distribution(
        count=len(sample),
        mean=float(sample.mean()),
        min=float(ordered[0]),
        max=float(ordered[-1]),
        **figures,
        intervals={
            "mean": mean.interval,
            **{name: quantile_interval(ordered, quantile) for name, quantile in _QUANTILES.items()},
        },
    )


def mean_of_batches(values: ArrayLike, batches: int | None = None) -> Estimate:
    """The mean of values in the order of time, with the t-interval of the means of consecutive equal batches.

    Args:
        values: The values; those that do not fill the last batch count towards the mean only.
        batches: How many; by default as many as the sample allows, 5 to 20. Fewer than 5 values carry no interval.
    """
    sample = np.asarray(values, dtype=np.float64)
    number = min(_MOST_BATCHES, len(sample)) if batches is None else batches
    value = float(sample.mean())
    if number < _FEWEST_BATCHES or len(sample) < number:
        return Estimate(value, None, len(sample))
    size = len(sample) // number
    means = sample[: size * number].reshape(number, size).mean(axis=1)
    half = _t_quantile(number - 1) * float(means.std(ddof=1)) / math.sqrt(number)
    return Estimate(value, (value - half, value + half), number)


def quantile_interval(ordered: NDArray[np.float64], quantile: float) -> Interval | None:
    """Bounds from order statistics that hold a quantile with 95 % confidence whatever the distribution.

    Args:
        ordered: The sample, ascending.
        quantile: Between 0 and 1.

    Returns:
        None when even the sample's smallest and largest value together do not reach 95 %.
    """
    count = len(ordered)
    if count < samples_needed(quantile):
        return None
    tail = (1 - _LEVEL) / 2
    low = _binomial_quantile(count, quantile, tail) - 1
    high = _binomial_quantile(count, quantile, 1 - tail)
    # where one tail has no order statistic beyond it, the other bound alone must carry the level
    low, high = max(low, 0), min(high, count - 1)
    return float(ordered[low]), float(ordered[high])


def samples_needed(quantile: float) -> int:
    """The smallest sample whose range holds a quantile with 95 % confidence: 1 - qⁿ - (1 - q)ⁿ ≥ 0.95."""
    rarer = max(quantile, 1 - quantile)
    count = math.ceil(math.log(1 - _LEVEL) / math.log(rarer))
    while 1 - quantile**count - (1 - quantile) ** count < _LEVEL:
        count += 1
    return count


def proportion(successes: int, count: int) -> Estimate | None:
    """A share with Wilson's score interval; None of nothing."""
    if not count:
        return None
    share, z2 = successes / count, _Z**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return Estimate(share, (max(0.0, centre - half), min(1.0, centre + half)), count)


def _binomial_quantile(count: int, share: float, level: float) -> int:
    """The smallest k with P(Binomial(count, share) ≤ k) ≥ level; by the normal approximation for large samples."""
    if count > _EXACT_BINOMIAL_UP_TO:
        spread = math.sqrt(count * share * (1 - share))
        return math.ceil(count * share + NormalDist().inv_cdf(level) * spread)
    log_ways = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(count + 1)]
    numbers = np.arange(count + 1)
    log_terms = np.array(log_ways) + numbers * math.log(share) + (count - numbers) * math.log1p(-share)
    return int(np.searchsorted(np.cumsum(np.exp(log_terms)), level - 1e-12))


# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom (any statistical table).
_T_TABLE = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


def _t_quantile(degrees: int) -> float:
    if degrees <= len(_T_TABLE):
        return _T_TABLE[degrees - 1]
    return _Z + (_Z**3 + _Z) / (4 * degrees)  # Cornish and Fisher's first term: 4 digits beyond 30
