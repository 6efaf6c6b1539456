"""A sweep spends no more than it may: what does not fit is not started, and load stops in time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import attrs
import pytest

import tgibench as tb
from fakes import FakeServer


class Prices:
    """36 USD an hour, a cent a second, for what is known."""

    usd_per_hour = 36.0

    def price(self, instance_type):
        """As `PriceTable`."""
        if instance_type == "unknown":
            raise LookupError("no price of 'unknown'")
        return self


@attrs.define(slots=False)
class Machines:
    """Ready after 30 s, stopped after 20 s; remembers when each began and ended."""

    name = "fake"
    source = tb.Source.MEASURED
    lives: list = attrs.field(factory=list)

    @asynccontextmanager
    async def deploy(self, deployment):
        """A fake server."""
        clock = asyncio.get_running_loop()
        began_s = clock.time()
        await asyncio.sleep(30)
        try:
            yield FakeServer(0.5)
        finally:
            await asyncio.sleep(20)
            self.lives.append((deployment.instance_type, clock.time() - began_s))


def sweep(usd, loads, *machines, replicas=1):
    """Sweep in virtual time; the study, and how long each machine lived."""
    backend = Machines()
    budget = tb.Budget(usd=usd, prices=Prices(), startup_s=60, teardown_s=40)
    study = tb.virtual_time.run(
        tb.sweep(
            [tb.Deployment("m", machine, replicas=replicas) for machine in machines],
            loads,
            backend=backend,
            prompts=tb.SyntheticPrompts(input_tokens=8),
            budget=budget,
            timeouts=tb.Timeouts(total_s=10),
        )
    )
    return study, backend.lives


def test_what_fits_is_measured():
    """At worst 60 s to start, 50 and 10 s of load, 40 s to stop: 1.60 USD."""
    study, lives = sweep(1.6, [tb.ClosedLoop(1, duration_s=50)], "a")
    assert (len(study), study.failures) == (1, ())
    assert lives[0][1] <= 160


def test_what_does_not_fit_is_not_started():
    """A cent less; with two machines; and as the third, when two have used the money up. Real lives are charged, not worst cases."""
    study, lives = sweep(1.59, [tb.ClosedLoop(1, duration_s=50)], "a")
    assert lives == []
    assert "at worst it costs 1.60 USD" in study.failures[0].message
    assert sweep(1.6, [tb.ClosedLoop(1, duration_s=50)], "a", replicas=2)[1] == []
    study, lives = sweep(2.7, [tb.ClosedLoop(1, duration_s=50)], "a", "b", "c")
    assert [machine for machine, _ in lives] == ["a", "b"]
    assert [failure.deployment.instance_type for failure in study.failures] == ["c"]


def test_an_unknown_price_is_refused():
    """It is not 0; the sweep goes on with what has one."""
    study, lives = sweep(100, [tb.ClosedLoop(1, duration_s=5)], "unknown", "a")
    assert [machine for machine, _ in lives] == ["a"]
    assert "unknown price" in study.failures[0].message


def test_running_load_stops_in_time_to_stop_what_serves_it():
    """A load without a length of its own; finished cells are kept, the sweep is not called interrupted, and goes on."""
    loads = [tb.ClosedLoop(1, requests=10), tb.ClosedLoop(1, requests=100_000)]
    study, lives = sweep(5.0, loads, "a", "b")
    assert [cell.load.requests for cell in study] == [10]
    assert lives == [("a", pytest.approx(500 - 40 + 20))]
    assert "stopped after 460 s" in study.failures[0].message
    assert "not started" in study.failures[1].message
    assert not study.interrupted


def test_a_budget_is_above_zero():
    """Nothing can be bought for nothing."""
    with pytest.raises(tb.InvalidValueError, match="usd"):
        tb.Budget(usd=0, prices=Prices())
