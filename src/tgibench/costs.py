"""What a measurement's tokens cost. A `CostModel` is anything that turns a `Measurement` into a `Cost`; `tgibench.cost_models` has some.

A cost is reckoned from a stored measurement and today's prices, or any other: nothing is run again. Intervals come from the
throughput's and the token counts': a figure is taken at the ends of their intervals, so the fewest tokens per second make the
highest cost per token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

from tgibench.estimates import derived, exact, mean_of

if TYPE_CHECKING:
    from tgibench.measurements import Measurement
    from tgibench.prices import Price
    from tgibench.stats import Estimate

__all__ = ["HOUR_S", "MILLION", "Cost", "CostModel", "billed_usd", "hourly_cost", "minutes_to_million", "tokens_told"]

MILLION = 1e6
HOUR_S = 3600.0


@attrs.frozen(kw_only=True)
class Cost:
    """What a deployment costs under a load. None stands for what cannot be known from the measurement.

    A figure that does not depend on what was measured, such as a machine's price, has an interval of no width.

    Args:
        usd_per_hour: US dollars for an hour of the whole deployment.
        usd_per_million_output_tokens: For a million output tokens, what their prompts cost included.
        usd_per_million_total_tokens: For a million tokens, prompts and answers counted alike.
        usd_per_thousand_requests: For a thousand requests that succeed.
        minutes_to_million_output_tokens: Minutes of work for a million output tokens, idle hours left out.
        run_usd: What the measured run itself cost, between these two: from its first request until its load was let go; with all of
            the start-up, counted in full for each load of a deployment, and the last answers. The tear-down is in neither.
        prices: The prices that were used.
        basis: In one sentence: which price of which day, and how many tokens per second.
    """

    usd_per_hour: Estimate | None = None
    usd_per_million_output_tokens: Estimate | None = None
    usd_per_million_total_tokens: Estimate | None = None
    usd_per_thousand_requests: Estimate | None = None
    minutes_to_million_output_tokens: Estimate | None = None
    run_usd: tuple[float, float] | None = None
    prices: tuple[Price, ...] = ()
    basis: str


class CostModel(Protocol):
    """A way of reckoning costs. Anything with this member is one."""

    def cost(self, measurement: Measurement) -> Cost:
        """What the measured deployment costs under its load.

        Raises:
            UnknownPrice: A price that it needs is not known.
        """


def hourly_cost(
    measurement: Measurement,
    usd_per_hour: float,
    *,
    working: float | None,
    prices: tuple[Price, ...] = (),
    basis: str,
) -> Cost:
    """The cost of what is paid by the hour and makes tokens in a share of it; of an unknown share, nothing per token."""
    metrics, output = measurement.metrics, measurement.throughput_tps
    asked, requests = mean_of(metrics.input_tokens), metrics.request_throughput_rps
    per_second = None if working is None else exact(usd_per_hour / HOUR_S / working)
    paid_s = _paid_s(measurement)
    return Cost(
        usd_per_hour=exact(usd_per_hour),
        usd_per_million_output_tokens=derived(lambda usd, tps: MILLION * usd / tps, per_second, output),
        usd_per_million_total_tokens=derived(
            lambda usd, tps, i, rps: MILLION * usd / (tps + i * rps), per_second, output, asked, requests
        ),
        usd_per_thousand_requests=derived(lambda usd, rps: 1000 * usd / rps, per_second, requests),
        minutes_to_million_output_tokens=minutes_to_million(output),
        run_usd=None if paid_s is None else (usd_per_hour / HOUR_S * paid_s[0], usd_per_hour / HOUR_S * paid_s[1]),
        prices=prices,
        basis=basis + tokens_told(measurement),
    )


def _paid_s(measurement: Measurement) -> tuple[float, float] | None:
    """Least and most seconds for which the run's machines may be billed; None where nothing is known of its length.

    The provider does not say whether the meter starts with the order or when the server is ready. A clock that jumps (virtual time)
    shows in wall time as next to nothing: there the window tells.
    """
    metrics, provenance = measurement.metrics, measurement.provenance
    lengths_s = []
    if metrics.window is not None:
        drain_s = metrics.latency_s.max if metrics.latency_s is not None and metrics.latency_s.max else 0.0
        lengths_s += [metrics.window.stop_s, metrics.window.stop_s + drain_s]
    if provenance.began_at is not None and provenance.ended_at is not None:
        lengths_s.append((provenance.ended_at - provenance.began_at).total_seconds())
    if not lengths_s:
        return None
    return lengths_s[0], max(lengths_s) + (provenance.ready_after_s or 0.0)


def billed_usd(measurement: Measurement, usd_per_request: float) -> tuple[float, float]:
    """What a run's requests cost if failed ones are not billed, and if they are billed in full."""
    counts = measurement.metrics.counts
    return usd_per_request * counts["succeeded"], usd_per_request * (counts["succeeded"] + counts["failed"])


def minutes_to_million(throughput: Estimate | None) -> Estimate | None:
    """Minutes of work for a million output tokens."""
    return derived(lambda tps: MILLION / tps / 60, throughput)


def tokens_told(measurement: Measurement) -> str:
    """The end of a basis: how many tokens per second, and how that is known."""
    throughput = measurement.throughput_tps
    if throughput is None:
        return "; tokens per second not known"
    by_law = throughput is not measurement.metrics.output_throughput_tps
    how = f"{measurement.source.value}, derived by Little's law" if by_law else measurement.source.value
    return f"; {throughput.value:.4g} output tokens per second ({how})"
