"""Work that must not be left half done, whatever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from tgibench.errors import TgibenchError

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["to_the_end"]

T = TypeVar("T")


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Finish the work: a cancellation that comes meanwhile is raised after it. The work has time limits of its own."""
    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except TgibenchError:
            break
    result = task.result()
    if cancelled:
        raise cancelled
    return result
