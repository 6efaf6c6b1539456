"""The emulated scheduler, step by step, with steps of round durations."""

from __future__ import annotations

import asyncio
import itertools

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgibench import virtual_time
from tgibench.backends.emulator.engine import Engine, EngineOverloadedError, EngineSettings, Job
from tgibench.backends.emulator.step_time import FixedTimes

STEPS = FixedTimes(prefill=10.0, decode=1.0)


@attrs.frozen
class Recorded:
    """Step times that keep what they were asked; a prefill takes 1 s for each 100 tokens, a decode 1 s."""

    prefills: list = attrs.field(factory=list)
    decodes: list = attrs.field(factory=list)

    def prefill_s(self, tokens, requests):
        self.prefills.append((tokens, requests))
        return tokens / 100

    def decode_s(self, sequences, context_tokens):
        self.decodes.append((sequences, context_tokens))
        return 1.0


def job(output_tokens=3, *, input_tokens=16, max_new_tokens=None):
    return Job(input_tokens=input_tokens, max_new_tokens=max_new_tokens or output_tokens, output_tokens=output_tokens)


def serve(arrivals, step_times=STEPS, **of_settings):
    """Submit jobs at instants; returns the engine and (started_s, token times) of each."""

    async def main():
        engine = Engine(EngineSettings(**of_settings), step_times)
        loop, tickets = asyncio.get_running_loop(), []
        for at, one in arrivals:
            if at > loop.time():  # sleeping for 0 s would let the engine start in between
                await asyncio.sleep(at - loop.time())
            tickets.append(engine.submit(one))
        for ticket in tickets:
            await ticket.done.wait()
        return engine, [(ticket.started_s, engine.token_times_s(ticket).tolist()) for ticket in tickets]

    return virtual_time.run(main())


def test_a_request_alone_gets_a_prefill_and_then_decodes():
    """The first token comes with the prefill, each further one with a decode."""
    _, served = serve([(0.0, job(4))])
    assert served == [(0.0, [10.0, 11.0, 12.0, 13.0])]


def test_context_grows_by_a_token_a_sequence():
    """A decode is asked with the running sequences and their prompts and answers so far."""
    steps = Recorded()
    serve([(0.0, job(3, input_tokens=100)), (0.0, job(2, input_tokens=200))], steps)
    assert steps.prefills == [(300, 2)]
    assert steps.decodes == [(2, 302), (1, 102)]


def test_the_prefill_of_newcomers_stalls_the_running():
    """With one running, one newcomer is enough (1 · 1.2 rounds down to 1): its prefill comes between two decodes."""
    _, served = serve([(0.0, job(5)), (11.5, job(2))])
    assert served[0] == (0.0, [10.0, 11.0, 12.0, 23.0, 24.0])
    assert served[1] == (12.0, [22.0, 23.0])


def test_too_few_newcomers_wait_for_twenty_decodes():
    """With two running, one newcomer is fewer than 2 · 1.2 and waits until the count of tokens reaches 20."""
    _, served = serve([(0.0, job(40)), (0.0, job(40)), (10.5, job(1))])
    assert served[2] == (29.0, [39.0])  # the prefill counts as the first, so 19 decodes after 10.0


def test_a_small_ratio_lets_newcomers_in_at_once():
    """With a ratio of 0.3 and two running, a newcomer goes into the next prefill."""
    _, served = serve([(0.0, job(40)), (0.0, job(40)), (10.5, job(1))], waiting_served_ratio=0.3)
    assert served[2] == (11.0, [21.0])


def test_nobody_overtakes_one_that_does_not_fit():
    """Prompts beyond the prefill budget wait for the next prefill, and so does a short one behind them."""
    arrivals = [(0.0, job(1, input_tokens=n)) for n in (64, 64, 16)]
    _, served = serve(arrivals, max_batch_prefill_tokens=96)
    assert [started for started, _ in served] == [0.0, 10.0, 10.0]


def test_lengths_count_in_whole_blocks():
    """Two prompts of 17 tokens take 64 of the prefill budget."""
    arrivals = [(0.0, job(1, input_tokens=17))] * 2
    assert [at for at, _ in serve(arrivals, max_batch_prefill_tokens=64)[1]] == [0.0, 0.0]
    assert [at for at, _ in serve(arrivals, max_batch_prefill_tokens=63)[1]] == [0.0, 10.0]


def test_the_longest_answer_is_reserved_up_front():
    """A request that asks for 1,000 tokens and makes 2 keeps others out as if it made 1,000."""
    arrivals = [(0.0, job(2, max_new_tokens=1000)), (0.0, job(1))]
    assert serve(arrivals, max_batch_total_tokens=1030)[1][1] == (11.0, [21.0])
    assert serve(arrivals, max_batch_total_tokens=2000)[1][1] == (0.0, [10.0])


def test_the_batch_size_is_a_limit():
    """`max_batch_size` bounds running and new sequences together."""
    _, served = serve([(0.0, job(3))] * 3, max_batch_size=2)
    assert [started for started, _ in served] == [0.0, 0.0, 12.0]


def test_chunked_prefill_gives_the_running_their_token():
    """With chunks a long prompt takes several steps, in each of which, and between which, the running get a token."""
    steps = Recorded()
    engine, served = serve(
        [(0.0, job(8, input_tokens=100)), (1.5, job(2, input_tokens=250))],
        steps,
        max_batch_prefill_tokens=101,
        chunked_prefill=True,
    )
    assert steps.prefills == [(100, 1), (101, 2), (101, 2), (51, 2)]
    assert served[0][1] == pytest.approx([1.0, 2.0, 3.01, 4.01, 5.02, 6.02, 6.53, 7.53])
    assert served[1] == (2.0, pytest.approx([6.53, 7.53]))
    assert engine.counters.output_tokens == 10


def test_beyond_the_permits_is_refused_even_during_a_prefill():
    """Requests under prefill hold their permits; one more is refused at once, and a finished one makes room."""

    async def main():
        engine = Engine(EngineSettings(max_concurrent_requests=2), STEPS)
        engine.submit(job(1))
        last = engine.submit(job(2))
        await asyncio.sleep(5)
        assert engine.in_flight == 2
        with pytest.raises(EngineOverloadedError, match="Model is overloaded"):
            engine.submit(job())
        await asyncio.sleep(5.5)
        assert engine.in_flight == 1
        engine.submit(job())
        await last.done.wait()
        return engine.counters.refused

    assert virtual_time.run(main()) == 1


def test_a_dropped_request_frees_its_place():
    """Dropped while queued it is never prefilled; while running it leaves after the step; its permit is free at once."""

    async def main():
        engine = Engine(EngineSettings(max_batch_size=1), STEPS)
        running, queued, behind = engine.submit(job(100)), engine.submit(job(1)), engine.submit(job(1))
        await asyncio.sleep(12.5)
        engine.drop(queued)
        engine.drop(running)
        engine.drop(running)
        assert engine.in_flight == 1
        await behind.done.wait()
        return engine, behind.started_s, queued.started_s

    engine, behind_started_s, queued_started_s = virtual_time.run(main())
    assert behind_started_s == 13.0
    assert queued_started_s is None
    assert (engine.in_flight, engine.queue_size, engine.batch_size) == (0, 0, 0)
    assert (engine.counters.dropped, engine.counters.finished) == (2, 1)


def test_a_listener_hears_each_token_at_its_instant():
    """`on_token` is called with each token's number when it is made."""

    async def main():
        loop, heard = asyncio.get_running_loop(), []
        engine = Engine(EngineSettings(), STEPS)
        ticket = engine.submit(job(3), lambda number: heard.append((number, loop.time())))
        await ticket.done.wait()
        return heard

    assert virtual_time.run(main()) == [(0, 10.0), (1, 11.0), (2, 12.0)]


@given(
    arrivals=st.lists(st.tuples(st.floats(0, 60), st.integers(1, 30), st.integers(1, 300)), min_size=1, max_size=25),
    chunked=st.booleans(),
    batch=st.none() | st.integers(1, 5),
)
@settings(max_examples=40, deadline=None)
def test_every_job_gets_exactly_its_tokens(arrivals, chunked, batch):
    """Whatever arrives: each job makes its tokens, at ascending instants after its start, and the engine ends idle and empty."""
    jobs = [(at, job(made, input_tokens=prompt)) for at, made, prompt in sorted(arrivals)]
    engine, served = serve(
        jobs, max_batch_total_tokens=700, max_batch_prefill_tokens=320, chunked_prefill=chunked, max_batch_size=batch
    )
    for (at, one), (started_s, times_s) in zip(jobs, served, strict=True):
        assert len(times_s) == one.output_tokens
        assert at <= started_s < times_s[0]
        assert all(before < after for before, after in itertools.pairwise(times_s))
    starts = [started_s for started_s, _ in served]
    assert starts == sorted(starts)
    assert engine.counters.output_tokens == sum(one.output_tokens for _, one in jobs)
    assert (engine.in_flight, engine.batch_size, engine._reserved_tokens, engine._context_tokens) == (0, 0, 0, 0)
