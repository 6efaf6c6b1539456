"""Distributions, quantiles and their confidence intervals: pure functions of arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Distribution", "Estimate", "Interval"]

Interval = tuple[float, float]


@attrs.frozen(kw_only=True)
class Distribution:
    """A sample in short. A published or small sample may lack some of its figures: they are None.

    Args:
        count: Sample size.
        mean: Arithmetic mean.
        min: Smallest value.
        max: Largest value.
        p50: Median.
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
