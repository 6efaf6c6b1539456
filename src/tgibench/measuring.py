"""Measures one cell: a load on an endpoint becomes a `Measurement` with all that one must know to judge it."""

from __future__ import annotations

import asyncio
import contextlib
import platform
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs

from tgibench import virtual_time
from tgibench._version import __version__
from tgibench.backends import identity_of
from tgibench.checks import warnings_of
from tgibench.client_limits import client_influence
from tgibench.endpoints import ServerView, StartedEndpoint, StartUp, WatchedEndpoint
from tgibench.floor_cache import remembered_floor
from tgibench.identities import changed
from tgibench.loads import most_in_flight
from tgibench.measurements import Measurement, cell_key
from tgibench.metrics import Metrics
from tgibench.open_files import make_room_for
from tgibench.provenance import Provenance, Source
from tgibench.runner import run_load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Executor

    from tgibench.backends import Backend
    from tgibench.budgets import Budget
    from tgibench.deployments import Deployment
    from tgibench.endpoints import Endpoint, Timeouts
    from tgibench.loads import LoadProfile
    from tgibench.metrics import SLO
    from tgibench.records import RequestLog
    from tgibench.requests import PromptSource
    from tgibench.runner import RunProgress

__all__ = ["CellPlan", "Company", "make_room", "measure", "run_cell"]


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
    budget: Budget | None = None
    backend_identity: str = attrs.field(init=False)

    @backend_identity.default
    def _once(self) -> str:
        """As it is before anything is measured: what the backend holds may change while it serves."""
        return identity_of(self.backend)

    @property
    def changed_timeouts(self) -> dict[str, Any]:
        """Those that are not the defaults."""
        return {} if self.timeouts is None else changed(self.timeouts)

    def key(self, deployment: Deployment, load: LoadProfile) -> str:
        """The key of a cell."""
        return cell_key(
            deployment,
            load,
            prompts=self.prompts.identity,
            seed=self.seed,
            backend=self.backend_identity,
            timeouts=self.changed_timeouts,
            slo=self.slo,
        )


@attrs.define(eq=False)
class _Run:
    most_beside: int = 0


class Company:
    """How many loads this process runs at once: they share its core and its event loop, and a reader should know."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    @contextlib.contextmanager
    def joined(self) -> Iterator[Callable[[], dict[str, str]]]:
        """For as long as a load runs; what it gives tells the facts of that run. In virtual time nothing is shared."""
        run, virtual = _Run(), virtual_time.is_virtual(asyncio.get_running_loop())
        self._runs.append(run)
        for each in self._runs:
            each.most_beside = max(each.most_beside, len(self._runs) - 1)
        try:
            yield lambda: {"loads_beside": str(run.most_beside)} if run.most_beside and not virtual else {}
        finally:
            self._runs.remove(run)


def make_room(backend: Backend, loads: Iterable[LoadProfile], seed: int, *, side_by_side: int = 1) -> None:
    """See that this process may hold the connections of each load, before anything is deployed for it.

    An emulator in this process needs none, nor does anything in virtual time.

    Raises:
        InvalidValueError: It may not.
    """
    if backend.source is not Source.EMULATED and not virtual_time.is_virtual(asyncio.get_running_loop()):
        most = max((most_in_flight(load.phases(seed)) for load in loads), default=1)
        make_room_for(most, servers=side_by_side)


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
    why_cancelled: Callable[[], str | None] = lambda: None,
    facts: Callable[[], Mapping[str, str]] = dict,
) -> tuple[Measurement, RequestLog]:
    """Run one load on an endpoint; the cell, and the log that it sums up.

    Args:
        plan: What all cells share.
        deployment: What the endpoint serves.
        endpoint: Where the requests go.
        load: How many and when.
        ready_after_s: Seconds from the order to deploy until it was ready; None when it already ran.
        on_progress: See `tgibench.run_load`.
        why_cancelled: Asked when the run was cancelled: why, where it was not by the caller.
        facts: Asked after the run: what else identifies it.
    """
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
    cancelled = log.stopped == "cancelled"
    view = ServerView(log=log) if view_of is None or cancelled else await _seen(view_of, log)
    reason = why_cancelled() if cancelled else None
    log = view.log if reason is None else attrs.evolve(view.log, stopped=reason)
    metrics = Metrics.of(log, slo=plan.slo)
    floor = None if log.health.cpu_share is None else remembered_floor(log.health.stamps)  # virtual time has no client
    source = Source.EMULATED if endpoint.facts.get("emulated") == "true" else plan.backend.source
    provenance = Provenance(
        backend=plan.backend.name,
        backend_identity=plan.backend_identity,
        began_at=began_at,
        ended_at=datetime.now(UTC),
        seed=plan.seed,
        ready_after_s=ready_after_s,
        **_started(plan, deployment, endpoint, ready_after_s),
        facts={
            "tgibench": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "stamps": log.health.stamps.value,
            **_shared_by(log),
            **facts(),
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
        timeouts=plan.changed_timeouts,
        slo=plan.slo,
        warnings=(*warnings_of(metrics, log, floor=floor), *view.warnings),
        client=client_influence(metrics, log, floor),
        partial=log.stopped is not None,
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


def _started(plan: CellPlan, deployment: Deployment, endpoint: Endpoint, ready_after_s: float | None) -> dict[str, Any]:
    """What is known of the start-up: at the backend's price, else at that of the sweep's budget."""
    start_up = (endpoint.start_up if isinstance(endpoint, StartedEndpoint) else None) or StartUp()
    usd_per_hour, price = start_up.usd_per_hour, start_up.price
    if usd_per_hour is None and plan.budget is not None:
        usd_per_hour, price = plan.budget.usd_per_hour(deployment), plan.budget.price_of(deployment)
    told: dict[str, Any] = {"first_token_after_ready_s": start_up.first_token_s}
    if ready_after_s is not None and usd_per_hour is not None:
        told |= {"startup_usd": usd_per_hour * ready_after_s / 3600, "startup_price": price}
    return told
