"""How long choosing takes: three choices and a Pareto front of a study of many measurements, all of them under requirements.

    python benchmarks/recommend_speed.py [--measurements 10000]

Prints seconds of each and of all.
"""

from __future__ import annotations

import argparse
import time

import attrs
import numpy as np

import tgibench as tb
from tgibench.stats import distribution

MACHINES = ("ml.g5.2xlarge", "ml.g5.12xlarge", "ml.g5.48xlarge", "ml.p4d.24xlarge")


def study(number):
    """One emulated cell whose figures are varied at random: every fourth is another load of the same deployment."""
    deployment = tb.Deployment("meta-llama/Llama-2-7b-hf", MACHINES[0])
    load = tb.ClosedLoop(5, duration_s=90)
    (cell,) = tb.virtual_time.run(
        tb.sweep([deployment], [load], backend=tb.Emulator(), prompts=tb.study_prompts())
    ).measurements
    generator = np.random.default_rng(0)
    factors = generator.lognormal(0, 0.5, size=number)
    latencies = [distribution(0.03 * generator.lognormal(0, 0.3, size=200)) for _ in range(50)]
    rate = cell.metrics.output_throughput_tps
    for place, factor in enumerate(factors):
        estimate = tb.Estimate(
            rate.value * factor,
            tuple(bound * factor for bound in rate.interval),
            rate.count,
            tuple(mean * factor for mean in rate.batch_means),
        )
        metrics = attrs.evolve(
            cell.metrics, output_throughput_tps=estimate, normalized_latency_s=latencies[place % len(latencies)]
        )
        yield attrs.evolve(
            cell,
            deployment=attrs.evolve(deployment, instance_type=MACHINES[place % 4], revision=str(place // 16)),
            load=tb.ClosedLoop(1 + place // 4 % 4, duration_s=90),
            metrics=metrics,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measurements", type=int, default=10_000)
    cells = tuple(study(parser.parse_args().measurements))
    costs = tb.InstanceHours(tb.PriceTable.builtin())
    requirements = (tb.failures_at_most(0.5), tb.latency_at_most(60.0), tb.cost_at_most(1000.0))
    total = 0.0
    for verb in (tb.cheapest, tb.fastest, tb.highest_throughput, tb.pareto_front):
        began = time.perf_counter()
        verb(cells, costs, *requirements)
        took = time.perf_counter() - began
        total += took
        print(f"{verb.__name__:20} {took:6.3f} s")
    print(f"{'all':20} {total:6.3f} s for {len(cells)} measurements")


if __name__ == "__main__":
    main()
