"""Comparing two runs: the ratio of a figure, its interval, and whether the data can tell the two apart.

The interval is about chance *within* the runs. That a fresh machine or another hour gives somewhat different figures no single run can
show: `noise_ratio` adds what is known of that.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench.bootstrap import ratio_of_batches, ratio_of_intervals, ratio_of_samples
from tgibench.errors import InvalidValueError
from tgibench.figures import Figure, figure_name, figure_of, rows_function, rows_inside
from tgibench.metrics import Metrics
from tgibench.records import RequestLog
from tgibench.stats import Estimate, samples_needed
from tgibench.validators import is_finite_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from tgibench.measurements import Measurement
    from tgibench.stats import Interval

    Floats = NDArray[np.float64]

__all__ = ["Comparison", "Verdict", "compare", "compare_estimates"]

_Z = 1.96


class Verdict(enum.StrEnum):
    """What the data say of a ratio."""

    HIGHER = "higher"
    LOWER = "lower"
    TIE = "tie"  # the interval holds 1
    CANNOT_TELL = "cannot tell"  # there is no interval


@attrs.frozen(kw_only=True)
class Comparison:
    """A figure of two runs side by side.

    Args:
        of: The figure's name, such as ``"latency_s p95"``.
        a: The first run's; None where it has none.
        b: The second run's.
        ratio: a / b; None where one is missing or not above 0.
        interval: The ratio's 95 % interval; None where the data carry none.
        verdict: Whether `a` is higher or lower than `b`, the two are a tie, or the data cannot tell.
        basis: What the interval rests on, or why there is none.
    """

    of: str
    a: float | None
    b: float | None
    ratio: float | None
    interval: Interval | None
    verdict: Verdict
    basis: str

    @property
    def sentence(self) -> str:
        """The comparison in a sentence."""
        if self.ratio is None or self.interval is None:
            return f"{self.of}: cannot tell: {self.basis}"
        low, high = self.interval
        verdict = "a tie" if self.verdict is Verdict.TIE else f"the first is {self.verdict}"
        return f"{self.of}: ratio {self.ratio:.3f} ({low:.3f} to {high:.3f}, by {self.basis}): {verdict}"


def compare(
    a: Measurement | RequestLog,
    b: Measurement | RequestLog,
    *,
    of: str | Callable[[RequestLog], ArrayLike] = "output_throughput_tps",
    quantile: float | None = None,
    noise_ratio: float | None = None,
    seed: int = 0,
) -> Comparison:
    """The ratio of a figure of two runs with its 95 % interval, and whether they differ.

    Requests in one run are not independent, so stretches of each run are resampled, not requests. Of two logs the values of single
    requests are, for any quantile. Measurements hold summaries: means and rates are compared by the values of their consecutive
    batches, quantiles by their intervals. Of published figures, which have neither, nothing can be told without `noise_ratio`.

    Args:
        a: The first run.
        b: The second.
        of: A field of `Metrics`, a name in its ``extra``, or ``"throughput_tps"`` (see `Measurement.throughput_tps`). Of two logs also
            a function from a log to one number a row (NaN for none).
        quantile: Of a distribution; None for the mean. Measurements hold 0.5, 0.9, 0.95 and 0.99.
        noise_ratio: The figure's relative standard deviation from one run to the next of the same deployment, where it is known: 0.01
            for 1 %. It adds to what the runs themselves show.
        seed: Of the resampling of logs.

    Raises:
        InvalidValueError: There is no such figure or quantile, or `noise_ratio` is no number of at least 0.
    """
    _check_noise(noise_ratio)
    name = figure_name(of, quantile)
    if isinstance(a, RequestLog) and isinstance(b, RequestLog):
        rows = rows_function(of)
        if rows is not None:
            return _with_noise(
                _of_samples(rows_inside(a, rows), rows_inside(b, rows), name, quantile, seed), noise_ratio
            )
    if not isinstance(of, str):
        raise InvalidValueError(f"a function compares two request logs, got {type(a).__name__} and {type(b).__name__}")
    first, second = (figure_of(Metrics.of(run) if isinstance(run, RequestLog) else run, of, quantile) for run in (a, b))
    return _with_noise(_of_figures(first, second, name), noise_ratio)


def compare_estimates(
    a: Estimate | None, b: Estimate | None, *, of: str, noise_ratio: float | None = None
) -> Comparison:
    """The same for any two figures of separate runs, such as costs.

    Args:
        a: The first figure; None where there is none.
        b: The second.
        of: What to call it.
        noise_ratio: As of `compare`.

    Raises:
        InvalidValueError: `noise_ratio` is no number of at least 0.
    """
    _check_noise(noise_ratio)
    return _with_noise(_of_figures(Figure(a), Figure(b), of), noise_ratio)


def _check_noise(noise_ratio: float | None) -> None:
    if noise_ratio is not None and not (is_finite_number(noise_ratio) and noise_ratio >= 0):
        raise InvalidValueError(
            f"noise_ratio must be a number of at least 0, such as 0.01 for 1 %, got {noise_ratio!r}"
        )


def _of_figures(a: Figure, b: Figure, name: str) -> Comparison:
    first, second = a.estimate, b.estimate
    if first is None or second is None:
        return _compared(first, second, name, None, "a figure is missing")
    sizes = (a.batch_size, b.batch_size)
    interval = ratio_of_batches(first, second, batch_sizes=sizes)
    if interval is not None:
        basis = f"block bootstrap of {len(first.batch_means)} and {len(second.batch_means)} batches"
        return _compared(first, second, name, interval, basis)
    interval = ratio_of_intervals(first, second, batch_sizes=sizes, batch_means=(a.batch_means, b.batch_means))
    return _compared(first, second, name, interval, "the intervals of both" if interval else "no interval to judge by")


def _of_samples(a: Floats, b: Floats, name: str, quantile: float | None, seed: int) -> Comparison:
    if quantile is not None and not 0 < quantile < 1:
        raise InvalidValueError(f"quantile must lie between 0 and 1, both excluded, got {quantile!r}")

    def statistic(values: Floats) -> Floats:
        figures: Floats = values.mean(axis=-1) if quantile is None else np.quantile(values, quantile, axis=-1)
        return figures

    first, second = (
        Estimate(float(statistic(values)), None, len(values)) if len(values) else None for values in (a, b)
    )
    fewest = min(len(a), len(b))
    if fewest == 0:
        return _compared(first, second, name, None, "a figure is missing")
    if quantile is not None and fewest < samples_needed(quantile):
        return _compared(first, second, name, None, f"{fewest} requests are too few")
    interval = ratio_of_samples(a, b, statistic, seed=seed)
    basis = f"block bootstrap of {len(a)} and {len(b)} requests" if interval else "no interval to judge by"
    return _compared(first, second, name, interval, basis)


def _compared(a: Estimate | None, b: Estimate | None, name: str, interval: Interval | None, basis: str) -> Comparison:
    comparable = a is not None and b is not None and min(a.value, b.value) > 0
    if a is not None and b is not None and not comparable:
        basis = "a ratio needs figures above 0"
    return Comparison(
        of=name,
        a=None if a is None else a.value,
        b=None if b is None else b.value,
        ratio=a.value / b.value if a is not None and b is not None and comparable else None,
        interval=interval if comparable else None,
        verdict=_judged(interval if comparable else None),
        basis=basis,
    )


def _with_noise(comparison: Comparison, noise_ratio: float | None) -> Comparison:
    """Widen by what two runs of the same deployment differ by; where no interval is, that is all there is to judge by."""
    ratio = comparison.ratio
    if not noise_ratio or ratio is None:
        return comparison
    reach = math.sqrt(2) * _Z * noise_ratio
    low, high = comparison.interval or (ratio, ratio)
    interval = (
        ratio * math.exp(-math.hypot(math.log(ratio / low) if low > 0 else math.inf, reach)),
        ratio * math.exp(math.hypot(math.log(high / ratio), reach)),
    )
    noise = f"a known noise of {100 * noise_ratio:g} % from run to run"
    basis = noise if comparison.interval is None else f"{comparison.basis} and {noise}"
    return attrs.evolve(comparison, interval=interval, verdict=_judged(interval), basis=basis)


def _judged(interval: Interval | None) -> Verdict:
    if interval is None:
        return Verdict.CANNOT_TELL
    low, high = interval
    return Verdict.HIGHER if low > 1 else Verdict.LOWER if high < 1 else Verdict.TIE
