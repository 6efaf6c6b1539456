"""Merging the logs of a run's parts: the outcome is what a single process would have recorded."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tgibench as tb
from fakes import FakeServer
from tgibench.client_health import ClientHealth
from tgibench.merging import merge_logs
from tgibench.recording import LogBuilder
from tgibench.records import Exchange, ServerTimings

ROUNDING_S = 1e-9  # a virtual clock is a sum of steps, and a part takes fewer of them
PROMPT = tb.FixedPrompt(prompt="Hello", max_new_tokens=1)


def run(load, seed, service_s=0.5):
    """The log of a load on a fake server of its own, in virtual time."""
    return tb.virtual_time.run(tb.run_load(FakeServer(service_s), load, PROMPT, seed=seed))


def assert_equal(merged, whole, *, within_s=0.0):
    """Every field of two logs is the same: plan and counts to the last bit, what a clock showed within so much."""
    for field in attrs.fields(tb.RequestLog):
        ours, theirs = getattr(merged, field.name), getattr(whole, field.name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype, field.name
            exact = field.name in {"index", "planned_s"} or theirs.dtype.kind != "f"
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=0 if exact else within_s, err_msg=field.name)
        elif field.name == "window":
            assert attrs.astuple(ours) == pytest.approx(attrs.astuple(theirs), abs=within_s or 1e-15)
        elif field.name != "health":
            assert ours == theirs, field.name


open_loads = st.one_of(
    st.builds(tb.ConstantArrivals, st.floats(1, 20), requests=st.integers(1, 60)),
    st.builds(tb.ConstantArrivals, st.floats(1, 20), duration_s=st.floats(2, 5), warm_up_s=st.floats(0, 1)),
    st.builds(tb.PoissonArrivals, st.floats(1, 20), duration_s=st.floats(2, 5)),
    st.builds(tb.GammaArrivals, st.floats(1, 20), st.floats(0.3, 4), requests=st.integers(1, 60)),
    st.builds(tb.Ramp, st.floats(0, 5), st.floats(6, 20), duration_s=st.floats(2, 5)),
)


@settings(max_examples=20, deadline=None)
@given(open_loads, st.integers(1, 8), st.integers(0, 1000))
def test_the_parts_of_an_open_load_merge_into_the_log_of_the_whole(load, shards, seed):
    """Rows, instants, chunks, counts and window are those of the one process, whatever the shape and the number of parts."""
    assert_equal(merge_logs([run(part, seed) for part in load.split(shards)]), run(load, seed), within_s=ROUNDING_S)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.sampled_from([0.0, 0.125, 0.25]))
def test_the_parts_of_a_closed_load_merge_into_the_log_of_the_whole(shards, users, rounds, think_time_s):
    """Users in equal parts of equal service send the same numbers at the same instants; the users add up again."""
    load = tb.ClosedLoop(shards * users, requests=shards * users * rounds, think_time_s=think_time_s)
    assert_equal(merge_logs([run(part, 0) for part in load.split(shards)]), run(load, 0))
    by_time = tb.ClosedLoop(shards * users, duration_s=3.25, warm_up_s=1.0)
    assert_equal(merge_logs([run(part, 0) for part in by_time.split(shards)]), run(by_time, 0))


@pytest.mark.parametrize("shards", [1, 2, 8])
def test_what_n_workers_send_together_is_poisson(shards):
    """Sends of all parts in bins have a variance as large as their mean, and the arrival test finds no fault."""
    load = tb.PoissonArrivals(50.0, duration_s=100)
    log = merge_logs([run(part, 3, service_s=0.01) for part in load.split(shards)])
    counts, _ = np.histogram(log.sent_s, bins=np.arange(0.0, 100.1, 0.2))
    assert 0.8 < counts.var() / counts.mean() < 1.2
    assert tb.arrival_test(log, rate_rps=50.0, cv=1.0).as_planned


@st.composite
def exchanges(draw):
    """A request's number and what became of it, at instants in eighths of a second: exact in any order of sums."""
    eighths = st.integers(0, 400).map(lambda number: number / 8)
    start_s, chunks = draw(eighths), draw(st.lists(st.integers(0, 80).map(lambda number: number / 8), max_size=4))
    failure = draw(st.none() | st.just(tb.Failure(tb.FailureKind.OVERLOADED, "full", 429)))
    return Exchange(
        started_s=start_s,
        sent_s=draw(st.none() | st.just(start_s)),
        ended_s=start_s + 10.0,
        chunk_times_s=start_s + np.sort(np.array(chunks, dtype=float)),
        chunk_tokens=np.arange(1, len(chunks) + 1, dtype=np.uint32),
        output_tokens=len(chunks) or None,
        finish_reason=draw(st.sampled_from([None, "length", "eos_token"])),
        failure=failure,
        server=draw(st.none() | st.just(ServerTimings(queue_s=0.25))),
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(exchanges(), st.integers(0, 2)), max_size=20), st.booleans(), st.floats(-1e3, 1e3))
def test_any_division_of_requests_merges_into_the_log_of_all(requests, keep_chunks, began_s):
    """Failures with their messages, chunks and finish reasons find their row again; second 0 is the same for each part."""
    began_s = round(began_s * 8) / 8
    whole, *parts = (LogBuilder(0.0, keep_chunks=keep_chunks) for _ in range(4))
    parts = [LogBuilder(began_s, keep_chunks=keep_chunks) for _ in parts]
    for index, (exchange, owner) in enumerate(requests):
        whole.add(index, exchange.started_s, exchange, open_loop=True)
        moved = attrs.evolve(
            exchange,
            started_s=exchange.started_s + began_s,
            sent_s=None if exchange.sent_s is None else exchange.sent_s + began_s,
            ended_s=exchange.ended_s + began_s,
            chunk_times_s=exchange.chunk_times_s + began_s,
        )
        parts[owner].add(index, moved.started_s, moved, open_loop=True)
    health, window = ClientHealth(stamps=tb.StampSource.VIRTUAL), tb.Window(0.0, 50.0)
    merged = merge_logs([part.build(unsent=1, window=window, health=health) for part in parts])
    assert_equal(merged, whole.build(unsent=3, window=window, health=health))
