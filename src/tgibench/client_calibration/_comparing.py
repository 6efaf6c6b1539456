"""What a run recorded beside what the server knows: the client's errors, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import attrs
import numpy as np

from tgibench.errors import CalibrationError
from tgibench.stats import Estimate, t_quantile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from tgibench.client_calibration._observing import Observation

__all__ = ["Errors", "cpu_costs"]


@attrs.frozen(kw_only=True, eq=False)
class Errors:
    """By how much the client's figures differ from the server's own, in seconds: magnitudes, in the order of the requests."""

    ttft_s: NDArray[np.float64]
    icl_s: NDArray[np.float64]
    tpot_s: NDArray[np.float64]
    latency_s: NDArray[np.float64]

    @classmethod
    def of(cls, run: Observation) -> Self:
        """Compare each answer's two sides. Only durations are compared: no clock with another."""
        log, ttft_s, icl_s, tpot_s, latency_s = run.log, [], [], [], []
        if log.chunk_offsets is None or log.chunk_times_s is None or log.chunk_tokens is None:
            raise CalibrationError("a calibration needs the times of chunks, which this run did not keep")
        for row, number in enumerate(log.index):
            chunks = slice(log.chunk_offsets[row], log.chunk_offsets[row + 1])
            # tokens that came in one read share a time: an error of the gap between them
            arrived_s = np.repeat(log.chunk_times_s[chunks], log.chunk_tokens[chunks])
            answer = run.answers[int(number)]
            written_s, sent_s = answer.written_s, log.sent_s[row]
            if len(arrived_s) != len(written_s):
                raise CalibrationError(f"of {len(written_s)} tokens written {len(arrived_s)} arrived: run it again")
            arrived_gaps_s, written_gaps_s = np.diff(arrived_s), np.diff(written_s)
            ttft_s.append((arrived_s[0] - sent_s) - (written_s[0] - answer.read_s))
            latency_s.append((log.ended_s[row] - sent_s) - (written_s[-1] - answer.read_s))
            tpot_s.append(arrived_gaps_s.mean() - written_gaps_s.mean())
            icl_s.append(arrived_gaps_s - written_gaps_s)
        return cls(
            ttft_s=np.abs(ttft_s),
            icl_s=np.abs(np.concatenate(icl_s)),
            tpot_s=np.abs(tpot_s),
            latency_s=np.abs(latency_s),
        )


def cpu_costs(runs: Iterable[Observation]) -> tuple[Estimate, Estimate]:
    """CPU seconds of a token and of a request, with their 95 % intervals.

    Least squares over the stretches between samples: CPU used = tokens · cost of one + requests · cost of one. A request counts by
    halves, where it is sent and where its answer ends.
    """
    events, used_s = [], []
    for run in runs:
        tokens, ends, reads = (np.histogram(instants_s, bins=run.sampled_s)[0] for instants_s in run.events_s())
        events.append(np.column_stack((tokens, (ends + reads) / 2)))
        used_s.append(np.diff(run.cpu_s))
    design, cpu_s = np.concatenate(events).astype(np.float64), np.concatenate(used_s)
    costs_s, _, rank, _ = np.linalg.lstsq(design, cpu_s, rcond=None)
    freedom = len(cpu_s) - 2
    if rank < 2 or freedom < 1 or costs_s.min() <= 0:
        raise CalibrationError(
            "the CPU time of tokens and requests could not be told apart: run it again when nothing else runs"
        )
    variance = float(((cpu_s - design @ costs_s) ** 2).sum()) / freedom
    halves_s = t_quantile(freedom) * np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    per_token_s, per_request_s = (
        Estimate(float(cost_s), (max(0.0, float(cost_s - half_s)), float(cost_s + half_s)), len(cpu_s))
        for cost_s, half_s in zip(costs_s, halves_s, strict=True)
    )
    return per_token_s, per_request_s
