"""Measures one cell: a load on an endpoint becomes a `Measurement` with all that one must know to judge it."""

from __future__ import annotations

import asyncio
import platform
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs

from tgibench._version import __version__
from tgibench.checks import warnings_of
from tgibench.client_limits import client_influence
from tgibench.endpoints import ServerView, WatchedEndpoint
from tgibench.floor_cache import remembered_floor
from tgibench.measurements import Measurement
from tgibench.metrics import Metrics
from tgibench.provenance import Provenance, Source
from tgibench.runner import run_load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor

    from tgibench.backends import Backend
    from tgibench.deployments import Deployment
    from tgibench.endpoints import Endpoint, Timeouts
    from tgibench.loads import LoadProfile
    from tgibench.metrics import SLO
    from tgibench.records import RequestLog
    from tgibench.requests import PromptSource
    from tgibench.runner import RunProgress

__all__ = ["CellPlan", "measure", "run_cell"]


@attrs.frozen(kw_only=True)
class CellPlan:
    """What all cells of a sweep share; see `tgibench.sweep` for each."""

    backend: Backend
    prompts: PromptSource
    seed: int
    timeouts: Timeouts | None
    slo: SLO | None
    give_up_after: int
    executor: Executor | None = None
    shards: int | None = None
    listen: str = "127.0.0.1"


async def measure(
    deployment: Deployment,
    endpoint: Endpoint,
    load: LoadProfile,
    *,
    backend: Backend,
    prompts: PromptSource,
    seed: int = 0,
    timeouts: Timeouts | None = None,
    slo: SLO | None = None,
    give_up_after: int = 20,
    executor: Executor | None = None,
    shards: int | None = None,
    listen: str = "127.0.0.1",
) -> Measurement:
    """Run one load on an endpoint that is deployed already, and return the cell; see `tgibench.run_load` for each argument.

    Cancelling the call ends the run as it ends `tgibench.run_load`; while the server's side is waited for, it ends the waiting.
    """
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
    measurement, _ = await run_cell(plan, deployment, endpoint, load, ready_after_s=None, on_progress=None)
    return measurement


async def run_cell(
    plan: CellPlan,
    deployment: Deployment,
    endpoint: Endpoint,
    load: LoadProfile,
    *,
    ready_after_s: float | None,
    on_progress: Callable[[RunProgress], None] | None,
) -> tuple[Measurement, RequestLog]:
    """Run one load on an endpoint; the cell, and the log that it sums up."""
    began_at = datetime.now(UTC)
    view_of = await endpoint.watch_run() if isinstance(endpoint, WatchedEndpoint) else None
    log = await run_load(
        endpoint,
        load,
        plan.prompts,
        seed=plan.seed,
        timeouts=plan.timeouts,
        give_up_after=plan.give_up_after,
        on_progress=on_progress,
        executor=plan.executor,
        shards=plan.shards,
        listen=plan.listen,
    )
    view = ServerView(log=log) if view_of is None or log.stopped == "cancelled" else await _seen(view_of, log)
    log = view.log
    metrics = Metrics.of(log, slo=plan.slo)
    floor = None if log.health.cpu_share is None else remembered_floor(log.health.stamps)  # virtual time has no client
    source = Source.EMULATED if endpoint.facts.get("emulated") == "true" else plan.backend.source
    provenance = Provenance(
        backend=plan.backend.name,
        began_at=began_at,
        ended_at=datetime.now(UTC),
        seed=plan.seed,
        ready_after_s=ready_after_s,
        facts={
            "tgibench": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "stamps": log.health.stamps.value,
            **_shared_by(log),
            **endpoint.facts,
            **view.facts,
        },
    )
    measurement = Measurement(
        deployment=deployment,
        load=load,
        prompts=plan.prompts.identity,
        metrics=metrics,
        source=source,
        provenance=provenance,
        warnings=(*warnings_of(metrics, log, floor=floor), *view.warnings),
        client=client_influence(metrics, log, floor),
    )
    return measurement, log


def _shared_by(log: RequestLog) -> dict[str, str]:
    """How many workers shared a run, and how well their clocks are known beside one another; nothing for a run of one process."""
    if not log.workers:
        return {}
    doubts_s = [worker.clock_uncertainty_s for worker in log.workers if worker.clock_uncertainty_s is not None]
    drifts_s = [abs(worker.clock_drift_s) for worker in log.workers if worker.clock_drift_s is not None]
    return {
        "workers": str(len(log.workers)),
        "workers_lost": str(sum(worker.lost is not None for worker in log.workers)),
        "worker_clock_uncertainty_s": f"{max(doubts_s, default=0.0):.6f}",
        "worker_clock_drift_s": f"{max(drifts_s, default=0.0):.6f}",
    }


async def _seen(view_of: Callable[[RequestLog], Awaitable[ServerView]], log: RequestLog) -> ServerView:
    """What the server's side adds to a run that is over: a cancellation meanwhile costs its part, not the run.

    As in `run_load` the task's cancellation count is left as it is.
    """
    try:
        return await view_of(log)
    except asyncio.CancelledError:
        return ServerView(log=log, warnings=("the server's side was not read: stopped while it was waited for",))
