"""What a sweep has finished and what failed: in its order, whatever came first, and in its store as soon as it is there."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, TypeVar

import attrs

from tgibench.measurements import DeploymentFailure, Measurement, Study

if TYPE_CHECKING:
    from collections.abc import Callable

    from tgibench.conductors import RunProgress
    from tgibench.deployments import Deployment
    from tgibench.errors import TgibenchError
    from tgibench.loads import LoadProfile
    from tgibench.records import RequestLog
    from tgibench.storage import StudyStore

__all__ = ["Progress", "SweepResults"]

Place = TypeVar("Place", int, tuple[int, int])
T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Progress:
    """How far a sweep has come.

    Args:
        deployment: Label of the deployment that moved.
        load: Label of its load at work; None while the deployment is being made ready.
        cells_done: Cells finished, those found in the store included, and those that will not be.
        cells_total: Cells in all.
        run: Progress of the load at work; None between loads.
        at_work: Deployments that are being made ready, loaded or stopped at this moment.
    """

    deployment: str
    load: str | None
    cells_done: int
    cells_total: int
    run: RunProgress | None = None
    at_work: int = 1


class SweepResults:
    """A sweep's cells and failures. Deployments and loads are known by their places in it.

    Args:
        deployments: The sweep's.
        loads: The sweep's.
        key: Gives the key of a deployment's cell under a load.
        store: Where cells are kept; what it holds is taken at once. None for nowhere.
        keep_chunk_times: Whether it keeps per-request and per-chunk columns too.
    """

    def __init__(
        self,
        deployments: tuple[Deployment, ...],
        loads: tuple[LoadProfile, ...],
        *,
        key: Callable[[Deployment, LoadProfile], str],
        store: StudyStore | None,
        keep_chunk_times: bool,
    ) -> None:
        self.deployments, self.loads = deployments, loads
        self._store, self._keep_chunk_times = store, keep_chunk_times
        self._keys = {
            (place, number): key(deployment, load)
            for (place, deployment), (number, load) in itertools.product(enumerate(deployments), enumerate(loads))
        }
        self._cells: dict[tuple[int, int], Measurement] = {}
        self._failures: dict[int, DeploymentFailure] = {}
        # nothing is left to do for these here; one that gave up is for another sweep
        self._settled: set[tuple[int, int]] = set()
        self.cells_done = 0  # run, or of a deployment that failed
        if store:
            store.expect(self._keys.values())
            self._recall(store)

    @property
    def cells_total(self) -> int:
        """Of the sweep."""
        return len(self._keys)

    def wanted(self, place: int) -> list[int]:
        """The loads of a deployment that are still to be run."""
        return [number for number in range(len(self.loads)) if (place, number) not in self._settled]

    def add(self, place: int, number: int, measurement: Measurement, log: RequestLog, *, cut_off: bool) -> None:
        """A load was run to its end or until it gave up, or it was cut off."""
        self._cells[place, number] = measurement
        if not cut_off:
            self._settle(place, number)
        if self._store:
            self._store.add(measurement, log if self._keep_chunk_times else None)

    def fail(self, place: int, error: TgibenchError, load: str | None) -> None:
        """What is wanted of a deployment will not be measured; `load` is the label of the one at work."""
        failure = DeploymentFailure(self.deployments[place], str(error), load)
        wanted = self.wanted(place)
        self._failures[place] = failure
        self.cells_done += len(wanted)
        if self._store:
            self._store.add_failure(failure, self._keys[place, wanted[0]])

    def study(self, *, interrupted: bool) -> Study:
        """What there is, in the order of the sweep."""
        return Study(_in_order(self._cells), _in_order(self._failures), interrupted=interrupted)

    def _recall(self, store: StudyStore) -> None:
        for (place, number), key in self._keys.items():
            if found := store.finished(key) or store.part(key):
                self._cells[place, number] = found
                if not found.partial:
                    self._settle(place, number)

    def _settle(self, place: int, number: int) -> None:
        self._settled.add((place, number))
        self.cells_done += 1


def _in_order(found: dict[Place, T]) -> tuple[T, ...]:
    return tuple(found[place] for place in sorted(found))
