"""Deploys, loads, measures and stores: every deployment once, under each of its loads; several side by side where asked for."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

from tgibench.admission import Admission, Candidate, MoneyLimit
from tgibench.backends import RationedBackend, TimedBackend
from tgibench.budgets import Spending
from tgibench.endpoints import Timeouts
from tgibench.errors import BudgetError, DeployError, InvalidValueError, TeardownError, WorkerError, foremost
from tgibench.measuring import CellPlan, Company, make_room, run_cell
from tgibench.storage import StudyStore
from tgibench.sweep_results import Progress, SweepResults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from tgibench.backends import Backend, Room
    from tgibench.budgets import Budget, Lease
    from tgibench.deployments import Deployment
    from tgibench.endpoints import Endpoint
    from tgibench.loads import LoadProfile
    from tgibench.measurements import Measurement, Study
    from tgibench.metrics import SLO
    from tgibench.requests import PromptSource
    from tgibench.runner import RunProgress

__all__ = ["sweep"]


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
    parallel: int = 1,
    executor: Executor | None = None,
    shards: int | None = None,
    listen: str = "127.0.0.1",
) -> Study:
    """Deploy each deployment once and run every load on it.

    A deployment that cannot be made ready becomes a `DeploymentFailure` and the sweep goes on; those beside it do not notice. Cancelling
    the call (Ctrl-C under `asyncio.run`) stops what was started and *returns* the finished cells, with `Study.interrupted` set.

    Deployments that run side by side are loaded from this one process: what its limits cost, all of them pay. `ClientHealth` is about the
    process and its event loop, not about one run, so a client that is the limit is warned of in each of them. Reckoning the figures of a
    finished cell holds the others up for a moment (30 ms for 1400 requests), which their `loop_lag_max_s` shows.

    Args:
        deployments: What to deploy, in this order; also the order of what is returned and read back from the store.
        loads: The loads for each, in order.
        backend: How to deploy.
        prompts: What requests say.
        seed: Of arrivals and prompts; the same for every cell, so that cells differ in nothing else.
        store: Folder to which each finished cell is written at once. Cells that it holds already are not measured again: those of the
            same deployment, load, prompts, seed, backend (its `identity`), timeouts and SLO.
        on_measurement: Called with each newly finished cell.
        on_progress: Called on the event loop whenever something moved; keep it short.
        timeouts: Limits of each request.
        slo: Limits that requests must keep to count towards goodput.
        give_up_after: A load stops after this many failures in a row. What was measured of it is kept (`Measurement.partial`) and the
            next load is run; a later sweep over the same store measures it again.
        keep_chunk_times: Whether per-request and per-chunk columns are stored too (`.npz`, beside the cell).
        budget: What the sweep may spend: a deployment whose worst case does not fit beside what is set aside for those that run waits for
            them, and is not started if it does not fit then; load stops in time to delete what serves it. Either is a
            `DeploymentFailure`. Of a load that was stopped so, the part that was measured is kept (`Measurement.partial`).
        parallel: How many deployments may run at once. Fewer do where the backend has no room for more (a quota, the one machine) or the
            budget does not reach.
        executor: Where the workers of each load come from, as of `tgibench.run_load`; None for this process alone.
        shards: The number of workers.
        listen: The address of this machine at which workers reach it.

    Raises:
        InvalidValueError: There is no deployment or no load, the seed is negative, `parallel` is below 1, or a load needs more
            connections than this process may have.
        ResultsError: The store cannot be read or written. As after a `TeardownError`, what runs is stopped.
        TeardownError: Something that was started could not be stopped. Nothing further is started then, what runs beside it is stopped
            too, and finished cells are in the store.
    """
    deployments, loads = tuple(deployments), tuple(loads)
    if not deployments or not loads:
        raise InvalidValueError(
            f"a sweep needs at least one deployment and one load, got {len(deployments)} and {len(loads)}"
        )
    if seed < 0:
        raise InvalidValueError(f"seed must be a whole number of at least 0, got {seed!r}")
    if parallel < 1:
        raise InvalidValueError(f"parallel must be at least 1, got {parallel!r}")
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
        budget=budget,
    )
    results = SweepResults(
        deployments,
        loads,
        key=plan.key,
        store=StudyStore(store) if store is not None else None,
        keep_chunk_times=keep_chunk_times,
    )
    places = [place for place in range(len(deployments)) if results.wanted(place)]
    if executor is None:
        wanted = {number for place in places for number in results.wanted(place)}
        make_room(backend, [loads[number] for number in wanted], seed, side_by_side=min(parallel, len(places)))
    work = _Sweep(plan, results, on_measurement, on_progress)
    await work.run(parallel)
    return results.study(interrupted=work.interrupted)


class _Sweep:
    """One sweep at work: what waits and what runs."""

    def __init__(
        self,
        plan: CellPlan,
        results: SweepResults,
        on_measurement: Callable[[Measurement], None] | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._plan, self._results = plan, results
        self._on_measurement, self._on_progress = on_measurement, on_progress
        self._spending = None if plan.budget is None else Spending(plan.budget)
        self._running: dict[int, asyncio.Task[None]] = {}
        self._at_load: dict[int, str] = {}
        self._company = Company()
        self._changed = asyncio.Event()
        self.interrupted = False

    async def run(self, parallel: int) -> None:
        """Run every load that is wanted."""
        admission = Admission(parallel, self._spending)
        error: BaseException | None = None
        try:
            waiting = await self._candidates(parallel)
            async with asyncio.TaskGroup() as group:
                while waiting or self._running:
                    if self.interrupted:
                        waiting.clear()
                        self._stop_all()
                    while (chosen := admission.choose(waiting)) is not None:
                        waiting.remove(chosen)
                        self._start(chosen, admission, group)
                    self._changed.clear()
                    if self._running:
                        await self._changed.wait()
        except asyncio.CancelledError:
            self.interrupted = True
        except BaseExceptionGroup as errors:
            error = foremost(errors)
        if error is not None:
            raise error

    async def _candidates(self, parallel: int) -> list[Candidate]:
        wanted, backend = self._results.wanted, self._plan.backend
        deployments = {place: deployment for place, deployment in enumerate(self._results.deployments) if wanted(place)}
        rooms: Sequence[Room | None] = [None] * len(deployments)
        if parallel > 1 and isinstance(backend, RationedBackend):
            rooms = await backend.rooms(list(deployments.values()))
        return [
            self._candidate(place, deployment, room)
            for (place, deployment), room in zip(deployments.items(), rooms, strict=True)
        ]

    def _candidate(self, place: int, deployment: Deployment, room: Room | None) -> Candidate:
        plan, worst, refusal = self._plan, None, None
        if self._spending:
            try:
                worst = self._spending.worst_case(
                    deployment,
                    [self._results.loads[number] for number in self._results.wanted(place)],
                    answer_s=(plan.timeouts or Timeouts()).total_s,
                    seed=plan.seed,
                    longest=plan.backend.longest_times(deployment) if isinstance(plan.backend, TimedBackend) else None,
                )
            except BudgetError as error:
                refusal = error
        return Candidate(place=place, room=room, worst=worst, refusal=refusal)

    def _start(self, chosen: Candidate, admission: Admission, group: asyncio.TaskGroup) -> None:
        try:
            lease = admission.enter(chosen)
        except BudgetError as error:
            self._results.fail(chosen.place, error, None)
        else:
            self._running[chosen.place] = group.create_task(self._turn(chosen, lease, admission))

    def _interrupt(self) -> None:
        """One was cancelled, and not by its budget: all are."""
        self.interrupted = True
        self._changed.set()

    def _stop_all(self) -> None:
        for task in self._running.values():
            if not task.cancelling():  # once is enough: a second time might cut its stopping short
                task.cancel()

    async def _turn(self, chosen: Candidate, lease: Lease | None, admission: Admission) -> None:
        place = chosen.place
        try:
            if lease is None:
                await self._deploy_and_run(place, None)
            else:
                await self._within(place, MoneyLimit(lease))
        except asyncio.CancelledError:
            self._interrupt()
            raise
        except TeardownError:
            raise
        except (DeployError, WorkerError) as error:
            if not self._results.wanted(place):
                raise  # every load was run: what failed is the tear-down, and that must not pass unseen
            self._results.fail(place, error, self._at_load.get(place))
        finally:
            admission.leave(chosen)
            del self._running[place]
            self._changed.set()

    async def _within(self, place: int, money: MoneyLimit) -> None:
        try:
            async with money:
                await self._deploy_and_run(place, money)
        except TimeoutError:
            if not money.reached:
                raise
        if money.reached and self._results.wanted(place):
            raise BudgetError(money.sentence)

    async def _deploy_and_run(self, place: int, money: MoneyLimit | None) -> None:
        clock = asyncio.get_running_loop()
        ordered_s = clock.time()
        self._report(place)
        async with self._plan.backend.deploy(self._results.deployments[place]) as endpoint:
            ready_after_s = clock.time() - ordered_s
            if money:
                money.serves()
            for number in self._results.wanted(place):
                if not await self._load(place, number, endpoint, money, ready_after_s):
                    return
            if money:
                money.lift()
        self._report(place)

    async def _load(
        self, place: int, number: int, endpoint: Endpoint, money: MoneyLimit | None, ready_after_s: float
    ) -> bool:
        """Run one load; False when no other is to follow."""
        load, cancelled_before = self._results.loads[number], _cancellations()
        self._at_load[place] = load.label
        self._report(place)
        with self._company.joined() as others:
            measurement, log = await run_cell(
                self._plan,
                self._results.deployments[place],
                endpoint,
                load,
                ready_after_s=ready_after_s,
                on_progress=functools.partial(self._report, place),
                why_cancelled=lambda: money.sentence if money and money.reached else None,
                facts=others,
            )
        if log.stopped == "cancelled":
            self._interrupt()
            return False
        cancelled = _cancellations() > cancelled_before  # by the budget, or while the server's side was looked at
        cut_off = cancelled and measurement.partial
        if not cut_off or measurement.metrics.latency_s is not None:  # without an answer there is nothing
            self._results.add(place, number, measurement, log, cut_off=cut_off)
            if self._on_measurement:
                self._on_measurement(measurement)
        if cancelled and not (money and money.reached):
            self._interrupt()
        return not cancelled

    def _report(self, place: int, run: RunProgress | None = None) -> None:
        if self._on_progress:
            self._on_progress(
                Progress(
                    deployment=self._results.deployments[place].label,
                    load=self._at_load.get(place),
                    cells_done=self._results.cells_done,
                    cells_total=self._results.cells_total,
                    run=run,
                    at_work=len(self._running),
                )
            )


def _cancellations() -> int:
    """How often this task was cancelled."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
