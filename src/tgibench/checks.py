"""What a reader of a run must be warned of, in plain sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench.errors import InvalidValueError
from tgibench.stats import samples_needed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tgibench.metrics import Metrics
    from tgibench.records import RequestLog

__all__ = ["ArrivalTest", "arrival_test", "warnings_of"]

_BUSY_CPU_SHARE = 0.9
_LAG_SHARE = 0.1
_LEAST_LAG_S = 0.005
_DRIFT_RATIO = 1.2


def warnings_of(metrics: Metrics, log: RequestLog) -> tuple[str, ...]:
    """All warnings of a run, the gravest first; empty for a run without fault."""
    return (
        *_unfinished(metrics, log),
        *_client_was_the_limit(metrics, log),
        *_not_steady(log),
        *_tokens_not_the_servers(metrics),
        *_small_sample(metrics),
    )


def _unfinished(metrics: Metrics, log: RequestLog) -> Iterator[str]:
    counts = metrics.counts
    if log.stopped:
        yield f"the run stopped early: {log.stopped}"
    if counts["failed"]:
        kinds = ", ".join(f"{kind} {number}" for kind, number in metrics.failures.items())
        yield f"{counts['failed']} of {counts['issued']} requests failed ({kinds}): latencies are of the successes only"
    if counts["unsent"]:
        yield f"{counts['unsent']} planned requests were never sent: the load offered was lower than planned"


def _client_was_the_limit(metrics: Metrics, log: RequestLog) -> Iterator[str]:
    health = log.health
    if health.cpu_share is not None and health.cpu_share > _BUSY_CPU_SHARE:
        yield f"the client used {health.cpu_share:.0%} of a core: it, not the server, may have been the limit"
    fastest = [figure.p50 for figure in (metrics.ttft_s, metrics.tpot_s) if figure is not None and figure.p50]
    allowed_s = max(_LEAST_LAG_S, _LAG_SHARE * min(fastest, default=0.0))
    if health.loop_lag_p99_s is not None and health.loop_lag_p99_s > allowed_s:
        yield (
            f"the client's event loop ran up to {health.loop_lag_p99_s * 1e3:.1f} ms late (p99): "
            "its times may be the client's own"
        )


def _not_steady(log: RequestLog) -> Iterator[str]:
    """Compare the median latency of the window's first and second half, where each has 20 requests."""
    window = log.window
    middle_s = (window.start_s + window.stop_s) / 2
    inside = log.succeeded & (log.planned_s >= window.start_s) & (log.planned_s <= window.stop_s)
    latencies_s = log.ended_s - np.where(log.open_loop, log.planned_s, log.sent_s)
    first, second = latencies_s[inside & (log.planned_s < middle_s)], latencies_s[inside & (log.planned_s >= middle_s)]
    if min(len(first), len(second)) < samples_needed(0.9):
        return
    before_s, after_s = float(np.median(first)), float(np.median(second))
    ratio = after_s / before_s if before_s else 1.0
    if ratio > _DRIFT_RATIO or ratio < 1 / _DRIFT_RATIO:
        yield (
            f"not steady: the median latency went from {before_s:.3g} s in the window's first half to {after_s:.3g} s "
            "in its second; measure longer or warm up"
        )


def _tokens_not_the_servers(metrics: Metrics) -> Iterator[str]:
    others = {origin: number for origin, number in metrics.tokens_from.items() if origin != "server"}
    for origin, number in others.items():
        yield f"the server gave no token count for {number} requests: their tokens are {origin}"


def _small_sample(metrics: Metrics) -> Iterator[str]:
    count = metrics.latency_s.count if metrics.latency_s else 0
    lacking = [(name, samples_needed(share)) for name, share in (("p95", 0.95), ("p99", 0.99))]
    short = [f"{name} ({needed - count} more)" for name, needed in lacking if count < needed]
    if short:
        yield f"{count} requests are too few for an interval of {' and '.join(short)}"


@attrs.frozen(kw_only=True)
class ArrivalTest:
    """How the requests of an open loop were really sent, beside how they were planned.

    Args:
        rate_rps: Achieved rate.
        planned_rate_rps: The plan's.
        cv: Coefficient of variation of the gaps between sends: 0 is constant, 1 Poisson.
        planned_cv: The plan's.
        dispersion: Variance / mean of the number of sends in bins of about ten: 1 is Poisson.
        planned_dispersion: The plan's.
        worst_delay_s: The largest time by which a request was sent later than planned.
    """

    rate_rps: float
    planned_rate_rps: float
    cv: float
    planned_cv: float
    dispersion: float
    planned_dispersion: float
    worst_delay_s: float

    @property
    def as_planned(self) -> bool:
        """Whether rate and spread are the plan's within 5 % (of the rate) and 0.1 (of CV)."""
        return abs(self.rate_rps / self.planned_rate_rps - 1) <= 0.05 and abs(self.cv - self.planned_cv) <= 0.1


def arrival_test(log: RequestLog) -> ArrivalTest:
    """Compare what an open loop sent with what it planned.

    Raises:
        InvalidValueError: Fewer than 20 requests of the log were planned arrivals.
    """
    rows = log.open_loop & ~np.isnan(log.sent_s)
    if np.count_nonzero(rows) < 20:
        raise InvalidValueError(f"an arrival test needs 20 sent requests of an open loop, got {np.count_nonzero(rows)}")
    sent_s, planned_s = np.sort(log.sent_s[rows]), log.planned_s[rows]
    achieved, planned = _process(sent_s), _process(planned_s)
    return ArrivalTest(
        rate_rps=achieved[0],
        planned_rate_rps=planned[0],
        cv=achieved[1],
        planned_cv=planned[1],
        dispersion=achieved[2],
        planned_dispersion=planned[2],
        worst_delay_s=float((log.sent_s[rows] - planned_s).max()),
    )


def _process(instants_s: NDArray[np.float64]) -> tuple[float, float, float]:
    gaps_s = np.diff(instants_s)
    bins = max(2, len(instants_s) // 10)
    numbers, _ = np.histogram(instants_s, bins=bins)
    return 1 / float(gaps_s.mean()), float(gaps_s.std() / gaps_s.mean()), float(numbers.var(ddof=1) / numbers.mean())
