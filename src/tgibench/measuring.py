"""Measures one cell: a load on an endpoint becomes a `Measurement` with all that one must know to judge it."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs

from tgibench._version import __version__
from tgibench.checks import warnings_of
from tgibench.endpoints import ServerView, WatchedEndpoint
from tgibench.measurements import Measurement
from tgibench.metrics import Metrics
from tgibench.provenance import Provenance, Source
from tgibench.runner import run_load

if TYPE_CHECKING:
    from collections.abc import Callable

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
) -> Measurement:
    """Run one load on an endpoint that is deployed already, and return the cell."""
    plan = CellPlan(
        backend=backend,
        prompts=prompts,
        seed=seed,
        timeouts=timeouts,
        slo=slo,
        give_up_after=give_up_after,
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
    )
    view = ServerView(log=log) if view_of is None or log.stopped == "cancelled" else await view_of(log)
    log = view.log
    metrics = Metrics.of(log, slo=plan.slo)
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
        warnings=(*warnings_of(metrics, log), *view.warnings),
    )
    return measurement, log
