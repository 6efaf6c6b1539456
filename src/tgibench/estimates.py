"""Arithmetic with figures that have intervals: what follows from them is reckoned at their values and at their intervals' ends."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tgibench.stats import Estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tgibench.stats import Distribution, Interval

__all__ = ["derived", "exact", "mean_of", "total"]


def exact(value: float) -> Estimate:
    """A figure that is known: its interval has no width."""
    return Estimate(value, (value, value))


def mean_of(sample: Distribution | None) -> Estimate | None:
    """The mean of a sample with its interval; None where it is not known."""
    if sample is None or sample.mean is None:
        return None
    return Estimate(sample.mean, sample.intervals.get("mean"), sample.count)


def total(parts: list[Estimate | None]) -> Estimate | None:
    """The sum, its interval summed end by end; None where one is missing."""
    return derived(lambda *values: sum(values), *parts)


def derived(figure: Callable[..., float], *parts: Estimate | None) -> Estimate | None:
    """A figure of others that is monotone in each of them; None where one is missing or nothing was made that could be divided by.

    Its interval is what it is at the ends of theirs; None where one has none, or reaches down to nothing made.
    """
    values, ranges, count = [], [], None
    bounded = True
    for part in parts:
        if part is None:
            return None
        values.append(part.value)
        count = part.count if count is None else count
        if part.interval is None:
            bounded = False
        else:
            low, high = part.interval
            ranges.append((max(low, 0.0), high) if low < high else (max(low, 0.0),))
    try:
        value = figure(*values)
    except ZeroDivisionError:
        return None
    return Estimate(value, _ends(figure, ranges) if bounded else None, count)


def _ends(figure: Callable[..., float], ranges: Iterable[tuple[float, ...]]) -> Interval | None:
    try:
        corners = [figure(*corner) for corner in itertools.product(*ranges)]
    except ZeroDivisionError:
        return None
    return min(corners), max(corners)
