"""Deploys, loads, measures and stores: every deployment once, under each of its loads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import attrs

from tgibench.budgets import Budget, Spending
from tgibench.endpoints import Timeouts
from tgibench.errors import BudgetError, DeployError, InvalidValueError, WorkerError
from tgibench.measurements import DeploymentFailure, Measurement, Study, cell_key
from tgibench.measuring import CellPlan, run_cell
from tgibench.storage import StudyStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from collections.abc import Set as AbstractSet
    from concurrent.futures import Executor
    from pathlib import Path

    from tgibench.backends import Backend
    from tgibench.deployments import Deployment
    from tgibench.loads import LoadProfile
    from tgibench.metrics import SLO
    from tgibench.records import RequestLog
    from tgibench.requests import PromptSource
    from tgibench.runner import RunProgress

__all__ = ["Progress", "sweep"]


@attrs.frozen(kw_only=True)
class Progress:
    """How far a sweep has come.

    Args:
        deployment: Label of the deployment at work.
        load: Label of the load at work; None while the deployment is being made ready.
        cells_done: Cells finished, those found in the store included.
        cells_total: Cells in all.
        run: Progress of the load at work; None between loads.
    """

    deployment: str
    load: str | None
    cells_done: int
    cells_total: int
    run: RunProgress | None = None


async def sweep(
    deployments: Iterable[Deployment],
    loads: Iterable[LoadProfile],
    *,
    backend: Backend,
    prompts: PromptSource,
    seed: int = 0,
    store: str | Path | None = None,
    on_measurement: Callable[[Measurement], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    timeouts: Timeouts | None = None,
    slo: SLO | None = None,
    give_up_after: int = 20,
    keep_chunk_times: bool = False,
    budget: Budget | None = None,
    executor: Executor | None = None,
    shards: int | None = None,
    listen: str = "127.0.0.1",
) -> Study:
    """Deploy each deployment once and run every load on it.

    A deployment that cannot be made ready becomes a `DeploymentFailure` and the sweep goes on. Cancelling the call (Ctrl-C under
    `asyncio.run`) stops what was started and *returns* the finished cells, with `Study.interrupted` set.

    Args:
        deployments: What to deploy, one after the other.
        loads: The loads for each, in order.
        backend: How to deploy.
        prompts: What requests say.
        seed: Of arrivals and prompts; the same for every cell, so that cells differ in nothing else.
        store: Folder to which each finished cell is written at once. Cells that it holds already are not measured again.
        on_measurement: Called with each newly finished cell.
        on_progress: Called on the event loop whenever something moved; keep it short.
        timeouts: Limits of each request.
        slo: Limits that requests must keep to count towards goodput.
        give_up_after: A load stops after this many failures in a row.
        keep_chunk_times: Whether per-request and per-chunk columns are stored too (`.npz`, beside the cell).
        budget: What the sweep may spend: a deployment whose worst case does not fit is not started, and load stops in time to delete
            what serves it. Either is a `DeploymentFailure`.
        executor: Where the workers of each load come from, as of `tgibench.run_load`; None for this process alone.
        shards: The number of workers.
        listen: The address of this machine at which workers reach it.

    Raises:
        InvalidValueError: There is no deployment or no load, or the seed is negative.
        ResultsError: The store cannot be read or written.
        TeardownError: Something that was started could not be stopped; nothing further is started then.
    """
    deployments, loads = tuple(deployments), tuple(loads)
    if not deployments or not loads:
        raise InvalidValueError(
            f"a sweep needs at least one deployment and one load, got {len(deployments)} and {len(loads)}"
        )
    if seed < 0:
        raise InvalidValueError(f"seed must be a whole number of at least 0, got {seed!r}")
    plan = CellPlan(
        backend=backend,
        prompts=prompts,
        seed=seed,
        timeouts=timeouts,
        slo=slo,
        give_up_after=give_up_after,
        executor=executor,
        shards=shards,
        listen=listen,
    )
    spending = None if budget is None else Spending(budget)
    work = _Sweep(plan, spending, StudyStore(store) if store is not None else None, on_measurement, on_progress)
    work.cells_total, work.keep_chunk_times = len(deployments) * len(loads), keep_chunk_times
    try:
        for deployment in deployments:
            await work.deployment(deployment, loads)
            if work.interrupted:
                break
    except asyncio.CancelledError:
        work.interrupted = True
    return Study(tuple(work.measurements), tuple(work.failures), interrupted=work.interrupted)


class _Sweep:
    """One sweep's state: what is finished, what failed."""

    def __init__(
        self,
        plan: CellPlan,
        spending: Spending | None,
        store: StudyStore | None,
        on_measurement: Callable[[Measurement], None] | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._plan, self._spending, self._store = plan, spending, store
        self._on_measurement, self._on_progress = on_measurement, on_progress
        self.measurements: list[Measurement] = []
        self.failures: list[DeploymentFailure] = []
        self.interrupted = False
        self.cells_total = 0
        self.keep_chunk_times = False
        self._cells_gone = 0

    async def deployment(self, deployment: Deployment, loads: tuple[LoadProfile, ...]) -> None:
        """Deploy once and run the loads that are not in the store."""
        stored = {number: cell for number, load in enumerate(loads) if (cell := self._stored(deployment, load))}
        self._cells_gone += len(stored)
        first = len(self.measurements)
        fresh: dict[int, Measurement] = {}
        try:
            if len(stored) < len(loads):
                await self._within_budget(deployment, loads, fresh, skip=stored.keys())
        except (DeployError, WorkerError) as error:
            if fresh.keys() | stored.keys() == set(range(len(loads))):
                raise  # every load was run: what failed is the tear-down, and that must not pass unseen
            self._fail(DeploymentFailure(deployment, str(error)))
            self._cells_gone += len(loads) - len(stored) - len(fresh)
        finally:
            cells = stored | fresh
            self.measurements[first:] = [cells[number] for number in sorted(cells)]

    async def _within_budget(
        self,
        deployment: Deployment,
        loads: tuple[LoadProfile, ...],
        fresh: dict[int, Measurement],
        *,
        skip: AbstractSet[int],
    ) -> None:
        plan, spending, clock = self._plan, self._spending, asyncio.get_running_loop()
        if spending is None:
            await self._deploy_and_run(deployment, loads, fresh, skip=skip)
            return
        limits, wanted = plan.timeouts or Timeouts(), [load for number, load in enumerate(loads) if number not in skip]
        allowed_s = spending.admit(deployment, wanted, answer_s=limits.total_s, seed=plan.seed)
        ordered_s = clock.time()
        try:
            async with asyncio.timeout(allowed_s) as limit:
                await self._deploy_and_run(deployment, loads, fresh, skip=skip)
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            spending.charge(deployment, clock.time() - ordered_s)
        if limit.expired():
            self.interrupted = False  # the load was stopped by the limit, not by the caller
            raise BudgetError(
                f"stopped after {allowed_s:.0f} s: what is left of the budget pays for stopping what serves it"
            )

    async def _deploy_and_run(
        self,
        deployment: Deployment,
        loads: tuple[LoadProfile, ...],
        fresh: dict[int, Measurement],
        *,
        skip: Iterable[int],
    ) -> None:
        clock = asyncio.get_running_loop()
        ordered_s = clock.time()
        self._report(deployment, None)
        async with self._plan.backend.deploy(deployment) as endpoint:
            ready_after_s = clock.time() - ordered_s
            for number in sorted(set(range(len(loads))) - set(skip)):
                load, cancelled_before = loads[number], _cancellations()
                self._report(deployment, load)
                measurement, log = await run_cell(
                    self._plan,
                    deployment,
                    endpoint,
                    load,
                    ready_after_s=ready_after_s,
                    on_progress=lambda run, load=load: self._report(deployment, load, run),  # type: ignore[misc]
                )
                if log.stopped == "cancelled":
                    self.interrupted = True
                    return
                fresh[number] = measurement
                self._cells_gone += 1
                self._keep(measurement, log)
                if _cancellations() > cancelled_before:  # while the server's side was looked at: the cell is whole
                    self.interrupted = True
                    return
        self._report(deployment, loads[-1])

    def _stored(self, deployment: Deployment, load: LoadProfile) -> Measurement | None:
        if self._store is None:
            return None
        plan = self._plan
        key = cell_key(deployment, load, prompts=plan.prompts.identity, seed=plan.seed, backend=plan.backend.name)
        return self._store.finished(key)

    def _keep(self, measurement: Measurement, log: RequestLog) -> None:
        if self._store:
            self._store.add(measurement, log if self.keep_chunk_times else None)
        if self._on_measurement:
            self._on_measurement(measurement)

    def _fail(self, failure: DeploymentFailure) -> None:
        self.failures.append(failure)
        if self._store:
            self._store.add_failure(failure)

    def _report(self, deployment: Deployment, load: LoadProfile | None, run: RunProgress | None = None) -> None:
        if self._on_progress:
            self._on_progress(
                Progress(
                    deployment=deployment.label,
                    load=load.label if load else None,
                    cells_done=self._cells_gone,
                    cells_total=self.cells_total,
                    run=run,
                )
            )


def _cancellations() -> int:
    """How often this task was cancelled."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
