"""Wall time, in which the kernel stamps what arrives, told by the loop's monotonic clock."""

from __future__ import annotations

import time

__all__ = ["WallClock"]

_FRESH_S = 1.0
_TOLERANCE_S = 0.0005


class WallClock:
    """The distance of wall time from the loop's clock.

    It is measured again every second, and when it cannot be right: wall time may be set at any moment.

    Attributes:
        wall_s: A whole second of wall time, as its count.
        loop_s: The loop's time at that second.
    """

    def __init__(self, now_s: float) -> None:
        self.wall_s = 0
        self.loop_s = 0.0
        self._measured_s = now_s
        self.measure(now_s)

    def loop_time_s(self, seconds: int, nanoseconds: int) -> float:
        """An instant of wall time by the loop's clock."""
        return (seconds - self.wall_s) + nanoseconds * 1e-9 + self.loop_s

    def check(self, now_s: float) -> None:
        """Measure the distance if it has changed since, or if that was some time ago."""
        # one more reading, not the careful nine: enough to see that wall time was set
        beyond_s = self.loop_time_s(*divmod(time.time_ns(), 1_000_000_000)) - now_s
        if not -_TOLERANCE_S < beyond_s < _TOLERANCE_S or now_s - self._measured_s > _FRESH_S:
            self.measure(now_s)

    def measure(self, now_s: float) -> None:
        """Read the clocks in turn, thrice: the closest readings tell the distance best."""
        closest_ns = None
        for _ in range(3):
            before_ns, wall_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
            if closest_ns is None or after_ns - before_ns < closest_ns:
                closest_ns = after_ns - before_ns
                self.wall_s, beyond_ns = divmod(wall_ns, 1_000_000_000)
                self.loop_s = ((before_ns + after_ns) // 2 - beyond_ns) * 1e-9
        self._measured_s = now_s

    def not_after(self, now_s: float, seconds: int, nanoseconds: int) -> float:
        """The same of an instant that seems to lie in the future, which it cannot."""
        if self.loop_time_s(seconds, nanoseconds) > now_s + _TOLERANCE_S:  # wall time was set
            self.measure(now_s)
        return min(self.loop_time_s(seconds, nanoseconds), now_s)
