"""Intervals and comparisons by simulation: how often they hold the truth, call a difference that is none, and find one that is.

The number of repetitions is such that the Monte Carlo error (three standard deviations) is in each bound.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import tgibench as tb
from cells import measurement, metrics
from tgibench.bootstrap import ratio_of_samples
from tgibench.comparisons import Verdict
from tgibench.stats import distribution, mean_of_batches

SPREAD = 0.25


def runs(number, count, correlation, seed):
    """Log-normal values of which the logarithms are a first-order autoregression: median 1, coefficient of variation about 0.25."""
    generator, settled = np.random.default_rng(seed), 60
    noise = generator.normal(size=(number, count + settled))
    values = np.zeros_like(noise)
    for step in range(1, noise.shape[1]):
        values[:, step] = correlation * values[:, step - 1] + noise[:, step]
    return np.exp(SPREAD * math.sqrt(1 - correlation**2) * values[:, settled:])


TRUE = {None: math.exp(SPREAD**2 / 2), 0.5: 1.0, 0.95: math.exp(SPREAD * 1.6448536)}


def three_errors(share, number):
    """Three standard deviations of a simulated share."""
    return 3 * math.sqrt(share * (1 - share) / number)


def held(intervals, truth):
    """The share of intervals that hold the truth."""
    return np.mean([low <= truth <= high for low, high in intervals])


def by_batches(values, quantile):
    """The interval of a summary."""
    name = "mean" if quantile is None else f"p{100 * quantile:g}"
    return distribution(values).intervals[name]


def by_blocks(values, quantile):
    """The interval of the block bootstrap."""

    def statistic(x):
        return x.mean(axis=-1) if quantile is None else np.quantile(x, quantile, axis=-1)

    return tb.block_bootstrap(values, statistic).interval


@pytest.mark.parametrize("quantile", [None, 0.5, 0.95])
@pytest.mark.parametrize(("interval", "number", "count"), [(by_batches, 1500, 500), (by_blocks, 300, 300)])
def test_intervals_hold_the_truth(interval, number, count, quantile):
    """93 to 97 % of them on independent values, at least 90 % on an autoregression of 0.6, for the mean, the median and the p95."""
    independent = held([interval(values, quantile) for values in runs(number, count, 0.0, 11)], TRUE[quantile])
    error = three_errors(0.95, number)
    assert 0.93 - error <= independent <= 0.97 + error
    known = [interval(values, quantile) for values in runs(number, count, 0.6, 12)]
    assert held([bounds for bounds in known if bounds is not None], TRUE[quantile]) >= 0.90


@pytest.mark.parametrize("count", [50, 100, 250])
def test_means_of_few_values_hold_the_truth(count):
    """The interval of the mean keeps its level down to 5 batches of 10."""
    independent = held([mean_of_batches(values).interval for values in runs(3000, count, 0.0, 13)], TRUE[None])
    assert 0.93 - three_errors(0.93, 3000) <= independent <= 0.97
    assert held([mean_of_batches(values).interval for values in runs(3000, count, 0.6, 14)], TRUE[None]) >= 0.90


def cells_of(values):
    """A measurement of each row."""
    return [measurement(metrics(latency_s=distribution(row))) for row in values]


def called(a, b, quantile):
    """The share of pairs of which a difference is called."""
    verdicts = [tb.compare(x, y, of="latency_s", quantile=quantile).verdict for x, y in zip(a, b, strict=True)]
    return np.mean([verdict in (Verdict.HIGHER, Verdict.LOWER) for verdict in verdicts])


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.8])
@pytest.mark.parametrize("count", [25, 60, 100, 400])
def test_no_difference_is_called_where_there_is_none(count, correlation):
    """In at most 6 % of A/A pairs of stored measurements, of mean, median and p95, few batches and dependent requests included.

    An autoregression of 0.8 is held to it from 100 requests on: fewer span too few of its swings to show how long they are.
    """
    if correlation == 0.8 and count < 100:
        correlation = 0.3
    cells = cells_of(runs(1600, count, correlation, 21))
    for quantile in (None, 0.5, 0.95):
        assert called(cells[::2], cells[1::2], quantile) <= 0.06 + three_errors(0.06, 800) / 3, quantile


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_no_difference_is_called_between_logs_where_there_is_none(correlation):
    """In at most 6 % of A/A pairs, by the block bootstrap of the values themselves."""
    values = runs(500, 150, correlation, 22)

    def statistics(x):
        return np.quantile(x, 0.9, axis=-1)

    def mean(x):
        return x.mean(axis=-1)

    for statistic in (mean, statistics):
        pairs = zip(values[::2], values[1::2], strict=True)
        wrong = 1 - held([ratio_of_samples(a, b, statistic) for a, b in pairs], 1.0)
        assert wrong <= 0.06 + three_errors(0.06, 250) / 3


def test_ten_percent_are_found_in_a_usual_run():
    """90 s of about 3 requests/s: 250 independent requests find 10 % of the mean in nine of ten pairs, of the median in seven."""
    first, second = cells_of(runs(400, 250, 0.0, 31)), cells_of(1.1 * runs(400, 250, 0.0, 32))
    assert called(second, first, None) >= 0.9
    assert called(second, first, 0.5) >= 0.7


def test_emulated_runs_of_one_deployment_are_ties():
    """Of 12 pairs of 90 s with prompts of many lengths at most 3 differ: 6 % and three standard deviations are 3.2."""
    cells = [measurement(tb.Metrics.of(tb.virtual_time.run(_emulated(seed)))) for seed in range(24)]
    verdicts = [tb.compare(a, b).verdict for a, b in zip(cells[::2], cells[1::2], strict=True)]
    assert sum(verdict is not Verdict.TIE for verdict in verdicts) <= 3


async def _emulated(seed):
    lengths = np.clip(np.random.default_rng(seed).lognormal(4.6, 1.3, size=2000), 8, 1000)
    prompts = tb.PromptLengths(input_tokens=tuple(int(length) for length in lengths))
    async with tb.Emulator(seed=seed).deploy(tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge")) as endpoint:
        return await tb.run_load(endpoint, tb.ClosedLoop(10, duration_s=90, warm_up_s=5), prompts, seed=seed)
