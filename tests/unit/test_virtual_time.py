"""The virtual clock."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tgibench import virtual_time


def now():
    return asyncio.get_running_loop().time()


def test_an_hour_passes_at_once_and_exactly():
    """Sleeping takes no real time; the clock starts at 0 and reads the sum of what was slept."""

    async def hour():
        assert now() == 0.0
        await asyncio.sleep(3600)
        return now()

    assert virtual_time.run(hour()) == 3600.0  # within pytest's own time limit of two minutes


def test_timers_fire_in_the_order_of_their_instants():
    """Concurrent sleepers wake in the order of their due times, each at its own instant."""

    async def race():
        woken = []

        async def sleeper(seconds):
            await asyncio.sleep(seconds)
            woken.append((seconds, now()))

        async with asyncio.TaskGroup() as group:
            for seconds in (3.0, 0.25, 1e-6, 2.5):
                group.create_task(sleeper(seconds))
        return woken

    woken = virtual_time.run(race())
    assert [seconds for seconds, _ in woken] == [1e-6, 0.25, 2.5, 3.0]
    assert [at for _, at in woken] == [
        pytest.approx(seconds, abs=2**-32) for seconds, _ in woken
    ]  # the clock has that grid
    assert virtual_time.run(race()) == woken


def test_a_time_out_is_virtual_too():
    """`asyncio.timeout` fires at its instant of virtual time."""

    async def late():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7.5):
                await asyncio.sleep(100)
        return now()

    assert virtual_time.run(late()) == 7.5


def test_a_standstill_is_an_error():
    """A program that waits for nothing that can happen ends with a clear error instead of hanging."""

    async def forever():
        await asyncio.get_running_loop().create_future()

    with pytest.raises(virtual_time.StandstillError, match="nothing is due"):
        virtual_time.run(forever())


@pytest.mark.parametrize("seconds_due", [None, 1000.0])
def test_no_time_passes_while_a_thread_works(seconds_due):
    """The clock waits for work in a thread, even where a timer is due, and joins the threads at the end."""
    hold = threading.Event()

    async def work():
        loop = asyncio.get_running_loop()
        timer = None if seconds_due is None else loop.call_later(seconds_due, lambda: None)
        threading.Timer(0.05, hold.set).start()
        finished = await asyncio.to_thread(hold.wait, 30)
        if timer:
            timer.cancel()
        return finished, now()

    assert virtual_time.run(work()) == (True, 0.0)


def test_a_failure_in_a_thread_arrives():
    """What a thread raises is raised where it was awaited, and time goes on afterwards."""

    def fail():
        raise ValueError("from the thread")

    async def work():
        with pytest.raises(ValueError, match="from the thread"):
            await asyncio.to_thread(fail)
        await asyncio.sleep(5)
        return now()

    assert virtual_time.run(work()) == 5.0


def test_virtual_loops_are_told_apart():
    """`is_virtual` is true of this module's loop and of no other."""

    async def ask():
        return virtual_time.is_virtual(asyncio.get_running_loop())

    assert virtual_time.run(ask()) is True
    assert asyncio.run(ask()) is False
