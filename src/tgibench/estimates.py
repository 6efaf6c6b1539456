"""Arithmetic with figures that have intervals: what follows from them is reckoned at their values and at their intervals' ends."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tgibench.stats import Estimate

if TYPE_CHECKING:
    from collections.abc import Callable

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
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    try:
        value = figure(*(part.value for part in known))
    except ZeroDivisionError:
        return None
    count = next((part.count for part in known if part.count is not None), None)
    return Estimate(value, _ends(figure, known), count)


def _ends(figure: Callable[..., float], parts: list[Estimate]) -> Interval | None:
    ranges = []
    for part in parts:
        if part.interval is None:
            return None
        low, high = max(part.interval[0], 0.0), part.interval[1]
        ranges.append((low, high) if low < high else (low,))
    try:
        corners = [figure(*corner) for corner in itertools.product(*ranges)]
    except ZeroDivisionError:
        return None
    return min(corners), max(corners)
