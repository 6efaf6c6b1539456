"""AWS's clock beside ours, as the `Date` header of its answers tells it."""

from __future__ import annotations

from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["ClockOffset"]

_WHOLE_SECOND = timedelta(seconds=1)  # a Date is cut to it
_REFUSED_FROM_S = (
    240.0  # AWS refuses a signature from 5 minutes on (IAM user guide, SigV4); the ways there and back count too
)


@attrs.frozen
class ClockOffset:
    """How far AWS's clock is ahead of ours, in seconds: between two bounds, which each answer narrows.

    Args:
        least_s: Not less than this.
        most_s: Not more than this.
    """

    least_s: float = float("-inf")
    most_s: float = float("inf")

    def told(self, date: str | None, *, asked_at: datetime, answered_at: datetime) -> ClockOffset:
        """With what one more answer tells.

        Args:
            date: Its `Date` header; one that is none tells nothing.
            asked_at: Our wall time (UTC, aware) before the request.
            answered_at: The same after the answer.
        """
        try:
            stamped_at = parsedate_to_datetime(date or "")
        except ValueError:
            return self
        stamped_at = stamped_at.replace(tzinfo=stamped_at.tzinfo or UTC)
        least_s = (stamped_at - answered_at).total_seconds()
        most_s = (stamped_at + _WHOLE_SECOND - asked_at).total_seconds()
        narrower = ClockOffset(max(self.least_s, least_s), min(self.most_s, most_s))
        return narrower if narrower.least_s <= narrower.most_s else ClockOffset(least_s, most_s)  # a clock was set

    @property
    def best_s(self) -> float:
        """0 where the clocks may agree or nothing was told, else the middle between the bounds."""
        if self.least_s <= 0 <= self.most_s:
            return 0.0
        return (self.least_s + self.most_s) / 2

    @property
    def refusal(self) -> str | None:
        """Why AWS refuses signatures by such a clock, and what to do; None where it does not."""
        if abs(self.best_s) < _REFUSED_FROM_S:
            return None
        way = "behind" if self.best_s > 0 else "ahead of"
        return (
            f"this machine's clock is {abs(self.best_s):.0f} s {way} AWS's, which refuses signatures from 300 s on: "
            "set the clock (`timedatectl set-ntp true`)"
        )
