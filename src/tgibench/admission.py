"""Which deployments of a sweep may start: as many at once as asked for, as the backend has room for, and as the money pays for."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Self

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tgibench.backends import Room
    from tgibench.budgets import Lease, Spending, WorstCase
    from tgibench.errors import BudgetError

__all__ = ["Admission", "Candidate", "MoneyLimit"]

_EXTENSION_S = 60.0
_BEFORE_S = 1.0


@attrs.frozen(kw_only=True, eq=False)
class Candidate:
    """A deployment that waits for its start.

    Args:
        place: Its number in the sweep.
        room: What it takes of what is scarce; None for nothing.
        worst: What it may cost at most; None where there is no budget.
        refusal: Why no budget pays for it; None where one may.
    """

    place: int
    room: Room | None = None
    worst: WorstCase | None = None
    refusal: BudgetError | None = None


class Admission:
    """Says who is next.

    Room is given to whoever comes first and fits. Money is given in the order of the sweep alone: nobody takes what an earlier deployment
    waits for, so it does not depend on what ends first which deployments the budget pays for.
    """

    def __init__(self, parallel: int, spending: Spending | None) -> None:
        self._parallel, self._spending = parallel, spending
        self._running: set[Candidate] = set()
        self._taken: Counter[str] = Counter()

    def choose(self, waiting: Iterable[Candidate]) -> Candidate | None:
        """The first, in the order of the sweep, that may start or will never be paid for; None when all must wait for one that runs."""
        if len(self._running) >= self._parallel:
            return None
        free_usd = self._spending.free_usd if self._spending else 0.0
        for candidate in waiting:
            if candidate.refusal:
                return candidate
            if candidate.worst and self._spending:
                if candidate.worst.usd > self._spending.left_usd:
                    return candidate
                if candidate.worst.usd > free_usd:
                    return None
                free_usd -= candidate.worst.usd
            if self._has_room(candidate.room):
                return candidate
        return None

    def enter(self, candidate: Candidate) -> Lease | None:
        """It starts now; the money that is set aside for it, None without a budget. `leave` must follow.

        Raises:
            BudgetError: The budget does not pay for it; it has not entered.
        """
        if candidate.refusal:
            raise candidate.refusal
        lease = self._spending.reserve(candidate.worst) if self._spending and candidate.worst else None
        self._running.add(candidate)
        if candidate.room:
            self._taken[candidate.room.pool] += candidate.room.units
        return lease

    def leave(self, candidate: Candidate) -> None:
        """It is stopped: its room is free again."""
        self._running.remove(candidate)
        if candidate.room:
            self._taken[candidate.room.pool] -= candidate.room.units

    def _has_room(self, room: Room | None) -> bool:
        if room is None:
            return True
        taken = self._taken[room.pool]
        return not taken or taken + room.units <= room.size


class MoneyLimit:
    """Cancels the work inside it when it must be stopped so that stopping is still paid for; settles the lease at its end.

    While it lasts, it takes what becomes free of the budget, a minute at a time, when what was set aside is used up.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease, self._loop = lease, asyncio.get_running_loop()
        self._ordered_s = self._loop.time()
        self._limit = asyncio.timeout_at(self._due_s())
        self._looking: asyncio.TimerHandle | None = None

    @property
    def reached(self) -> bool:
        """Whether the money is used up."""
        return self._limit.expired()

    @property
    def sentence(self) -> str:
        """What is said of what it stopped."""
        return f"stopped after {self._lease.stop_after_s:.0f} s: what is left of the budget pays for stopping what serves it"

    def serves(self) -> None:
        """The deployment is ready: stopping it takes another time now."""
        self._lease.serves = True
        self._move()

    def lift(self) -> None:
        """No load is left to stop: what follows is the stopping itself, which nothing may cut short."""
        self._forget()
        if not self.reached:
            self._limit.reschedule(None)

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        self._look_later()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._forget()
        self._lease.settle(self._loop.time() - self._ordered_s)
        await self._limit.__aexit__(*error)  # type: ignore[arg-type]

    def _due_s(self) -> float:
        return self._ordered_s + self._lease.stop_after_s

    def _look_later(self) -> None:
        self._looking = self._loop.call_at(self._due_s() - _BEFORE_S, self._look)

    def _look(self) -> None:
        if self._lease.extend(_EXTENSION_S):
            self._move()

    def _move(self) -> None:
        if not self.reached:
            self._limit.reschedule(self._due_s())
            self._forget()
            self._look_later()

    def _forget(self) -> None:
        if self._looking:
            self._looking.cancel()
