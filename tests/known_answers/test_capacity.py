"""The capacity search against servers whose capacity is known."""

from __future__ import annotations

import asyncio

import pytest

import tgibench as tb
from fakes import FakeServer
from tgibench import capacity
from tgibench.capacity import Outcome

PROMPT = tb.FixedPrompt(prompt="Hello", max_new_tokens=1)


def find(endpoint, slo, **options):
    """Search in virtual time."""
    return tb.virtual_time.run(tb.find_capacity(endpoint, slo, **{"prompts": PROMPT, **options}))


@pytest.mark.parametrize(("slots", "limit_s", "capacity"), [(8, 0.15, 8), (3, 0.25, 6), (5, 0.45, 20)])
def test_the_concurrency_of_a_server_with_slots(slots, limit_s, capacity):
    """A server of n slots of 0.1 s answers k·n users in k · 0.1 s: the highest concurrency within the limit is found exactly."""
    found = find(FakeServer(0.1, slots=slots), tb.SLO(latency_s=limit_s))
    assert (found.load, found.not_met, found.unresolved) == (capacity, capacity + 1, ())
    loads = [probe.load for probe in found.probes]
    assert loads[:2] == [1, 2]
    assert len(set(loads)) == len(loads) <= 10
    assert all((probe.outcome is Outcome.MET) == (probe.load <= capacity) for probe in found.probes)
    assert f"up to {capacity} requests in flight, not at {capacity + 1}" in found.sentence


def test_workers_share_each_stretch(monkeypatch):
    """As many as asked for, and no more than requests in flight; a rate is split among all."""
    asked = []

    async def run_load(endpoint, load, prompts, *, executor, shards, listen, **options):
        asked.append((executor, shards, listen))
        return await tb.run_load(endpoint, load, prompts, **options)

    monkeypatch.setattr(capacity, "run_load", run_load)
    find(FakeServer(0.1), tb.SLO(latency_s=0.2), most=4, executor="pool", shards=3, listen="10.0.0.4")
    assert asked == [("pool", shards, "10.0.0.4") for shards in (1, 2, 3)]
    asked.clear()
    find(FakeServer(0.1), tb.SLO(latency_s=0.2), kind="rate", most=1, executor="pool", shards=3)
    assert {shards for _, shards, _ in asked} == {3}


def test_no_load_is_too_much_for_an_endless_server():
    """The most that is allowed is met, and nothing is said of more."""
    found = find(FakeServer(0.1), tb.SLO(latency_s=0.2), most=12)
    assert [probe.load for probe in found.probes] == [1, 2, 4, 8, 12]
    assert (found.load, found.not_met) == (12, None)
    assert "the most that was tried" in found.sentence


def test_a_server_that_is_always_too_slow_carries_nothing():
    """One user is too many."""
    found = find(FakeServer(1.0), tb.SLO(latency_s=0.5))
    assert (found.load, found.not_met) == (None, 1)


def test_a_probe_that_cannot_be_resolved_says_so():
    """A share of exactly the target stays unresolved, however long; it counts as not met in the search."""
    server = FakeServer(0.1, fails=lambda number: number % 20 == 0)
    found = find(server, tb.SLO(latency_s=0.5), most=2, longest_s=60)
    assert found.load is None
    assert found.unresolved == (1,)
    assert found.probes[0].outcome is Outcome.UNRESOLVED
    assert len(found.probes[0].metrics) == 2
    assert found.probes[0].share.value == pytest.approx(0.95, abs=0.01)
    assert "unresolved at 1" in found.sentence


def test_the_rate_of_a_queue():
    """M/D/1 with 0.1 s of service: P(wait > 0.5 s) is 5 % at 7.4 requests/s by the exponential tail of the wait (Tijms 2003).

    At rate r the tail is (1 - u) / (u·exp(x) - 1) · exp(-10·x·t) with u = r / 10 and x the solution of u·(exp(x) - 1) = x.
    """
    found = find(
        FakeServer(0.1, slots=1),
        tb.SLO(latency_s=0.6),
        kind="rate",
        duration_s=300,
        longest_s=1500,
        precision_ratio=0.1,
    )
    assert 6.6 <= found.load <= 7.5
    assert 7.4 <= found.not_met <= 8.5


def test_the_emulators_capacity():
    """More users than the found ones break the limit when measured apart, and the found ones keep it."""
    endpoint = tb.Emulator().endpoint(tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge"))
    slo, prompts = tb.SLO(latency_s=2.5), tb.SyntheticPrompts(input_tokens=128)
    found = find(endpoint, slo, prompts=prompts, most=64)
    assert found.load is not None
    assert found.not_met is not None

    def share(users):
        log = tb.virtual_time.run(tb.run_load(endpoint, tb.ClosedLoop(int(users), duration_s=200), prompts, seed=99))
        return slo.met(log).mean()

    assert share(found.load) >= 0.93
    assert share(2 * found.not_met) < 0.95


def test_a_cancelled_search_returns_what_it_found():
    """The finished probes are kept and the result says that it was interrupted."""

    async def search():
        task = asyncio.create_task(tb.find_capacity(FakeServer(0.1), tb.SLO(latency_s=0.2), prompts=PROMPT))  # noqa: TID251
        await asyncio.sleep(70)
        task.cancel()
        return await task

    found = tb.virtual_time.run(search())
    assert found.interrupted
    assert [probe.load for probe in found.probes] == [1, 2, 4]
    assert "interrupted" in found.sentence


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"target_share": 1.0}, "target_share must be above 0 and below 1"),
        ({"start": 1.5}, "whole number"),
        ({"start": 8, "most": 4}, "most must be at least start"),
        ({"longest_s": 10}, "longest_s must be at least duration_s"),
    ],
)
def test_bad_numbers_are_one_error(options, match):
    """Before anything is sent."""
    server = FakeServer(0.1)
    with pytest.raises(tb.InvalidValueError, match=match):
        find(server, tb.SLO(latency_s=1), **options)
    assert server.received == []
