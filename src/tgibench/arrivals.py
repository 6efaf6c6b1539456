"""Open-loop load profiles: requests start at planned instants whatever the server does."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, TypeVar

import attrs
import numpy as np
from attrs import validators

from tgibench.arrival_lots import draws, keep_by_lot, known_requests
from tgibench.errors import InvalidValueError
from tgibench.loads import OpenPhase, Part, check_parts, one_limit, share
from tgibench.validators import above_zero, ascending_instants, count, not_negative

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tgibench.loads import Phase

__all__ = ["ConstantArrivals", "GammaArrivals", "PoissonArrivals", "Ramp", "Replay"]

_Open = TypeVar("_Open", "ConstantArrivals", "PoissonArrivals", "GammaArrivals", "Ramp", "Replay")


def _limited(starts: Iterator[float], duration_s: float | None, requests: int | None) -> Iterator[tuple[int, float]]:
    numbered = enumerate(starts)
    if duration_s is None:
        return itertools.islice(numbered, requests)
    return itertools.takewhile(lambda arrival: arrival[1] < duration_s, numbered)


def _split_open(profile: _Open, n: int) -> tuple[_Open, ...]:
    check_parts(n)
    cap = profile.max_in_flight
    if cap is not None and cap < n:
        raise InvalidValueError(f"max_in_flight={cap} cannot be divided among {n} parts")
    return tuple(
        attrs.evolve(profile, part=part, max_in_flight=None if cap is None else share(cap, n, i))
        for i, part in enumerate(profile.part.split(n))
    )


@attrs.frozen
class ConstantArrivals:
    """One request every ``1 / rate_rps`` seconds, whatever the server does.

    Args:
        rate_rps: Requests a second.
        duration_s: Length; or give `requests`.
        requests: Number of requests.
        warm_up_s: Seconds at the start that steady-state metrics leave out.
        max_in_flight: Most requests in flight; held-back ones are sent late and their latency counts from the plan.

    Raises:
        InvalidValueError: A value is out of range, or not exactly one of `duration_s` and `requests` is given.
    """

    rate_rps: float = attrs.field(validator=above_zero)
    duration_s: float | None = attrs.field(default=None, validator=validators.optional(above_zero), kw_only=True)
    requests: int | None = attrs.field(default=None, validator=validators.optional(count), kw_only=True)
    warm_up_s: float = attrs.field(default=0.0, validator=not_negative, kw_only=True)
    max_in_flight: int | None = attrs.field(default=None, validator=validators.optional(count), kw_only=True)
    part: Part = attrs.field(factory=Part, kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        one_limit(self, self.duration_s, self.requests, self.warm_up_s)

    @property
    def label(self) -> str:
        """The rate."""
        return f"{self.rate_rps / self.part.total:g} req/s constant"

    def phases(self, seed: int) -> Iterator[Phase]:
        """One open phase on an even grid that starts at 0."""
        del seed
        # k / rate and not k · (1 / rate): no drift, and a part's instants are the whole's to the last bit
        arrivals = _limited((k / self.rate_rps for k in itertools.count()), self.duration_s, self.requests)
        yield OpenPhase(
            arrivals=itertools.islice(arrivals, self.part.number, None, self.part.total),
            duration_s=self.duration_s,
            requests=self._requests(),
            max_in_flight=self.max_in_flight,
            warm_up_s=self.warm_up_s,
            interval_cv=0.0,
        )

    def _requests(self) -> int | None:
        """How many there are; None where the grid is finer than floating point can tell."""
        total = self.requests
        if self.duration_s is not None:
            expected = self.rate_rps * self.duration_s
            if expected >= 2**52:
                return None
            total = math.ceil(expected)
            while total / self.rate_rps < self.duration_s:  # the product is rounded, the instants are quotients
                total += 1
            while total and (total - 1) / self.rate_rps >= self.duration_s:
                total -= 1
        assert total is not None  # noqa: S101 - one of the two is given
        return (total - self.part.number + self.part.total - 1) // self.part.total

    def split(self, n: int) -> tuple[ConstantArrivals, ...]:
        """Every n-th arrival each."""
        return _split_open(self, n)


@attrs.frozen
class PoissonArrivals:
    """Independent arrivals at a mean rate: exponential gaps. Arguments as of `ConstantArrivals`."""

    rate_rps: float = attrs.field(validator=above_zero)
    duration_s: float | None = attrs.field(default=None, validator=validators.optional(above_zero), kw_only=True)
    requests: int | None = attrs.field(default=None, validator=validators.optional(count), kw_only=True)
    warm_up_s: float = attrs.field(default=0.0, validator=not_negative, kw_only=True)
    max_in_flight: int | None = attrs.field(default=None, validator=validators.optional(count), kw_only=True)
    part: Part = attrs.field(factory=Part, kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        one_limit(self, self.duration_s, self.requests, self.warm_up_s)

    @property
    def label(self) -> str:
        """The rate."""
        return f"{self.rate_rps / self.part.total:g} req/s poisson"

    def phases(self, seed: int) -> Iterator[Phase]:
        """One open phase."""
        gaps = draws(np.random.default_rng([seed, 3]), lambda rng, size: rng.exponential(1 / self.rate_rps, size))
        arrivals = _limited(itertools.accumulate(gaps), self.duration_s, self.requests)
        yield OpenPhase(
            arrivals=keep_by_lot(arrivals, self.part, seed),
            duration_s=self.duration_s,
            requests=known_requests(self.requests, self.part),
            max_in_flight=self.max_in_flight,
            warm_up_s=self.warm_up_s,
            interval_cv=1.0,
        )

    def split(self, n: int) -> tuple[PoissonArrivals, ...]:
        """Each arrival goes to one part by lot, so each part is a Poisson process of rate ``rate_rps / n``."""
        return _split_open(self, n)


@attrs.frozen
class GammaArrivals:
    """Arrivals with gamma-distributed gaps: burstier than Poisson below burstiness 1, smoother above.

    Args:
        rate_rps: Mean requests a second.
        burstiness: The gamma distribution's shape; the gaps' coefficient of variation is ``1 / sqrt(burstiness)``. 1 is Poisson.
        duration_s: Length; or give `requests`.
        requests: Number of requests.
        warm_up_s: Seconds at the start that steady-state metrics leave out.
        max_in_flight: Most requests in flight; held-back ones are sent late and their latency counts from the plan.

    Raises:
        InvalidValueError: A value is out of range, or not exactly one of `duration_s` and `requests` is given.
    """

    rate_rps: float = attrs.field(validator=above_zero)
    burstiness: float = attrs.field(validator=above_zero)
    duration_s: float | None = attrs.field(default=None, validator=validators.optional(above_zero), kw_only=True)
    requests: int | None = attrs.field(default=None, validator=validators.optional(count), kw_only=True)
    warm_up_s: float = attrs.field(default=0.0, validator=not_negative, kw_only=True)
    max_in_flight: int | None = attrs.field(default=None, validator=validators.optional(count), kw_only=True)
    part: Part = attrs.field(factory=Part, kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        one_limit(self, self.duration_s, self.requests, self.warm_up_s)

    @property
    def label(self) -> str:
        """The rate and the shape."""
        return f"{self.rate_rps / self.part.total:g} req/s gamma({self.burstiness:g})"

    def phases(self, seed: int) -> Iterator[Phase]:
        """One open phase."""
        scale = 1 / (self.rate_rps * self.burstiness)
        gaps = draws(np.random.default_rng([seed, 3]), lambda rng, size: rng.gamma(self.burstiness, scale, size))
        arrivals = _limited(itertools.accumulate(gaps), self.duration_s, self.requests)
        yield OpenPhase(
            arrivals=keep_by_lot(arrivals, self.part, seed),
            duration_s=self.duration_s,
            requests=known_requests(self.requests, self.part),
            max_in_flight=self.max_in_flight,
            warm_up_s=self.warm_up_s,
            interval_cv=1 / math.sqrt(self.burstiness) if self.part.total == 1 else None,
        )

    def split(self, n: int) -> tuple[GammaArrivals, ...]:
        """Each arrival goes to one part by lot; the parts together are the process."""
        return _split_open(self, n)


@attrs.frozen
class Ramp:
    """A Poisson process whose rate changes linearly from one value to another.

    Args:
        start_rps: Rate at the start; may be 0.
        stop_rps: Rate at the end; may be 0, but not both.
        duration_s: Length; or give `requests`, and the length follows from the mean rate.
        requests: Number of requests: the process is then conditioned on that number.
        warm_up_s: Seconds at the start that steady-state metrics leave out.
        max_in_flight: Most requests in flight; held-back ones are sent late and their latency counts from the plan.

    Raises:
        InvalidValueError: A value is out of range, or not exactly one of `duration_s` and `requests` is given.
    """

    start_rps: float = attrs.field(validator=not_negative)
    stop_rps: float = attrs.field(validator=not_negative)
    duration_s: float | None = attrs.field(default=None, validator=validators.optional(above_zero), kw_only=True)
    requests: int | None = attrs.field(default=None, validator=validators.optional(count), kw_only=True)
    warm_up_s: float = attrs.field(default=0.0, validator=not_negative, kw_only=True)
    max_in_flight: int | None = attrs.field(default=None, validator=validators.optional(count), kw_only=True)
    part: Part = attrs.field(factory=Part, kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        one_limit(self, self.duration_s, self.requests, self.warm_up_s)
        if self.start_rps == self.stop_rps == 0:
            raise InvalidValueError("a Ramp needs a rate above 0 at one end, got 0 at both")

    @property
    def label(self) -> str:
        """Both rates."""
        return f"{self.start_rps / self.part.total:g}→{self.stop_rps / self.part.total:g} req/s ramp"

    @property
    def length_s(self) -> float:
        """Its length in seconds, given or derived from the number of requests."""
        if self.duration_s is not None:
            return self.duration_s
        assert self.requests is not None  # noqa: S101 - one of the two is given
        return 2 * self.requests / (self.start_rps + self.stop_rps)

    def phases(self, seed: int) -> Iterator[Phase]:
        """One open phase: a unit-rate Poisson process in the ramp's own operational time, mapped back to seconds."""
        length_s, rng = self.length_s, np.random.default_rng([seed, 3])
        expected = length_s * (self.start_rps + self.stop_rps) / 2
        number = self.requests if self.requests is not None else int(rng.poisson(expected))
        # given their number, a Poisson process's arrivals are independent and uniform in operational time
        operational = np.sort(rng.uniform(0, expected, number))
        yield OpenPhase(
            arrivals=keep_by_lot(enumerate(self._seconds(operational).tolist()), self.part, seed),
            duration_s=length_s,
            requests=known_requests(number, self.part),
            max_in_flight=self.max_in_flight,
            warm_up_s=self.warm_up_s,
        )

    def _seconds(self, operational: NDArray[np.float64]) -> NDArray[np.float64]:
        """Invert the expected count by time t: start·t + slope·t²/2, in the form that is stable for a slope near 0."""
        slope = (self.stop_rps - self.start_rps) / self.length_s
        root = np.sqrt(np.maximum(self.start_rps**2 + 2 * slope * operational, 0.0))
        return 2 * operational / np.maximum(self.start_rps + root, np.finfo(float).tiny)

    def split(self, n: int) -> tuple[Ramp, ...]:
        """Each arrival goes to one part by lot, so each part is a Poisson ramp of 1/n of the rate."""
        return _split_open(self, n)


@attrs.frozen
class Replay:
    """Start requests at recorded instants.

    Args:
        starts: Seconds after the start of the run, ascending.
        warm_up_s: Seconds at the start that steady-state metrics leave out.
        max_in_flight: Most requests in flight; held-back ones are sent late and their latency counts from the plan.

    Raises:
        InvalidValueError: There is no start, or they are not ascending.
    """

    starts: tuple[float, ...] = attrs.field(validator=ascending_instants, repr=lambda starts: f"<{len(starts)} starts>")
    warm_up_s: float = attrs.field(default=0.0, validator=not_negative, kw_only=True)
    max_in_flight: int | None = attrs.field(default=None, validator=validators.optional(count), kw_only=True)
    part: Part = attrs.field(factory=Part, kw_only=True, repr=False)

    @property
    def label(self) -> str:
        """How many and how long."""
        return f"replay of {len(self.starts)} over {self.starts[-1]:g} s"

    def phases(self, seed: int) -> Iterator[Phase]:
        """One open phase."""
        yield OpenPhase(
            arrivals=keep_by_lot(enumerate(self.starts), self.part, seed),
            duration_s=None,
            requests=known_requests(len(self.starts), self.part),
            max_in_flight=self.max_in_flight,
            warm_up_s=self.warm_up_s,
        )

    def split(self, n: int) -> tuple[Replay, ...]:
        """Each start goes to one part by lot."""
        return _split_open(self, n)
