"""What an adaptive sweep saves and risks on the 2023 study's 60 published cells; prints the tables of docs/accuracy.md.

The replay: models fitted to the other sizes' cells guide the sweep of each size. The risk: 400 draws of a model whose errors are
independent for each deployment and goal, larger or smaller than real ones, which hang together. Seeded; needs the extra `twin`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import tgibench as tb
from tgibench.twin.racing import Race

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import llama2_adaptive as replay

DRAWS = 400
NOISE = 0.02
BELIEVED = 0.13
COSTS = tb.InstanceHours(tb.PriceTable.builtin(as_of="2023-09"))
DEPLOY_S, LOAD_S = 600, 120
FIGURES = (
    (5, lambda cell: np.log(COSTS.cost(cell).usd_per_million_output_tokens.value)),
    (20, lambda cell: -np.log(cell.throughput_tps.value)),
    (1, lambda cell: np.log(cell.metrics.server_time_per_token_s.p50)),
)


def truth(size):
    """Scores (goal, deployment), and dollars an hour."""
    deployments = [d for d in dict.fromkeys(d for d, _ in replay.CELLS) if replay.size_of(d) == size]
    scores = [
        [score(replay.CELLS[d, tb.ClosedLoop(users, duration_s=90)]) for d in deployments] for users, score in FIGURES
    ]
    prices = [COSTS.prices.price(d.instance_type).usd_per_hour for d in deployments]
    return np.array(scores), np.array(prices)


def race(scores, prices, predicted, deviation, k):
    """Run one sweep; dollars, and the place of each goal's winner."""
    run, dollars = Race(predicted, np.full(predicted.shape, deviation), prices, k), 0.0
    while (step := run.next()) is not None:
        place, goals = step
        for goal in goals:
            run.record(goal, place, scores[goal, place])
        run.leave(place)
        dollars += prices[place] * (DEPLOY_S + LOAD_S * len(goals)) / 3600
    return dollars, [run.winner(goal) for goal in range(len(scores))]


def risk(sizes, sigma, k, believed):
    """Share of the grid's dollars, chance that any of the nine is missed, chances of a regret above 5 and 20 %."""
    rng = np.random.default_rng([23, round(1000 * sigma), round(100 * k if k is not None else 999)])
    grid = sum(float(prices.sum()) for _, prices in sizes) * (DEPLOY_S + 4 * LOAD_S) / 3600
    spent, missed, regrets = [], [], []
    for _ in range(DRAWS):
        dollars, worst = 0.0, 0.0
        for scores, prices in sizes:
            predicted = scores + sigma * rng.standard_normal(scores.shape)
            if k is None:
                winners = predicted.argmin(axis=1)
            else:
                paid, winners = race(scores, prices, predicted, believed, k)
                dollars += paid
            lost = scores[np.arange(len(scores)), winners] - scores.min(axis=1)
            worst = max(worst, float(np.expm1(lost.max())))
        spent.append(dollars / grid)
        missed.append(worst > 0)
        regrets.append(worst)
    found = np.array(regrets)
    return np.mean(spent), np.mean(missed), np.mean(found > 0.05), np.mean(found > 0.2)


def repeated(sizes):
    """The chance that measurement noise alone shows another winner than the published one somewhere in the nine."""
    rng = np.random.default_rng(23)
    missed = 0
    for _ in range(DRAWS):
        wrong = [
            bool(np.any((scores + NOISE * rng.standard_normal(scores.shape)).argmin(axis=1) != scores.argmin(axis=1)))
            for scores, _ in sizes
        ]
        missed += any(wrong)
    return missed / DRAWS


def main():
    sizes = [truth(size) for size in replay.SIZES]
    grid = sum(float(prices.sum()) for _, prices in sizes) * (DEPLOY_S + 4 * LOAD_S) / 3600
    print("| sweep | dollars | of the grid | deployments / cells | winners of 9 |")
    print("| --- | ---: | ---: | ---: | ---: |")
    print(f"| full grid, each deployment once | {grid:.2f} | 100 % | 15 / 60 | 9 |")
    for k in (2.0, 1.64, 1.0, 0.0):
        found = [replay.sweep_of(size, k=k) for size in replay.SIZES]
        right = sum(
            outcome.value is not None
            and abs(np.log(outcome.value) - (1 if outcome.goal.lower else -1) * scores.min(axis=1)[place]) < 1e-9
            for each, (scores, _) in zip(found, sizes, strict=True)
            for place, outcome in enumerate(each.outcomes)
        )
        spent = sum(each.spent_usd for each in found)
        counts = f"{sum(each.deployed for each in found)} / {sum(len(each.study) for each in found)}"
        print(f"| adaptive, k = {k:g} | {spent:.2f} | {spent / grid:.0%} | {counts} | {right} |", flush=True)
    print(
        f"\nNoise of {NOISE:.0%} alone shows another winner somewhere in {repeated(sizes):.0%} of {DRAWS} full grids.\n"
    )
    print("| model's error | believed | k | of the grid | any of 9 missed | regret > 5 % | regret > 20 % |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for sigma in (0.10, 0.15, 0.25):
        for believed in (BELIEVED, sigma):
            for k in (0.0, 1.0, 1.64, 2.0):
                row(sizes, sigma, k, believed)
        row(sizes, sigma, None, sigma)


def row(sizes, sigma, k, believed):
    share, missed, five, twenty = risk(sizes, sigma, k, believed)
    name = "model only" if k is None else f"{k:g}"
    print(
        f"| {sigma:.2f} | {believed:.2f} | {name} | {share:.0%} | {missed:.2f} | {five:.2f} | {twenty:.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
