"""The answer that a report begins with: which deployment wins at what, and how sure that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tgibench.comparisons import Verdict
from tgibench.costs import Cost
from tgibench.formatting import MISSING, dollars, dollars_an_hour, estimate, quantile_ms, scaled
from tgibench.pareto import pareto_front
from tgibench.recommend import cheapest, fastest, highest_throughput
from tgibench.requirements import cell_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tgibench.choices import Choice
    from tgibench.comparisons import Comparison
    from tgibench.costs import CostModel
    from tgibench.measurements import Measurement
    from tgibench.requirements import Requirement
    from tgibench.stats import Distribution

__all__ = ["Answer", "answer", "choices", "front", "latency_field"]

_LIKE = {
    "usd_per_million_output_tokens": ("USD for 1M output tokens", dollars),
    "normalized_latency_s": ("ms per output token", lambda figure: estimate(scaled(figure, 1e3))),
    "server_time_per_token_s": ("ms of the server's time per token", lambda figure: estimate(scaled(figure, 1e3))),
    "throughput_tps": ("output tokens/s", estimate),
}
"""By the figure that was looked at: its unit, and how it is written."""


@attrs.frozen(kw_only=True)
class Answer:
    """A choice as a reader sees it.

    Args:
        choice: What was chosen.
        headline: The winner's figure by which it won; None where nothing won.
        unit: Of the headline, and which of a distribution's figures it is.
        figures: The winner's other figures, by name.
        mark: A sign for the verdict, so that it is not told by colour alone.
        verdict: Whether the data can tell it from the next best, in a few words.
        clear: Whether they can.
        sentence: The same in a sentence.
    """

    choice: Choice
    headline: str | None = None
    unit: str = ""
    figures: tuple[tuple[str, str], ...] = ()
    mark: str
    verdict: str
    clear: bool = False
    sentence: str


@attrs.frozen
class _Unpriced:
    """The cost model of a report without prices: no figure is known."""

    def cost(self, measurement: Measurement) -> Cost:
        del measurement
        return Cost(basis="no prices were given")


def choices(
    cells: Sequence[Measurement], costs: CostModel | None, requirements: Sequence[Requirement] = ()
) -> list[Choice]:
    """The cheapest (with costs), the fastest and the highest in throughput; none of nothing.

    Raises:
        UnknownPrice: The cost model knows no price of one of the measurements.
    """
    if not cells:
        return []
    known = _Unpriced() if costs is None else costs
    found = [] if costs is None else [cheapest(cells, costs, *requirements)]
    return [*found, fastest(cells, known, *requirements), highest_throughput(cells, known, *requirements)]


def front(
    cells: Sequence[Measurement], costs: CostModel | None, requirements: Sequence[Requirement] = ()
) -> tuple[Measurement, ...]:
    """The measurements that no other beats in both throughput and the median of `latency_field`."""
    known = _Unpriced() if costs is None else costs
    return pareto_front(cells, known, *requirements, over=(latency_field(cells), "throughput_tps"))


def latency_field(cells: Iterable[Measurement]) -> str:
    """The latency that throughput is shown against: where nobody waited outside the server, the server's own per token."""
    return "latency_s" if any(cell.metrics.latency_s is not None for cell in cells) else "server_time_per_token_s"


def answer(choice: Choice) -> Answer:
    """A choice as a reader sees it."""
    mark, verdict, sentence = _verdict(choice)
    if choice.winner is None or choice.value is None:
        return Answer(choice=choice, mark=mark, verdict=verdict, sentence=sentence)
    of, _, which = choice.of.partition(" ")
    unit, written = _LIKE[of]
    return Answer(
        choice=choice,
        headline=written(choice.value),
        unit=f"{unit}, {which}" if which else unit,
        figures=_figures(choice.winner, choice.cost),
        mark=mark,
        verdict=verdict,
        clear=mark == "\N{CHECK MARK}",
        sentence=sentence,
    )


def _figures(winner: Measurement, cost: Cost | None) -> tuple[tuple[str, str], ...]:
    """The winner's cost, throughput and latencies."""
    metrics = winner.metrics
    figures = {
        "USD/1M output tokens": dollars(cost.usd_per_million_output_tokens) if cost else MISSING,
        "USD/hour": dollars_an_hour(cost.usd_per_hour) if cost else MISSING,
        "output tokens/s": estimate(winner.throughput_tps),
        "latency p50, p95 (ms)": _median_and_tail(metrics.latency_s),
        "TTFT p50, p95 (ms)": _median_and_tail(metrics.ttft_s),
    }
    return tuple((name, figure) for name, figure in figures.items() if figure != MISSING)


def _median_and_tail(figure: Distribution | None) -> str:
    return MISSING if figure is None else f"{quantile_ms(figure, 'p50')}, {quantile_ms(figure, 'p95')}"


def _verdict(choice: Choice) -> tuple[str, str, str]:
    """A sign, a few words and a sentence: how sure the choice is."""
    if choice.winner is None:
        return "\N{BALLOT X}", "Nothing will do.", choice.sentence
    if choice.runner_up is None or choice.comparison is None:
        return "\N{EN DASH}", "Nothing to compare.", "No other deployment was measured that would do."
    margin = MISSING if choice.margin_ratio is None else f"{100 * choice.margin_ratio:.3g} %"
    next_best = f"The best other deployment, {cell_name(choice.runner_up)}, is {margin} worse"
    match choice.comparison.verdict:
        case Verdict.TIE:
            names = ", ".join(measurement.deployment.label for measurement in choice.tied)
            return "\N{ALMOST EQUAL TO}", "A tie.", f"{next_best}; the data cannot tell the winner from {names}."
        case Verdict.CANNOT_TELL:
            return "?", "Not certain.", f"{next_best}; whether that is more than chance cannot be told."
        case _:
            return "\N{CHECK MARK}", "More than chance.", f"{next_best}{_interval_of(choice.comparison)}."


def _interval_of(comparison: Comparison) -> str:
    if comparison.interval is None:
        return ""
    low, high = comparison.interval
    return f" (ratio {comparison.ratio:.3g}, 95 % interval {low:.3g} to {high:.3g})"
