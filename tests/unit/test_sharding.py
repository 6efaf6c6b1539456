"""Shared runs without a socket: clocks, lost workers, what is sent to a worker, and what is refused at once."""

from __future__ import annotations

import concurrent.futures
import pickle

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tgibench as tb
from fakes import FakeServer
from logs import log_of, plain
from tgibench.client_health import ClientHealth
from tgibench.conductors import Job
from tgibench.merging import merge_logs, worst_health
from tgibench.runner import run_job
from tgibench.sharding._clocks import clock_offset
from tgibench.sharding._shard import Shard
from tgibench.sharding._worker import Task

PROMPT = tb.FixedPrompt(prompt="Hello", max_new_tokens=1)
POOL = concurrent.futures.ThreadPoolExecutor(2)  # never asked for a thread
delays = st.floats(0, 0.5)


@given(st.floats(-1e5, 1e5), st.lists(st.tuples(st.floats(0, 1e3), delays, delays), min_size=1, max_size=20))
def test_the_true_offset_lies_within_the_stated_uncertainty(offset_s, questions):
    """However unlike the way there and the way back: their clock is at most half the shortest round trip off."""
    exchanges = [
        (sent_s, sent_s + there_s + offset_s, sent_s + there_s + back_s) for sent_s, there_s, back_s in questions
    ]
    measured = clock_offset(exchanges)
    assert abs(measured.offset_s - offset_s) <= measured.uncertainty_s + 1e-9
    assert measured.uncertainty_s == pytest.approx(
        min(there_s + back_s for _, there_s, back_s in questions) / 2, abs=1e-9
    )
    assert measured.theirs(5.0) == 5.0 + measured.offset_s


def test_an_offset_needs_an_answer():
    """Without one nothing is known."""
    with pytest.raises(tb.InvalidValueError, match="at least one question"):
        clock_offset([])


def lost(requests):
    """Two workers, the second of which was lost with so many requests."""
    return (
        tb.Worker(number=0),
        tb.Worker(number=1, lost="lost after 2.0 s: the connection ended", lost_requests=requests),
    )


def test_a_lost_workers_requests_count_as_unsent():
    """All that was issued = succeeded + failed + unsent holds for a degraded run too; the users no longer add up."""
    log = merge_logs([log_of(plain(0.0), plain(1.0), unsent=3, concurrency=2)], lost(10))
    assert log.counts == {"issued": 15, "succeeded": 2, "failed": 0, "unsent": 13}
    assert log.degraded
    assert log.concurrency is None


def test_a_degraded_run_is_warned_of():
    """The warning names the worker, what went with it and why; what was really never sent is told apart."""
    log = merge_logs([log_of(plain(0.0), plain(1.0), unsent=3)], lost(10))
    warnings = tb.warnings_of(tb.Metrics.of(log), log)
    assert (
        "degraded: worker 2 of 2 is missing from the record with 10 requests, of which nothing is known: "
        "lost after 2.0 s: the connection ended"
    ) in warnings
    assert "3 planned requests were never sent: the load offered was lower than planned" in warnings


def test_a_late_worker_and_an_uncertain_clock_are_warned_of():
    """Each by its worker; a run whose workers kept to the start and know their clocks is not warned of."""
    log = log_of(plain(0.0))
    late = tb.Worker(number=0, late_s=0.5, clock_uncertainty_s=1e-4, clock_drift_s=0.0)
    vague = tb.Worker(number=1, late_s=0.0, clock_uncertainty_s=0.004, clock_drift_s=-0.02)
    well = tb.Worker(number=1, late_s=0.001, clock_uncertainty_s=1e-4, clock_drift_s=1e-5)
    warnings = tb.warnings_of(tb.Metrics.of(log), attrs.evolve(log, workers=(late, vague)))
    assert "worker 1 of 2 began 0.5 s later than the others" in warnings
    assert any(warning.startswith("the clock of worker 2 of 2 is known to 24 ms") for warning in warnings)
    assert tb.warnings_of(tb.Metrics.of(log), attrs.evolve(log, workers=(well, well))) == tb.warnings_of(
        tb.Metrics.of(log), log
    )


def test_a_merged_log_is_as_sound_as_its_worst_worker():
    """The largest lag and share of a core, all samples, and the least exact stamps."""
    busy = ClientHealth(
        stamps=tb.StampSource.KERNEL,
        cpu_share=0.9,
        loop_lag_p50_s=1e-4,
        loop_lag_p99_s=2e-3,
        loop_lag_max_s=3e-3,
        samples=10,
    )
    late = ClientHealth(
        stamps=tb.StampSource.STREAM_READ,
        cpu_share=0.2,
        loop_lag_p50_s=2e-4,
        loop_lag_p99_s=9e-3,
        loop_lag_max_s=1e-2,
        samples=5,
    )
    assert worst_health([busy, late]) == ClientHealth(
        stamps=tb.StampSource.STREAM_READ,
        cpu_share=0.9,
        loop_lag_p50_s=2e-4,
        loop_lag_p99_s=9e-3,
        loop_lag_max_s=1e-2,
        samples=15,
        workers=2,
    )


def test_a_log_of_no_part_is_refused():
    """There is nothing to merge."""
    with pytest.raises(tb.InvalidValueError, match="at least one part"):
        merge_logs([])


@pytest.mark.parametrize(
    ("load", "planned"),
    [
        (tb.ClosedLoop(4, requests=41), [21, 20]),
        (tb.ConstantArrivals(10.0, duration_s=5), [25, 25]),
        (tb.Stages((tb.ClosedLoop(2, requests=10), tb.ConstantArrivals(1.0, requests=4))), [7, 7]),
        (tb.ClosedLoop(4, duration_s=5), [0, 0]),
        (tb.ClosedLoop(4, requests=10**15), [5 * 10**14, 5 * 10**14]),
    ],
)
def test_what_goes_with_a_part_is_what_it_planned(load, planned):
    """By number or by arrivals; by duration in a closed loop only what was told of can be counted."""
    parts = [Shard(number, part) for number, part in enumerate(load.split(2))]
    assert [part.planned(seed=0) for part in parts] == planned


def test_by_duration_what_a_lost_worker_told_of_is_counted():
    """Finished and in flight, by its last report."""
    shard = Shard(0, tb.ClosedLoop(4, duration_s=5), finished=12, in_flight=4)
    shard.lose("lost")
    assert shard.worker(seed=0).lost_requests == 16


def task(endpoint):
    """What a worker would be sent."""
    job = Job(
        endpoint=endpoint,
        load=tb.ClosedLoop(1, requests=1),
        prompts=PROMPT,
        seed=0,
        timeouts=tb.Timeouts(),
        keep_chunk_times=True,
    )
    return Task(run=run_job, job=job, number=0, host="127.0.0.1", port=1, token="t", give_up_after=20)


def test_what_is_sent_to_a_worker_names_the_key_and_does_not_hold_it(monkeypatch):
    """The variable's name travels; the worker looks the key up for itself."""
    monkeypatch.setenv("SERVER_KEY", "hunter2")
    endpoint = tb.HttpEndpoint("http://127.0.0.1:1", api_key_env="SERVER_KEY", headers=(("x-team", "blue"),))
    sent = pickle.dumps(task(endpoint))
    assert b"hunter2" not in sent
    assert b"SERVER_KEY" in sent
    there = pickle.loads(sent).job.endpoint  # noqa: S301 - our own bytes
    assert there == endpoint
    assert there.all_headers == (("x-team", "blue"), ("Authorization", "Bearer hunter2"))
    monkeypatch.delenv("SERVER_KEY")
    with pytest.raises(tb.InvalidValueError, match="api_key_env names SERVER_KEY, which holds no key here"):
        _ = there.all_headers


@pytest.mark.parametrize(
    ("fields", "held"),
    [
        ({"api_key": "hunter2"}, "an api_key"),
        ({"headers": (("Authorization", "Basic hunter2"),)}, "the header 'Authorization'"),
        ({"headers": (("x-api-key", "hunter2"),)}, "the header 'x-api-key'"),
    ],
)
def test_an_endpoint_that_holds_a_secret_is_not_sent(fields, held):
    """Neither as a key nor in a header; the refusal says what to do and does not show it."""
    with pytest.raises(
        tb.InvalidValueError, match=f"holds {held}, and no secret is sent to another process"
    ) as refused:
        pickle.dumps(task(tb.HttpEndpoint("http://127.0.0.1:1", **fields)))
    assert "hunter2" not in str(refused.value)


def test_a_key_is_given_once():
    """By value or by name."""
    with pytest.raises(tb.InvalidValueError, match="either api_key or api_key_env"):
        tb.HttpEndpoint("http://127.0.0.1:1", api_key="a", api_key_env="A")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shards": 2}, "executor and shards are given together"),
        ({"executor": POOL}, "executor and shards are given together"),
        ({"executor": POOL, "shards": 0}, "shards must be a whole number of at least 1, got 0"),
        ({"executor": POOL, "shards": 3}, "must not exceed the executor's 2 workers, got 3"),
        ({"executor": POOL, "shards": 2, "listen": "0.0.0.0"}, "listen must be an address such as"),
        ({"executor": POOL, "shards": 2, "listen": "a:b"}, "listen must be an address such as"),
        ({"executor": POOL, "shards": 2, "start_within_s": 0}, "start_within_s must be a number above 0"),
        ({"executor": POOL, "shards": 2}, "in virtual time a run has one process"),
    ],
)  # fmt: skip
def test_what_cannot_be_shared_is_refused_in_one_sentence(options, words):
    """Before a worker is asked for."""
    with pytest.raises(tb.InvalidValueError, match=words):
        tb.virtual_time.run(tb.run_load(FakeServer(1.0), tb.ClosedLoop(4, requests=8), PROMPT, **options))
