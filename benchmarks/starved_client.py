"""Whether a starved client is flagged and a healthy one is not: 20 short runs of each against a token server.

    python benchmarks/starved_client.py [--runs 20] [--users 16] [--seconds 1.5] [--open]

A starved client shares one CPU with a program that is always busy (both pinned to it); a healthy one has the machine as it is. Starved and
healthy runs alternate. What other programs take of the machine meanwhile is measured apart, from /proc/stat: a "healthy" run in which they
left less than a core free for client and server each was not healthy, is told and is run again. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import aiohttp

import tgibench as tb
from tgibench.backends.http import wait_until_ready
from tgibench.client_calibration import _token_server
from tgibench.client_calibration._observing import Schedule
from tgibench.client_limits import client_influence

ANSWERS = Schedule(first_s=0.05, gap_s=0.02, tokens=20)
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
MOST_REPEATS = 5


def busy_s():
    """CPU seconds that the whole machine has worked."""
    user, nice, system, _idle, _iowait, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(rest)) * TICK_S


def used_s(pid):
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


@contextmanager
def hog_beside():
    """A busy program on the one CPU that is left to this process."""
    everything = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everything)})
    try:
        with subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"]) as hog:  # it inherits the CPU
            time.sleep(0.1)
            try:
                yield [hog.pid]
            finally:
                hog.kill()
    finally:
        os.sched_setaffinity(0, everything)


async def one(endpoint, server_pid, load, *, starved):
    """One run: what the client did to it, its metrics, and what other programs took of the machine, in cores."""
    with hog_beside() if starved else nullcontext([]) as hogs:
        pids = [server_pid, os.getpid(), *hogs]
        began_s, busy, used = time.monotonic(), busy_s(), sum(map(used_s, pids))
        log = await tb.run_load(endpoint, load, ANSWERS)
        others = ((busy_s() - busy) - (sum(map(used_s, pids)) - used)) / (time.monotonic() - began_s)
    metrics = tb.Metrics.of(log)
    return client_influence(metrics, log), metrics, others


def described(influence, metrics, others):
    """A run in a line."""
    health = influence.health
    return (
        f"{'passed ' if influence.valid else 'FLAGGED':8} waited {health.waiting_ratio:4.0%} of wanted time, "
        f"{health.run_delay_share:5.1%} of the run; held up {health.held_up_share:4.0%}; CPU {health.cpu_share:4.0%}; "
        f"lag p50 {health.loop_lag_p50_s * 1e3:5.2f} p99 {health.loop_lag_p99_s * 1e3:5.1f} ms; "
        f"TTFT p50 {metrics.ttft_s.p50 * 1e3:5.1f} ms; others {others:4.2f} cores"
    )


async def runs(port, server_pid, load, arguments):
    """All runs, starved and healthy in turns; how many healthy ones were disturbed."""
    endpoint = tb.HttpEndpoint(f"http://127.0.0.1:{port}")
    await wait_until_ready(endpoint, timeout_s=10)
    await tb.run_load(endpoint, tb.ClosedLoop(2, requests=4), ANSWERS)
    seen, disturbed = {"starved": [], "healthy": [], "disturbed": []}, os.cpu_count() - 2 + arguments.disturbance
    while len(seen["healthy"]) < arguments.runs and len(seen["disturbed"]) < MOST_REPEATS * arguments.runs:
        for kind in ("starved", "healthy"):
            influence, metrics, others = await one(endpoint, server_pid, load, starved=kind == "starved")
            if kind == "healthy" and others > disturbed:
                kind = "disturbed"  # noqa: PLW2901
            if len(seen[kind]) < arguments.runs or kind == "disturbed":
                seen[kind].append(influence)
                print(f"{kind:10}{described(influence, metrics, others)}", flush=True)
    return seen


def main(arguments):
    """Both kinds of runs against one server; how many of each were flagged."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    if arguments.open:
        load = tb.PoissonArrivals(arguments.users * 2.0, duration_s=arguments.seconds)
    else:
        load = tb.ClosedLoop(arguments.users, duration_s=arguments.seconds)
    versions = f"Python {platform.python_version()}, aiohttp {aiohttp.__version__}"
    print(f"{platform.platform()}, {versions}, {os.cpu_count()} cores; {load.label}, {arguments.seconds:g} s")
    with subprocess.Popen([sys.executable, "-I", "-S", _token_server.__file__, str(port)]) as server:
        try:
            seen = asyncio.run(runs(port, server.pid, load, arguments))
        finally:
            server.kill()
    for kind, influences in seen.items():
        ratios = [influence.health.waiting_ratio for influence in influences] or [0.0]
        flagged = sum(not influence.valid for influence in influences)
        spread = f"waiting ratio {min(ratios):.2f} to {max(ratios):.2f}, median {statistics.median(ratios):.2f}"
        print(f"{kind}: {flagged} of {len(influences)} flagged; {spread if influences else 'none'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--open", action="store_true", help="an open loop of twice as many requests per second")
    parser.add_argument("--disturbance", type=float, default=0.3, help="cores that others may take of a run's two")
    main(parser.parse_args())
