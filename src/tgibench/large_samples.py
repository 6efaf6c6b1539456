"""Distributions of samples too large to sort: the same figures from passes over the values, in little memory and without an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from tgibench.stats import (
    QUANTILES,
    THRESHOLDS_FROM,
    Distribution,
    batches_of,
    distribution,
    interpolated,
    interval_places,
    mean_by_batches,
    overdispersion,
    quantile_of,
    quantile_place,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from numpy.typing import NDArray

__all__ = ["distribution_in_blocks"]

_HALF = 1 << 16


@attrs.frozen(eq=False)
class _Sample:
    """Values that can be gone through any number of times."""

    blocks: Callable[[], Iterator[NDArray[np.floating[Any]]]]
    count: int

    @property
    def batches(self) -> int:
        return batches_of(self.count)

    @property
    def batch_size(self) -> int:
        return self.count // self.batches

    def pieces(self) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        """Each value once: ``(place of the first, number of their batch, values)``; what fills no batch comes last, as one more."""
        place = 0
        for block in self.blocks():
            values = block.astype(np.float32, copy=False)
            while len(values):
                batch = min(place // self.batch_size, self.batches)
                end = len(values) if batch == self.batches else (batch + 1) * self.batch_size - place
                yield place, batch, values[:end]
                place += len(values[:end])
                values = values[end:]


def distribution_in_blocks(
    blocks: Callable[[], Iterator[NDArray[np.floating[Any]]]], count: int
) -> Distribution | None:
    """What `tgibench.stats.distribution` gives for blocks of values in the order of time, joined and rounded to single precision.

    The bits of single-precision numbers, taken for whole numbers, stand in the order of the numbers: so a count of their upper halves and
    one of the lower halves of a few find any order statistic. The blocks are gone through three times.

    Args:
        blocks: Gives the blocks, any number of times.
        count: How many values they hold together, none of them NaN.
    """
    if count < batches_of(count):
        return distribution(np.concatenate([np.empty(0), *blocks()]).astype(np.float32))
    sample = _Sample(blocks, count)
    sums, uppers, part = _summed(sample)
    dependence = _dependence(sample, part)
    quantiles = {name: quantile_place(count, quantile) for name, quantile in QUANTILES.items()}
    ends = {name: interval_places(count, quantile, dependence[name]) for name, quantile in QUANTILES.items()}
    wanted = {0, count - 1}
    wanted.update(*((low, min(low + 1, count - 1)) for low, _ in quantiles.values()))
    wanted.update(*(places for places in ends.values() if places))
    at = _order_statistics(sample, uppers, sorted(wanted))
    mean = mean_by_batches(float(sums.sum()) / count, sums[:-1] / sample.batch_size)
    return Distribution(
        count=count,
        mean=mean.value,
        min=at[0],
        max=at[count - 1],
        **{name: interpolated(at[low], at[min(low + 1, count - 1)], way) for name, (low, way) in quantiles.items()},
        intervals={
            "mean": mean.interval,
            **{name: places and (at[places[0]], at[places[1]]) for name, places in ends.items()},
        },
        batch_means=mean.batch_means,
    )


def _summed(sample: _Sample) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float32]]:
    """Sums by batch, how often each upper half occurs, and a regular part of the values, ascending."""
    sums, uppers = np.zeros(sample.batches + 1), np.zeros(_HALF, np.int64)
    step, part = sample.count // THRESHOLDS_FROM + 1, []
    for place, batch, values in sample.pieces():
        sums[batch] += values.sum(dtype=np.float64)
        uppers += np.bincount(_halves(values)[0], minlength=_HALF)
        part.append(values[-place % step :: step].copy())
    return sums, uppers, np.sort(np.concatenate(part))


def _dependence(sample: _Sample, part: NDArray[np.float32]) -> dict[str, float]:
    thresholds = [quantile_of(part, quantile) for quantile in QUANTILES.values()]
    above = np.zeros((len(thresholds), sample.batches + 1), np.int64)
    for _, batch, values in sample.pieces():
        above[:, batch] += [np.count_nonzero(values > threshold) for threshold in thresholds]
    return {
        name: overdispersion(successes[:-1], sample.batch_size)
        for name, successes in zip(QUANTILES, above, strict=True)
    }


def _order_statistics(sample: _Sample, uppers: NDArray[np.int64], places: Collection[int]) -> dict[int, float]:
    """The values at some places of the ascending sample."""
    reached = np.cumsum(uppers)
    upper_of = {place: int(np.searchsorted(reached, place, side="right")) for place in places}
    chosen = np.unique(list(upper_of.values()))
    number_of = np.full(_HALF, -1, np.int64)
    number_of[chosen] = np.arange(len(chosen))
    counts = np.zeros(len(chosen) * _HALF, np.int64)
    for _, _, values in sample.pieces():
        upper, lower = _halves(values)
        number = number_of[upper]
        found = number >= 0
        counts += np.bincount(number[found] * _HALF + lower[found], minlength=len(counts))
    lowers = np.cumsum(counts.reshape(-1, _HALF), axis=1)
    return {
        place: _joined(
            upper, int(np.searchsorted(lowers[number_of[upper]], place - (reached - uppers)[upper], "right"))
        )
        for place, upper in upper_of.items()
    }


def _halves(values: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The upper and lower 16 bits of whole numbers from 0 on that stand in the order of the values."""
    bits = np.ascontiguousarray(values).view(np.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # below zero, larger bits are smaller numbers
    return (ordered >> 16) + _HALF // 2, ordered & (_HALF - 1)


def _joined(upper: int, lower: int) -> float:
    ordered = np.array([(upper - _HALF // 2) * _HALF + lower], np.int32)
    return float((ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(np.float32)[0])
