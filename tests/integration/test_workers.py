"""Loads shared by workers over a real control channel: threads where they prove it, processes where only they do."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import multiprocessing
import os
import re
import signal

import attrs
import numpy as np
import pytest

import tgibench as tb
from scripted_server import END, HEAD, chunk, response, serving, tgi_event
from tgibench.backends.emulator.server import emulator_server
from tgibench.backends.emulator.serving import ServerOptions
from tgibench.backends.emulator.step_time import FixedTimes

TOKENS = 4
PROMPT = tb.FixedPrompt(prompt="Hello", max_new_tokens=TOKENS)
EVENTS = [chunk(tgi_event(number, TOKENS)) for number in range(1, TOKENS + 1)]
FULL = response(429, b'{"error":"Model is overloaded","error_type":"overloaded"}')


class Script:
    """A server's: counts what came; each answer takes `service_s`, or is a refusal."""

    def __init__(self, service_s=0.05, *, refuses=False):
        self.received, self._service_s, self._refuses = 0, service_s, refuses

    def __call__(self, number):
        self.received += 1
        return [FULL] if self._refuses else [HEAD, EVENTS[0], self._service_s, *EVENTS[1:], END]


def threads(number):
    """Workers that are threads: the same tasks, without starting processes."""
    return concurrent.futures.ThreadPoolExecutor(number)


def processes(number, method="spawn"):
    """Workers that are processes."""
    return concurrent.futures.ProcessPoolExecutor(number, mp_context=multiprocessing.get_context(method))


def planned(load):
    """All (number, start) pairs of an open load."""
    (phase,) = load.phases(0)
    return list(phase.arrivals)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
async def test_processes_record_what_one_process_would(method):
    """Every arrival of the plan is there once, at its planned instant, with its tokens; nothing is left behind."""
    load, script, seen = tb.PoissonArrivals(40.0, requests=40), Script(), []
    with processes(2, method) as executor:
        async with serving(script) as url:
            log = await tb.run_load(
                tb.HttpEndpoint(url), load, PROMPT, executor=executor, shards=2, on_progress=seen.append
            )
    numbers, starts = zip(*planned(load), strict=True)
    assert log.index.tolist() == list(numbers)
    assert log.planned_s == pytest.approx(starts, abs=1e-9)
    assert log.counts == {"issued": 40, "succeeded": 40, "failed": 0, "unsent": 0}
    assert log.output_tokens.tolist() == [TOKENS] * 40
    assert script.received == 40
    assert (log.stopped, log.degraded) == (None, False)
    assert log.chunk_offsets[-1] == len(log.chunk_times_s) == len(log.chunk_tokens)
    assert (np.diff(log.chunk_offsets) >= 2).all()  # the first token, then the others
    places = {worker.place for worker in log.workers}
    assert len(places) == 2
    assert all(worker.health.samples > 0 and worker.clock_uncertainty_s < 0.1 for worker in log.workers)
    assert seen[-1] == attrs.evolve(seen[-1], in_flight=0, finished=40, failed=0, output_tokens=40 * TOKENS)
    assert multiprocessing.active_children() == []
    assert len(asyncio.all_tasks()) == 1


async def test_all_shapes_of_load_can_be_shared():
    """Closed by number, by duration, capped, with warm-up, and stages that begin together in every part."""
    load = tb.Stages(
        (
            tb.ClosedLoop(4, requests=14, warm_up_s=0.05),
            tb.ConstantArrivals(50.0, duration_s=0.3, max_in_flight=2),
            tb.Ramp(20.0, 60.0, requests=10),
            tb.ClosedLoop(2, duration_s=0.3),
        )
    )
    with threads(2) as executor:
        async with serving(Script()) as url:
            log = await tb.run_load(tb.HttpEndpoint(url), load, PROMPT, executor=executor, shards=2)
    stage = log.index // 1_000_000_000
    counts = log.counts
    assert counts["failed"] == 0
    assert counts["issued"] == counts["succeeded"] + counts["unsent"]
    assert np.bincount(stage).tolist()[0::2] == [14, 10]
    first, last = ([fold(log.planned_s[stage == each]) for each in range(4)] for fold in (np.min, np.max))
    assert all(before <= after for before, after in zip(last[:-1], first[1:], strict=True))
    assert log.ended_s[stage == 0].max() <= first[1]
    assert log.window.start_s == pytest.approx(0.05)
    # from the agreed beginning, not from the first request
    assert first[3] < log.window.stop_s <= first[3] + 0.3 + 1e-9


async def test_failures_in_a_row_are_counted_over_all_parts():
    """A server that refuses everything ends the run in every worker; the rest of the plan is unsent."""
    load = tb.ConstantArrivals(200.0, requests=2000)
    with threads(2) as executor:
        async with serving(Script(refuses=True)) as url:
            log = await tb.run_load(tb.HttpEndpoint(url), load, PROMPT, executor=executor, shards=2)
    assert "failures in a row, the last: overloaded" in log.stopped
    counts = log.counts
    assert counts["succeeded"] == 0
    assert 20 <= counts["failed"] < 1000
    assert counts["issued"] == 2000


async def test_cancelling_a_shared_run_returns_what_was_measured():
    """Every worker stops; requests in flight are cancelled rows; nothing is left running."""
    script = Script(service_s=0.1)
    with threads(2) as executor:
        async with serving(script) as url, asyncio.TaskGroup() as group:
            many_done = asyncio.Event()
            run = group.create_task(
                tb.run_load(
                    tb.HttpEndpoint(url),
                    tb.ClosedLoop(4, duration_s=60),
                    PROMPT,
                    executor=executor,
                    shards=2,
                    on_progress=lambda at: many_done.set() if at.finished >= 8 else None,
                )
            )
            await many_done.wait()
            run.cancel()
            log = await run
    assert log.stopped == "cancelled"
    assert log.counts["succeeded"] >= 8
    assert set(log.failures) <= {tb.FailureKind.CANCELLED}
    assert not log.degraded
    assert len(asyncio.all_tasks()) == 1


class Faulty(concurrent.futures.Executor):
    """Threads that mishandle part 1: never begun, begun twice, or raising; or take nothing."""

    def __init__(self, fault):
        self._threads, self._fault = threads(4), fault

    def submit(self, function, task):
        if self._fault == "all":
            raise RuntimeError("broken")
        if task.number != 1 or self._fault == "twice":
            if task.number == 1:
                self.second = self._threads.submit(function, task)
            return self._threads.submit(function, task)
        if self._fault == "never":
            return concurrent.futures.Future()
        if self._fault == "not sent":
            raise RuntimeError("cannot schedule new futures after shutdown")
        return self._threads.submit(int, "no number")

    def shutdown(self, **options):
        self._threads.shutdown(**options)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (
            "never",
            r"it did not report within 1\.5 s: there must be 2 free workers that reach this process at 127\.0\.0\.1:\d+",
        ),
        ("not sent", "the executor did not take it: RuntimeError: cannot schedule new futures after shutdown"),
        ("raises", "it did not start: ValueError: invalid literal for int"),
    ],
)
async def test_a_part_that_never_starts_is_missing_and_the_rest_is_kept(fault, why):
    """The run goes on without it, degraded; what it should have sent is unsent; the cell that is stored says so."""
    load, script, executor = tb.ConstantArrivals(100.0, requests=20), Script(), Faulty(fault)
    async with serving(script) as url:
        log = await tb.run_load(tb.HttpEndpoint(url), load, PROMPT, executor=executor, shards=2, start_within_s=1.5)
    executor.shutdown()
    assert log.counts == {"issued": 20, "succeeded": 10, "failed": 0, "unsent": 10}
    assert log.index.tolist() == list(range(0, 20, 2))
    assert script.received == 10
    kept, missing = log.workers
    assert (kept.lost, missing.lost_requests, missing.health) == (None, 10, None)
    (warning,) = (text for text in tb.warnings_of(tb.Metrics.of(log), log) if text.startswith("degraded"))
    assert "worker 2 of 2 is missing from the record with 10 requests" in warning
    assert re.search(why, missing.lost), missing.lost


async def test_a_worker_that_finds_no_way_back_says_so():
    """At once, with the address that it was told: no time-out has to pass."""

    class Astray(concurrent.futures.ThreadPoolExecutor):
        def submit(self, function, task):
            return super().submit(function, attrs.evolve(task, port=1))

    with (
        Astray(1) as executor,
        pytest.raises(tb.WorkerError, match=r"cannot reach the leading process at 127\.0\.0\.1:1: "),
    ):
        await tb.run_load(
            tb.HttpEndpoint("http://127.0.0.1:9"), tb.ClosedLoop(1, requests=1), PROMPT, executor=executor, shards=1
        )


async def test_a_worker_of_another_version_is_refused(monkeypatch):
    """What two versions mean by the same words may differ: the error names both."""
    monkeypatch.setattr("tgibench.sharding._worker.__version__", "0.0.9")
    with (
        threads(1) as executor,
        pytest.raises(tb.WorkerError, match=rf"tgibench 0\.0\.9, the leading process {tb.__version__}"),
    ):
        await tb.run_load(
            tb.HttpEndpoint("http://127.0.0.1:9"), tb.ClosedLoop(1, requests=1), PROMPT, executor=executor, shards=1
        )


async def test_a_part_is_never_run_twice():
    """An executor that starts a task again, as after a machine's loss, is refused the second time."""
    load, script, executor = tb.ConstantArrivals(100.0, requests=20), Script(), Faulty("twice")
    async with serving(script) as url:
        log = await tb.run_load(tb.HttpEndpoint(url), load, PROMPT, executor=executor, shards=2)
    executor.shutdown()
    assert script.received == 20
    assert log.counts["succeeded"] == 20
    outcomes = [executor.second.exception()]
    assert outcomes == [None] or "no part is run twice" in str(outcomes[0])


async def test_workers_that_cannot_reach_the_leading_process_are_one_clear_error():
    """None came in time: the error says how many must reach which address."""

    class Nowhere(concurrent.futures.Executor):
        def submit(self, function, task):
            return concurrent.futures.Future()

    with pytest.raises(tb.WorkerError, match=r"none of 3 workers started; the first: it did not report within 0\.2 s"):
        await tb.run_load(
            tb.HttpEndpoint("http://127.0.0.1:9"),
            tb.ClosedLoop(3, requests=3),
            PROMPT,
            executor=Nowhere(),
            shards=3,
            start_within_s=0.2,
        )
    assert len(asyncio.all_tasks()) == 1


async def test_a_sweep_whose_workers_do_not_come_keeps_what_it_has():
    """The cell is a failure that says why; the sweep returns."""
    async with serving(Script()) as url:
        study = await tb.sweep(
            [tb.Deployment("m", "here")],
            [tb.ClosedLoop(2, requests=4)],
            backend=tb.HttpBackend(url),
            prompts=PROMPT,
            executor=Faulty("all"),
            shards=2,
        )
    (failure,) = study.failures
    assert "none of 2 workers started; the first: the executor did not take it" in failure.message


async def test_an_endpoint_inside_this_process_is_refused():
    """Each worker would emulate a server of its own: the error says what to do instead."""
    endpoint = tb.Emulator().endpoint(tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge"))
    with threads(2) as executor, pytest.raises(tb.InvalidValueError, match="serve it over HTTP"):
        await tb.run_load(endpoint, tb.ClosedLoop(2, requests=4), PROMPT, executor=executor, shards=2)


async def test_a_load_that_cannot_be_split_so_often_is_refused():
    """Before any worker starts."""
    with threads(4) as executor, pytest.raises(tb.InvalidValueError, match="cannot be split into 4 parts"):
        await tb.run_load(
            tb.HttpEndpoint("http://127.0.0.1:9"), tb.ClosedLoop(2, requests=4), PROMPT, executor=executor, shards=4
        )


async def test_a_stranger_on_the_control_channel_is_turned_away():
    """Who does not know the run's token gets no part, whatever it says; the run does not notice."""
    answers = []

    class Prying(concurrent.futures.Executor):
        def __init__(self):
            self._threads = threads(2)

        def submit(self, function, task):
            self._threads.submit(asyncio.run, self._pry(task)).result()
            return self._threads.submit(function, task)

        async def _pry(self, task):
            for hello in (
                {"token": "guess", "shard": 0},
                {"shard": 0},
                ["no object"],
                {"token": task.token, "shard": 7},
            ):
                _, writer = await asyncio.open_connection(task.host, task.port)
                writer.write(json.dumps(hello).encode() + b"\n")
                writer.close()
                await writer.wait_closed()
                answers.append(hello)

        def shutdown(self, **options):
            self._threads.shutdown(**options)

    executor = Prying()
    async with serving(Script()) as url:
        log = await tb.run_load(tb.HttpEndpoint(url), tb.ClosedLoop(3, requests=9), PROMPT, executor=executor, shards=1)
    executor.shutdown()
    assert log.counts["succeeded"] == 9
    assert len(answers) == 4


async def test_a_key_is_resolved_in_the_worker(monkeypatch):
    """The server wants a key, whose variable alone is sent to the workers; a cell measured so names its workers."""
    monkeypatch.setenv("SERVER_KEY", "hunter2")
    deployment = tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge")
    options = ServerOptions(api_key="hunter2")
    async with emulator_server(deployment, step_times=FixedTimes(prefill=0.01, decode=0.01), options=options) as url:
        backend = tb.HttpBackend(url, api_key_env="SERVER_KEY")
        with processes(2) as executor:
            study = await tb.sweep(
                [deployment],
                [tb.ClosedLoop(2, requests=4)],
                backend=backend,
                prompts=PROMPT,
                executor=executor,
                shards=2,
            )
    (cell,) = study
    assert cell.metrics.counts == {"issued": 4, "succeeded": 4, "failed": 0, "unsent": 0}
    facts = cell.provenance.facts
    assert (facts["workers"], facts["workers_lost"]) == ("2", "0")
    assert float(facts["worker_clock_uncertainty_s"]) > 0
    assert "hunter2" not in repr(cell)


async def test_a_killed_process_leaves_the_rest():
    """A pool that loses one process ends all; the other part is measured to its end all the same, stage by stage, and nothing hangs."""
    load, killed = tb.Stages((tb.ClosedLoop(2, requests=40), tb.ClosedLoop(2, requests=10))), []
    script = Script()
    executor = processes(2)

    def kill(at):
        if at.finished >= 10 and not killed:
            killed.append(next(iter(executor._processes)))
            os.kill(killed[0], signal.SIGKILL)

    with executor:
        async with serving(script) as url:
            log = await tb.run_load(tb.HttpEndpoint(url), load, PROMPT, executor=executor, shards=2, on_progress=kill)
    (missing,) = (worker for worker in log.workers if worker.lost)
    (kept,) = (worker for worker in log.workers if not worker.lost)
    assert missing.place.endswith(f":{killed[0]}")
    assert "terminated abruptly" in missing.lost
    assert log.counts == {"issued": 50, "succeeded": 25, "failed": 0, "unsent": 25}
    assert np.count_nonzero(log.index >= 1_000_000_000) == 5  # of the second stage, which began without the lost worker
    assert kept.health.samples > 0
    assert script.received < 50
    assert multiprocessing.active_children() == []


async def test_losing_every_worker_is_an_error():
    """There is no record to return."""
    executor = processes(1)

    def kill(at):
        for process in list(executor._processes):
            os.kill(process, signal.SIGKILL)

    with executor:
        async with serving(Script()) as url:
            with pytest.raises(tb.WorkerError, match="all 1 workers were lost; the first: lost after"):
                await tb.run_load(
                    tb.HttpEndpoint(url),
                    tb.ClosedLoop(1, duration_s=30),
                    PROMPT,
                    executor=executor,
                    shards=1,
                    on_progress=kill,
                )
