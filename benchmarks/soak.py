"""Long runs at a steady load: does this process's memory stay as it was after the first minute?

    python benchmarks/soak.py virtual [--minutes 60] [--users 64]      the emulator in this process, in virtual time
    python benchmarks/soak.py real [--minutes 10] [--users 8]          an emulated server in a process of its own, over HTTP

Prints the memory of this process every minute (without the pages of files, which the system takes back when it wants them), its slope
after the first minute, what the log would have taken in memory, and the most memory that summing it up took.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attrs
import numpy as np

import tgibench as tb

DEPLOYMENT = tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.12xlarge", tensor_parallel=4)


def memory_mb():
    """What is this process's own."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) / 1e3


@attrs.define
class Series:
    """The memory every minute of a run, from the first minute on."""

    minutes: list = attrs.field(factory=list)
    sizes_mb: list = attrs.field(factory=list)

    def look(self, progress):
        """Note it if a minute has gone."""
        minute = progress.elapsed_s / 60
        if minute >= (int(self.minutes[-1]) if self.minutes else 0) + 1:
            self.minutes.append(minute)
            self.sizes_mb.append(memory_mb())
            print(
                f"  minute {minute:5.1f}: {self.sizes_mb[-1]:7.1f} MB, {progress.finished} requests, "
                f"{progress.output_tokens} tokens",
                flush=True,
            )


async def run(endpoint, options, series):
    """Put a steady load on it."""
    return await tb.run_load(
        endpoint,
        tb.ClosedLoop(options.users, duration_s=60 * options.minutes + 1),
        tb.SyntheticPrompts(input_tokens=64, max_new_tokens=options.tokens),
        on_progress=series.look,
    )


def virtual(options, series):
    """The emulator in this process."""
    return tb.virtual_time.run(run(tb.Emulator().endpoint(DEPLOYMENT), options, series))


def real(options, series):
    """The emulator's server, and this process as its client."""
    emulate = [sys.executable, "-m", "tgibench", "emulate", "--port", "0", "--instance-type", DEPLOYMENT.instance_type]
    with tempfile.TemporaryFile("w+") as told, subprocess.Popen(emulate, stdout=told, text=True) as server:
        try:
            while not (url := re.search(r"http://\S+", os.pread(told.fileno(), 1000, 0).decode())):
                time.sleep(0.1)
            return asyncio.run(run(tb.HttpEndpoint(url[0]), options, series))
        finally:
            server.terminate()


def main():
    """One run a process, so that the memory is its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("time", choices=("virtual", "real"))
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--users", type=int)
    parser.add_argument("--tokens", type=int, default=100)
    options = parser.parse_args()
    in_virtual_time = options.time == "virtual"
    options.minutes = options.minutes or (60 if in_virtual_time else 10)
    options.users = options.users or (64 if in_virtual_time else 8)
    print(f"{platform.platform()}, Python {platform.python_version()}, numpy {np.__version__}")
    print(f"{options.users} users for {options.minutes:g} minutes of {options.time} time")
    series = Series()
    log = (virtual if in_virtual_time else real)(options, series)
    before_mb = memory_mb()
    metrics = tb.Metrics.of(log)
    columns = [column for column in attrs.asdict(log, recurse=False).values() if isinstance(column, np.ndarray)]
    print(
        f"{log.counts['succeeded']} requests, {metrics.output_tokens.mean * len(log):.0f} tokens, {log.counts['failed']} failed; "
        f"the log's columns: {sum(column.nbytes for column in columns) / 1e6:.1f} MB"
    )
    print(
        f"memory before and after summing up: {before_mb:.1f} and {memory_mb():.1f} MB; "
        f"the most ever held, pages of files included: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.1f} MB"
    )
    for after in (1, 10):
        late = np.array(series.minutes) >= after
        if np.count_nonzero(late) > 2:
            slope = np.polyfit(np.array(series.minutes)[late], np.array(series.sizes_mb)[late], 1)[0]
            print(f"slope from minute {after} on: {slope * 60:+.1f} MB an hour")


if __name__ == "__main__":
    main()
