"""How a run went over time: a `Timeline` of equal stretches from its first request to its last answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import attrs
import numpy as np

from tgibench.spills import row_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tgibench.records import RequestLog

__all__ = ["Timeline"]

_STRETCHES = 60


@attrs.frozen(kw_only=True)
class Timeline:
    """A run in equal stretches, warm-up and drain included; stretch i begins `step_s` · i seconds after the run's start.

    Args:
        step_s: The length of a stretch.
        in_flight: Requests in flight, on average over each stretch.
        output_tps: Output tokens of successes that arrived in each stretch, a second; None without chunk times.
        succeeded: Requests that succeeded in each stretch.
        failed: Requests that failed in each stretch.
    """

    step_s: float
    in_flight: tuple[float, ...]
    output_tps: tuple[float, ...] | None
    succeeded: tuple[int, ...]
    failed: tuple[int, ...]

    @classmethod
    def of(cls, log: RequestLog) -> Self | None:
        """The timeline of a log, for a plot: rates to 4 digits, requests in flight to 3 decimals; None where nothing was sent."""
        length_s = float(max(log.ended_s.max(), log.window.stop_s)) if len(log) else 0.0
        if length_s <= 0:
            return None
        step_s = length_s / _STRETCHES
        sent_s = np.where(np.isnan(log.sent_s), log.started_s, log.sent_s)
        inside = _seconds_since(sent_s, step_s) - _seconds_since(log.ended_s, step_s)
        return cls(
            step_s=step_s,
            in_flight=tuple(round(float(share), 3) for share in np.diff(inside) / step_s),
            output_tps=_token_rates(log, step_s),
            succeeded=_numbers(log.ended_s[log.succeeded], step_s),
            failed=_numbers(log.ended_s[~log.succeeded], step_s),
        )


def _stretch(instants_s: NDArray[np.float64], step_s: float) -> NDArray[np.intp]:
    """In which stretch each instant lies; the last one holds its end."""
    return np.clip(instants_s / step_s, 0, _STRETCHES - 1).astype(np.intp)


def _numbers(instants_s: NDArray[np.float64], step_s: float) -> tuple[int, ...]:
    return tuple(int(number) for number in np.bincount(_stretch(instants_s, step_s), minlength=_STRETCHES))


def _seconds_since(instants_s: NDArray[np.float64], step_s: float) -> NDArray[np.float64]:
    """At each stretch's beginning, and the last one's end: the seconds gone since the instants that have passed, summed."""
    stretch = _stretch(instants_s, step_s)
    passed = np.concatenate(([0], np.cumsum(np.bincount(stretch, minlength=_STRETCHES))))
    summed_s = np.concatenate(([0], np.cumsum(np.bincount(stretch, weights=instants_s, minlength=_STRETCHES))))
    seconds: NDArray[np.float64] = passed * step_s * np.arange(_STRETCHES + 1) - summed_s
    return seconds


def _token_rates(log: RequestLog, step_s: float) -> tuple[float, ...] | None:
    if log.chunk_times_s is None or log.chunk_offsets is None or log.chunk_tokens is None:
        return None
    tokens = np.zeros(_STRETCHES)
    succeeded = log.succeeded
    for block in row_blocks(log.chunk_offsets):
        offsets = log.chunk_offsets[block.start : block.stop + 1]
        chunks = slice(offsets[0], offsets[-1])
        counted = log.chunk_tokens[chunks] * np.repeat(succeeded[block], np.diff(offsets))
        tokens += np.bincount(_stretch(log.chunk_times_s[chunks], step_s), weights=counted, minlength=_STRETCHES)
    return tuple(float(f"{rate:.4g}") for rate in tokens / step_s)
