"""Sweeps that leave out what cannot win: a model says which deployments are worth their dollars, measurements decide."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

from tgibench import measuring
from tgibench.adaptive._outcomes import AdaptiveStudy, GoalOutcome, Skipped
from tgibench.adaptive._plan import Measure, Plan
from tgibench.adaptive._work import Work
from tgibench.errors import InvalidValueError
from tgibench.storage import StudyStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Executor
    from pathlib import Path

    from tgibench.backends import Backend
    from tgibench.costs import CostModel
    from tgibench.deployments import Deployment
    from tgibench.loads import LoadProfile
    from tgibench.measurements import Measurement
    from tgibench.requests import PromptSource
    from tgibench.twin.performance import PerformanceModel
    from tgibench.twin.racing import Goal

__all__ = ["AdaptiveStudy", "GoalOutcome", "Measure", "Skipped", "adaptive_sweep"]


async def adaptive_sweep(
    deployments: Iterable[Deployment],
    loads: Iterable[LoadProfile],
    goals: Iterable[Goal],
    model: PerformanceModel,
    *,
    backend: Backend,
    prompts: PromptSource,
    costs: CostModel,
    budget_usd: float | None = None,
    k: float = 2.0,
    seed: int = 0,
    store: str | Path | None = None,
    measure: Measure | None = None,
    tie_ratio: float = 0.03,
    repeats: int = 1,
    deploy_s: float = 600.0,
    pause_s: float = 30.0,
    on_measurement: Callable[[Measurement], None] | None = None,
    executor: Executor | None = None,
    shards: int | None = None,
    listen: str = "127.0.0.1",
) -> AdaptiveStudy:
    """Measure the deployments that could still win a goal, cheapest first, until every goal is decided.

    A deployment is left out of a goal when it would have to be better than predicted by more than `k` standard deviations of the model's
    errors to beat what was measured already. Each deployment is deployed once; one that cannot be deployed, or whose load fails for want
    of workers, becomes a `DeploymentFailure` and the sweep goes on. A measurement within `tie_ratio` of the best so far is
    repeated at once with another seed instead of sweeping more, and the better known mean counts.

    Args:
        deployments: What could be deployed; equal ones count once.
        loads: The loads of the full grid that `AdaptiveStudy.grid_usd` is about; those of the goals must be among them.
        goals: What is to be known.
        model: What predicts. What it does not know, and figures that it gives no interval of, are measured: nothing else can rule them out.
        backend: How to deploy.
        prompts: What requests say.
        costs: What things cost: gives the price of an hour, and the figures of goals about dollars.
        budget_usd: What machines may cost; None for no limit. A deployment, a load or a repeat is started only where what is left pays for
            what it is expected to take and for stopping the machine afterwards. What takes longer, to become ready or under load, is
            stopped in time. How long stopping may take the backend says (`tgibench.backends.TimedBackend`); 10 s where it does not.
        k: How cautious to be: 2 misses one winner of nine in some 6 of 100 sweeps (docs/accuracy.md), 0 only verifies predicted winners.
        seed: Of arrivals and prompts.
        store: Folder to which each cell is written at once; cells that it holds are not measured again, whatever time-outs and SLO they
            were measured with: have one for each.
        measure: How a load is measured; by default as `tgibench.measure` does. What it returns is the cell that was asked for: of this
            deployment and load, these prompts, this seed and this backend, whatever the row itself says of them.
        tie_ratio: Figures closer than that are a tie.
        repeats: How often a tie is measured again.
        deploy_s: How long a deployment takes to become ready, for the estimates.
        pause_s: What each load takes beyond its own length, for the estimates. A load of a number of requests is as long as predicted.
        on_measurement: Called with each newly finished cell.
        executor: Where the workers of each load come from, as of `tgibench.run_load`; None for this process alone, or if `measure` is
            given.
        shards: The number of workers.
        listen: The address of this machine at which workers reach it.

    Raises:
        InvalidValueError: There is no deployment, load or goal; a number is negative or not one; a goal's load is not among the loads, or
            needs more connections than this process may have; nothing competes in a goal, or no measurement has its figure; the price of
            an hour is not known; or both `measure` and `executor` are given.
        TeardownError: Something that was started could not be stopped; nothing further is started then.
        UnknownPrice: A price is not known.
    """
    if measure is not None and executor is not None:
        raise InvalidValueError(
            "measure says how a load is measured: give executor and shards to what it calls, got both"
        )
    own = functools.partial(
        measuring.measure, backend=backend, prompts=prompts, executor=executor, shards=shards, listen=listen
    )
    plan = Plan(
        deployments=tuple(dict.fromkeys(deployments)),
        loads=tuple(dict.fromkeys(loads)),
        goals=tuple(goals),
        model=model,
        backend=backend,
        prompts=prompts,
        costs=costs,
        budget_usd=budget_usd,
        k=k,
        seed=seed,
        measure=measure or own,
        tie_ratio=tie_ratio,
        repeats=repeats,
        deploy_s=deploy_s,
        pause_s=pause_s,
        on_measurement=on_measurement,
    )
    plan.check()
    plan.check_figures(others=measure is not None)
    if measure is None and executor is None:
        measuring.make_room(backend, {goal.load for goal in plan.goals}, seed)
    work = Work(plan, StudyStore(store) if store is not None else None)
    try:
        await work.run()
    except asyncio.CancelledError:
        work.interrupted = True
    return work.result()
