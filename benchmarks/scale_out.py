"""Several generators beside one: tokens/s at the same lag on one machine's cores, and a Dask cluster that loses a worker.

    python benchmarks/scale_out.py [--streams 128 256 512] [--workers 2] [--lag-ms 5] [--repeats 2] [--skip-dask]
    python benchmarks/scale_out.py --worker-share 0.4 --streams 128 192 256 320 384 448 512   each worker has 0.4 of a core at most

(a) One and then several worker processes hold streams of 50 tokens/s from a server in C, as many for each process as `--streams` says. A
step is held while, in its best repeat, the event loops' lag keeps to the limit (p99, the worst worker) and all tokens that are due arrive
(98 %). The ratio is that of the most tokens/s held. Everything shares this machine: where there are no more cores than workers the server
takes its share from them. So the CPU of both is printed, and the ratio that these cores allow at most: all cores over the CPU of a token
in worker and server, against one core over the CPU of a token in the worker. With `--worker-share` each worker is held to that part of a
core, so that server and workers fit on few cores: what is compared are then workers of part of a core, not whole ones. That
takes Linux's control groups (version 1, mounted at /sys/fs/cgroup/cpu), and so root.

(b) A scheduler and two workers of a Dask cluster, started by command: the same plan as one process counts the same requests and tokens;
then one worker is killed (kill -9) in the middle of a run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import multiprocessing
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import attrs

import tgibench as tb

GAP_MS = 20.0
TOKENS = 100
PROMPT = tb.FixedPrompt(prompt="Hello", max_new_tokens=TOKENS)
ANSWER_S = 0.1 + (TOKENS - 1) * GAP_MS / 1e3
HELD_SHARE = 0.98
CPU_GROUPS = Path("/sys/fs/cgroup/cpu")
PERIOD_US = 4_000  # a quota is 1,000 at least


@contextlib.contextmanager
def token_server(folder, tokens=TOKENS):
    """The server in C; its URL and process id."""
    command = [f"{folder}/token_server", str(tokens), "100", str(GAP_MS), "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}", process.pid
        process.stdin.close()
        process.wait(10)


def cpu_s(pid):
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def held_to(share):
    """Something to call in each worker, which holds it to a part of a core; nothing to call with None."""
    if share is None:
        yield None
        return
    if not CPU_GROUPS.is_dir():
        raise SystemExit(f"--worker-share needs control groups of version 1 at {CPU_GROUPS}, which are not there")
    folder = CPU_GROUPS / f"tgibench-{os.getpid()}"
    folder.mkdir()
    try:
        yield functools.partial(join, folder, share)
    finally:
        for own in (*filter(Path.is_dir, folder.iterdir()), folder):
            own.rmdir()


def join(folder, share):
    """Put this process in a control group of its own that has a part of a core."""
    own = folder / str(os.getpid())
    own.mkdir()
    (own / "cpu.cfs_period_us").write_text(str(PERIOD_US))
    (own / "cpu.cfs_quota_us").write_text(str(round(share * PERIOD_US)))
    (own / "cgroup.procs").write_text(str(os.getpid()))


@attrs.frozen
class Step:
    """What one number of streams came to; CPU in seconds a token."""

    tps: float
    due_share: float
    lag_ms: float
    worker_s: float
    server_s: float


def step(folder, executor, workers, streams, seconds):
    """One number of streams a worker: what was delivered, how late and at what cost."""
    # requests at even instants, so that as many streams are open all the time: users that begin together would stay in step
    load = tb.ConstantArrivals(workers * streams / ANSWER_S, duration_s=ANSWER_S + seconds, warm_up_s=ANSWER_S)
    with token_server(folder) as (url, pid):
        used_s = cpu_s(pid)
        log = asyncio.run(tb.run_load(tb.HttpEndpoint(url), load, PROMPT, executor=executor, shards=workers))
        used_s = cpu_s(pid) - used_s
    assert log.counts["failed"] == 0, log.failures
    assert not log.degraded, log.workers
    tokens, elapsed_s = log.output_tokens.sum(), log.ended_s.max()
    tps = tb.Metrics.of(log).output_throughput_tps.value
    shares = [worker.health.cpu_share for worker in log.workers]
    result = Step(
        tps=tps,
        due_share=tps / (load.rate_rps * TOKENS),
        lag_ms=log.health.loop_lag_p99_s * 1e3,
        worker_s=sum(shares) * elapsed_s / tokens,
        server_s=used_s / tokens,
    )
    print(
        f"{workers:8}{workers * streams:9}{tps:11.0f}{result.due_share:8.1%}{log.health.loop_lag_p50_s * 1e3:9.2f}"
        f"{result.lag_ms:9.2f}{result.worker_s * 1e6:11.1f}{result.server_s * 1e6:11.1f}",
        flush=True,
    )
    return result


def cores(folder, arguments):
    """Part (a)."""
    several = arguments.workers
    print(f"\nstreams of 50 tokens/s, {os.cpu_count()} cores for server, workers and the process that leads")
    print(" workers  streams   tokens/s  of due  lag p50   p99 ms  worker us  server us (CPU a token)")
    steps = {1: [], several: []}
    spawning = multiprocessing.get_context("spawn")
    with (
        held_to(arguments.worker_share) as limit,
        ProcessPoolExecutor(several, mp_context=spawning, initializer=limit) as executor,
    ):
        for streams in arguments.streams:
            for workers, results in steps.items():
                runs = [step(folder, executor, workers, streams, arguments.seconds) for _ in range(arguments.repeats)]
                results.append(min(runs, key=lambda run: run.lag_ms))
    held = {}
    for workers, results in steps.items():
        kept = [each.tps for each in results if each.lag_ms <= arguments.lag_ms and each.due_share >= HELD_SHARE]
        held[workers] = max(kept, default=0.0)
        best = f"{held[workers]:.0f} tokens/s" if kept else "none of these"
        most = max(each.tps for each in results)
        print(
            f"{workers} workers: at a lag p99 of {arguments.lag_ms:g} ms {best}; at most {most:.0f} tokens/s at any lag"
        )
    if all(held.values()):
        print(f"ratio at that lag: {held[several] / held[1]:.2f}")
    worker_s, server_s = (
        statistics.median(getattr(each, name) for each in steps[several]) for name in ("worker_s", "server_s")
    )
    alike = worker_s / statistics.median(each.worker_s for each in steps[1])
    if arguments.worker_share is None:
        allowed = min(several, os.cpu_count() * worker_s / (worker_s + server_s))
        print(f"these {os.cpu_count()} cores allow a ratio of {allowed:.2f} at most, the server's CPU taken off")
    else:
        print(f"each worker had {arguments.worker_share:g} of a core at most")
    print(f"a token costs a worker among {several} {alike:.2f} x the CPU that it costs one by itself")


@contextlib.contextmanager
def started(*command):
    """A program of Dask's in a session of its own."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "dask", *command, "--no-dashboard"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def cluster_run(folder, client):
    """Part (b)."""
    executor = client.get_executor(pure=False, retries=0)
    load = tb.PoissonArrivals(200.0, duration_s=5)
    with token_server(folder, tokens=20) as (url, _):
        endpoint = tb.HttpEndpoint(url)
        alone = asyncio.run(tb.run_load(endpoint, load, PROMPT))
        shared = asyncio.run(tb.run_load(endpoint, load, PROMPT, executor=executor, shards=2))
        same = alone.counts == shared.counts and (alone.index == shared.index).all()
        same = same and (alone.output_tokens == shared.output_tokens).all()
        print(f"one process {alone.counts}\ncluster     {shared.counts}; same requests and tokens: {bool(same)}")
        victim, killed = int(shared.workers[0].place.rpartition(":")[2]), []

        def kill(at):
            if at.elapsed_s > 2 and not killed:
                killed.append(victim)
                os.kill(victim, signal.SIGKILL)

        began_s = time.monotonic()
        log = asyncio.run(tb.run_load(endpoint, load, PROMPT, executor=executor, shards=2, on_progress=kill))
        print(
            f"kill -9 after 2 s: {log.counts} in {time.monotonic() - began_s:.1f} s (a whole run lasts 5 s and its answers)"
        )
    for text in tb.warnings_of(tb.Metrics.of(log), log):
        print(f"! {text}")


def dask(folder):
    """A cluster as a user would start it."""
    import distributed  # noqa: PLC0415 - only this part needs it

    print(f"\nDask {distributed.__version__}: scheduler and two workers of one thread, on loopback")
    file = Path(folder) / "scheduler.json"
    with (
        started("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)),
        started(
            "worker", "--scheduler-file", str(file), "--host", "127.0.0.1", "--nworkers", "2", "--nthreads", "1",
            "--local-directory", str(folder),
        ),
    ):  # fmt: skip
        while not file.exists():
            time.sleep(0.1)
        with distributed.Client(json.loads(file.read_text())["address"], set_as_default=False) as client:
            client.wait_for_workers(2, timeout=30)
            cluster_run(folder, client)


def main():
    """Build the server, run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--lag-ms", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--worker-share", type=float, default=None)
    parser.add_argument("--skip-dask", action="store_true")
    arguments = parser.parse_args()
    model = next(
        (line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?"
    )
    print(f"{model}, {platform.platform()}, Python {platform.python_version()}, tgibench {tb.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(__file__).with_name("token_server.c")
        subprocess.run(["cc", "-O2", "-o", f"{folder}/token_server", source], check=True)
        cores(folder, arguments)
        if not arguments.skip_dask:
            dask(folder)


if __name__ == "__main__":
    main()
