"""Very many streams held at once on one machine: do they all arrive, and what do they cost?

    python benchmarks/many_streams.py [--streams 10000] [--workers 2] [--seconds 60] [--tokens-per-s 2]

Every stream is one request to `token_server.c`, which sends each stream's tokens on a schedule of its own; all are in flight from the first
second to the last. Each worker is a process that holds its share. Prints errors, memory (the most that each worker ever held, summed), CPU,
and how late the event loop and the gaps between tokens were. Exits with 1 when a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tgibench as tb

FIRST_MS = 500.0
SETTLED_AFTER_S = 10.0  # the connections are not opened at one instant


async def hold(url, streams):
    """Hold so many streams in this process; what came of it."""
    cpu_s = time.process_time()
    log = await tb.run_load(
        tb.HttpEndpoint(url), tb.ClosedLoop(streams, requests=streams), tb.SyntheticPrompts(input_tokens=16)
    )
    run_cpu_s, cpu_s = time.process_time() - cpu_s, time.process_time()
    metrics = tb.Metrics.of(log)
    span_s = float(log.ended_s.max())
    return {
        "counts": log.counts,
        "failures": {kind.value: number for kind, number in log.failures.items()},
        "words": sorted(set(log.messages.values()))[:3],
        "stopped": log.stopped,
        "tokens": int(log.chunk_tokens.sum()),
        "most_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "cores": run_cpu_s / span_s,
        "us_per_token": run_cpu_s / max(1, int(log.chunk_tokens.sum())) * 1e6,
        "summary_cpu_s": time.process_time() - cpu_s,
        "span_s": span_s,
        "all_in_flight_s": float(log.last_token_s.min() - log.first_token_s.max()),
        "loop_lag_p99_ms": log.health.loop_lag_p99_s * 1e3,
        "loop_lag_max_ms": log.health.loop_lag_max_s * 1e3,
        "gap_p50_ms": metrics.icl_s.p50 * 1e3,
        "gap_p99_ms": metrics.icl_s.p99 * 1e3,
        "connect_p99_ms": metrics.connect_s.p99 * 1e3 if metrics.connect_s else None,
        "stamps": log.health.stamps.value,
    }


def compare(options, folder):
    """Run the workers beside each other against one server, and print what they tell."""
    tokens = round((options.seconds + SETTLED_AFTER_S) * options.tokens_per_s)
    gap_ms = 1e3 / options.tokens_per_s
    server = [f"{folder}/token_server", str(tokens), str(FIRST_MS), str(gap_ms), "0"]
    with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        shares = [
            options.streams // options.workers + (number < options.streams % options.workers)
            for number in range(options.workers)
        ]
        workers = [
            subprocess.Popen([sys.executable, __file__, "--child", url, str(share)], stdout=subprocess.PIPE, text=True)
            for share in shares
        ]
        printed = [worker.communicate(timeout=options.seconds + 180)[0] for worker in workers]
        process.stdin.close()
        process.wait(10)
    if any(worker.returncode for worker in workers):
        raise SystemExit("a worker gave up")
    return [json.loads(text) for text in printed]


def report(options, results):
    """A line for each worker, then all of them together."""
    print(f"{options.streams} streams of {options.tokens_per_s:g} tokens/s in {options.workers} processes")
    for result in results:
        print("  " + ", ".join(f"{name} {_short(value)}" for name, value in result.items()))
    failed = sum(result["counts"]["failed"] + result["counts"]["unsent"] for result in results)
    rate = sum(result["tokens"] / result["span_s"] for result in results)
    print(
        f"together: {failed} errors, {sum(result['most_memory_mb'] for result in results):.0f} MB, "
        f"{sum(result['cores'] for result in results):.2f} cores, {rate:.0f} tokens/s, "
        f"all in flight for {min(result['all_in_flight_s'] for result in results):.1f} s"
    )
    return failed


def _short(value):
    return f"{value:.1f}" if isinstance(value, float) else value


def main():
    """Build the server, run the workers."""
    if sys.argv[1:2] == ["--child"]:
        try:
            print(json.dumps(asyncio.run(hold(sys.argv[2], int(sys.argv[3])))))
        except tb.InvalidValueError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
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
    with tempfile.TemporaryDirectory() as folder:
        source = Path(__file__).with_name("token_server.c")
        subprocess.run(["cc", "-O2", "-o", f"{folder}/token_server", source], check=True)
        results = compare(options, folder)
    return 1 if report(options, results) else 0


if __name__ == "__main__":
    sys.exit(main())
