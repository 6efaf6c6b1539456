"""What another process's clock shows at an instant of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tgibench.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ClockOffset", "clock_offset"]


@attrs.frozen
class ClockOffset:
    """By how much another clock is ahead of ours.

    Args:
        offset_s: Theirs minus ours.
        uncertainty_s: The true offset differs by no more than this.
    """

    offset_s: float
    uncertainty_s: float

    def theirs(self, ours_s: float) -> float:
        """What their clock shows when ours shows `ours_s`."""
        return ours_s + self.offset_s


def clock_offset(exchanges: Iterable[tuple[float, float, float]]) -> ClockOffset:
    """The offset from questions and answers, by the one that was answered soonest.

    The answer was given at some instant between sending the question and receiving the answer: taking the middle errs by at most half
    the round trip, however the way there and the way back differ (Cristian 1989).

    Args:
        exchanges: ``(sent, theirs, received)``: our clock, their clock, our clock.

    Raises:
        InvalidValueError: There is none.
    """
    best = min(exchanges, key=lambda exchange: exchange[2] - exchange[0], default=None)
    if best is None:
        raise InvalidValueError("a clock's offset needs at least one question that was answered, got none")
    sent_s, theirs_s, received_s = best
    return ClockOffset(theirs_s - (sent_s + received_s) / 2, (received_s - sent_s) / 2)
