"""Whether the client, rather than the server, made a run what it was, and what it may have added to each metric.

What a late client spoils depends on where arrival times are taken. If they are right however late it reads (`StampSource.exact_when_late`),
lateness only makes it send late: in a closed loop the next request, which lowers the load; in an open one a planned request, which
lengthens latency. Otherwise it lengthens every time that is measured.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench.client_floor import CORE_SHARE
from tgibench.stats import samples_needed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tgibench.client_floor import ClientFloor
    from tgibench.client_health import ClientHealth
    from tgibench.metrics import Metrics
    from tgibench.records import RequestLog

__all__ = ["ClientInfluence", "client_influence", "client_warnings", "is_starved"]

# Linux 6.18, two cores (benchmarks/starved_client.py): one busy program on its core makes the waiting ratio 0.3 to 0.6 and the share
# held up 0.09 to 0.5, at any load. Alone with its server a client waits in 0.05 to 0.2 of the time; in 0.45 if it hardly works and a server
# that answers several streams at once wakes it with the first and lets it run after the last, but then it is not held up (0.02).
_STARVED_RATIO = 0.25
_STARVED_SHARE = 0.05
_BUSY_CPU_SHARE = 0.9
_LAG_SHARE = 0.1
_LEAST_LAG_S = 0.005
_TOLD_SHARE = 0.05


@attrs.frozen(kw_only=True)
class ClientInfluence:
    """What the client may have done to a result.

    Args:
        health: How it fared.
        calibrated: Whether a floor of this machine was known (`tgibench.calibrate_client`); without one there is only `health`.
        shares: Which share of a figure the client may have added, at most: ``{"ttft_s_p50": 0.01, "icl_s_p99": 0.04, …}``; figures of
            which that is not known are left out.
        reasons: Why the run is not valid; empty when it is.
        workers: How many workers, each with a core of its own, would do; None when the run is valid or that is not known.
    """

    health: ClientHealth
    calibrated: bool
    shares: Mapping[str, float] = attrs.field(factory=dict, hash=False)
    reasons: tuple[str, ...] = ()
    workers: int | None = None

    @property
    def valid(self) -> bool:
        """Whether the server, and not the client, was the limit."""
        return not self.reasons


def client_influence(metrics: Metrics, log: RequestLog, floor: ClientFloor | None = None) -> ClientInfluence:
    """Judge a run by how its client fared, and by the client's floor where it is known.

    Args:
        metrics: Those of the log.
        log: The run.
        floor: What `calibrate_client` found; it counts only when that was with stamps of the run's kind, on the machine of all workers.
    """
    health = log.health
    if floor is not None and not _belongs(floor, log):
        floor = None
    overloaded = (*_used_up(health), *_beyond(metrics, health, floor))
    reasons = (*overloaded, *_starved(log), *_late(metrics, health))
    return ClientInfluence(
        health=health,
        calibrated=floor is not None,
        shares=dict(_shares(metrics, log, floor)),
        reasons=reasons,
        workers=_workers(metrics, log, floor, overloaded=bool(overloaded)) if reasons else None,
    )


def _belongs(floor: ClientFloor, log: RequestLog) -> bool:
    hosts = {worker.place.rpartition(":")[0] for worker in log.workers if worker.place is not None}
    return floor.host.stamps is log.health.stamps and hosts <= {floor.host.name}


def client_warnings(influence: ClientInfluence) -> Iterator[str]:
    """What a reader must be warned of, in plain sentences."""
    if not influence.valid:
        yield (
            "not valid: the client, not the server, was the limit: "
            f"{' and '.join(influence.reasons)}; {_remedy(influence)}"
        )
    told = {name: share for name, share in influence.shares.items() if share > _TOLD_SHARE}
    if told:
        basis = "by its calibration" if influence.calibrated else "by its event loop's lag"
        figures = ", ".join(f"{share:.0%} of {' '.join(name.rsplit('_', 1))}" for name, share in told.items())
        yield f"the client may have added up to {figures} ({basis})"


def _remedy(influence: ClientInfluence) -> str:
    if influence.workers is None:
        return "find what else holds up its event loop"
    if influence.workers == influence.health.workers:
        return "leave each worker a core of its own" if influence.workers > 1 else "leave it a core of its own"
    return f"{influence.workers} workers, each with a core of its own, would do"


def _used_up(health: ClientHealth) -> Iterator[str]:
    if health.cpu_share is not None and health.cpu_share > _BUSY_CPU_SHARE:
        yield f"it used {health.cpu_share:.0%} of a core"


def _beyond(metrics: Metrics, health: ClientHealth, floor: ClientFloor | None) -> Iterator[str]:
    """A load beyond the floor, borne out by the CPU that it took: what tokens cost falls as more of them come at once."""
    if floor is None or (health.cpu_share is not None and not floor.core_share < health.cpu_share <= _BUSY_CPU_SHARE):
        return
    tokens_per_s, requests_per_s = _rates(metrics)
    cores = floor.cores_for(tokens_per_s=tokens_per_s, requests_per_s=requests_per_s) / health.workers
    if cores > floor.core_share:
        yield (
            f"{tokens_per_s:,.0f} tokens/s and {requests_per_s:,.0f} requests/s need {cores:.0%} of a core where it can be trusted up to "
            f"{floor.core_share:.0%} ({floor.tokens_per_s:,.0f} tokens/s or {floor.requests_per_s:,.0f} requests/s)"
        )


def is_starved(health: ClientHealth) -> bool:
    """Whether other programs had the CPU that the client needed; False also where the system does not tell.

    The waiting ratio alone does not say so: a client that does little may wait for half of it, a tenth of a millisecond each time.
    """
    return (health.waiting_ratio or 0.0) > _STARVED_RATIO and (health.held_up_share or 0.0) > _STARVED_SHARE


def _starved(log: RequestLog) -> Iterator[str]:
    """By the worker that fared worst: the largest figures of all are not of one."""
    healths = [worker.health for worker in log.workers if worker.health is not None] or [log.health]
    starved = [health.waiting_ratio or 0.0 for health in healths if is_starved(health)]
    if starved:
        which = "it" if len(healths) == 1 else "one of its workers"
        yield f"{which} waited for a CPU in {max(starved):.0%} of the time in which it had something to do: other programs had it"


def _late(metrics: Metrics, health: ClientHealth) -> Iterator[str]:
    # fewer samples carry no p99: theirs is the start of the run, when all connect at once
    short = health.samples < samples_needed(0.99) and health.loop_lag_p50_s is not None
    lag_s, name = (health.loop_lag_p50_s, "p50") if short else (health.loop_lag_p99_s, "p99")
    exact = health.stamps.exact_when_late
    figures = (metrics.latency_s,) if exact else (metrics.ttft_s, metrics.tpot_s)
    typical_s = min((figure.p50 for figure in figures if figure is not None and figure.p50), default=0.0)
    if lag_s is not None and lag_s > max(_LEAST_LAG_S, _LAG_SHARE * typical_s):
        spoilt = "requests were sent late" if exact else "its times may be its own"
        yield f"its event loop ran {lag_s * 1e3:.1f} ms late ({name}), so {spoilt}"


def _workers(metrics: Metrics, log: RequestLog, floor: ClientFloor | None, *, overloaded: bool) -> int | None:
    """How many would do: by the CPU they need for the load that the server would have had from a client that is never late."""
    health = log.health
    if health.cpu_share is None:
        return None
    tokens_per_s, requests_per_s = _rates(metrics)
    unhindered = metrics.littles_law_throughput_tps  # of a closed loop whose users send again at once
    wanted = max(1.0, unhindered / tokens_per_s) if unhindered is not None and tokens_per_s else 1.0
    cores = health.cpu_share * health.workers
    if floor is not None:
        cores = max(cores, floor.cores_for(tokens_per_s=tokens_per_s, requests_per_s=requests_per_s))
    number = max(health.workers + overloaded, math.ceil(wanted * cores / CORE_SHARE))
    if not overloaded and number == health.workers and not any(_starved(log)):
        return None  # it had a core, and to spare: something on its event loop is slow
    return number


def _rates(metrics: Metrics) -> tuple[float, float]:
    """Tokens and requests per second."""
    tokens, requests = metrics.output_throughput_tps, metrics.request_throughput_rps
    return tokens.value if tokens else 0.0, requests.value if requests else 0.0


def _shares(metrics: Metrics, log: RequestLog, floor: ClientFloor | None) -> Iterator[tuple[str, float]]:
    """The client's possible share of a median by its median error, and of a p99 by its p99."""
    health, late_reads = log.health, not log.health.stamps.exact_when_late
    late_sends = bool(np.any(log.open_loop))  # they count: latency begins with the plan
    tokens = metrics.output_tokens.p50 if metrics.output_tokens else None
    for quantile, lag_s in (("p50", health.loop_lag_p50_s), ("p99", health.loop_lag_p99_s)):
        read_s = lag_s if late_reads else None
        own_s = {
            "ttft": read_s,
            "icl": read_s,
            "tpot": _spread(read_s, tokens),
            "latency": lag_s if late_sends else read_s,
        }
        for name, each_s in own_s.items():
            figure, error = getattr(metrics, f"{name}_s"), getattr(floor, f"{name}_error_s", None)
            measured_s, error_s = getattr(figure, quantile, None), getattr(error, quantile, None)
            added_s = [value for value in (error_s, each_s) if value is not None]
            if measured_s and added_s:
                yield f"{name}_s_{quantile}", max(0.0, *added_s) / measured_s


def _spread(late_s: float | None, tokens: float | None) -> float | None:
    """What a late last token adds to the time per token."""
    return None if late_s is None or tokens is None or tokens < 2 else late_s / (tokens - 1)
