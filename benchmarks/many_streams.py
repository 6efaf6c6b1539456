"""Very many streams held at once on one machine: do they all arrive, and what do they cost?

    python benchmarks/many_streams.py [--streams 10000] [--workers 2] [--seconds 60] [--tokens-per-s 2]

Every stream is one request to `token_server.c`, which sends each stream's tokens on a schedule of its own. The load is shared by worker
processes as `run_load(executor=…, shards=…)` shares it; with one worker there is no sharing. Prints errors, how long all streams were in
flight, memory (the most that each worker ever held), CPU, and how late the event loop and the gaps between tokens were. Exits with 1 when
a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import tgibench as tb

FIRST_MS = 500.0
SETTLED_AFTER_S = 15.0  # the connections are not opened at one instant


def most_memory_mb(process):
    """The most that a process ever held."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())[1]) / 1e3


def cpu_s(process):
    """The CPU time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def hold(url, options):
    """Hold all streams; the log, and the processes that held them with the CPU time that they used."""
    load = tb.ClosedLoop(options.streams, requests=options.streams)
    endpoint, prompts = tb.HttpEndpoint(url), tb.SyntheticPrompts(input_tokens=16)
    if options.workers == 1:
        log = asyncio.run(tb.run_load(endpoint, load, prompts))
        return log, [(most_memory_mb(os.getpid()), cpu_s(os.getpid()))]
    with ProcessPoolExecutor(options.workers) as executor:
        shared = tb.run_load(endpoint, load, prompts, executor=executor, shards=options.workers)
        log = asyncio.run(shared)
        return log, [(most_memory_mb(worker.pid), cpu_s(worker.pid)) for worker in multiprocessing.active_children()]


def report(options, log, processes):
    """What became of it; the number of requests that did not succeed."""
    failed = log.counts["failed"] + log.counts["unsent"]
    metrics, health = tb.Metrics.of(log), log.health
    tokens, span_s = int(log.chunk_tokens.sum()), float(log.ended_s.max())
    together_s = float(log.last_token_s.min() - log.first_token_s.max())
    print(f"{failed} errors {log.failures or ''}; all {options.streams} streams in flight for {together_s:.1f} s")
    print(f"most memory of each worker: {', '.join(f'{size:.0f}' for size, _ in processes)} MB; ", end="")
    print(f"together {sum(size for size, _ in processes):.0f} MB; this process {most_memory_mb(os.getpid()):.0f} MB")
    used_s = sum(seconds for _, seconds in processes)
    print(
        f"{used_s / span_s:.2f} cores, {used_s / tokens * 1e6:.0f} us a token, start-up included; {tokens / span_s:.0f} tokens/s"
    )
    print(f"event loop late by {health.loop_lag_p99_s * 1e3:.0f} ms (p99), {health.loop_lag_max_s * 1e3:.0f} ms (most)")
    print(
        f"gaps: p50 {metrics.icl_s.p50 * 1e3:.1f} ms, p99 {metrics.icl_s.p99 * 1e3:.1f} ms; stamps: {health.stamps.value}"
    )
    return failed


def main():
    """Build the server, hold the streams."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--tokens-per-s", type=float, default=2.0)
    options = parser.parse_args()
    processors = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    print(
        f"{platform.platform()}, {len(processors)} x {processors[0].partition(': ')[2]}, Python {platform.python_version()}"
    )
    print(f"{options.streams} streams of {options.tokens_per_s:g} tokens/s, {options.workers} workers")
    tokens = round((options.seconds + SETTLED_AFTER_S) * options.tokens_per_s)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(__file__).with_name("token_server.c")
        subprocess.run(["cc", "-O2", "-o", f"{folder}/token_server", source], check=True)
        command = [f"{folder}/token_server", str(tokens), str(FIRST_MS), str(1e3 / options.tokens_per_s), "0"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            log, processes = hold(f"http://127.0.0.1:{server.stdout.readline().strip()}", options)
            server.stdin.close()
            server.wait(10)
    return 1 if report(options, log, processes) else 0


if __name__ == "__main__":
    sys.exit(main())
