"""A closed loop's steady state without simulating it: a fixed point over the batch that runs, for many cells at once.

In one cycle each of N users waits, is prefilled and decoded. The engine works all the time, so a cycle is its decodes and its prefills
one after the other: R = D · t_decode(B) + G · t_prefill(N/G prompts), of which each user runs D_own = tokens - 1 decodes, so
B = N · D_own / D. Newcomers join in G groups, no sooner after the last than TGI's router lets them. The waits (in decodes) are those of
the emulated router under loads of 2 to 20 users.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import attrs
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tgibench.twin.step_time import StepCosts

    Numbers = NDArray[np.float64]

__all__ = ["NODES", "Cells", "Forecast", "forecast"]

NODES = 24
"""Quantiles by which the spread of prompt lengths is carried along."""

_ROUNDS = 25
_WAIT_DECODES = 4.4
_WAIT_DECODES_CHUNKED = 0.5
_DECODES_BETWEEN_GROUPS = 19.0
_SHORTEST_GROUP_PROMPT = 30.0
_SPECIALISATIONS = 2.7
_CLASSES_ALONE, _CLASSES = 9.0, 11.0
_LONGEST_TUNING = 0.7
_Z_STEPS = 200


@attrs.frozen(kw_only=True)
class Cells:
    """What is asked of the closed form: each an array over cells, but for the prompts.

    Args:
        users: Requests in flight on each replica.
        duration_s: Length of the run; NaN where `requests` limits it.
        requests: Requests of each replica; NaN where the duration limits them.
        round_trip_s: Network time of a request.
        output_tokens: Mean length of the answers.
        longest_output: Length of an answer that runs to its limit.
        served_ratio: The router's `waiting_served_ratio`.
        chunked: Whether prompts are prefilled beside running sequences.
        prefill_tokens: Most prompt tokens of one prefill.
        most_running: Sequences for which the cache has room.
        table: Which of the tables of prompts.
        prompt_means: Mean prompt length of the first 1, 2, … requests: (tables, requests).
        prompt_nodes: Quantiles of the first 1, 2, … prompt lengths: (tables, requests, `NODES`).
        tuned: 1 where kernels are tuned on line and the server is fresh, else 0.
        tuning_s: The stall of one size class.
        compile_s: The stall of one specialisation.
    """

    users: Numbers
    duration_s: Numbers
    requests: Numbers
    round_trip_s: Numbers
    output_tokens: Numbers
    longest_output: Numbers
    served_ratio: Numbers
    chunked: Numbers
    prefill_tokens: Numbers
    most_running: Numbers
    table: NDArray[np.int64]
    prompt_means: Numbers
    prompt_nodes: Numbers
    tuned: Numbers
    tuning_s: Numbers
    compile_s: Numbers


@attrs.frozen(kw_only=True)
class Forecast:
    """What the closed form gives: each an array like the costs'.

    Args:
        time_per_token_s: The server's median time per token, prefill and stalls included.
        tpot_s: Median time per token after the first.
        ttft_s: Median time to the first token as a client sees it.
        queue_s: Mean wait before prefill.
        latency_s: Mean time on the server, wait and stalls included.
        long_latency_s: Its 90th percentile; rough.
        requests: Number of requests of a replica.
        running: Mean number of sequences in a decode.
    """

    time_per_token_s: Numbers
    tpot_s: Numbers
    ttft_s: Numbers
    queue_s: Numbers
    latency_s: Numbers
    long_latency_s: Numbers
    requests: Numbers
    running: Numbers


def forecast(costs: StepCosts, cells: Cells, decode_factor: Numbers, prefill_factor: Numbers) -> Forecast:
    """The steady state of each cell.

    Args:
        costs: Of each cell; a leading axis for sets of parameters is carried along.
        cells: What is asked.
        decode_factor: Multiplies each decode's time.
        prefill_factor: Multiplies each prefill's.
    """
    alone = cells.users < 1.5
    running = np.minimum(cells.users, cells.most_running)
    wait = np.where(alone, 0.0, np.where(cells.chunked > 0, _WAIT_DECODES_CHUNKED, _WAIT_DECODES))
    own = cells.output_tokens - 1
    shape = np.broadcast_shapes(np.shape(costs.launch_s), np.shape(cells.users))
    cycle_s, decode_s = np.full(shape, 5.0), np.full(shape, 0.03)
    for _ in range(_ROUNDS):
        count = _requests(cells, cycle_s)
        prompt, nodes = _prompts(cells, count)
        decodes = own + wait + cells.round_trip_s / decode_s
        batch = np.where(alone, 1.0, np.maximum(running * own / decodes, 1.0))
        groups = _groups(cells, running, decodes, batch, prompt)
        size = running / groups
        context = batch * (prompt + cells.output_tokens / 2)
        decode_s = costs.decode_s(batch, context) * decode_factor
        prefill_s = _mean_prefill_s(costs, prompt, nodes, size) * prefill_factor
        served_s = (own + wait) * decode_s + groups * prefill_s
        latency_s = np.where(running < cells.users, served_s * cells.users / running - cells.round_trip_s, served_s)
        tuning_s = cells.tuned * (
            cells.tuning_s * np.where(alone, _CLASSES_ALONE, _CLASSES) + cells.compile_s * _SPECIALISATIONS
        )
        cycle_s = (cycle_s + latency_s + cells.round_trip_s) / 2
    span_s = np.where(np.isnan(cells.duration_s), count / cells.users * cycle_s + tuning_s, cells.duration_s)
    slowed = 1 / np.maximum(1 - tuning_s / span_s, 1 - _LONGEST_TUNING)
    cycles = span_s / (cycle_s * slowed)
    own_prefill_s, spread_s = _prefill_at(costs, nodes, _quantile(cells, alone, cycles, 0.5), alone, running)
    long_prefill_s, long_spread_s = _prefill_at(costs, nodes, _quantile(cells, alone, cycles, 0.9), alone, running)
    longer_s = np.where(alone, long_prefill_s - own_prefill_s, long_spread_s - spread_s) * prefill_factor
    stalled_s = np.where(alone, own_prefill_s, groups * prefill_s / prefill_factor + spread_s) * prefill_factor
    full = cells.longest_output
    own_first_s = np.where(alone, own_prefill_s * prefill_factor, prefill_s)
    inference_s = (full - 1) * decode_s + stalled_s
    queue_s = np.maximum(latency_s - own * decode_s - groups * prefill_s, 0.0)
    return Forecast(
        time_per_token_s=inference_s / full,
        tpot_s=(inference_s - own_first_s) / np.maximum(full - 1, 1),
        ttft_s=queue_s + own_first_s + cells.round_trip_s,
        queue_s=queue_s,
        latency_s=latency_s * slowed,
        long_latency_s=queue_s + inference_s + longer_s,
        requests=count / slowed,
        running=batch,
    )


def _requests(cells: Cells, cycle_s: Numbers) -> Numbers:
    """How many requests a replica gets."""
    by_time = cells.users * cells.duration_s / cycle_s
    return np.asarray(np.maximum(np.where(np.isnan(cells.duration_s), cells.requests, by_time), 1.0))


def _prompts(cells: Cells, count: Numbers) -> tuple[Numbers, Numbers]:
    """Mean and quantiles of the first prompts' lengths."""
    last = cells.prompt_means.shape[-1]
    exact = np.clip(count, 1, last) - 1
    low = np.minimum(exact.astype(np.int64), max(last - 2, 0))
    high, share = np.minimum(low + 1, last - 1), exact - low
    means, nodes = cells.prompt_means, cells.prompt_nodes
    mean = means[cells.table, low] * (1 - share) + means[cells.table, high] * share
    shares = share[..., None]
    return mean, nodes[cells.table, low] * (1 - shares) + nodes[cells.table, high] * shares


def _groups(cells: Cells, running: Numbers, decodes: Numbers, batch: Numbers, prompt: Numbers) -> Numbers:
    """Prefills of one cycle: as many as the router starts, no more than users, and no larger than a prefill may be."""
    gathered = np.maximum(cells.served_ratio * batch, 1.0) * decodes / running
    started = decodes / np.minimum(_DECODES_BETWEEN_GROUPS, gathered)
    groups = np.where(cells.chunked > 0, running, np.minimum(running, started))
    return np.maximum(groups, np.minimum(running, running * prompt / cells.prefill_tokens))


def _mean_prefill_s(costs: StepCosts, prompt: Numbers, nodes: Numbers, size: Numbers) -> Numbers:
    """The mean duration of a prefill of `size` prompts, over the spread of their lengths."""
    mean = size * prompt
    tokens = mean[..., None] + np.sqrt(size)[..., None] * (nodes - prompt[..., None])
    tokens = np.maximum(tokens, np.minimum(size * _SHORTEST_GROUP_PROMPT, mean)[..., None])
    tokens *= (mean / tokens.mean(axis=-1))[..., None]
    return np.asarray(_with_nodes(costs).prefill_s(tokens, size[..., None]).mean(axis=-1))


def _with_nodes(costs: StepCosts) -> StepCosts:
    fields = attrs.fields(type(costs))
    return type(costs)(**{field.name: np.asarray(getattr(costs, field.name))[..., None] for field in fields})


def _quantile(cells: Cells, alone: NDArray[np.bool_], cycles: Numbers, share: float) -> Numbers:
    """Where a quantile over all requests lies among those that met no stall."""
    stalled = np.where(alone, 7.0 / (cycles + 6.0), 12.0 / np.sqrt(np.maximum(cells.users, 1.0)) / (cycles + 10.0))
    return np.minimum(share / (1 - np.minimum(cells.tuned * stalled, 0.45)), 0.97)


def _prefill_at(
    costs: StepCosts, nodes: Numbers, quantile: Numbers, alone: NDArray[np.bool_], running: Numbers
) -> tuple[Numbers, Numbers]:
    """A single prompt's prefill at a quantile of the lengths; and, of many users', how far that quantile is from the mean."""
    place = np.clip(quantile * NODES - 0.5, 0, NODES - 1.001)
    low = place.astype(np.int64)[..., None]
    below, above = np.take_along_axis(nodes, low, -1)[..., 0], np.take_along_axis(nodes, low + 1, -1)[..., 0]
    length = below + (above - below) * (place - low[..., 0])
    each_s = costs.prompt_token_s + costs.exchanged_token_s
    spread_s = np.where(alone, 0.0, np.sqrt(running) * nodes.std(axis=-1) * each_s * _normal_quantile(quantile))
    return costs.prefill_s(length, np.ones_like(length)), spread_s


_GRID = np.linspace(0.5, 0.975, _Z_STEPS)
_NORMAL = np.array([NormalDist().inv_cdf(probability) for probability in _GRID])


def _normal_quantile(probability: Numbers) -> Numbers:
    return np.asarray(np.interp(probability, _GRID, _NORMAL))
