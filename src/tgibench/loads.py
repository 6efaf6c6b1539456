"""Load profiles: how many requests, and when each should start.

A profile is a value. `LoadProfile.phases` turns it, with a seed, into one or more phases that the runner executes one after the other:
a `ClosedPhase` keeps a number of requests in flight, an `OpenPhase` starts requests at planned instants whatever the server does.

Arrivals are numbered over the whole profile, and the number chooses the prompt. Parts made by `LoadProfile.split` share the numbering:
the arrivals of all parts together are exactly those of the whole.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Protocol, Self

import attrs
from attrs import validators

from tgibench.errors import InvalidValueError
from tgibench.validators import above_zero, count, not_negative

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "ClosedLoop",
    "ClosedPhase",
    "LoadProfile",
    "OpenPhase",
    "Part",
    "Phase",
    "Stages",
    "check_parts",
    "count_requests",
    "most_in_flight",
    "one_limit",
    "planned_s",
    "share",
]


@attrs.frozen(kw_only=True)
class ClosedPhase:
    """Keep `users` requests in flight: each user sends its next request when its last one ended.

    Args:
        users: Requests in flight.
        indices: Numbers of the requests to send, in order; the phase ends when they run out. None: by number, `first` and on.
        duration_s: No request starts later than this after the phase's start; None for no limit.
        requests: How many indices there are, where that is known; otherwise a run that is stopped counts what is left of them.
        think_time_s: Pause of each user between an answer and its next request; it ends with the duration, and there is none after a
            user's last answer.
        warm_up_s: Seconds at the phase's start that steady-state metrics leave out; only that of a run's first phase counts.
    """

    users: int
    indices: Iterable[int]
    duration_s: float | None
    requests: int | None = None
    think_time_s: float = 0.0
    warm_up_s: float = 0.0


@attrs.frozen(kw_only=True)
class OpenPhase:
    """Start requests at planned instants.

    Args:
        arrivals: ``(number, start)`` pairs, starts ascending, in seconds after the phase's start.
        duration_s: Length of the phase: the next one begins then, whether or not answers are still coming; None: at the last start.
        requests: How many arrivals there are, where that is known; otherwise a run that is stopped counts what is left of them.
        max_in_flight: Requests allowed in flight at once; later ones wait and keep their planned time. None for no limit.
        warm_up_s: Seconds at the phase's start that steady-state metrics leave out; only that of a run's first phase counts.
        interval_cv: The coefficient of variation of the gaps that is intended, for the arrival self-test; None when none is defined.
    """

    arrivals: Iterable[tuple[int, float]]
    duration_s: float | None
    requests: int | None = None
    max_in_flight: int | None = None
    warm_up_s: float = 0.0
    interval_cv: float | None = None


Phase = ClosedPhase | OpenPhase

MOST_COUNTED = 2_000_000  # takes about half a second


def count_requests(plan: Iterable[object]) -> int:
    """How many requests a plan holds that does not say so; beyond `MOST_COUNTED` they are not counted."""
    return sum(1 for _ in itertools.islice(plan, MOST_COUNTED))


def most_in_flight(phases: Iterable[Phase]) -> int:
    """The most requests that are known to be in flight at once; those of an open phase without a cap are not known: at least 1."""
    return max(
        ((phase.users if isinstance(phase, ClosedPhase) else phase.max_in_flight) or 1 for phase in phases), default=1
    )


class LoadProfile(Protocol):
    """A shape of load. Anything with these three members is one."""

    @property
    def label(self) -> str:
        """A short name for tables, such as ``"5 users"`` or ``"2 req/s poisson"``."""

    def phases(self, seed: int) -> Iterator[Phase]:
        """What the runner executes, one after the other; the same for the same seed."""

    def split(self, n: int) -> tuple[LoadProfile, ...]:
        """`n` profiles that together are exactly this one, for as many load generators.

        Raises:
            InvalidValueError: It cannot be divided into that many.
        """


def one_limit(profile: object, duration_s: float | None, requests: int | None, warm_up_s: float) -> None:
    """Check that a profile is limited by duration or by number, and warms up for less than it lasts."""
    name = type(profile).__name__
    if (duration_s is None) == (requests is None):
        raise InvalidValueError(
            f"{name} takes either duration_s or requests, got duration_s={duration_s!r} and requests={requests!r}"
        )
    if duration_s is not None and warm_up_s >= duration_s:
        raise InvalidValueError(f"warm_up_s must be shorter than duration_s ({duration_s!r}), got {warm_up_s!r}")


def planned_s(load: LoadProfile, seed: int) -> float:
    """How long a load starts requests, in seconds; a closed loop of a number of requests has no length of its own and counts as 0."""
    return sum(_length_s(phase) for phase in load.phases(seed))


def _length_s(phase: Phase) -> float:
    if phase.duration_s is not None:
        return phase.duration_s
    return max((start_s for _, start_s in phase.arrivals), default=0.0) if isinstance(phase, OpenPhase) else 0.0


def check_parts(n: int) -> None:
    """Check that a load can be divided into that many parts."""
    if n < 1:
        raise InvalidValueError(f"a load is split into a whole number of parts of at least 1, got {n!r}")


def _ways(of: int | Iterable[int]) -> int | tuple[int, ...]:
    return of if isinstance(of, int) else tuple(of)


@attrs.frozen
class Part:
    """Which of how many equal parts a profile is; parts of parts multiply.

    Args:
        number: Which, from 0.
        of: Of how many; of a part that was split again, the ways of each split in turn.
    """

    number: int = 0
    of: int | tuple[int, ...] = attrs.field(default=1, converter=_ways)

    @property
    def total(self) -> int:
        """Of how many in all."""
        return self.of if isinstance(self.of, int) else math.prod(self.of)

    def splits(self) -> Iterator[tuple[int, int]]:
        """Which of how many it is of each split in turn."""
        number = self.number
        for ways in (self.of,) if isinstance(self.of, int) else self.of:
            number, which = divmod(number, ways)
            yield which, ways

    def split(self, n: int) -> Iterator[Part]:
        """This part, divided again."""
        ways = [each for _, each in (*self.splits(), (0, n)) if each > 1]
        of = tuple(ways) if len(ways) > 1 else math.prod(ways)  # as it has always been stored
        return (Part(self.number + self.total * i, of) for i in range(n))

    def keep_in_turn(self, indices: Iterator[int]) -> Iterator[int]:
        """Every `total`-th number."""
        return itertools.islice(indices, self.number, None, self.total)


def _limit_text(duration_s: float | None, requests: int | None) -> str:
    return f"{duration_s:g} s" if duration_s is not None else f"{requests} requests"


@attrs.frozen
class ClosedLoop:
    """Keep exactly `concurrency` requests in flight, as the 2023 study's virtual users did.

    Args:
        concurrency: Requests in flight.
        duration_s: No request starts later; those in flight are let finish.
        requests: Number of requests instead of a duration.
        warm_up_s: Seconds at the start that steady-state metrics leave out.
        think_time_s: Pause of each user between an answer and its next request; it ends with the duration, and there is none after a
            user's last answer.

    Raises:
        InvalidValueError: A value is out of range, or not exactly one of `duration_s` and `requests` is given.
    """

    concurrency: int = attrs.field(validator=count)
    duration_s: float | None = attrs.field(default=None, validator=validators.optional(above_zero), kw_only=True)
    requests: int | None = attrs.field(default=None, validator=validators.optional(count), kw_only=True)
    warm_up_s: float = attrs.field(default=0.0, validator=not_negative, kw_only=True)
    think_time_s: float = attrs.field(default=0.0, validator=not_negative, kw_only=True)
    part: Part = attrs.field(factory=Part, kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        one_limit(self, self.duration_s, self.requests, self.warm_up_s)

    @property
    def label(self) -> str:
        """The number of users."""
        return f"{self.concurrency} user{'s' if self.concurrency > 1 else ''}"

    def phases(self, seed: int) -> Iterator[Phase]:
        """One closed phase."""
        del seed
        # a part is given its own number of users and requests: only the numbering is shared
        numbers = self.part.keep_in_turn(itertools.count())
        yield ClosedPhase(
            users=self.concurrency if self.requests is None else min(self.concurrency, self.requests),
            indices=numbers if self.requests is None else itertools.islice(numbers, self.requests),
            duration_s=self.duration_s,
            requests=self.requests,
            think_time_s=self.think_time_s,
            warm_up_s=self.warm_up_s,
        )

    def split(self, n: int) -> tuple[Self, ...]:
        """Users and requests divided; the first parts take the remainder."""
        check_parts(n)
        if n > self.concurrency or (self.requests is not None and n > self.requests):
            raise InvalidValueError(
                f"{self.label} ({_limit_text(self.duration_s, self.requests)}) cannot be split into {n} parts"
            )
        return tuple(
            attrs.evolve(
                self,
                concurrency=share(self.concurrency, n, i),
                requests=None if self.requests is None else share(self.requests, n, i),
                part=part,
            )
            for i, part in enumerate(self.part.split(n))
        )


def share(total: int, n: int, i: int) -> int:
    """What part i of n gets of a total; the first parts take the remainder."""
    return total // n + (i < total % n)


def _flattened(profiles: Iterable[LoadProfile]) -> tuple[LoadProfile, ...]:
    nested = (profile.profiles if isinstance(profile, Stages) else (profile,) for profile in profiles)
    return tuple(itertools.chain.from_iterable(nested))


# Request numbers of successive stages lie this far apart, so that no prompt of one stage comes again in the next.
_STAGE_NUMBERS = 1_000_000_000


@attrs.frozen
class Stages:
    """Profiles one after the other, each with request numbers and arrival seeds of its own.

    After an open stage the next begins at its planned end, answers still coming or not; after a closed one, when its last user is done.

    Args:
        profiles: At least one; stages among them are taken for their profiles.

    Raises:
        InvalidValueError: There is none, or a later one than the first has a warm-up: a run has one window.
    """

    profiles: tuple[LoadProfile, ...] = attrs.field(converter=_flattened)

    def __attrs_post_init__(self) -> None:
        if not self.profiles:
            raise InvalidValueError("Stages needs at least one profile, got none")
        for stage, profile in enumerate(self.profiles[1:], start=2):
            if warm_up_s := getattr(profile, "warm_up_s", 0.0):
                raise InvalidValueError(
                    f"a run has one window: only the first stage may warm up, but stage {stage} ({profile.label}) has "
                    f"warm_up_s={warm_up_s!r}"
                )

    @property
    def label(self) -> str:
        """All labels."""
        return ", then ".join(profile.label for profile in self.profiles)

    def phases(self, seed: int) -> Iterator[Phase]:
        """The phases of each profile in turn."""
        for stage, profile in enumerate(self.profiles):
            for phase in profile.phases(seed + stage):
                yield _renumbered(phase, stage * _STAGE_NUMBERS)

    def split(self, n: int) -> tuple[Stages, ...]:
        """Every stage divided; the parts last as long as the whole."""
        return tuple(Stages(parts) for parts in zip(*(profile.split(n) for profile in self.profiles), strict=True))


def _renumbered(phase: Phase, first: int) -> Phase:
    if isinstance(phase, ClosedPhase):
        return attrs.evolve(phase, indices=(first + index for index in phase.indices))
    return attrs.evolve(phase, arrivals=((first + index, start_s) for index, start_s in phase.arrivals))
