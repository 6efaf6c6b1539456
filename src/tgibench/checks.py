"""What a reader of a run must be warned of, in plain sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench.client_limits import client_influence, client_warnings
from tgibench.errors import InvalidValueError
from tgibench.metrics import latency_s
from tgibench.stats import quantile_interval, samples_needed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tgibench.client_floor import ClientFloor
    from tgibench.metrics import Metrics
    from tgibench.records import RequestLog

__all__ = ["ArrivalTest", "arrival_test", "warnings_of"]

_DRIFT_RATIO = 1.1
_FEWEST_TO_COMPARE = 20
_LATE_S = 0.1
_CLOCK_DOUBT_S = 0.01


def warnings_of(metrics: Metrics, log: RequestLog, *, floor: ClientFloor | None = None) -> tuple[str, ...]:
    """All warnings of a run, the gravest first; empty for a run without fault.

    Args:
        metrics: Those of the log.
        log: The run.
        floor: What `calibrate_client` found on this machine, where it is known.
    """
    return (
        *unfinished(metrics, log),
        *_workers_missing(log),
        *client_warnings(client_influence(metrics, log, floor)),
        *_not_as_planned(log),
        *_not_steady(log),
        *_tokens_not_the_servers(metrics),
        *_small_sample(metrics),
    )


def unfinished(metrics: Metrics, log: RequestLog) -> Iterator[str]:
    """What was not done of a run: nothing to judge by, stopped early, failures, requests never sent."""
    counts = metrics.counts
    if metrics.latency_s is None:
        yield "no request that was planned inside the window succeeded: there is nothing to judge by"
    if log.stopped:
        yield f"the run stopped early: {log.stopped}"
    if counts["failed"]:
        kinds = ", ".join(f"{kind} {number}" for kind, number in metrics.failures.items())
        yield f"{counts['failed']} of {counts['issued']} requests failed ({kinds}): latencies are of the successes only"
    unsent = counts["unsent"] - sum(worker.lost_requests for worker in log.workers)
    if unsent:
        yield f"{unsent} planned requests were never sent: the load offered was lower than planned"


def _workers_missing(log: RequestLog) -> Iterator[str]:
    """What is not in the record, and what is in it with a doubt."""
    for worker in log.workers:
        name = f"worker {worker.number + 1} of {len(log.workers)}"
        if worker.lost is not None:
            yield (
                f"degraded: {name} is missing from the record with {worker.lost_requests} requests, of which nothing is known: "
                f"{worker.lost}"
            )
        elif worker.late_s is not None and worker.late_s > _LATE_S:
            yield f"{name} began {worker.late_s:.2g} s later than the others"
        doubt_s = (worker.clock_uncertainty_s or 0.0) + abs(worker.clock_drift_s or 0.0)
        if doubt_s > _CLOCK_DOUBT_S:
            yield f"the clock of {name} is known to {doubt_s * 1e3:.0f} ms: its instants stand that uncertainly beside the others'"


def _not_as_planned(log: RequestLog) -> Iterator[str]:
    rows = log.open_loop & ~np.isnan(log.sent_s)
    if np.count_nonzero(rows) < _FEWEST_TO_COMPARE or not (np.ptp(log.sent_s[rows]) and np.ptp(log.planned_s[rows])):
        return
    verdict = arrival_test(log).verdict
    if verdict is not None:
        yield f"the load was not what was planned: {verdict}"


def _not_steady(log: RequestLog) -> Iterator[str]:
    """Compare the halves of the window: the median latency and the number of requests that succeeded."""
    window = log.window
    middle_s = (window.start_s + window.stop_s) / 2
    inside = log.succeeded & (log.planned_s >= window.start_s) & (log.planned_s <= window.stop_s)
    latencies_s, late = latency_s(log), log.planned_s >= middle_s
    first, second = np.sort(latencies_s[inside & ~late]), np.sort(latencies_s[inside & late])
    if _differ(first, second):
        yield (
            f"not steady: the median latency went from {np.median(first):.3g} s in the window's first half to "
            f"{np.median(second):.3g} s in its second; measure longer or warm up"
        )
    ended_s = log.ended_s[log.succeeded]
    before = int(np.count_nonzero((ended_s >= window.start_s) & (ended_s < middle_s)))
    after = int(np.count_nonzero((ended_s >= middle_s) & (ended_s <= window.stop_s)))
    # three standard deviations of the difference of two Poisson counts
    if abs(after - before) > 3 * np.sqrt(before + after) and max(before, after) > _DRIFT_RATIO * min(before, after):
        yield (
            f"not steady: {before} requests succeeded in the window's first half, {after} in its second; "
            "measure longer or warm up"
        )


def _differ(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Whether the medians of two sorted samples are apart by more than a tenth and by more than their intervals."""
    if min(len(first), len(second)) < _FEWEST_TO_COMPARE:
        return False
    low, high = sorted((first, second), key=lambda sample: float(np.median(sample)))
    below, above = quantile_interval(low, 0.5), quantile_interval(high, 0.5)
    apart = below is not None and above is not None and below[1] < above[0]
    return apart and bool(np.median(high) > _DRIFT_RATIO * np.median(low))


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
        count: Number of requests sent.
        rate_rps: Achieved rate.
        planned_rate_rps: The plan's.
        cv: Coefficient of variation of the gaps between sends: 0 is constant, 1 Poisson.
        planned_cv: The plan's.
        dispersion: Variance / mean of the number of sends in bins of about ten: 0 is constant, 1 Poisson.
        planned_dispersion: The plan's.
        lag1: Correlation of each gap with the next: 0 for independent gaps; None where all gaps are equal.
        planned_lag1: The plan's.
        worst_delay_s: The largest time by which a request was sent later than planned.
        verdict: What was amiss, None when the requests were sent as intended.
    """

    count: int
    rate_rps: float
    planned_rate_rps: float
    cv: float
    planned_cv: float
    dispersion: float
    planned_dispersion: float
    lag1: float | None
    planned_lag1: float | None
    worst_delay_s: float
    verdict: str | None

    @property
    def as_planned(self) -> bool:
        """Whether nothing was amiss."""
        return self.verdict is None


@attrs.frozen
class _Process:
    rate_rps: float
    cv: float
    dispersion: float
    lag1: float | None


def arrival_test(log: RequestLog, *, rate_rps: float | None = None, cv: float | None = None) -> ArrivalTest:
    """Compare what an open loop sent with the starts it had planned: rate within 5 %, CV within 0.1.

    Args:
        log: A run.
        rate_rps: The rate that was asked for: the sends must also keep it, within three standard errors.
        cv: The CV that was asked for (0 constant, 1 Poisson): likewise; standard errors are those of gamma-distributed gaps.

    Raises:
        InvalidValueError: Fewer than 20 requests of the log were planned arrivals, or all were planned or sent at one instant.
    """
    rows = log.open_loop & ~np.isnan(log.sent_s)
    if np.count_nonzero(rows) < _FEWEST_TO_COMPARE:
        raise InvalidValueError(f"an arrival test needs 20 sent requests of an open loop, got {np.count_nonzero(rows)}")
    sent_s, planned_s = log.sent_s[rows], log.planned_s[rows]
    achieved, planned = _process(np.sort(sent_s)), _process(planned_s)
    faults = (*_unlike_plan(achieved, planned), *_unlike_intent(achieved, len(sent_s), rate_rps, cv))
    return ArrivalTest(
        count=len(sent_s),
        rate_rps=achieved.rate_rps,
        planned_rate_rps=planned.rate_rps,
        cv=achieved.cv,
        planned_cv=planned.cv,
        dispersion=achieved.dispersion,
        planned_dispersion=planned.dispersion,
        lag1=achieved.lag1,
        planned_lag1=planned.lag1,
        worst_delay_s=float((sent_s - planned_s).max()),
        verdict="; ".join(faults) or None,
    )


def _unlike_plan(achieved: _Process, planned: _Process) -> Iterator[str]:
    if abs(achieved.rate_rps / planned.rate_rps - 1) > 0.05:
        yield f"requests were sent at {achieved.rate_rps:.4g}/s where {planned.rate_rps:.4g}/s were planned"
    if abs(achieved.cv - planned.cv) > 0.1:
        yield f"the gaps between sends had a CV of {achieved.cv:.2f} where {planned.cv:.2f} was planned"


def _unlike_intent(achieved: _Process, count: int, rate_rps: float | None, cv: float | None) -> Iterator[str]:
    spread = achieved.cv if cv is None else cv
    rate_error = max(0.01, 3 * spread / np.sqrt(count))
    if rate_rps is not None and abs(achieved.rate_rps / rate_rps - 1) > rate_error:
        yield f"requests were sent at {achieved.rate_rps:.4g}/s where {rate_rps:.4g}/s were asked for"
    cv_error = max(0.1, 3 * spread * np.sqrt((0.5 + 0.5 * spread**2) / count))
    if cv is not None and abs(achieved.cv - cv) > cv_error:
        yield f"the gaps between sends had a CV of {achieved.cv:.2f} where {cv:.2f} was asked for"


def _process(instants_s: NDArray[np.float64]) -> _Process:
    gaps_s = np.diff(instants_s)
    mean_s, spread_s = float(gaps_s.mean()), float(gaps_s.std())
    if mean_s <= 0:
        raise InvalidValueError(f"an arrival test needs arrivals over some time, got {len(instants_s)} at one instant")
    numbers, _ = np.histogram(instants_s, bins=max(2, len(instants_s) // 10))
    even = spread_s < 1e-9 * mean_s
    return _Process(
        rate_rps=1 / mean_s,
        cv=spread_s / mean_s,
        dispersion=float(numbers.var(ddof=1) / numbers.mean()),
        lag1=None if even else float(((gaps_s[1:] - mean_s) * (gaps_s[:-1] - mean_s)).mean() / spread_s**2),
    )
