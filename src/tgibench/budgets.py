"""What a sweep may spend: the worst case is reckoned before each deployment, and what does not fit is not started."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tgibench.errors import BudgetError
from tgibench.prices import PriceTable
from tgibench.validators import above_zero

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tgibench.deployments import Deployment
    from tgibench.loads import LoadProfile

__all__ = ["Budget", "Spending"]


@attrs.frozen(kw_only=True)
class Budget:
    """The most that a sweep may spend on machines.

    Every second from the order to deploy until everything is stopped is paid for, which is the upper bound of what is billed.

    Args:
        usd: US dollars for the whole sweep.
        prices: What machines cost, by default the built-in `tgibench.PriceTable` of us-east-1; one whose price is unknown is not started.
        startup_s: Longest that a deployment may take until it is ready.
        teardown_s: Longest that stopping it may take; load stops so much before the money ends.

    Raises:
        InvalidValueError: A number is not above 0.
    """

    usd: float = attrs.field(validator=above_zero)
    prices: PriceTable = attrs.field(factory=PriceTable.builtin)
    startup_s: float = attrs.field(default=4800.0, validator=above_zero)
    teardown_s: float = attrs.field(default=900.0, validator=above_zero)

    def usd_per_hour(self, deployment: Deployment) -> float:
        """Of all of its machines.

        Raises:
            BudgetError: The price is unknown.
        """
        try:
            return deployment.replicas * self.prices.price(deployment.instance_type).usd_per_hour
        except LookupError as error:
            raise BudgetError(f"nothing is started at an unknown price: {error}") from error


@attrs.define
class Spending:
    """A budget as a sweep uses it up."""

    budget: Budget
    spent_usd: float = 0.0

    def admit(self, deployment: Deployment, loads: Iterable[LoadProfile], *, answer_s: float, seed: int) -> float:
        """How many seconds after the order to deploy its load must have stopped.

        A load of a number of requests has no length of its own: it is cut off there.

        Args:
            deployment: What is to be deployed.
            loads: What is to run on it.
            answer_s: Longest that an answer may take after a load's end.
            seed: Of the loads.

        Raises:
            BudgetError: The worst case does not fit into what is left.
        """
        budget, rate = self.budget, self.budget.usd_per_hour(deployment)
        left_usd = budget.usd - self.spent_usd
        worst_s = budget.startup_s + sum(_length_s(load, seed) + answer_s for load in loads) + budget.teardown_s
        worst_usd = rate * worst_s / 3600
        if worst_usd > left_usd:
            raise BudgetError(
                f"not started: at worst it costs {worst_usd:.2f} USD ({worst_s:.0f} s at {rate:g} USD per hour), and of the budget of "
                f"{budget.usd:g} USD {left_usd:.2f} are left"
            )
        return left_usd / rate * 3600 - budget.teardown_s

    def charge(self, deployment: Deployment, seconds: float) -> None:
        """It ran so long, from the order until everything was stopped."""
        self.spent_usd += self.budget.usd_per_hour(deployment) * seconds / 3600


def _length_s(load: LoadProfile, seed: int) -> float:
    return sum(phase.duration_s or 0.0 for phase in load.phases(seed))
