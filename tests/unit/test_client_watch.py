"""How the client's own lag is kept over hours."""

from __future__ import annotations

import asyncio

import pytest

import tgibench as tb
from tgibench.client_watch import ClientWatch


async def test_of_hours_of_lag_a_regular_part_is_kept():
    """Quantiles stay right, the largest lag and the number of samples exact, and memory does not grow."""
    loop = asyncio.get_running_loop()
    watch = ClientWatch(loop)
    for number in range(300_000):
        watch._keep_lag((number % 1000) * 1e-6)
    watch._keep_lag(5.0)
    watch._began_s = loop.time() - 1.0
    health = watch.health(tb.StampSource.KERNEL)
    assert len(watch._lags_s) <= 65_536
    assert (health.samples, health.loop_lag_max_s) == (300_001, 5.0)
    assert health.loop_lag_p50_s == pytest.approx(500e-6, rel=0.02)
    assert health.loop_lag_p99_s == pytest.approx(990e-6, rel=0.02)
