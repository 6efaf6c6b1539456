"""How far predictions lie from the 2023 study's published cells, held out in the ways that a user would meet; beside plain baselines.

Deterministic; needs the extra `twin`. Prints the tables of docs/accuracy.md. `closed-form` (seconds), `simulation`, `both` (some five
minutes each) and `baselines` print one section each: `python benchmarks/accuracy.py closed-form baselines`.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict

import attrs
import numpy as np

import tgibench as tb
from tgibench.twin.fitting import robust_deviation

PROMPTS = tb.study_prompts()
METHODS = ("closed-form", "simulation", "both")
# Simulations of one load differ by some 3 %: what is compared is the mean of five. Fits, which see many cells, simulate each once.
RUNS = 5
BAD_HOST = ("meta-llama/Llama-2-7b-hf", "ml.p4d.24xlarge")
# Machines whose link and host figures are round ones, not those that were fitted to the rows that are held out here.
NEUTRAL = tb.PerformanceModel().with_instance(
    *(
        attrs.evolve(
            machine,
            host_factor=1.0,
            gptq_host_ratio=1.0,
            link=machine.link
            if machine.link.known
            else attrs.evolve(machine.link, start_up_s=30e-6, bandwidth_gb_per_s=5.0),
        )
        for machine in tb.PerformanceModel().instances.values()
    )
)


def is_bad(row):
    return (row.deployment.model_id, row.deployment.instance_type) == BAD_HOST


def figures(row):
    return np.array([row.metrics.server_time_per_token_s.p50, row.metrics.littles_law_throughput_tps])


def errors(predicted, rows):
    return np.array([np.abs(p / figures(row) - 1) for p, row in zip(predicted, rows, strict=True)])


def line(name, found):
    median, high, most = (100 * np.quantile(found, q, axis=0) for q in (0.5, 0.9, 1.0))
    cells = " | ".join(f"{median[k]:.1f} / {high[k]:.1f} / {most[k]:.0f}" for k in (0, 1))
    print(f"| {name} | {len(found)} | {cells} |", flush=True)


def coverage(name, predicted, rows, deviations):
    """The share of cells within the intervals that hold 90 and 95 % of normal errors of these standard deviations (two for each cell)."""
    off = np.abs([np.log(p / figures(row)) for p, row in zip(predicted, rows, strict=True)]) / np.array(deviations)
    cells = " | ".join(f"{np.mean(off[:, k] <= 1.645):.0%} / {np.mean(off[:, k] <= 1.96):.0%}" for k in (0, 1))
    INTERVALS.append(f"| {name} | {len(rows)} | {cells} |")


INTERVALS = []


def both(spread):
    return [spread.time_per_token, spread.throughput]


def of_others(predicted, rows):
    """For each row the deviations of the other deployments' errors: an interval that its own rows have no part in."""
    errors = [np.log(p / figures(row)) for p, row in zip(predicted, rows, strict=True)]
    return [
        [
            robust_deviation(
                np.array([e[k] for e, o in zip(errors, rows, strict=True) if o.deployment != row.deployment])
            )
            for k in (0, 1)
        ]
        for row in rows
    ]


def predictions(rows, model, method):
    if not rows:
        return []
    if method != "closed-form":
        found = [tb.predict(row.deployment, row.load, PROMPTS, model=model, method=method, runs=RUNS) for row in rows]
    else:
        study = tb.predict_study(
            list(dict.fromkeys(row.deployment for row in rows)),
            list(dict.fromkeys(row.load for row in rows)),
            PROMPTS,
            model=model,
        )
        by_cell = {(cell.deployment, cell.load): cell for cell in study}
        found = [by_cell[row.deployment, row.load] for row in rows]
    return [figures(row) for row in found]


def held_out(rows, healthy, group, method, test=None):
    """Predict each group's rows from a fit to the healthy rows of the others (`test` chooses the rows of a group that count)."""
    found = {}
    for name in dict.fromkeys(group(row) for row in rows):
        model = tb.fit([row for row in healthy if group(row) != name], PROMPTS, model=NEUTRAL, method=method)
        left = [row for row in rows if group(row) == name and (test is None or test(row))]
        found |= {id(row): (value, model) for row, value in zip(left, predictions(left, model, method), strict=True)}
    return found


def main():
    rows = list(tb.llama2_sagemaker_2023())
    healthy = [row for row in rows if not is_bad(row)]
    sections = sys.argv[1:] or [*METHODS, "baselines"]
    if unknown := set(sections) - {*METHODS, "baselines"}:
        sys.exit(f"sections are {', '.join(METHODS)} and baselines, got {', '.join(sorted(unknown))}")
    print("| test | n | ms/token: median / p90 / max, % | tokens/s: median / p90 / max, % |")
    print("| --- | ---: | ---: | ---: |")
    for method in METHODS:
        if method in sections:
            report(rows, healthy, method)
    if "baselines" in sections:
        baselines(rows, healthy)
    print("\n| intervals: share of held-out cells within 90 % / 95 % | n | ms/token | tokens/s |")
    print("| --- | ---: | ---: | ---: |")
    print("\n".join(INTERVALS))


def report(rows, healthy, method):
    began = time.process_time()
    model = tb.fit(healthy, PROMPTS, model=NEUTRAL, method=method)
    line(f"in sample, {method}", errors(predictions(healthy, model, method), healthy))
    left_out = held_out(rows, healthy, lambda row: row.deployment, method)
    unseen = [left_out[id(row)][0] for row in healthy]
    line(f"leave one deployment out, {method}", errors(unseen, healthy))
    coverage(f"leave one deployment out, {method}", unseen, healthy, of_others(unseen, healthy))
    bad = [row for row in rows if is_bad(row)]
    line(f"… 7B on ml.p4d, as if healthy, {method}", errors([left_out[id(row)][0] for row in bad], bad))
    by_size = held_out(healthy, healthy, size_of, method)
    line(f"leave one model size out, {method}", errors([by_size[id(row)][0] for row in healthy], healthy))
    twenty = [row for row in healthy if row.load.concurrency == 20]
    low = tb.fit([row for row in healthy if row.load.concurrency in {1, 5}], PROMPTS, model=NEUTRAL, method=method)
    beyond = predictions(twenty, low, method)
    line(f"20 users from 1 and 5, {method}", errors(beyond, twenty))
    wide = [both(low.spread_of(row.deployment, extrapolated=True)) for row in twenty]
    coverage(f"20 users from 1 and 5, {method}", beyond, twenty, wide)
    calibrated(rows, left_out, method)
    print(f"<!-- {method}: {time.process_time() - began:.0f} s of CPU -->")
    print("<!--", {name: float(f"{value:.2g}") for name, value in model.uncertainty.items()}, model.spread, "-->")
    print("<!--", attrs.asdict(model.engines["eager"]), "-->")
    for name in ("ml.g5.12xlarge", "ml.g5.48xlarge", "ml.p4d.24xlarge"):
        machine = model.instances[name]
        print("<!--", name, machine.link, machine.host_factor, machine.gptq_host_ratio, "-->")


def size_of(row):
    return next(size for size in ("7b", "13b", "70b") if size in row.deployment.model_id.lower())


def calibrated(rows, left_out, method):
    """The middle loads of each deployment from its rows at 1 and 20 users, with shared parameters that never saw it."""
    predicted, middle, spreads = [], [], []
    by_deployment = defaultdict(list)
    for row in rows:
        by_deployment[row.deployment].append(row)
    for cells in by_deployment.values():
        model = left_out[id(cells[0])][1]
        ends = [row for row in cells if row.load.concurrency in {1, 20}]
        between = [row for row in cells if row.load.concurrency in {5, 10}]
        found = tb.calibrate(model, ends, PROMPTS, method=method, runs=RUNS)
        middle += between
        predicted += predictions(between, found.model, method)
        spreads += [both(found.calibration.spread)] * len(between)
    line(f"5 and 10 users, calibrated with 1 and 20 (all 15 deployments), {method}", errors(predicted, middle))
    coverage(f"5 and 10 users, calibrated with 1 and 20, {method}", predicted, middle, spreads)


def baselines(rows, healthy):
    """Straight lines in ms/token and in mean latency (users / tokens per second), which are far straighter than tokens per second."""
    by_cell = {(row.deployment, row.load.concurrency): times(row) for row in rows}
    middle = [row for row in rows if row.load.concurrency in {5, 10}]
    between = [straight(by_cell, row, 1, 20) for row in middle]
    line("baseline: 5 and 10 users, straight line between 1 and 20 (all 15 deployments)", errors(between, middle))
    twenty = [row for row in healthy if row.load.concurrency == 20]
    line(
        "baseline: 20 users, straight line through 1 and 5",
        errors([straight(by_cell, row, 1, 5) for row in twenty], twenty),
    )
    published = {(row.deployment, row.load.concurrency): figures(row) for row in rows}
    copied = [published[nearest(row, healthy, COPIED_BY), row.load.concurrency] for row in healthy]
    line("baseline: nearest other deployment, copied", errors(copied, healthy))
    near = [nearest(row, healthy, SCALED_BY) for row in healthy]
    scaled = [
        published[other, row.load.concurrency] * scale(other, row.deployment)
        for other, row in zip(near, healthy, strict=True)
    ]
    line("baseline: nearest other deployment, scaled by weights per bandwidth", errors(scaled, healthy))


def times(row):
    time_per_token_s, throughput_tps = figures(row)
    return np.array([time_per_token_s, row.load.concurrency / throughput_tps])


def straight(by_cell, row, low, high):
    below, above, users = by_cell[row.deployment, low], by_cell[row.deployment, high], row.load.concurrency
    time_per_token_s, mean_s = below + (above - below) * (users - low) / (high - low)
    return np.array([time_per_token_s, users / mean_s])


# Of some ten ways to measure how near two deployments are, the ones with which each baseline does best.
COPIED_BY = ("parameters", "bandwidth", "compute", "shards")
SCALED_BY = ("parameters", "bandwidth", "shards", "precision")


def features(deployment, names):
    modelled = NEUTRAL.times(deployment)
    gpu, shards = modelled.instance.gpu, modelled.tensor_parallel
    values = {
        "parameters": modelled.model.parameters,
        "weights": modelled.weight_bytes,
        "bandwidth": shards * gpu.bandwidth_gb_per_s,
        "compute": shards * gpu.fp16_tflops,
        "shards": shards,
        "precision": np.e ** (3 * modelled.gptq),
    }
    return np.log([values[name] for name in names])


def nearest(row, healthy, names):
    others = list(dict.fromkeys(other.deployment for other in healthy if other.deployment != row.deployment))
    own = features(row.deployment, names)
    return min(others, key=lambda other: float(np.abs(features(other, names) - own).sum()))


def scale(of, to):
    """What reading the weights takes longer, and its inverse."""
    weights, bandwidth = features(to, ("weights", "bandwidth")) - features(of, ("weights", "bandwidth"))
    return np.array([np.exp(weights - bandwidth), np.exp(bandwidth - weights)])


if __name__ == "__main__":
    main()
