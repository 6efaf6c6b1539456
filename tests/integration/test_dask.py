"""Loads shared by the workers of a Dask cluster that was started as a user would: real processes, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import distributed
import pytest

import tgibench as tb
from scripted_server import END, HEAD, chunk, serving, tgi_event

DASK = [sys.executable, "-W", "ignore", "-m", "dask"]
EVENTS = [chunk(tgi_event(number, 2)) for number in (1, 2)]
PROMPT = tb.FixedPrompt(prompt="Hello", max_new_tokens=2)


@contextlib.contextmanager
def running(command, log):
    """A program in a session of its own, ended with all it started."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def eventually(look, *, within_s=30):
    """What `look` returns once it is true."""
    until = time.monotonic() + within_s  # noqa: TID251 - a limit, not a measurement
    while not (found := look()):
        assert time.monotonic() < until, "it did not come about"  # noqa: TID251
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A scheduler and two workers of one thread each, as commands; the scheduler's address."""
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"
    scheduler = [
        *DASK,
        "scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        str(file),
    ]
    workers = [
        *DASK, "worker", "--scheduler-file", str(file), "--host", "127.0.0.1", "--nworkers", "2", "--nthreads", "1",
        "--no-dashboard", "--local-directory", str(folder),
    ]  # fmt: skip
    with running(scheduler, folder / "scheduler"):
        address = eventually(lambda: file.exists() and file.read_text() and json.loads(file.read_text())["address"])
        with running(workers, folder / "workers"):
            log = folder / "workers"
            eventually(lambda: len(re.findall(r"Starting established connection|Registered to", log.read_text())) >= 2)
            yield address


class Script:
    """A server's: counts what came, and answers in 50 ms."""

    def __init__(self):
        self.received = 0

    def __call__(self, number):
        self.received += 1
        return [HEAD, EVENTS[0], 0.05, EVENTS[1], END]


async def test_a_cluster_counts_what_one_process_counts_and_a_killed_worker_leaves_the_rest(cluster):
    """The same rows, numbers and tokens; after kill -9 the other part is kept, degraded, and no part is run a second time."""
    load, script = tb.PoissonArrivals(60.0, requests=60), Script()
    client = await asyncio.to_thread(distributed.Client, cluster, set_as_default=False)
    try:
        await asyncio.to_thread(client.wait_for_workers, 2, timeout=30)
        executor = client.get_executor(pure=False, retries=0)
        async with serving(script) as url:
            endpoint = tb.HttpEndpoint(url)
            alone = await tb.run_load(endpoint, load, PROMPT)
            shared = await tb.run_load(endpoint, load, PROMPT, executor=executor, shards=2)
            assert shared.counts == alone.counts == {"issued": 60, "succeeded": 60, "failed": 0, "unsent": 0}
            assert shared.index.tolist() == alone.index.tolist()
            assert shared.planned_s == pytest.approx(alone.planned_s, abs=1e-9)
            assert shared.output_tokens.tolist() == alone.output_tokens.tolist()
            assert len({worker.place for worker in shared.workers}) == 2

            places, script.received = [], 0
            victim = int(shared.workers[0].place.rpartition(":")[2])

            def kill(at):
                if at.finished >= 10 and not places:
                    places.append(victim)
                    os.kill(victim, signal.SIGKILL)

            longer = tb.ConstantArrivals(60.0, duration_s=2.0)
            log = await tb.run_load(endpoint, longer, PROMPT, executor=executor, shards=2, on_progress=kill)
        (missing,) = (worker for worker in log.workers if worker.lost)
        assert missing.place.endswith(f":{victim}")
        assert log.counts == {"issued": 120, "succeeded": 60, "failed": 0, "unsent": 60}
        assert log.planned_s.max() > 1.9
        assert script.received < 120  # what the lost part had not sent was sent by nobody
        assert any(text.startswith("degraded") for text in tb.warnings_of(tb.Metrics.of(log), log))
    finally:
        await asyncio.to_thread(client.close)


async def test_the_command_shares_loads_among_a_clusters_workers(cluster):
    """`--dask` takes all workers the cluster has; the cell says how many there were."""
    async with serving(Script()) as url:
        command = [
            sys.executable, "-m", "tgibench", "run", "--url", url, "--rate", "50", "--requests", "20", "--json", "--dask", cluster
        ]  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    (cell,) = json.loads(output)
    assert cell["counts"] == {"issued": 20, "succeeded": 20, "failed": 0, "unsent": 0}
