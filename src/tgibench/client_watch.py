"""How the client itself fares during a run, so that its limit is not taken for the server's."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from typing import TYPE_CHECKING

import numpy as np

from tgibench import virtual_time
from tgibench.records import ClientHealth

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tgibench.records import StampSource

__all__ = ["ClientWatch"]

_LAG_SAMPLE_EVERY_S = 0.02


class ClientWatch:
    """Watches the client itself: the event loop's lateness and this process's CPU time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._virtual = loop, virtual_time.is_virtual(loop)
        self._began_s, self._cpu_began_s = loop.time(), time.process_time()
        self._lags_s: list[float] = []

    async def sample_lag(self) -> None:
        """Note by how much a short sleep overshoots, again and again; virtual time has no lag."""
        while not self._virtual:
            due_s = self._loop.time() + _LAG_SAMPLE_EVERY_S
            await asyncio.sleep(_LAG_SAMPLE_EVERY_S)
            self._lags_s.append(self._loop.time() - due_s)

    @contextlib.contextmanager
    def collector_at_rest(self) -> Iterator[None]:
        """Keep what exists out of the garbage collector's sight: its full passes would stall the loop."""
        if self._virtual:
            yield
            return
        gc.collect()
        gc.freeze()
        try:
            yield
        finally:
            gc.unfreeze()

    def health(self, stamps: StampSource) -> ClientHealth:
        """How the client fared."""
        elapsed_s = self._loop.time() - self._began_s
        if self._virtual or not self._lags_s or elapsed_s <= 0:
            return ClientHealth(stamps=stamps)
        p50, p99 = np.quantile(self._lags_s, (0.5, 0.99))
        return ClientHealth(
            stamps=stamps,
            cpu_share=(time.process_time() - self._cpu_began_s) / elapsed_s,
            loop_lag_p50_s=float(p50),
            loop_lag_p99_s=float(p99),
            loop_lag_max_s=max(self._lags_s),
            samples=len(self._lags_s),
        )
