"""What judging costs: a large study recommended and written, and a large run summarised.

    python benchmarks/report_cost.py study [--measurements 10000]
    python benchmarks/report_cost.py run [--requests 1000000] [--tokens 100]

Prints seconds of each step and the most memory the process ever held.
"""

from __future__ import annotations

import argparse
import platform
import resource
import time

import numpy as np

import tgibench as tb
from tgibench.client_health import ClientHealth

SECONDS = 3600.0


def run_of(requests, tokens, seed=0):
    """A log of streams of one token a chunk, one after the other over an hour."""
    generator = np.random.default_rng(seed)
    planned_s = np.sort(generator.uniform(0.0, SECONDS, requests))
    chunk_times_s = np.empty((requests, tokens))
    for block in range(0, requests, 10_000):  # so that making the log holds no more memory than summarising it
        rows = slice(block, min(block + 10_000, requests))
        gaps_s = generator.exponential(0.02, (rows.stop - rows.start, tokens))
        gaps_s[:, 0] += 0.1
        chunk_times_s[rows] = planned_s[rows, None] + np.cumsum(gaps_s, axis=1)
    largest_gap_s = np.array([np.diff(times).max() for times in chunk_times_s])
    absent, whole = np.full(requests, np.nan), np.full(requests, tokens)
    return tb.RequestLog(
        index=np.arange(requests),
        planned_s=planned_s,
        started_s=planned_s,
        sent_s=planned_s,
        ended_s=chunk_times_s[:, -1].copy(),
        connect_s=absent,
        open_loop=np.ones(requests, dtype=np.bool_),
        streamed=np.ones(requests, dtype=np.bool_),
        first_token_s=chunk_times_s[:, 0].copy(),
        last_token_s=chunk_times_s[:, -1].copy(),
        first_chunk_tokens=np.ones(requests, dtype=np.int64),
        largest_gap_s=largest_gap_s,
        output_tokens=whole,
        input_tokens=whole,
        tokens_from=np.zeros(requests, dtype=np.uint8),
        chunk_tokens_known=np.ones(requests, dtype=np.bool_),
        failure_code=np.zeros(requests, dtype=np.uint8),
        status=np.full(requests, -1, dtype=np.int16),
        validation_s=absent,
        queue_s=absent,
        inference_s=absent,
        server_total_s=absent,
        server_time_per_token_s=absent,
        chunk_offsets=np.arange(requests + 1, dtype=np.int64) * tokens,
        chunk_times_s=chunk_times_s.reshape(-1),
        chunk_tokens=np.ones(requests * tokens, dtype=np.uint32),
        messages={},
        finish_reasons={"length": requests},
        unsent=0,
        window=tb.Window(0.0, SECONDS),
        health=ClientHealth(stamps=tb.StampSource.VIRTUAL),
    )


def study_of(measurements):
    """A study of 100 deployments under as many loads as it takes, no two with the same figures."""
    logs = [run_of(400, 20, seed) for seed in range(50)]
    summaries = [tb.Metrics.of(log) for log in logs]
    loads = -(-measurements // 100)
    return tb.Study(
        tuple(
            tb.Measurement(
                deployment=tb.Deployment(f"model-{number % 100}", f"machine-{number % 100}"),
                load=tb.ClosedLoop(1 + number // 100 % loads, duration_s=SECONDS),
                prompts="made up",
                metrics=summaries[number * 7 % len(summaries)],
                source=tb.Source.EMULATED,
                provenance=tb.Provenance(backend="benchmark"),
                warnings=("a warning of some length, as most measurements have one",),
            )
            for number in range(measurements)
        )
    )


def timed(name, work, *arguments):
    """Do it and print how long it took."""
    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    done = work(*arguments)
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_began_s
    print(f"  {name:40} {took_s:7.2f} s, {cpu_s:.2f} s of CPU")
    return done, took_s


def judge_study(measurements):
    """Recommend, Markdown, CSV: their sum is what matters; the rest for comparison."""
    study = study_of(measurements)
    prices = tb.PriceTable(
        [
            tb.Price(instance_type=f"machine-{n}", usd_per_hour=1.0 + n, provider="p", region="r", source="s")
            for n in range(100)
        ]
    )
    costs = tb.RememberedCosts(tb.InstanceHours(prices))
    print(f"a study of {len(study)} measurements")
    choose = lambda: [find(study, costs) for find in (tb.cheapest, tb.fastest, tb.highest_throughput)]  # noqa: E731
    steps = (
        ("recommend: three winners", choose),
        ("Markdown", lambda: tb.markdown(study, costs)),
        ("CSV", lambda: tb.to_csv(study, costs)),
    )
    print(f"  {'in all':40} {sum(timed(name, work)[1] for name, work in steps):7.2f} s")
    page, _ = timed("the page", tb.html_page, study, costs)
    print(f"  the page has {len(page) / 1e6:.1f} MB")


def judge_run(requests, tokens):
    """Summarise one large log."""
    log = run_of(requests, tokens)
    print(f"a run of {requests} requests of {tokens} tokens")
    metrics, _ = timed("Metrics.of", tb.Metrics.of, log)
    print(f"  {metrics.output_throughput_tps.value:.0f} tokens/s")


def main():
    """One benchmark a process, so that the memory is its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("study", "run"))
    parser.add_argument("--measurements", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=100)
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}")
    if options.what == "study":
        judge_study(options.measurements)
    else:
        judge_run(options.requests, options.tokens)
    print(f"  most memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
