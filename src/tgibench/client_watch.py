"""How the client itself fares during a run, so that its limit is not taken for the server's."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from array import array
from typing import TYPE_CHECKING

import numpy as np

from tgibench import virtual_time
from tgibench.client_health import ClientHealth
from tgibench.stats import quantile_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tgibench.client_health import StampSource

__all__ = ["ClientWatch"]

_SCHEDULING = "/proc/thread-self/schedstat"  # proc(5): nanoseconds on a CPU, nanoseconds waiting for one, turns
_LAG_SAMPLE_EVERY_S = 0.02
_HELD_UP_FROM = 0.1
_MOST_LAGS = 16_384  # kept: of the first 5 minutes all, later every second, fourth, …
# The runs for which the collector rests, each with the thresholds to go back to.
_RESTING: dict[ClientWatch, tuple[int, int, int]] = {}
# A burst of a thousand requests keeps 200,000 objects, and leaves next to no garbage.
_COLLECTED_AFTER = (5_000, 20, 50)


class ClientWatch:
    """Watches the client itself: the event loop's lateness, this process's CPU time, and how long its thread waited for a CPU."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._virtual = loop, virtual_time.is_virtual(loop)
        self._began_s, self._cpu_began_s = loop.time(), time.process_time()
        self._run_delay_began_s = None if self._virtual else _run_delay_s()
        self._looked_s, self._run_delay_seen_s, self._held_up = self._began_s, self._run_delay_began_s, 0
        self._lags_s = array("d")
        self._lags_taken, self._one_kept_of, self._largest_lag_s = 0, 1, 0.0

    async def sample_lag(self) -> None:
        """Note by how much a short sleep overshoots and whether a CPU was waited for, again and again; virtual time has neither."""
        while not self._virtual:
            due_s = self._loop.time() + _LAG_SAMPLE_EVERY_S
            await asyncio.sleep(_LAG_SAMPLE_EVERY_S)
            self._keep_lag(self._loop.time() - due_s)
            self._look_at_run_delay()

    def _keep_lag(self, lag_s: float) -> None:
        """All of them, and of a long run a regular part."""
        if self._lags_taken % self._one_kept_of == 0:
            self._lags_s.append(lag_s)
        self._lags_taken += 1
        self._largest_lag_s = max(self._largest_lag_s, lag_s)
        if len(self._lags_s) == _MOST_LAGS:
            del self._lags_s[1::2]
            self._one_kept_of *= 2

    def _look_at_run_delay(self) -> None:
        """Count the stretches between two looks of which much went by in waiting for a CPU."""
        now_s, run_delay_s = self._loop.time(), _run_delay_s()
        if run_delay_s is not None and self._run_delay_seen_s is not None:
            self._held_up += run_delay_s - self._run_delay_seen_s > _HELD_UP_FROM * (now_s - self._looked_s)
        self._looked_s, self._run_delay_seen_s = now_s, run_delay_s

    @contextlib.contextmanager
    def collector_at_rest(self) -> Iterator[None]:
        """Keep what exists out of the garbage collector's sight, and let it look seldom: its passes stall the loop.

        Of runs side by side the first does it for all: a pass for each would stall those beside it.
        """
        if self._virtual:
            yield
            return
        thresholds = next(iter(_RESTING.values()), gc.get_threshold())
        if not _RESTING:
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_COLLECTED_AFTER)
        _RESTING[self] = thresholds
        try:
            yield
        finally:
            del _RESTING[self]
            if not _RESTING:
                gc.set_threshold(*thresholds)
                gc.unfreeze()

    def health(self, stamps: StampSource) -> ClientHealth:
        """How the client fared."""
        elapsed_s = self._loop.time() - self._began_s
        if self._virtual or not self._lags_s or elapsed_s <= 0:
            return ClientHealth(stamps=stamps)
        began_s, now_s = self._run_delay_began_s, _run_delay_s()
        known = began_s is not None and now_s is not None
        lags_s = np.sort(self._lags_s)
        return ClientHealth(
            stamps=stamps,
            run_delay_share=None if began_s is None or now_s is None else (now_s - began_s) / elapsed_s,
            held_up_share=self._held_up / self._lags_taken if known else None,
            cpu_share=(time.process_time() - self._cpu_began_s) / elapsed_s,
            loop_lag_p50_s=quantile_of(lags_s, 0.5),
            loop_lag_p99_s=quantile_of(lags_s, 0.99),
            loop_lag_max_s=self._largest_lag_s,
            samples=self._lags_taken,
        )


def _run_delay_s() -> float | None:
    """How long the calling thread has been able to run without being let; None where the system does not tell."""
    try:
        file = os.open(_SCHEDULING, os.O_RDONLY)  # fifty times a second: `open` takes three times as long
        try:
            on_cpu_ns, waiting_ns, _turns = os.read(file, 100).split()
        finally:
            os.close(file)
    except (OSError, ValueError):
        return None
    return int(waiting_ns) * 1e-9 if int(on_cpu_ns) else None  # a kernel that does not keep count says 0
