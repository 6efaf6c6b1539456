"""An adaptive sweep's state while it runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench.adaptive._outcomes import AdaptiveStudy, outcome_of
from tgibench.errors import DeployError, TeardownError
from tgibench.measurements import DeploymentFailure, Study, cell_key
from tgibench.twin.racing import Race

if TYPE_CHECKING:
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
        predicted = plan.predictions()
        self.deviations = plan.deviations()
        self.prices = [plan.usd_per_hour(place, predicted) for place in range(len(plan.deployments))]
        self.race = Race(plan.scores(predicted), self.deviations, self.prices, plan.k)
        self._recall()

    def expected_usd(self, deployment: int, goals: list[int]) -> float:
        """What deploying and measuring for these goals would cost."""
        plan = self.plan
        seconds = plan.deploy_s + sum(plan.load_s(load) for load in plan.loads_of(goals))
        return self.prices[deployment] * seconds / _HOUR_S

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
            self.spent_usd += self.prices[place] * (clock.time() - ordered_s) / _HOUR_S

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
            values = [value for cell in cells if (value := self.plan.value(goal, cell)) is not None]
            if values:
                self.race.record(number, place, float(np.mean([goal.score(value) for value in values])))

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
        seconds = plan.deploy_s + sum(plan.load_s(load) for load in plan.loads)
        return AdaptiveStudy(
            study=Study(
                tuple(cell for cells in self.cells.values() for cell in cells),
                tuple(self.failures),
                interrupted=self.interrupted,
            ),
            outcomes=tuple(outcome_of(self, number, goal) for number, goal in enumerate(plan.goals)),
            spent_usd=self.spent_usd,
            grid_usd=sum(self.prices) * seconds / _HOUR_S,
            deployed=self.deployed,
        )
