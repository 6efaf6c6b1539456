"""Blocking twins of the async verbs, for scripts that have no event loop of their own."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from tgibench import adaptive, capacity, client_calibration, measuring, runner, sweeps
from tgibench.errors import RunningLoopError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = [
    "adaptive_sweep_blocking",
    "blocking",
    "calibrate_client_blocking",
    "find_capacity_blocking",
    "measure_blocking",
    "run_load_blocking",
    "sweep_blocking",
]


P = ParamSpec("P")
T = TypeVar("T")


def blocking(verb: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Make the blocking twin of an async verb: same arguments, same result, run by `asyncio.run`.

    The twin raises `RunningLoopError` where an event loop runs already (a notebook, say): await the verb itself there.
    """

    @functools.wraps(verb)
    def twin(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(verb(*args, **kwargs))
        raise RunningLoopError(f"an event loop is running here: write `await tgibench.{verb.__name__}(...)` instead")

    return twin


sweep_blocking = blocking(sweeps.sweep)
adaptive_sweep_blocking = blocking(adaptive.adaptive_sweep)
measure_blocking = blocking(measuring.measure)
run_load_blocking = blocking(runner.run_load)
find_capacity_blocking = blocking(capacity.find_capacity)
calibrate_client_blocking = blocking(client_calibration.calibrate_client)
