"""The cost models that come with tgibench: machines by the hour, fixed dollars, billed tokens, and sums of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs import validators

from tgibench.costs import HOUR_S, MILLION, Cost, billed_usd, hourly_cost, minutes_to_million, tokens_told
from tgibench.errors import InvalidValueError
from tgibench.estimates import derived, exact, mean_of, total
from tgibench.validators import above_zero, below_one, day_or_none, not_blank, not_negative, share

if TYPE_CHECKING:
    from datetime import date

    from tgibench.costs import CostModel
    from tgibench.measurements import Measurement
    from tgibench.prices import PriceTable

__all__ = ["CostSum", "FixedCost", "InstanceHours", "PerToken"]


def _plus(self: CostModel, other: CostModel) -> CostSum:
    return CostSum((self, other))


def _plus_reversed(self: CostModel, other: CostModel) -> CostSum:
    return CostSum((other, self))


@attrs.frozen
class InstanceHours:
    """Machines rented by the hour: the deployment's replicas at a table's price.

    Args:
        prices: The price of each machine.
        utilisation: Share of the paid hours in which the deployment works at the measured throughput.
        discount_ratio: What a savings plan or private price takes off the list price: 0.3 for 30 % off. A price of your own goes into
            the table: `PriceTable.with_price`.
        hours_per_start: To include the start-up: after each start the deployment serves for so many hours, and the time until it was
            ready (`Provenance.ready_after_s`) is paid for too. None leaves it out.

    Raises:
        InvalidValueError: A ratio is out of range.
    """

    prices: PriceTable
    utilisation: float = attrs.field(default=1.0, validator=share, kw_only=True)
    discount_ratio: float = attrs.field(default=0.0, validator=below_one, kw_only=True)
    hours_per_start: float | None = attrs.field(default=None, validator=validators.optional(above_zero), kw_only=True)

    def cost(self, measurement: Measurement) -> Cost:
        """What it costs; figures per token are None if the start-up counts and is not known.

        Raises:
            UnknownPrice: The table does not hold the deployment's machine.
        """
        price = self.prices.price(measurement.deployment.instance_type)
        replicas = measurement.deployment.replicas
        terms = [str(price)]
        run_in = measurement.provenance.facts.get("region", price.region)
        if run_in != price.region:
            terms.append(f"run in {run_in}")
        if replicas > 1:
            terms.append(f"{replicas} machines")
        if self.discount_ratio:
            terms.append(f"{self.discount_ratio:.4g} of the price off")
        if self.utilisation < 1:
            terms.append(f"working {self.utilisation:.4g} of the time")
        if self.hours_per_start is not None:
            terms.append(f"started every {self.hours_per_start:g} hours")
        return hourly_cost(
            measurement,
            price.usd_per_hour * (1 - self.discount_ratio) * replicas,
            working=self._working(measurement),
            prices=(price,),
            basis=", ".join(terms),
        )

    def _working(self, measurement: Measurement) -> float | None:
        """Share of the paid time in which tokens are made."""
        if self.hours_per_start is None:
            return self.utilisation
        ready_after_s = measurement.provenance.ready_after_s
        if ready_after_s is None:
            return None
        return self.utilisation / (1 + ready_after_s / (self.hours_per_start * HOUR_S))

    __add__ = _plus
    __radd__ = _plus_reversed


@attrs.frozen
class FixedCost:
    """Dollars for each hour, whatever the machine: a load balancer, storage, power, staff.

    Args:
        usd_per_hour: US dollars per hour of the whole deployment.
        utilisation: Share of the hours in which the deployment works at the measured throughput. None: that of the `InstanceHours` it
            is added to, and 1 where there are none.
        name: What it is for.

    Raises:
        InvalidValueError: The dollars are no number of at least 0, or the share is out of range.
    """

    usd_per_hour: float = attrs.field(validator=not_negative)
    utilisation: float | None = attrs.field(default=None, validator=validators.optional(share), kw_only=True)
    name: str = attrs.field(default="fixed", validator=not_blank, kw_only=True)

    def cost(self, measurement: Measurement) -> Cost:
        """What it costs."""
        return hourly_cost(
            measurement,
            self.usd_per_hour,
            working=1.0 if self.utilisation is None else self.utilisation,
            basis=f"{self.usd_per_hour:g} USD per hour ({self.name})",
        )

    __add__ = _plus
    __radd__ = _plus_reversed


@attrs.frozen
class PerToken:
    """An API that bills tokens, prompts and answers apart. Failed requests may or may not be billed: the run's bounds hold both.

    Args:
        usd_per_million_input_tokens: US dollars for a million prompt tokens; may be 0.
        usd_per_million_output_tokens: US dollars for a million output tokens.
        effective_date: A day on which the price held; None where nobody said.
        source: Who says so.

    Raises:
        InvalidValueError: A price is negative or no number.
    """

    usd_per_million_input_tokens: float = attrs.field(validator=not_negative)
    usd_per_million_output_tokens: float = attrs.field(validator=above_zero)
    effective_date: date | None = attrs.field(default=None, validator=day_or_none, kw_only=True)
    source: str = attrs.field(default="given by the caller", validator=not_blank, kw_only=True)

    def cost(self, measurement: Measurement) -> Cost:
        """What the measured load costs there; None where the tokens of a request are not known."""
        input_price, output_price = self.usd_per_million_input_tokens, self.usd_per_million_output_tokens
        metrics = measurement.metrics
        asked, answered = mean_of(metrics.input_tokens), mean_of(metrics.output_tokens)
        throughput = measurement.throughput_tps
        billed_input = asked if input_price else exact(0.0)
        per_million = (
            derived(lambda i, o: output_price + input_price * i / o, billed_input, answered)
            if input_price
            else exact(output_price)
        )
        per_request = derived(lambda i, o: (input_price * i + output_price * o) / MILLION, billed_input, answered)
        return Cost(
            usd_per_hour=derived(lambda usd, tps: usd / MILLION * tps * HOUR_S, per_million, throughput),
            usd_per_million_output_tokens=per_million,
            usd_per_million_total_tokens=derived(
                lambda i, o: (input_price * i + output_price * o) / (i + o), asked, answered
            ),
            usd_per_thousand_requests=derived(lambda usd: usd * 1000, per_request),
            minutes_to_million_output_tokens=minutes_to_million(throughput),
            run_usd=None if per_request is None else billed_usd(measurement, per_request.value),
            basis=self._basis() + tokens_told(measurement),
        )

    def _basis(self) -> str:
        day = "undated" if self.effective_date is None else self.effective_date.isoformat()
        return (
            f"{self.usd_per_million_input_tokens:g} USD per million input tokens and "
            f"{self.usd_per_million_output_tokens:g} USD per million output tokens ({day}: {self.source})"
        )

    __add__ = _plus
    __radd__ = _plus_reversed


def _with_common_utilisation(models: tuple[CostModel, ...]) -> tuple[CostModel, ...]:
    """The models, sums taken apart; fixed costs that name no utilisation take that of the machines beside them."""
    flat = tuple(part for model in models for part in (model.models if isinstance(model, CostSum) else (model,)))
    if not flat:
        raise InvalidValueError("a CostSum needs at least one cost model, got none")
    shares = {model.utilisation for model in flat if isinstance(model, InstanceHours)}
    undecided = [model for model in flat if isinstance(model, FixedCost) and model.utilisation is None]
    if not undecided or not shares:
        return flat
    if len(shares) > 1:
        raise InvalidValueError(
            f"machines with utilisations {sorted(shares)} are added: say which one {undecided[0]!r} has, utilisation=…"
        )
    (common,) = shares
    return tuple(
        attrs.evolve(model, utilisation=common) if isinstance(model, FixedCost) and model.utilisation is None else model
        for model in flat
    )


@attrs.frozen
class CostSum:
    """Several cost models together; made with ``+``.

    Args:
        models: What adds up. A figure that one of them cannot give is None.

    Raises:
        InvalidValueError: There is none, or a fixed cost is added to machines of different utilisation and names none itself.
    """

    models: tuple[CostModel, ...] = attrs.field(converter=_with_common_utilisation)

    def cost(self, measurement: Measurement) -> Cost:
        """The costs of all, added figure by figure; intervals end by end, as all move with the same throughput.

        Raises:
            UnknownPrice: One of them does not know a price.
        """
        costs = [model.cost(measurement) for model in self.models]
        ending = tokens_told(measurement)
        runs = [cost.run_usd for cost in costs]
        known = [run for run in runs if run is not None]
        return Cost(
            usd_per_hour=total([cost.usd_per_hour for cost in costs]),
            usd_per_million_output_tokens=total([cost.usd_per_million_output_tokens for cost in costs]),
            usd_per_million_total_tokens=total([cost.usd_per_million_total_tokens for cost in costs]),
            usd_per_thousand_requests=total([cost.usd_per_thousand_requests for cost in costs]),
            minutes_to_million_output_tokens=minutes_to_million(measurement.throughput_tps),
            run_usd=(sum(low for low, _ in known), sum(high for _, high in known)) if len(known) == len(runs) else None,
            prices=tuple(price for cost in costs for price in cost.prices),
            basis=" + ".join(cost.basis.removesuffix(ending) for cost in costs) + ending,
        )

    __add__ = _plus
    __radd__ = _plus_reversed
