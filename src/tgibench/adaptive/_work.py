"""An adaptive sweep's state while it runs."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench.adaptive._expected import Expected
from tgibench.adaptive._money import Purse, Stopping
from tgibench.adaptive._outcomes import OUT_OF_BUDGET, AdaptiveStudy, outcome_of
from tgibench.backends import identity_of
from tgibench.costs import HOUR_S
from tgibench.errors import DeployError, TeardownError, WorkerError
from tgibench.measurements import DeploymentFailure, Study, cell_key
from tgibench.twin.racing import Race

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tgibench.adaptive._money import Meter
    from tgibench.adaptive._plan import Plan
    from tgibench.endpoints import Endpoint
    from tgibench.loads import LoadProfile
    from tgibench.measurements import Measurement
    from tgibench.storage import StudyStore

__all__ = ["Work"]


@attrs.frozen
class _Machine:
    """A deployment that serves.

    Args:
        place: Its number in the plan.
        endpoint: Where its requests go.
        meter: How long it is paid for.
        ready_after_s: Seconds from the order until it was ready.
    """

    place: int
    endpoint: Endpoint
    meter: Meter
    ready_after_s: float = attrs.field(kw_only=True)


def _asked(cell: Measurement) -> str:
    """The key of a stored cell by what a plan knows of it."""
    return attrs.evolve(cell, timeouts={}, slo=None).key


class Work:
    """One adaptive sweep's state."""

    def __init__(self, plan: Plan, store: StudyStore | None) -> None:
        self.plan, self._store = plan, store
        self.deployed, self.interrupted = 0, False
        self.cells: dict[tuple[int, LoadProfile], list[Measurement]] = {}
        self.missed: dict[tuple[int, LoadProfile], str] = {}
        self.failures: list[DeploymentFailure] = []
        self._purse = Purse(plan.budget_usd)
        self._backend_identity = identity_of(plan.backend)
        self.expected = Expected.of(plan)
        self.race = Race(self.expected.scores, self.expected.deviations, self.expected.usd_per_hour, plan.k)
        self._recall()

    async def run(self) -> None:
        """Deploy and measure until every goal is decided or the budget is used up."""
        while (step := self.race.next()) is not None:
            place, goals = step
            loads = self._paid_for(place, self.plan.loads_of(goals))
            if loads:
                await self._deploy(place, loads)
            self._miss(place, self.plan.loads_of(goals), OUT_OF_BUDGET)
            self.race.leave(place)

    def _paid_for(self, place: int, loads: Iterable[LoadProfile]) -> list[LoadProfile]:
        """Those of the loads that what is left pays for when the deployment is started for them, in their order."""
        found: list[LoadProfile] = []
        stopping = Stopping.of(self.plan.backend, self.plan.deployments[place])
        left_s = self._purse.pays_for_s(self.expected.usd_per_hour[place])
        if self.plan.deploy_s + stopping.starting_s > left_s:
            return found
        for load in loads:
            if self._needed_s(place, [*found, load]) + stopping.serving_s <= left_s:
                found.append(load)
        return found

    async def _deploy(self, place: int, loads: Iterable[LoadProfile]) -> None:
        """Deploy once and measure what could still win, ties again."""
        plan, clock = self.plan, asyncio.get_running_loop()
        deployment = plan.deployments[place]
        stopping = Stopping.of(plan.backend, deployment)
        meter = self._purse.meter(self.expected.usd_per_hour[place], stopping, ordered_s=clock.time())
        self.deployed += 1
        machine: _Machine | None = None
        load: LoadProfile | None = None
        try:
            async with asyncio.timeout_at(meter.give_up_at_s) as limit, plan.backend.deploy(deployment) as endpoint:
                limit.reschedule(meter.stop_at_s)
                machine = _Machine(place, endpoint, meter, ready_after_s=clock.time() - meter.ordered_s)
                try:
                    for load in loads:
                        await self._run(machine, load)
                finally:
                    if not limit.expired():
                        limit.reschedule(None)  # stopping is to take what it takes, whatever happened before
        except TimeoutError:
            if not limit.expired():
                raise
            held_s = clock.time() - meter.ordered_s
            self._fail(place, load, f"stopped after {held_s:.0f} s: what is left of the budget pays for stopping it")
        except TeardownError:
            raise
        except (DeployError, WorkerError) as error:
            self._fail(place, load, str(error))
            self._miss(place, loads, f"could not be {'deployed' if machine is None else 'measured'}: {error}")
            if machine is None and isinstance(error, DeployError):
                self.race.withdraw(place)
        finally:
            self._purse.settle(meter, gone_s=clock.time())

    def _fail(self, place: int, load: LoadProfile | None, message: str) -> None:
        label = None if load is None else load.label
        self.failures.append(DeploymentFailure(self.plan.deployments[place], message, label))
        if self._store:
            self._store.add_failure(self.failures[-1])

    def _miss(self, place: int, loads: Iterable[LoadProfile], reason: str) -> None:
        """Say why those of the loads that were not measured were not, where nothing else was said of them."""
        for load in loads:
            if (place, load) not in self.cells:
                self.missed.setdefault((place, load), reason)

    async def _run(self, machine: _Machine, load: LoadProfile) -> None:
        """Measure a load as often as it ties and is paid for."""
        plan, clock, place = self.plan, asyncio.get_running_loop(), machine.place
        seconds = self.expected.load_s[place, load]
        for seed in range(plan.seed, plan.seed + plan.repeats + 1):
            began_s = clock.time()
            if not machine.meter.pays_for(seconds, from_s=began_s):
                return
            await self._measure(machine, load, seed)
            seconds = clock.time() - began_s
            if not self._tied(place, load):
                return

    async def _measure(self, machine: _Machine, load: LoadProfile, seed: int) -> None:
        plan, task, place = self.plan, asyncio.current_task(), machine.place
        deployment = plan.deployments[place]
        found = await plan.measure(deployment, machine.endpoint, load, seed=seed)
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        told = found.provenance
        measurement = attrs.evolve(
            found,
            deployment=deployment,
            load=load,
            prompts=plan.prompts.identity,
            provenance=attrs.evolve(
                told,
                backend=plan.backend.name,
                backend_identity=self._backend_identity,
                seed=seed,
                ready_after_s=machine.ready_after_s if told.ready_after_s is None else told.ready_after_s,
            ),
        )
        if self._store:
            self._store.add(measurement)
        self._take(place, load, measurement)
        if plan.on_measurement:
            plan.on_measurement(measurement)

    def _take(self, place: int, load: LoadProfile, measurement: Measurement) -> None:
        """Score a cell for every goal that it concerns; of repeated ones the geometric mean. What stopped early has no score."""
        cells = self.cells.setdefault((place, load), [])
        cells.append(measurement)
        for number, goal in enumerate(self.plan.goals):
            if goal.load != load or not goal.competes(self.plan.deployments[place]):
                continue
            whole = [cell for cell in cells if not cell.partial]
            if not whole:
                continue
            figures = [figure for cell in whole if (figure := self.plan.figure(goal, cell)) is not None]
            scores = [goal.score(figure.value) for figure in figures] or [math.inf]
            self.race.record(number, place, float(np.mean(scores)))

    def _tied(self, place: int, load: LoadProfile) -> bool:
        """Whether the cell just measured is too close to another to tell which is better."""
        for number, goal in enumerate(self.plan.goals):
            own, others = self.race.measured[number, place], np.delete(self.race.measured[number], place)
            best = np.fmin.reduce(others, initial=math.inf)
            if goal.load == load and np.isfinite(own) and np.isfinite(best) and abs(own - best) < self.plan.tie_ratio:
                return True
        return False

    def _needed_s(self, place: int, loads: Iterable[LoadProfile]) -> float:
        return self.plan.deploy_s + sum(self.expected.load_s[place, load] for load in loads)

    def _recall(self) -> None:
        """Take what the store holds: with which time-outs and SLO is the affair of `measure`."""
        plan = self.plan
        stored = {} if self._store is None else {_asked(cell): cell for cell in self._store.finished_cells()}
        for place, deployment in enumerate(plan.deployments):
            for load in plan.loads_of(range(len(plan.goals))):
                for seed in range(plan.seed, plan.seed + plan.repeats + 1):
                    key = cell_key(
                        deployment, load, prompts=plan.prompts.identity, seed=seed, backend=self._backend_identity
                    )
                    if key in stored:
                        self._take(place, load, stored[key])

    def result(self) -> AdaptiveStudy:
        """What it came to."""
        plan = self.plan
        grid_usd = sum(
            usd_per_hour * self._needed_s(place, plan.loads) / HOUR_S
            for place, usd_per_hour in enumerate(self.expected.usd_per_hour)
        )
        return AdaptiveStudy(
            study=Study(
                tuple(cell for cells in self.cells.values() for cell in cells),
                tuple(self.failures),
                interrupted=self.interrupted,
            ),
            outcomes=tuple(outcome_of(self, number, goal) for number, goal in enumerate(plan.goals)),
            spent_usd=self._purse.spent_usd,
            grid_usd=grid_usd,
            deployed=self.deployed,
        )
