"""How the client's own lag is kept over hours."""

from __future__ import annotations

import asyncio

import pytest

import tgibench as tb
from tgibench import client_watch
from tgibench.client_watch import ClientWatch


class Clock:
    """A loop as far as its time goes."""

    def __init__(self):
        self.now_s = 100.0

    def time(self):
        return self.now_s


async def test_of_hours_of_lag_a_regular_part_is_kept():
    """Quantiles stay right, the largest lag and the number of samples exact, and memory does not grow."""
    loop = asyncio.get_running_loop()
    watch = ClientWatch(loop)
    for number in range(300_000):
        watch._keep_lag((number % 1000) * 1e-6)
    watch._keep_lag(5.0)
    watch._began_s = loop.time() - 1.0
    health = watch.health(tb.StampSource.KERNEL)
    assert len(watch._lags_s) <= 16_384
    assert (health.samples, health.loop_lag_max_s) == (300_001, 5.0)
    assert health.loop_lag_p50_s == pytest.approx(500e-6, rel=0.02)
    assert health.loop_lag_p99_s == pytest.approx(990e-6, rel=0.02)


def test_only_long_waits_for_a_cpu_hold_a_client_up(tmp_path, monkeypatch):
    """Of 30 stretches of 20 ms with 1.5 ms of waiting each and 10 with 4 ms, the 10; all count as waiting."""
    told, clock, waited_ns = tmp_path / "schedstat", Clock(), 7_000_000
    monkeypatch.setattr(client_watch, "_SCHEDULING", str(told))
    told.write_text(f"1000 {waited_ns} 5\n")
    watch = ClientWatch(clock)
    for number in range(40):
        clock.now_s += 0.02
        waited_ns += 4_000_000 if number % 4 == 0 else 1_500_000
        told.write_text(f"1000 {waited_ns} 5\n")
        watch._keep_lag(0.001)
        watch._look_at_run_delay()
    health = watch.health(tb.StampSource.KERNEL)
    assert health.held_up_share == pytest.approx(0.25)
    assert health.run_delay_share == pytest.approx((10 * 0.004 + 30 * 0.0015) / 0.8)


@pytest.mark.parametrize("content", [None, "0 0 0\n", "not numbers\n"])
def test_a_system_that_does_not_tell_is_not_taken_for_one_without_waits(tmp_path, monkeypatch, content):
    """No such file, a kernel that keeps no count, or one that says something else: None, not 0."""
    told, clock = tmp_path / "schedstat", Clock()
    monkeypatch.setattr(client_watch, "_SCHEDULING", str(told))
    if content is not None:
        told.write_text(content)
    watch = ClientWatch(clock)
    clock.now_s += 0.02
    watch._keep_lag(0.001)
    watch._look_at_run_delay()
    health = watch.health(tb.StampSource.KERNEL)
    assert health.run_delay_share is None
    assert health.held_up_share is None
