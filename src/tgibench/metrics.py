"""Every metric's definition: what a `RequestLog` comes to. The words are defined in docs/terms.md.

All fields are in seconds, tokens per second (`_tps`) or requests per second (`_rps`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tgibench.records import FailureKind, RequestLog, Window
    from tgibench.stats import Distribution, Estimate

__all__ = ["SLO", "Metrics"]


@attrs.frozen(kw_only=True)
class SLO:
    """Limits that each single request must keep to count towards goodput; None sets no limit."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    largest_gap_s: float | None = None
    latency_s: float | None = None


@attrs.frozen(kw_only=True)
class Metrics:
    """What a run comes to. None stands for what could not be had from it."""

    counts: Mapping[str, int]
    failures: Mapping[FailureKind, int]
    window: Window | None
    latency_s: Distribution | None
    ttft_s: Distribution | None
    tpot_s: Distribution | None
    icl_s: Distribution | None
    normalized_latency_s: Distribution | None
    server_time_per_token_s: Distribution | None
    queue_s: Distribution | None
    schedule_delay_s: Distribution | None
    connect_s: Distribution | None
    largest_gap_s: Distribution | None
    input_tokens: Distribution | None
    output_tokens: Distribution | None
    stall_ratio: Estimate | None
    output_throughput_tps: Estimate | None
    request_throughput_rps: Estimate | None
    goodput_rps: Estimate | None
    littles_law_throughput_tps: float | None
    extra: Mapping[str, Distribution]

    @classmethod
    def of(
        cls,
        log: RequestLog,
        *,
        window_s: tuple[float, float] | None = None,
        slo: SLO | None = None,
        extra: Mapping[str, Callable[[RequestLog], object]] | None = None,
    ) -> Self:
        """The metrics of a log."""
        raise NotImplementedError
