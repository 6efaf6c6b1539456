"""What a deployment must keep to be chosen. A requirement is a function of a measurement and its cost.

It gives None where it is met, and a `Shortfall` where it is not. A figure that is missing never meets a requirement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
from attrs import validators

from tgibench.costs import Cost
from tgibench.errors import InvalidValueError
from tgibench.figures import figure_name, figure_of
from tgibench.measurements import Measurement
from tgibench.stats import Estimate
from tgibench.validators import above_zero, count, is_finite_number, not_blank, not_negative

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "COST_FIGURES",
    "AtLeast",
    "AtMost",
    "Concurrency",
    "Require",
    "Requirement",
    "Shortfall",
    "cell_name",
    "concurrency",
    "cost_at_most",
    "failures_at_most",
    "goodput_at_least",
    "in_percent",
    "latency_at_most",
    "require",
    "shortfalls_of",
    "throughput_at_least",
    "tpot_at_most",
    "ttft_at_most",
    "with_unit",
]


@attrs.frozen(kw_only=True)
class Shortfall:
    """How a measurement falls short of a requirement.

    Args:
        requirement: What was required, in words.
        value: The figure that falls short; None where it is missing or no number.
        limit: What it should have been.
        by_ratio: How far it lies beyond the limit, as a share of the limit: 0.2 is a fifth too high, or too low; None where no
            number says so.
        reason: How it falls short, in words.
        measurement: Which cell falls short; None where nobody said.
    """

    requirement: str
    reason: str
    value: float | None = None
    limit: float | None = None
    by_ratio: float | None = None
    measurement: Measurement | None = None

    @property
    def sentence(self) -> str:
        """Requirement, reason and cell in a sentence."""
        cell = "" if self.measurement is None else f" ({cell_name(self.measurement)})"
        return f"{self.requirement}: {self.reason}{cell}"


Requirement = Callable[[Measurement, Cost], Shortfall | None]


def cell_name(measurement: Measurement) -> str:
    """A measurement's deployment and load."""
    return f"{measurement.deployment.label} at {measurement.load.label}"


_UNITS = {
    "normalized_latency_s": "s/token",
    "server_time_per_token_s": "s/token",
    "failure_ratio": "of the requests",
    "usd_per_million_output_tokens": "USD per million output tokens",
    "usd_per_million_total_tokens": "USD per million tokens",
    "usd_per_thousand_requests": "USD per thousand requests",
    "usd_per_hour": "USD per hour",
    "minutes_to_million_output_tokens": "minutes to a million output tokens",
}
_UNITS_BY_ENDING = {
    "_s": "s",
    "_tps": "tokens/s",
    "_rps": "requests/s",
    "_ratio": "of the requests",
    "_tokens": "tokens",
}


def with_unit(value: float, of: str) -> str:
    """A figure to four digits, with the unit that its name implies."""
    ending = next((unit for ending, unit in _UNITS_BY_ENDING.items() if of.endswith(ending)), "")
    return f"{value:.4g} {_UNITS.get(of, ending)}".rstrip()


def _value(measurement: Measurement, cost: Cost, of: str, quantile: float | None) -> float | None:
    if of == "failure_ratio":
        counts = measurement.metrics.counts
        if "failed" not in counts:  # a published run may not say
            return None
        sent = counts["succeeded"] + counts["failed"]
        return counts["failed"] / sent if sent else None
    figure = getattr(cost, of) if of in COST_FIGURES else figure_of(measurement, of, quantile).estimate
    return figure.value if isinstance(figure, Estimate) else None


def in_percent(ratio: float) -> str:
    """A share of something in percent, to three digits."""
    return f"{100 * ratio:.3g} %" if ratio < 9.995 else f"{100 * ratio:,.0f} %"


COST_FIGURES = frozenset(_UNITS) & {field.name for field in attrs.fields(Cost)}


@attrs.frozen(kw_only=True)
class AtMost:
    """A figure must not exceed a limit.

    Args:
        of: A field of `Metrics` or `Cost`, ``"throughput_tps"`` or ``"failure_ratio"``.
        limit: The largest value allowed, in the figure's own unit.
        quantile: Of a distribution: 0.5, 0.9, 0.95 or 0.99; None for the mean.
    """

    of: str
    limit: float = attrs.field(validator=not_negative)
    quantile: float | None = None

    def __call__(self, measurement: Measurement, cost: Cost) -> Shortfall | None:
        """The shortfall; None where the limit is kept."""
        value = _value(measurement, cost, self.of, self.quantile)
        if value is not None and value <= self.limit:
            return None
        words = f"{figure_name(self.of, self.quantile)} at most {with_unit(self.limit, self.of)}"
        return _beyond(words, value, self.limit, self.of, "too high")


@attrs.frozen(kw_only=True)
class AtLeast:
    """A figure must reach a limit; the arguments are those of `AtMost`."""

    of: str
    limit: float = attrs.field(validator=above_zero)
    quantile: float | None = None

    def __call__(self, measurement: Measurement, cost: Cost) -> Shortfall | None:
        """The shortfall; None where the limit is reached."""
        value = _value(measurement, cost, self.of, self.quantile)
        if value is not None and value >= self.limit:
            return None
        words = f"{figure_name(self.of, self.quantile)} at least {with_unit(self.limit, self.of)}"
        return _beyond(words, value, self.limit, self.of, "too low")


def _beyond(words: str, value: float | None, limit: float, of: str, direction: str) -> Shortfall:
    if value is None:
        return Shortfall(requirement=words, reason="the figure is missing", limit=limit)
    if not limit:
        return Shortfall(requirement=words, reason=f"is {with_unit(value, of)}", value=value, limit=limit)
    by_ratio = abs(value / limit - 1)
    reason = f"is {with_unit(value, of)}, {in_percent(by_ratio)} {direction}"
    return Shortfall(requirement=words, reason=reason, value=value, limit=limit, by_ratio=by_ratio)


@attrs.frozen
class Concurrency:
    """The load must hold so many requests in flight."""

    users: int = attrs.field(validator=count)

    def __call__(self, measurement: Measurement, cost: Cost) -> Shortfall | None:
        """The shortfall; None for a closed loop of just this concurrency."""
        del cost
        users = getattr(measurement.load, "concurrency", None)
        if users == self.users:
            return None
        return Shortfall(
            requirement=f"measured with {self.users} requests in flight",
            reason=f"the load is {measurement.load.label}",
            value=users,
            limit=self.users,
            by_ratio=None if users is None else abs(users / self.users - 1),
        )


@attrs.frozen
class Require:
    """A condition of the caller's own."""

    words: str = attrs.field(validator=not_blank)
    condition: Callable[[Measurement, Cost], object] = attrs.field(validator=validators.is_callable())

    def __call__(self, measurement: Measurement, cost: Cost) -> Shortfall | None:
        """The shortfall; None where the condition gives something true. None, as from a missing figure, does not."""
        return None if self.condition(measurement, cost) else Shortfall(requirement=self.words, reason="is not so")


def ttft_at_most(limit_s: float, *, quantile: float | None = 0.95) -> AtMost:
    """Time to first token, at a quantile (None for the mean), in seconds."""
    return AtMost(of="ttft_s", limit=limit_s, quantile=quantile)


def tpot_at_most(limit_s: float, *, quantile: float | None = 0.95) -> AtMost:
    """Time per output token after the first, at a quantile (None for the mean), in seconds."""
    return AtMost(of="tpot_s", limit=limit_s, quantile=quantile)


def latency_at_most(limit_s: float, *, quantile: float | None = 0.95) -> AtMost:
    """Time to the last byte, at a quantile (None for the mean), in seconds."""
    return AtMost(of="latency_s", limit=limit_s, quantile=quantile)


def failures_at_most(share: float) -> AtMost:
    """Share of the requests sent that failed; 0 allows none."""
    if not is_finite_number(share) or not 0 <= share < 1:
        raise InvalidValueError(f"failures_at_most takes a share of at least 0 and below 1, got {share!r}")
    return AtMost(of="failure_ratio", limit=share)


def cost_at_most(usd: float, *, of: str = "usd_per_million_output_tokens") -> AtMost:
    """US dollars, by default for a million output tokens; `of` is any other field of `Cost`."""
    if of not in COST_FIGURES:
        raise InvalidValueError(f"of must be one of {', '.join(sorted(COST_FIGURES))}, got {of!r}")
    return AtMost(of=of, limit=usd)


def throughput_at_least(tps: float) -> AtLeast:
    """Output tokens per second."""
    return AtLeast(of="throughput_tps", limit=tps)


def goodput_at_least(rps: float) -> AtLeast:
    """Requests per second within the SLO that the measurement was made with."""
    return AtLeast(of="goodput_rps", limit=rps)


def concurrency(users: int) -> Concurrency:
    """Only cells measured with just so many requests in flight."""
    return Concurrency(users)


def require(words: str, condition: Callable[[Measurement, Cost], object]) -> Require:
    """A condition of your own: its words, and a function that gives something true where it is met.

    ``require("no p4d", lambda measurement, cost: "p4d" not in measurement.deployment.instance_type)``
    """
    return Require(words, condition)


def shortfalls_of(measurement: Measurement, cost: Cost, requirements: Iterable[Requirement]) -> tuple[Shortfall, ...]:
    """All shortfalls of a measurement.

    Raises:
        InvalidValueError: A requirement gives neither None nor a Shortfall.
    """
    found = []
    for requirement in requirements:
        shortfall = requirement(measurement, cost)
        if shortfall is None:
            continue
        if not isinstance(shortfall, Shortfall):
            raise InvalidValueError(
                f"a requirement gives None where it is met, else a Shortfall; {requirement!r} gave {shortfall!r}: "
                "wrap a plain condition in require(words, condition)"
            )
        found.append(attrs.evolve(shortfall, measurement=measurement))
    return tuple(found)
