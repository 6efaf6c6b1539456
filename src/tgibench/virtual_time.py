"""Virtual time: an event loop whose clock jumps to the next thing that is due, so that 90 s of load take a moment and repeat to the bit.

Its instants are whole multiples of 2^-32 s (0.2 ns): sums and differences of such numbers are exact in floating point, so that what takes
so long takes so long whenever it begins, and what runs beside something else is measured as if it ran alone.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from typing import TYPE_CHECKING, TypeVar

from tgibench.errors import TgibenchError

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

__all__ = ["StandstillError", "is_virtual", "on_grid", "run"]

T = TypeVar("T")
_STEPS_PER_S = float(1 << 32)


class StandstillError(TgibenchError, RuntimeError):
    """Everything waits for something that virtual time cannot bring: no timer is set and no other thread is at work."""


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits for a timer: it moves the loop's clock on instead. Input that is ready already is still reported."""

    now_s = 0.0
    threads_at_work = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self.threads_at_work:  # its result comes in real time: wait for it, and let no time pass meanwhile
            return super().select(None)
        if timeout is None:
            raise StandstillError("nothing is due: the program waits for what virtual time cannot bring")
        self.now_s += timeout
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s

    def call_later(  # type: ignore[override]  # TypeVarTuple signatures differ by version
        self, delay: float, callback: Any, *args: Any, **options: Any
    ) -> asyncio.TimerHandle:
        return super().call_later(on_grid(delay), callback, *args, **options)

    def call_at(  # type: ignore[override]  # as above
        self, when: float, callback: Any, *args: Any, **options: Any
    ) -> asyncio.TimerHandle:
        return super().call_at(on_grid(when), callback, *args, **options)

    def run_in_executor(  # type: ignore[override]  # TypeVarTuple signatures differ by version
        self, executor: Any, func: Any, *args: Any
    ) -> asyncio.Future[Any]:
        future = super().run_in_executor(executor, func, *args)
        self._jumping.threads_at_work += 1
        future.add_done_callback(self._thread_done)
        return future

    async def shutdown_default_executor(self, *timeout: float | None) -> None:
        self._jumping.threads_at_work += 1  # joining the executor's threads is a thread's work too
        try:
            await super().shutdown_default_executor(*timeout)
        finally:
            self._jumping.threads_at_work -= 1

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._jumping.threads_at_work -= 1


def on_grid(seconds: float) -> float:
    """The next duration that virtual time knows: nothing happens before it is due."""
    return math.ceil(seconds * _STEPS_PER_S) / _STEPS_PER_S if math.isfinite(seconds) else seconds


def is_virtual(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a loop's clock is virtual."""
    return isinstance(loop, _VirtualLoop)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as `asyncio.run` does, on a virtual clock that starts at 0."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(coroutine)
