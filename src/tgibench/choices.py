"""A `Choice`: what was chosen, what came next, and how sure that is."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import attrs

from tgibench.comparisons import Verdict
from tgibench.requirements import cell_name, in_percent, with_unit

if TYPE_CHECKING:
    from tgibench.comparisons import Comparison
    from tgibench.costs import Cost
    from tgibench.measurements import Measurement
    from tgibench.requirements import Shortfall
    from tgibench.stats import Estimate

__all__ = ["Choice"]


@attrs.frozen(kw_only=True)
class Choice:
    """What was chosen, what came next, and how sure that is.

    Args:
        goal: ``"cheapest"``, ``"fastest"`` or ``"highest throughput"``.
        of: The figure by which it was chosen, such as ``"normalized_latency_s p50"``.
        considered: Number of measurements looked at.
        winner: The best measurement that meets the requirements; None where none does.
        cost: The winner's cost.
        value: The winner's figure.
        runner_up: The best measurement of *another deployment*: a further load of the winner's own is no alternative to it. None where
            there is no other.
        runner_up_cost: The runner-up's cost.
        margin_ratio: By how much the runner-up is worse, as a share of the winner's figure: 0.1 for a tenth.
        comparison: The winner's figure against the runner-up's. Its verdict says whether the data can tell them apart.
        tied: The best measurement of each other deployment that the data cannot tell from the winner.
        shortfalls: Where nothing was chosen: for each requirement the nearest miss, the requirement that most cells miss first.
        warnings: What a reader must be warned of, in plain sentences.
    """

    goal: str
    of: str
    considered: int
    winner: Measurement | None = None
    cost: Cost | None = None
    value: Estimate | None = None
    runner_up: Measurement | None = None
    runner_up_cost: Cost | None = None
    margin_ratio: float | None = None
    comparison: Comparison | None = None
    tied: tuple[Measurement, ...] = ()
    shortfalls: tuple[Shortfall, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The choice in one sentence, warnings aside."""
        if self.winner is None or self.value is None:
            return f"{self.goal.capitalize()}: none of {self.considered} measurements will do; {self._why_none()}."
        bounds = "" if self.value.interval is None else " ({:.4g} to {:.4g})".format(*self.value.interval)
        figure = f"{with_unit(self.value.value, self._unit_of)}{bounds}, {self.of}, {self.winner.source}"
        return f"{self.goal.capitalize()}: {cell_name(self.winner)} with {figure}; {self._against_next()}."

    def _repr_html_(self) -> str:
        """The choice for notebooks: the sentence and its warnings."""
        warnings = "".join(f"<li>{escape(warning)}</li>" for warning in self.warnings)
        return f"<p>{escape(self.sentence)}</p>" + (f"<ul>{warnings}</ul>" if warnings else "")

    @property
    def _unit_of(self) -> str:
        return self.of.split(" ", maxsplit=1)[0]

    def _why_none(self) -> str:
        if not self.shortfalls:
            return f"none has the figure {self.of}" if self.considered else "there are none"
        return "nearest misses: " + "; ".join(shortfall.sentence for shortfall in self.shortfalls)

    def _against_next(self) -> str:
        if self.runner_up is None or self.margin_ratio is None or self.comparison is None:
            return "there is no other deployment to compare it with"
        margin = f"the best other deployment, {cell_name(self.runner_up)}, is {in_percent(self.margin_ratio)} worse"
        match self.comparison.verdict:
            case Verdict.TIE:
                others = len(self.tied) - 1
                more = f", nor from {others} more" if others > 0 else ""
                return f"{margin}, which is a tie: the data cannot tell them apart{more}"
            case Verdict.CANNOT_TELL:
                return f"{margin}; whether that is more than chance cannot be told ({self.comparison.basis})"
            case _:
                return f"{margin}, which is more than chance"
