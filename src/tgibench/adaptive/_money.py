"""An adaptive sweep's money: what is spent, and how long what is left pays for a machine and for stopping it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from tgibench.backends import TimedBackend
from tgibench.costs import HOUR_S

if TYPE_CHECKING:
    from tgibench.backends import Backend
    from tgibench.deployments import Deployment

__all__ = ["Meter", "Purse", "Stopping"]

_STOPPING_S = 10.0  # of a backend that does not say


@attrs.frozen(kw_only=True)
class Stopping:
    """How long stopping a deployment may take, in seconds.

    Args:
        serving_s: Once it serves.
        starting_s: While it is not ready yet.
    """

    serving_s: float = _STOPPING_S
    starting_s: float = _STOPPING_S

    @classmethod
    def of(cls, backend: Backend, deployment: Deployment) -> Stopping:
        """As the backend says of itself."""
        if not isinstance(backend, TimedBackend):
            return cls()
        longest = backend.longest_times(deployment)
        return cls(serving_s=longest.teardown_s, starting_s=longest.abandon_s)


@attrs.define
class Purse:
    """A budget as it is used up.

    Args:
        budget_usd: None for no limit.
        spent_usd: Paid for machines so far.
    """

    budget_usd: float | None
    spent_usd: float = 0.0

    def pays_for_s(self, usd_per_hour: float) -> float:
        """Seconds for which what is left pays for a machine."""
        if self.budget_usd is None or usd_per_hour == 0:
            return math.inf
        return (self.budget_usd - self.spent_usd) / usd_per_hour * HOUR_S

    def meter(self, usd_per_hour: float, stopping: Stopping, *, ordered_s: float) -> Meter:
        """For a machine that is ordered at that instant of the loop's clock."""
        return Meter(
            usd_per_hour=usd_per_hour,
            stopping=stopping,
            ordered_s=ordered_s,
            paid_until_s=ordered_s + self.pays_for_s(usd_per_hour),
        )

    def settle(self, meter: Meter, *, gone_s: float) -> None:
        """The machine was let go at that instant."""
        self.spent_usd += meter.usd_per_hour * (gone_s - meter.ordered_s) / HOUR_S


@attrs.frozen(kw_only=True)
class Meter:
    """For how long one machine can be paid for, in instants of the loop's clock.

    Args:
        usd_per_hour: Its price.
        stopping: How long stopping it may take.
        ordered_s: When it was ordered.
        paid_until_s: When the money ends; infinite without a budget.
    """

    usd_per_hour: float
    stopping: Stopping
    ordered_s: float
    paid_until_s: float

    @property
    def give_up_at_s(self) -> float | None:
        """When stopping must begin if it is not ready; None for never."""
        return _finite(self.paid_until_s - self.stopping.starting_s)

    @property
    def stop_at_s(self) -> float | None:
        """When stopping must begin once it serves; None for never."""
        return _finite(self.paid_until_s - self.stopping.serving_s)

    def pays_for(self, seconds: float, *, from_s: float) -> bool:
        """Whether so much load from that instant, and stopping after it, can be paid for."""
        return from_s + seconds + self.stopping.serving_s <= self.paid_until_s


def _finite(instant_s: float) -> float | None:
    return None if math.isinf(instant_s) else instant_s
