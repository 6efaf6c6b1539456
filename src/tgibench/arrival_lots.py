"""Gives the arrivals of an open load to its parts by lot, so that the parts together are exactly the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tgibench.loads import Part

__all__ = ["draws", "keep_by_lot", "known_requests"]


def draws(rng: np.random.Generator, draw: Callable[[np.random.Generator, int], NDArray[np.float64]]) -> Iterator[float]:
    """What `draw` gives, without end; drawn many at a time."""
    while True:
        yield from draw(rng, 1024).tolist()


def keep_by_lot(arrivals: Iterator[tuple[int, float]], part: Part, seed: int) -> Iterator[tuple[int, float]]:
    """Give each arrival to one part by lot: what is kept of a Poisson process is a Poisson process.

    A part of a part is drawn from that part's own arrivals, by lots that are independent of those of other parts.
    """
    number, total = 0, 1
    for level, (which, ways) in enumerate(part.splits()):
        if ways > 1:
            stream = [seed, 4, level, number] if level else [seed, 4]
            arrivals = _kept(arrivals, which, ways, np.random.default_rng(stream))
        number, total = number + total * which, total * ways
    return arrivals


def _kept(
    arrivals: Iterator[tuple[int, float]], which: int, ways: int, rng: np.random.Generator
) -> Iterator[tuple[int, float]]:
    lots = draws(rng, lambda rng, size: rng.integers(ways, size=size).astype(float))
    return (arrival for arrival, lot in zip(arrivals, lots, strict=False) if lot == which)


def known_requests(requests: int | None, part: Part) -> int | None:
    """How many requests a part by lot has: known of the whole only."""
    return requests if part.total == 1 else None
