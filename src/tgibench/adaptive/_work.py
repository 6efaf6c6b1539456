"""An adaptive sweep's state while it runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench.adaptive._expected import Expected
from tgibench.adaptive._outcomes import AdaptiveStudy, outcome_of
from tgibench.errors import DeployError, TeardownError
from tgibench.measurements import DeploymentFailure, Study, cell_key
from tgibench.twin.racing import Race

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tgibench.adaptive._plan import Plan
    from tgibench.endpoints import Endpoint
    from tgibench.loads import LoadProfile
    from tgibench.measurements import Measurement
    from tgibench.storage import StudyStore

__all__ = ["Work"]

_HOUR_S = 3600.0


class Work:
    """One adaptive sweep's state."""

    def __init__(self, plan: Plan, store: StudyStore | None) -> None:
        self.plan, self._store = plan, store
        self.spent_usd, self.deployed, self.interrupted = 0.0, 0, False
        self.out_of_budget: set[int] = set()
        self.cells: dict[tuple[int, LoadProfile], list[Measurement]] = {}
        self.failures: list[DeploymentFailure] = []
        self.expected = Expected.of(plan)
        self.race = Race(self.expected.scores, self.expected.deviations, self.expected.usd_per_hour, plan.k)
        self._recall()

    def expected_usd(self, deployment: int, goals: list[int]) -> float:
        """What deploying and measuring for these goals would cost."""
        seconds = self._needed_s(deployment, self.plan.loads_of(goals))
        return self.expected.usd_per_hour[deployment] * seconds / _HOUR_S

    async def deploy(self, place: int, goals: list[int]) -> None:
        """Deploy once and measure what could still win, ties again."""
        plan, clock = self.plan, asyncio.get_running_loop()
        deployment, ordered_s = plan.deployments[place], clock.time()
        self.deployed += 1
        try:
            async with plan.backend.deploy(deployment) as endpoint:
                for load in plan.loads_of(goals):
                    await self._measure(place, endpoint, load, plan.seed)
                    repeated = 0
                    while repeated < plan.repeats and self._tied(place, load, goals):
                        repeated += 1
                        await self._measure(place, endpoint, load, plan.seed + repeated)
        except TeardownError:
            raise
        except DeployError as error:
            self.failures.append(DeploymentFailure(deployment, str(error)))
            if self._store:
                self._store.add_failure(self.failures[-1])
        finally:
            self.race.leave(place)
            self.spent_usd += self.expected.usd_per_hour[place] * (clock.time() - ordered_s) / _HOUR_S

    async def _measure(self, place: int, endpoint: Endpoint, load: LoadProfile, seed: int) -> None:
        plan, task = self.plan, asyncio.current_task()
        deployment = plan.deployments[place]
        found = await plan.measure(deployment, endpoint, load, seed=seed)
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        measurement = attrs.evolve(
            found,
            deployment=deployment,
            load=load,
            prompts=plan.prompts.identity,
            provenance=attrs.evolve(found.provenance, backend=plan.backend.name, seed=seed),
        )
        if self._store:
            self._store.add(measurement)
        self._take(place, load, measurement)
        if plan.on_measurement:
            plan.on_measurement(measurement)

    def _take(self, place: int, load: LoadProfile, measurement: Measurement) -> None:
        """Score a cell for every goal that it concerns; of repeated ones the geometric mean."""
        cells = self.cells.setdefault((place, load), [])
        cells.append(measurement)
        for number, goal in enumerate(self.plan.goals):
            if goal.load != load or not goal.competes(self.plan.deployments[place]):
                continue
            figures = [figure for cell in cells if (figure := self.plan.figure(goal, cell)) is not None]
            if figures:
                self.race.record(number, place, float(np.mean([goal.score(figure.value) for figure in figures])))

    def _tied(self, place: int, load: LoadProfile, goals: list[int]) -> bool:
        """Whether the cell just measured is too close to another to tell which is better."""
        for number in goals:
            if self.plan.goals[number].load != load:
                continue
            scores = np.delete(self.race.measured[number], place)
            own = self.race.measured[number, place]
            if np.isfinite(scores).any() and abs(own - np.nanmin(scores)) < self.plan.tie_ratio:
                return True
        return False

    def _needed_s(self, place: int, loads: Iterable[LoadProfile]) -> float:
        return self.plan.deploy_s + sum(self.expected.load_s[place, load] for load in loads)

    def _recall(self) -> None:
        """Take what the store holds."""
        plan = self.plan
        for place, deployment in enumerate(plan.deployments):
            for load in plan.loads_of(range(len(plan.goals))):
                for seed in range(plan.seed, plan.seed + plan.repeats + 1):
                    key = cell_key(
                        deployment, load, prompts=plan.prompts.identity, seed=seed, backend=plan.backend.name
                    )
                    cell = self._store.finished(key) if self._store else None
                    if cell is not None:
                        self._take(place, load, cell)

    def result(self) -> AdaptiveStudy:
        """What it came to."""
        plan = self.plan
        grid_usd = sum(
            usd_per_hour * self._needed_s(place, plan.loads) / _HOUR_S
            for place, usd_per_hour in enumerate(self.expected.usd_per_hour)
        )
        return AdaptiveStudy(
            study=Study(
                tuple(cell for cells in self.cells.values() for cell in cells),
                tuple(self.failures),
                interrupted=self.interrupted,
            ),
            outcomes=tuple(outcome_of(self, number, goal) for number, goal in enumerate(plan.goals)),
            spent_usd=self.spent_usd,
            grid_usd=grid_usd,
            deployed=self.deployed,
        )
