"""The runner: what it sends when, what it keeps, when it stops."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import tgibench as tb
from fakes import FakeServer

PROMPT = tb.FixedPrompt(prompt="Hello", max_new_tokens=1)


def run(server, load, **options):
    """Put a load on a fake server in virtual time."""
    return tb.virtual_time.run(tb.run_load(server, load, PROMPT, **options))


def conserved(log):
    """Issued requests are exactly those that succeeded, failed or were never sent."""
    counts = log.counts
    return counts["issued"] == counts["succeeded"] + counts["failed"] + counts["unsent"]


def test_a_closed_loop_keeps_exactly_n_in_flight():
    """Five users of a one-second server for 10 s send 50 requests, never more than five at once."""
    server = FakeServer(1.0)
    log = run(server, tb.ClosedLoop(5, duration_s=10))
    assert log.counts == {"issued": 50, "succeeded": 50, "failed": 0, "unsent": 0}
    assert server.most_in_flight == 5
    assert log.concurrency == 5
    assert log.window == tb.Window(0.0, 10.0)


def test_a_closed_loop_by_number_sends_that_number_and_its_window_ends_when_a_user_idles():
    """Seven requests of two users on a one-second server: the seventh leaves one user idle after 3 s."""
    log = run(FakeServer(1.0), tb.ClosedLoop(2, requests=7))
    assert log.counts["succeeded"] == 7
    assert log.window == tb.Window(0.0, 3.0)
    assert log.ended_s.max() == 4.0


def test_warm_up_is_kept_in_the_log_and_left_out_of_the_window():
    """The window begins after the warm-up; the log holds the requests before it."""
    log = run(FakeServer(1.0), tb.ClosedLoop(1, duration_s=10, warm_up_s=4))
    assert log.window == tb.Window(4.0, 10.0)
    assert log.planned_s.min() == 0.0


def test_think_time_pauses_each_user():
    """A user with a second's answer and a second's thought sends every two seconds."""
    log = run(FakeServer(1.0), tb.ClosedLoop(1, duration_s=10, think_time_s=1.0))
    assert log.sent_s.tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]


@pytest.mark.parametrize(
    ("load", "sent_s", "stop_s", "ended_s"),
    [
        (tb.ClosedLoop(2, requests=4, think_time_s=100), [0.0, 0.0, 101.0, 101.0], 102.0, 102.0),
        (tb.ClosedLoop(2, requests=3, think_time_s=100), [0.0, 0.0, 101.0], 101.0, 102.0),
        (tb.ClosedLoop(1, requests=1, think_time_s=500), [0.0], 1.0, 1.0),
        (tb.ClosedLoop(2, duration_s=30, think_time_s=500), [0.0, 0.0], 30.0, 30.0),
        (tb.ClosedLoop(1, duration_s=3.3, think_time_s=1.5), [0.0, 2.5], 3.3, 3.5),
    ],
)
def test_nobody_thinks_before_a_request_that_will_not_be_sent(load, sent_s, stop_s, ended_s):
    """By number a run ends with its last answer, by duration with the duration; the window ends when a user would have sent again."""

    async def timed():
        log = await tb.run_load(FakeServer(1.0), load, PROMPT)
        return log, asyncio.get_running_loop().time()

    log, now_s = tb.virtual_time.run(timed())
    assert log.sent_s.tolist() == sent_s
    assert log.window == tb.Window(0.0, stop_s)
    assert now_s == pytest.approx(ended_s)
    assert log.counts["unsent"] == 0


def test_the_stage_after_a_thinking_one_begins_at_its_end():
    """By number that is the last answer; by duration the end of the duration."""
    by_number, by_time = tb.ClosedLoop(1, requests=1, think_time_s=50), tb.ClosedLoop(1, duration_s=10, think_time_s=50)
    log = run(FakeServer(1.0), tb.Stages((by_number, by_time, tb.ClosedLoop(1, requests=1))))
    assert log.sent_s.tolist() == [0.0, 1.0, 11.0]


def test_the_window_of_a_run_that_gave_up_in_a_stage_ends_there():
    """The stages after it send nothing, and the answers still coming are no part of it."""
    load = tb.Stages(
        (tb.ConstantArrivals(2.0, duration_s=10), tb.ClosedLoop(2, duration_s=10), tb.ClosedLoop(1, requests=5))
    )
    log = run(FakeServer(1.0, fails=lambda number: number == 3), load, give_up_after=1)
    assert log.ended_s.max() == 2.0
    assert log.window.stop_s == pytest.approx(1.51)
    assert log.counts == {"issued": 25, "succeeded": 3, "failed": 1, "unsent": 21}


@pytest.mark.parametrize("later", [tb.ClosedLoop(2, requests=10), tb.ConstantArrivals(1.0, duration_s=10)])
def test_the_window_of_a_run_that_gave_up_in_a_closed_stage_ends_there_too(later):
    """Although one of its answers takes long, and the later stage is looked at after that."""
    load = tb.Stages((tb.ClosedLoop(2, requests=50, think_time_s=1.0), later))
    log = run(FakeServer(100.0, fails=lambda number: number > 0), load, give_up_after=3)
    assert log.ended_s.max() == 100.0
    assert log.window.stop_s == pytest.approx(2.0, abs=0.1)


def test_a_request_that_is_being_thought_about_when_a_run_stops_is_unsent():
    """Given up or cancelled in a pause: the number of every user is accounted for."""
    load = tb.ClosedLoop(3, requests=20, think_time_s=100)
    given_up = run(FakeServer(1.0, fails=lambda number: number == 5), load, give_up_after=1)
    assert given_up.counts == {"issued": 20, "succeeded": 5, "failed": 1, "unsent": 14}
    log = tb.virtual_time.run(stopped_after(load, 50))
    assert log.counts == {"issued": 20, "succeeded": 3, "failed": 0, "unsent": 17}
    assert log.window == tb.Window(0.0, 50.0)


def test_an_open_loop_follows_its_absolute_schedule():
    """Slow answers delay no arrival: starts are the plan's own."""
    log = run(FakeServer(100.0), tb.ConstantArrivals(10.0, duration_s=5))
    assert log.sent_s == pytest.approx(np.arange(50) / 10)
    assert log.open_loop.all()
    assert log.window == tb.Window(0.0, 5.0)


def test_arrivals_held_back_by_a_cap_are_sent_late_and_latency_counts_from_the_plan():
    """One slot of one second at two arrivals a second: request k waits (k·0.5) s more than it was planned to."""
    server = FakeServer(1.0)
    log = run(server, tb.ConstantArrivals(2.0, requests=5, max_in_flight=1))
    assert server.most_in_flight == 1
    assert log.planned_s.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert log.sent_s.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert tb.Metrics.of(log, window_s=(0.0, 10.0)).latency_s.max == pytest.approx(3.0)


def test_arrivals_a_cap_held_until_the_end_are_counted_unsent():
    """By duration, what could not be sent within it is unsent, not dropped."""
    log = run(FakeServer(1.0), tb.ConstantArrivals(10.0, duration_s=5, max_in_flight=2))
    assert log.counts == {"issued": 50, "succeeded": 10, "failed": 0, "unsent": 40}


def test_a_failure_is_a_row_like_any_other():
    """Every fourth request fails: it is counted, classed and kept with its message."""
    log = run(FakeServer(0.1, fails=lambda number: number % 4 == 3), tb.ClosedLoop(2, requests=40))
    assert log.counts == {"issued": 40, "succeeded": 30, "failed": 10, "unsent": 0}
    assert log.failures == {tb.FailureKind.OVERLOADED: 10}
    (row, *_) = np.flatnonzero(~log.succeeded)
    assert log.failure(int(row)) == tb.Failure(tb.FailureKind.OVERLOADED, "Model is overloaded", 429)
    assert conserved(log)


@pytest.mark.parametrize("load", [tb.ClosedLoop(1, requests=100), tb.PoissonArrivals(5.0, requests=100)])
def test_the_run_gives_up_after_failures_in_a_row_and_says_so(load):
    """After 20 failures in a row nothing more is sent; the rest of the plan is unsent."""
    server = FakeServer(0.1, fails=lambda number: number >= 10)
    log = run(server, load)
    assert "gave up after 20 failures in a row, the last: overloaded: Model is overloaded" in log.stopped
    assert log.counts == {"issued": 100, "succeeded": 10, "failed": 20, "unsent": 70}


@pytest.mark.parametrize(
    "load",
    [tb.ClosedLoop(3, duration_s=100), tb.ConstantArrivals(3.0, duration_s=100), tb.ClosedLoop(3, requests=10_000)],
)
def test_cancelling_a_run_returns_what_was_measured(load):
    """The log comes back with its finished rows, those in flight as cancelled; nothing is left running."""

    async def cancelled_at_10_5():
        server = FakeServer(1.0)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(tb.run_load(server, load, PROMPT))
            await asyncio.sleep(10.5)
            task.cancel()
            log = await task
        return log, server, len(asyncio.all_tasks())

    log, server, tasks = tb.virtual_time.run(cancelled_at_10_5())
    assert log.stopped == "cancelled"
    assert log.failures == {tb.FailureKind.CANCELLED: 3}
    assert log.counts["succeeded"] in (28, 29, 30)
    assert conserved(log)
    assert (server.closed, server.in_flight, tasks) == (True, 0, 1)


async def stopped_after(load, seconds):
    """The log of a load that was cancelled then."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(tb.run_load(FakeServer(1.0), load, PROMPT))
        await asyncio.sleep(seconds)
        task.cancel()
        return await task


@pytest.mark.parametrize(
    ("load", "planned"),
    [
        (tb.ClosedLoop(3, requests=10**15), 10**15),
        (tb.ClosedLoop(3, requests=10**15, think_time_s=1.0), 10**15),
        (tb.ConstantArrivals(3.0, duration_s=1e14), 3 * 10**14),
        (tb.ConstantArrivals(3.0, requests=10**15, max_in_flight=2), 10**15),
        (tb.PoissonArrivals(3.0, requests=10**15), 10**15),
        (tb.Stages((tb.ClosedLoop(3, requests=10**15),)), 10**15),
    ],
)
def test_what_is_left_of_a_large_plan_is_reckoned_and_not_drawn(load, planned):
    """Cancelled or given up, the run ends at once, and every planned request is accounted for."""
    log = tb.virtual_time.run(stopped_after(load, 10.5))
    assert log.stopped == "cancelled"
    assert log.counts["issued"] == planned
    given_up = run(FakeServer(1.0, fails=lambda number: number > 5), load)
    assert "gave up after 20 failures in a row" in given_up.stopped
    assert given_up.counts["issued"] == planned


@pytest.mark.parametrize(
    "load", [tb.PoissonArrivals(3.0, duration_s=1e14), tb.PoissonArrivals(3.0, requests=10**15).split(2)[1]]
)
def test_what_only_drawing_would_tell_is_counted_up_to_a_limit(load, monkeypatch):
    """So many at least were not sent; a smaller plan is counted to its end."""
    monkeypatch.setattr("tgibench.loads.MOST_COUNTED", 1000)
    log = tb.virtual_time.run(stopped_after(load, 10.5))
    assert log.counts["unsent"] in (1000, 1001)
    small = tb.PoissonArrivals(3.0, duration_s=100)
    (phase,) = small.phases(0)
    assert tb.virtual_time.run(stopped_after(small, 10.5)).counts["issued"] == len(list(phase.arrivals))


def test_stages_follow_one_another():
    """A closed stage drains, then the open one keeps its own schedule from there."""
    load = tb.Stages((tb.ClosedLoop(2, requests=4), tb.ConstantArrivals(1.0, duration_s=3)))
    log = run(FakeServer(1.0), load)
    assert log.planned_s.tolist() == [0.0, 0.0, 1.0, 1.0, 2.0, 3.0, 4.0]
    assert log.window == tb.Window(0.0, 5.0)
    assert log.concurrency is None


def test_progress_is_told_after_each_request():
    """The callback sees every finished request once."""
    seen = []
    run(FakeServer(1.0), tb.ClosedLoop(2, requests=6), on_progress=seen.append)
    assert [progress.finished for progress in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1].in_flight == 0


def test_runs_repeat_to_the_bit():
    """The same seed in virtual time gives the same log."""
    one, two = (run(FakeServer(0.3), tb.PoissonArrivals(9.0, duration_s=20), seed=5) for _ in range(2))
    assert np.array_equal(one.sent_s, two.sent_s)
    assert np.array_equal(one.ended_s, two.ended_s)


def test_chunk_times_can_be_left_out():
    """Without them the log still knows first and last token."""
    log = run(FakeServer(1.0), tb.ClosedLoop(1, requests=2), keep_chunk_times=False)
    assert log.chunk_times_s is None
    assert log.first_token_s.tolist() == [1.0, 2.0]


def test_giving_up_after_nothing_is_refused():
    """The number must be at least 1."""
    with pytest.raises(tb.InvalidValueError, match="give_up_after must be at least 1, got 0"):
        run(FakeServer(1.0), tb.ClosedLoop(1, requests=2), give_up_after=0)
