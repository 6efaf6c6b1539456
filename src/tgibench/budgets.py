"""What a sweep may spend: the worst case is reckoned and set aside before each deployment, and what does not fit is not started."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs import validators

from tgibench.errors import BudgetError
from tgibench.prices import PriceTable
from tgibench.validators import above_zero

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tgibench.backends import LongestTimes
    from tgibench.deployments import Deployment
    from tgibench.loads import LoadProfile

__all__ = ["Budget", "Lease", "Spending", "WorstCase"]

_HOUR_S = 3600.0
_STARTUP_S, _TEARDOWN_S = 4800.0, 900.0  # of a backend that does not say


def _seconds() -> float | None:
    value: float | None = attrs.field(default=None, validator=validators.optional(above_zero))
    return value


@attrs.frozen(kw_only=True)
class Budget:
    """The most that a sweep may spend on machines.

    Every second from the order to deploy until everything is stopped is paid for, which is the upper bound of what is billed. The three
    durations are what the backend says of itself (`tgibench.backends.TimedBackend`); give your own where you know better.

    Args:
        usd: US dollars for the whole sweep.
        prices: What machines cost, by default the built-in `tgibench.PriceTable` of us-east-1; one whose price is unknown is not started.
        startup_s: Longest that a deployment may take until it is ready: 4800 where the backend does not say.
        teardown_s: Longest that stopping it may take once it serves; load stops so much before the money ends. 900 where the backend does
            not say.
        abandon_s: Longest that stopping it may take while it is not ready yet: SageMaker deletes nothing that it is still creating. As
            `teardown_s` where the backend does not say.

    Raises:
        InvalidValueError: A number is not above 0.
    """

    usd: float = attrs.field(validator=above_zero)
    prices: PriceTable = attrs.field(factory=PriceTable.builtin)
    startup_s: float | None = _seconds()
    teardown_s: float | None = _seconds()
    abandon_s: float | None = _seconds()

    def usd_per_hour(self, deployment: Deployment) -> float:
        """Of all of its machines.

        Raises:
            BudgetError: The price is unknown.
        """
        try:
            return deployment.replicas * self.prices.price(deployment.instance_type).usd_per_hour
        except LookupError as error:
            raise BudgetError(f"nothing is started at an unknown price: {error}") from error

    def price_of(self, deployment: Deployment) -> str:
        """Which price of which day and source that is; it must be known."""
        return str(self.prices.price(deployment.instance_type))


@attrs.frozen(kw_only=True)
class WorstCase:
    """How long a deployment may be paid for at most, and what it costs then.

    A load of a number of requests has no length of its own and counts as none: while it runs, it takes what is free of the budget.

    Args:
        usd_per_hour: Of all of its machines.
        seconds: From the order until everything is stopped: after its loads, or abandoned because it does not become ready.
        teardown_s: Of these, for stopping what serves.
        abandon_s: Longest that stopping takes before it serves.
    """

    usd_per_hour: float
    seconds: float
    teardown_s: float
    abandon_s: float

    @property
    def usd(self) -> float:
        """What it costs."""
        return self.usd_per_hour * self.seconds / _HOUR_S


@attrs.define
class Spending:
    """A budget as a sweep uses it up: what is spent, and what is set aside for what runs."""

    budget: Budget
    spent_usd: float = 0.0
    leases: list[Lease] = attrs.field(factory=list)

    @property
    def left_usd(self) -> float:
        """Not spent."""
        return self.budget.usd - self.spent_usd

    @property
    def free_usd(self) -> float:
        """Neither spent nor set aside."""
        return self.left_usd - sum(lease.usd for lease in self.leases)

    def worst_case(
        self,
        deployment: Deployment,
        loads: Iterable[LoadProfile],
        *,
        answer_s: float,
        seed: int,
        longest: LongestTimes | None = None,
    ) -> WorstCase:
        """What a deployment may cost at most.

        Args:
            deployment: What is to be deployed.
            loads: What is to run on it.
            answer_s: Longest that an answer may take after a load's end.
            seed: Of the loads.
            longest: What the backend says of how long things take; None where it says nothing.

        Raises:
            BudgetError: The price is unknown.
        """
        budget = self.budget
        startup_s = budget.startup_s or (longest.startup_s if longest else _STARTUP_S)
        teardown_s = budget.teardown_s or (longest.teardown_s if longest else _TEARDOWN_S)
        abandon_s = budget.abandon_s or (longest.abandon_s if longest else teardown_s)
        after_s = answer_s + (longest.after_load_s if longest else 0.0)
        loads_s = sum(_length_s(load, seed) + after_s for load in loads)
        return WorstCase(
            usd_per_hour=budget.usd_per_hour(deployment),
            seconds=startup_s + max(loads_s + teardown_s, abandon_s),
            teardown_s=teardown_s,
            abandon_s=abandon_s,
        )

    def reserve(self, worst: WorstCase) -> Lease:
        """Set the worst case aside.

        Raises:
            BudgetError: It does not fit into what is free.
        """
        if worst.usd > self.free_usd:
            raise BudgetError(
                f"not started: at worst it costs {worst.usd:.2f} USD ({worst.seconds:.0f} s at {worst.usd_per_hour:g} USD per hour), "
                f"and of the budget of {self.budget.usd:g} USD {self.left_usd:.2f} are left"
            )
        lease = Lease(self, worst, worst.usd)
        self.leases.append(lease)
        return lease


@attrs.define(eq=False)
class Lease:
    """Money that is set aside for one deployment.

    Args:
        spending: Of which it is set aside.
        worst: What it was reckoned to cost at most.
        usd: How much is set aside.
        serves: Whether the deployment has become ready.
    """

    spending: Spending
    worst: WorstCase
    usd: float
    serves: bool = False

    @property
    def stop_after_s(self) -> float:
        """How many seconds after the order stopping must begin, so that it is paid for to its end."""
        reserve_s = self.worst.teardown_s if self.serves else self.worst.abandon_s
        return self.usd / self.worst.usd_per_hour * _HOUR_S - reserve_s

    def extend(self, seconds: float) -> bool:
        """Set more aside, for so many seconds or as many as are free; False where that is less than one."""
        usd = min(self.worst.usd_per_hour * seconds / _HOUR_S, self.spending.free_usd)
        if usd < self.worst.usd_per_hour / _HOUR_S:
            return False
        self.usd += usd
        return True

    def settle(self, seconds: float) -> None:
        """It ran so long, from the order until everything was stopped: that is spent, and the rest is free again."""
        self.spending.spent_usd += self.worst.usd_per_hour * seconds / _HOUR_S
        self.spending.leases.remove(self)


def _length_s(load: LoadProfile, seed: int) -> float:
    return sum(phase.duration_s or 0.0 for phase in load.phases(seed))
