"""A sweep spends no more than it may: what does not fit is not started, and load stops in time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import attrs
import pytest

import tgibench as tb
from fakes import FakeServer
from tgibench.backends import LongestTimes


class Prices:
    """36 USD an hour, a cent a second, for what is known."""

    usd_per_hour = 36.0

    def __str__(self):
        """Its source."""
        return "36 USD per hour, says nobody"

    def price(self, instance_type):
        """As `PriceTable`."""
        if instance_type == "unknown":
            raise LookupError("no price of 'unknown'")
        return self


class Lives(list):
    """How long each machine lived, as they ended; and when each began."""

    def __init__(self):
        super().__init__()
        self.began = []


@attrs.define(slots=False)
class Machines:
    """Ready after 30 s, stopped after 20 s; remembers when each began and ended."""

    name = "fake"
    source = tb.Source.MEASURED
    starting_s: float = 30
    stopping_s: float = 20
    lives: Lives = attrs.field(factory=Lives)

    @asynccontextmanager
    async def deploy(self, deployment):
        """A fake server."""
        clock = asyncio.get_running_loop()
        began_s = clock.time()
        self.lives.began.append((deployment.instance_type, began_s))
        try:
            await asyncio.sleep(self.starting_s)
            yield FakeServer(0.5)
        finally:
            await asyncio.sleep(self.stopping_s)
            self.lives.append((deployment.instance_type, clock.time() - began_s))


@attrs.define(slots=False)
class TimedMachines(Machines):
    """Say how long they take."""

    longest: LongestTimes | None = None

    def longest_times(self, deployment):
        """As given."""
        del deployment
        return self.longest


def sweep(usd, loads, *machines, replicas=1, teardown_s=40, longest=None, store=None, parallel=1, **times):
    """Sweep in virtual time; the study, and how long each machine lived."""
    backend = TimedMachines(longest=longest, **times) if longest else Machines(**times)
    limits = {} if longest else {"startup_s": 60, "teardown_s": teardown_s}
    each = replicas if isinstance(replicas, tuple) else (replicas,) * len(machines)
    study = tb.virtual_time.run(
        tb.sweep(
            [tb.Deployment("m", machine, replicas=n) for machine, n in zip(machines, each, strict=True)],
            loads,
            backend=backend,
            prompts=tb.SyntheticPrompts(input_tokens=8),
            budget=tb.Budget(usd=usd, prices=Prices(), **limits),
            timeouts=tb.Timeouts(total_s=10),
            store=store,
            parallel=parallel,
        )
    )
    return study, backend.lives


def test_what_fits_is_measured():
    """At worst 60 s to start, 50 and 10 s of load, 40 s to stop: 1.60 USD."""
    study, lives = sweep(1.6, [tb.ClosedLoop(1, duration_s=50)], "a")
    assert (len(study), study.failures) == (1, ())
    assert lives[0][1] <= 160


def test_the_start_up_is_priced_by_the_budget_where_the_backend_gives_no_price(tmp_path):
    """30 s at a cent a second, with the price it rests on; it survives the disk. Without a budget it is not known."""
    study, _ = sweep(1.6, [tb.ClosedLoop(1, duration_s=50)], "a", store=tmp_path)
    provenance = study.measurements[0].provenance
    assert provenance.startup_usd == pytest.approx(0.30)
    assert provenance.startup_price == "36 USD per hour, says nobody"
    assert provenance.first_token_after_ready_s is None
    assert tb.read_study(tmp_path) == study
    with pytest.raises(tb.InvalidValueError, match="startup_price that it rests on"):
        tb.Provenance(backend="b", startup_usd=0.3)
    with pytest.raises(tb.InvalidValueError, match="first_token_after_ready_s must be a number of at least 0"):
        tb.Provenance(backend="b", first_token_after_ready_s=-1.0)


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
    assert [cell.load.requests for cell in study if not cell.partial] == [10]
    assert lives == [("a", pytest.approx(500 - 40 + 20))]
    assert "stopped after 460 s" in study.failures[0].message
    assert study.failures[0].load == loads[1].label
    assert "not started" in study.failures[1].message
    assert not study.interrupted


def test_the_part_that_was_measured_before_the_money_ended_is_kept():
    """Its figures are of what was answered, and it says that it is a part; without an answer there is nothing to keep."""
    study, _ = sweep(5.0, [tb.ClosedLoop(2, requests=100_000)], "a")
    (cell,) = study
    assert cell.partial
    assert cell.metrics.window.stop_s == pytest.approx(460 - 30)
    assert cell.metrics.latency_s.p50 == pytest.approx(0.5)
    assert cell.metrics.counts["succeeded"] == pytest.approx(2 * 430 / 0.5, abs=2)
    assert "the run stopped early: stopped after 460 s: what is left of the budget" in cell.warnings[0]
    choice = tb.fastest(study, tb.FixedCost(1.0))
    assert any("the winner's run: the run stopped early" in warning for warning in choice.warnings)
    study, lives = sweep(1.4, [tb.ClosedLoop(1, requests=3, warm_up_s=1000)], "a")
    assert (len(study), len(lives)) == (1, 1)
    study, lives = sweep(1.4, [tb.ClosedLoop(1, requests=100_000, warm_up_s=1000)], "a")
    assert (len(study), len(lives), study.failures[0].load) == (0, 1, "1 user")


def test_a_part_is_measured_again_when_there_is_more_money(tmp_path):
    """Until then the part stays in the study: nothing is lost."""
    load = tb.ClosedLoop(1, requests=1500)
    first, _ = sweep(5.0, [load], "a", store=tmp_path)
    assert [cell.partial for cell in first] == [True]
    poor, lives = sweep(0.5, [load], "a", store=tmp_path)
    assert (poor.measurements, lives) == (first.measurements, [])
    assert tb.read_study(tmp_path).measurements == first.measurements
    rich, lives = sweep(20.0, [load], "a", store=tmp_path)
    assert [(cell.partial, cell.metrics.counts["succeeded"]) for cell in rich] == [(False, 1500)]
    assert tb.read_study(tmp_path).measurements == rich.measurements
    assert sweep(20.0, [load], "a", store=tmp_path) == (rich, [])


def test_a_finished_load_does_not_have_its_stopping_cut_short():
    """The money's limit is about load: it comes while what serves is being stopped, and the cell is whole all the same."""
    study, lives = sweep(1.6, [tb.ClosedLoop(1, requests=180)], "a", teardown_s=30, stopping_s=45)
    assert [cell.partial for cell in study] == [False]
    assert study.failures == ()
    assert lives == [("a", pytest.approx(30 + 90 + 45))]


def test_side_by_side_each_is_set_aside_what_it_costs_at_worst():
    """Three of at worst 1.60 USD: the third waits for what the first two leave; where that is not enough it is refused."""
    loads = [tb.ClosedLoop(1, duration_s=50)]
    study, lives = sweep(4.1, loads, "a", "b", "c", parallel=3)
    assert [cell.deployment.instance_type for cell in study] == ["a", "b", "c"]
    assert [began_s for _, began_s in sorted(lives.began)] == [0, 0, pytest.approx(100.5, abs=1)]
    study, lives = sweep(3.3, loads, "a", "b", "c", parallel=3)
    assert [cell.deployment.instance_type for cell in study] == ["a", "b"]
    assert "of the budget of 3.3 USD 1.30 are left" in study.failures[0].message


def test_a_load_without_length_takes_what_is_free_and_leaves_what_is_set_aside():
    """All of the money is spent at the end, and no more: the longer one is cut off when the shorter one's rest is used up too."""
    loads = [tb.ClosedLoop(1, requests=100_000)]
    study, lives = sweep(8.0, loads, "a", "b", parallel=2)
    assert [cell.partial for cell in study] == [True, True]
    spent_usd = sum(seconds for _, seconds in lives) / 100
    assert 7.5 < spent_usd <= 8.0


def test_nobody_takes_the_money_that_an_earlier_one_waits_for():
    """The dear one waits for the first to end though a cheap one behind it would fit now."""
    study, lives = sweep(5.0, [tb.ClosedLoop(1, duration_s=50)], "a", "dear", "b", parallel=3, replicas=(1, 2, 1))
    assert [name for name, _ in sorted(lives.began, key=lambda each: each[1])] == ["a", "dear", "b"]
    study, lives = sweep(4.7, [tb.ClosedLoop(1, duration_s=50)], "a", "dear", "b", parallel=3, replicas=(1, 2, 1))
    began = dict(lives.began)
    assert began["a"] == 0 < began["dear"]
    assert began["b"] >= began["dear"]
    assert len(study) == 3


def test_what_does_not_become_ready_is_abandoned_within_the_budget():
    """A backend that says it may take 200 s to stop what is not ready: the worst case holds it, and it is cut off in time for it."""
    longest = LongestTimes(startup_s=60, teardown_s=40, abandon_s=200)
    load = [tb.ClosedLoop(1, duration_s=10)]
    assert "at worst it costs 2.60 USD (260 s" in sweep(2.5, load, "a", longest=longest)[0].failures[0].message
    study, lives = sweep(2.6, load, "a", longest=longest, starting_s=1000)
    assert "stopped after 60 s" in study.failures[0].message
    assert lives[0][1] <= 260
    study, lives = sweep(2.6, [tb.ClosedLoop(1, requests=1000)], "a", longest=longest)
    assert lives == [("a", pytest.approx(260 - 40 + 20))]


def test_what_follows_each_load_is_paid_for_too():
    """60 s to start, 40 to stop; two loads of 10 s, each with 10 s for its last answer and 30 for its log: 2.00 USD."""
    longest = LongestTimes(startup_s=60, teardown_s=40, abandon_s=40, after_load_s=30)
    loads = [tb.ClosedLoop(users, duration_s=10) for users in (1, 2)]
    assert "at worst it costs 2.00 USD (200 s" in sweep(1.99, loads, "a", longest=longest)[0].failures[0].message
    assert len(sweep(2.0, loads, "a", longest=longest)[0]) == 2


def test_a_budget_is_above_zero():
    """Nothing can be bought for nothing."""
    with pytest.raises(tb.InvalidValueError, match="usd"):
        tb.Budget(usd=0, prices=Prices())
