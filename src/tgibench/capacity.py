"""The most load that an endpoint carries within an SLO, found by doubling and bisection."""

from __future__ import annotations

import enum
import functools
from typing import TYPE_CHECKING, Literal

import attrs
import numpy as np
from attrs import validators

from tgibench.arrivals import PoissonArrivals
from tgibench.errors import InvalidValueError
from tgibench.loads import ClosedLoop
from tgibench.metrics import Metrics
from tgibench.records import FailureKind
from tgibench.runner import run_load
from tgibench.stats import dependent_proportion
from tgibench.validators import above_zero, is_finite_number, not_negative

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from tgibench.endpoints import Endpoint, Timeouts
    from tgibench.loads import LoadProfile
    from tgibench.metrics import SLO
    from tgibench.records import RequestLog
    from tgibench.requests import PromptSource
    from tgibench.stats import Estimate

__all__ = ["Capacity", "Outcome", "Probe", "find_capacity"]

Kind = Literal["concurrency", "rate"]

_UNITS = {"concurrency": "requests in flight", "rate": "requests/s"}
_LEAST_SHARE_OF_START = 1 / 128


class Outcome(enum.StrEnum):
    """What a probe says of the SLO."""

    MET = "met"  # the share's interval lies at or above the target
    NOT_MET = "not met"  # it lies below
    UNRESOLVED = "unresolved"  # it holds the target, after all the time that a probe may take


@attrs.frozen(kw_only=True)
class Probe:
    """One load that was tried.

    Args:
        load: Requests in flight, or requests per second.
        share: Requests within the SLO of all that were planned in the windows, failed and unsent ones included, with Wilson's interval for
            as many independent requests as these dependent ones are worth; None when there were none.
        outcome: Whether the SLO is met.
        metrics: What each stretch of the probe came to.
    """

    load: float
    share: Estimate | None
    outcome: Outcome
    metrics: tuple[Metrics, ...]


@attrs.frozen(kw_only=True)
class Capacity:
    """How much load an endpoint carries within an SLO.

    Args:
        kind: ``"concurrency"`` or ``"rate"``.
        slo: The limits of each request.
        target_share: Share of requests that must keep them.
        load: The highest load at which the SLO was met; None where it was met at none.
        not_met: The lowest load at which it was not; None where it was met, or unresolved, up to the most that was allowed.
        unresolved: Loads of which the data cannot say, ascending.
        probes: Every load that was tried, in order.
        interrupted: Whether the search was stopped before its end.
    """

    kind: Kind
    slo: SLO
    target_share: float
    load: float | None
    not_met: float | None
    unresolved: tuple[float, ...]
    probes: tuple[Probe, ...]
    interrupted: bool = False

    @property
    def sentence(self) -> str:
        """The result in a sentence."""
        unit, target = _UNITS[self.kind], f"{100 * self.target_share:g} % of requests within the SLO"
        met = (
            f"{target}: up to {self.load:g} {unit}" if self.load is not None else f"{target}: at no load that was tried"
        )
        parts = [met]
        if self.not_met is not None:
            parts.append(f"not at {self.not_met:g}")
        elif not self.unresolved:
            parts.append("which is the most that was tried")
        if self.unresolved:
            parts.append(f"unresolved at {', '.join(f'{load:g}' for load in self.unresolved)}")
        if self.interrupted:
            parts.append("the search was interrupted")
        return ", ".join(parts)


async def find_capacity(
    endpoint: Endpoint,
    slo: SLO,
    *,
    prompts: PromptSource,
    kind: Kind = "concurrency",
    start: float = 1,
    most: float = 256,
    target_share: float = 0.95,
    duration_s: float = 30.0,
    warm_up_s: float = 5.0,
    longest_s: float = 180.0,
    precision_ratio: float = 0.05,
    seed: int = 0,
    timeouts: Timeouts | None = None,
    on_probe: Callable[[Probe], None] | None = None,
    executor: Executor | None = None,
    shards: int | None = None,
    listen: str = "127.0.0.1",
) -> Capacity:
    """Find the highest concurrency or rate at which a share of requests keeps an SLO: doubled until it is not met, then bisected.

    The endpoint stays up throughout, and every probe warms up under its own load before it counts. A probe goes on, stretch after
    stretch, until the interval of the share lies on one side of the target or its time is up; it is *unresolved* then, and counts as not
    met in the search, but the result says so.

    Cancelling the call ends the search and returns what was found, with `Capacity.interrupted` set.

    Args:
        endpoint: What is searched.
        slo: Limits of each request.
        prompts: What requests say; stretches have seeds of their own, counted up from `seed`.
        kind: ``"concurrency"``: requests in flight in a closed loop, a whole number. ``"rate"``: Poisson arrivals per second.
        start: The first load tried.
        most: No higher load is tried.
        target_share: Share of requests that must keep the SLO, above 0 and below 1.
        duration_s: Seconds of each stretch, its warm-up included.
        warm_up_s: Seconds at each stretch's start that do not count.
        longest_s: Seconds that a probe may take in all.
        precision_ratio: A rate is found when the bounds are closer than this share of the upper one.
        seed: Of arrivals and prompts.
        timeouts: Limits of each request.
        on_probe: Called on the event loop with each finished probe.
        executor: Where the workers of each stretch come from, as of `tgibench.run_load`; None for this process alone.
        shards: The number of workers; of fewer requests in flight than that each has a worker.
        listen: The address of this machine at which workers reach it.

    Raises:
        InvalidValueError: A number is out of range.
    """
    plan = _Plan(
        kind=kind,
        start=start,
        most=most,
        target_share=target_share,
        duration_s=duration_s,
        warm_up_s=warm_up_s,
        longest_s=longest_s,
        precision_ratio=precision_ratio,
    )
    run = functools.partial(run_load, endpoint, prompts=prompts, timeouts=timeouts, executor=executor, listen=listen)
    probes: list[Probe] = []
    interrupted = False
    while not interrupted and (load := _next_load(plan, probes)) is not None:
        workers = shards if shards is None or kind == "rate" else min(shards, int(load))
        probe, interrupted = await _probe(plan, functools.partial(run, shards=workers), slo, load, seed=seed)
        probes.append(probe)
        if on_probe:
            on_probe(probe)
    return Capacity(
        kind=kind,
        slo=slo,
        target_share=target_share,
        load=max(_loads(probes, Outcome.MET), default=None),
        not_met=min(_loads(probes, Outcome.NOT_MET), default=None),
        unresolved=tuple(sorted(_loads(probes, Outcome.UNRESOLVED))),
        probes=tuple(probes),
        interrupted=interrupted,
    )


def _whole_concurrency(plan: _Plan, attribute: attrs.Attribute[float], value: float) -> None:
    above_zero(plan, attribute, value)
    if plan.kind == "concurrency" and value != int(value):
        raise InvalidValueError(f"{attribute.name} of a concurrency must be a whole number, got {value!r}")


def _below_one(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not is_finite_number(value) or not 0 < value < 1:
        raise InvalidValueError(f"{attribute.name} must be above 0 and below 1, got {value!r}")


@attrs.frozen(kw_only=True)
class _Plan:
    kind: Kind = attrs.field(validator=validators.in_(("concurrency", "rate")))
    start: float = attrs.field(validator=_whole_concurrency)
    most: float = attrs.field(validator=_whole_concurrency)
    target_share: float = attrs.field(validator=_below_one)
    duration_s: float = attrs.field(validator=above_zero)
    warm_up_s: float = attrs.field(validator=not_negative)
    longest_s: float = attrs.field(validator=above_zero)
    precision_ratio: float = attrs.field(validator=_below_one)

    def __attrs_post_init__(self) -> None:
        if self.most < self.start:
            raise InvalidValueError(f"most must be at least start ({self.start!r}), got {self.most!r}")
        if self.longest_s < self.duration_s:
            raise InvalidValueError(
                f"longest_s must be at least duration_s ({self.duration_s!r}), got {self.longest_s!r}"
            )

    def profile(self, load: float) -> LoadProfile:
        """One stretch of a probe."""
        if self.kind == "concurrency":
            return ClosedLoop(int(load), duration_s=self.duration_s, warm_up_s=self.warm_up_s)
        return PoissonArrivals(load, duration_s=self.duration_s, warm_up_s=self.warm_up_s)


def _loads(probes: list[Probe], outcome: Outcome) -> list[float]:
    return [probe.load for probe in probes if probe.outcome is outcome]


def _next_load(plan: _Plan, probes: list[Probe]) -> float | None:
    """Twice the highest that was met until one is not, then the middle; None when there is nothing left to ask."""
    low = max(_loads(probes, Outcome.MET), default=0)
    high = min((probe.load for probe in probes if probe.outcome is not Outcome.MET), default=None)
    if high is None:
        return None if low >= plan.most else min(2 * low or plan.start, plan.most)
    if plan.kind == "concurrency":
        return (low + high) // 2 if high - low > 1 else None
    near = high - low <= plan.precision_ratio * high or high <= plan.start * _LEAST_SHARE_OF_START
    return None if near else (low + high) / 2


async def _probe(
    plan: _Plan,
    run: Callable[..., Awaitable[RequestLog]],
    slo: SLO,
    load: float,
    *,
    seed: int,
) -> tuple[Probe, bool]:
    """Stretch after stretch until the target is kept or not for certain; and whether the run was cancelled."""
    metrics: list[Metrics] = []
    kept: list[NDArray[np.bool_]] = []
    while True:
        log = await run(plan.profile(load), seed=seed + len(metrics))
        metrics.append(Metrics.of(log, slo=slo))
        kept.append(_kept(log, slo))
        share = dependent_proportion(np.concatenate(kept))
        outcome = _outcome(share, plan.target_share)
        cancelled = log.stopped == "cancelled"
        if cancelled or outcome is not Outcome.UNRESOLVED or (len(kept) + 1) * plan.duration_s > plan.longest_s:
            return Probe(load=load, share=share, outcome=outcome, metrics=tuple(metrics)), cancelled


def _kept(log: RequestLog, slo: SLO) -> NDArray[np.bool_]:
    """Of each request planned inside the window whether it kept the SLO; what was never sent did not, what was cancelled does not count."""
    cancelled = log.failure_code == 1 + list(FailureKind).index(FailureKind.CANCELLED)
    inside = (log.planned_s >= log.window.start_s) & (log.planned_s <= log.window.stop_s) & ~cancelled
    return np.concatenate((slo.met(log)[inside], np.zeros(log.unsent, dtype=np.bool_)))


def _outcome(share: Estimate | None, target_share: float) -> Outcome:
    if share is None or share.interval is None:
        return Outcome.UNRESOLVED
    low, high = share.interval
    return Outcome.MET if low >= target_share else Outcome.NOT_MET if high < target_share else Outcome.UNRESOLVED
