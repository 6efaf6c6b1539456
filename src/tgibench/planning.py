"""How many copies of each deployment a traffic needs, and what they cost a month."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from tgibench.errors import InvalidValueError
from tgibench.requirements import AtMost, cell_name, shortfalls_of, with_unit
from tgibench.stats import Estimate
from tgibench.validators import is_finite_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tgibench.costs import CostModel
    from tgibench.deployments import Deployment
    from tgibench.measurements import Measurement
    from tgibench.metrics import SLO
    from tgibench.requirements import Requirement, Shortfall

__all__ = ["HOURS_PER_MONTH", "CapacityOption", "CapacityPlan", "plan_capacity"]

HOURS_PER_MONTH = 730.0
_RATES = ("request_throughput_rps", "goodput_rps")


@attrs.frozen(kw_only=True)
class CapacityOption:
    """One deployment as an answer to a traffic.

    Args:
        deployment: Which; one copy of it is what was measured, its own `replicas` included.
        measurement: The load under which one copy does most while it meets the requirements; where it never meets them, the load under
            which it misses the fewest.
        rate_rps: Requests per second that one copy serves under it.
        replicas: Copies needed, headroom included; None where the deployment will not do.
        replicas_interval: Copies needed at the upper and the lower end of the rate's interval; None where it has none.
        busy_ratio: Share of the copies' rate that the traffic takes.
        usd_per_month: What all copies cost in 730 hours under the traffic; None where the deployment will not do or its cost is unknown.
        shortfalls: What it fell short of.
        reason: Why it will not do, in words; None where it will.
    """

    deployment: Deployment
    measurement: Measurement
    rate_rps: Estimate | None = None
    replicas: int | None = None
    replicas_interval: tuple[int, int] | None = None
    busy_ratio: float | None = None
    usd_per_month: float | None = None
    shortfalls: tuple[Shortfall, ...] = ()
    reason: str | None = None

    @property
    def sentence(self) -> str:
        """The option in a sentence."""
        if self.replicas is None or self.rate_rps is None or self.busy_ratio is None:
            return f"{self.deployment.label} will not do: {self.reason}"
        cost = "at an unknown cost" if self.usd_per_month is None else f"for {self.usd_per_month:,.0f} USD a month"
        return (
            f"{self.replicas} x {self.deployment.label} {cost}, {100 * self.busy_ratio:.0f} % busy: one serves "
            f"{with_unit(self.rate_rps.value, 'rate_rps')} at {self.measurement.load.label}, {self.measurement.source}"
        )


@attrs.frozen(kw_only=True)
class CapacityPlan:
    """All options for a traffic: those that will do, the least dear first, then the others.

    Args:
        traffic_rps: Requests per second to serve.
        headroom_ratio: Share of every copy's rate that is kept free.
        options: One for each deployment.
    """

    traffic_rps: float
    headroom_ratio: float
    options: tuple[CapacityOption, ...]

    @property
    def best(self) -> CapacityOption | None:
        """The least dear option; None where no deployment will do, or no cost is known."""
        return next((option for option in self.options if option.usd_per_month is not None), None)

    @property
    def sentence(self) -> str:
        """The answer in a sentence."""
        traffic = f"{with_unit(self.traffic_rps, 'traffic_rps')} with {100 * self.headroom_ratio:g} % headroom"
        if self.best is None:
            return f"{traffic}: no deployment will do; " + "; ".join(option.sentence for option in self.options)
        return f"{traffic}: {self.best.sentence}"


def plan_capacity(
    measurements: Iterable[Measurement],
    costs: CostModel,
    *requirements: Requirement,
    traffic_rps: float,
    slo: SLO | None = None,
    slo_quantile: float = 0.95,
    headroom_ratio: float = 0.2,
    rate: str = "request_throughput_rps",
) -> CapacityPlan:
    """Copies and dollars a month of each deployment for a traffic, from the best load under which it met the requirements.

    Copies are the traffic over the rate that headroom leaves of one, rounded up. Each then carries an equal share of the traffic, which
    is what models that bill tokens are asked about.

    Args:
        measurements: A study or any measurements.
        costs: What things cost.
        requirements: What must be kept (see `tgibench.requirements`).
        traffic_rps: Requests per second to serve.
        slo: Limits as further requirements: each must be kept at `slo_quantile`.
        slo_quantile: 0.5, 0.9, 0.95 or 0.99.
        headroom_ratio: Share of every copy's rate to be kept free, at least 0 and below 1.
        rate: What one copy's rate is: ``"request_throughput_rps"``, or ``"goodput_rps"`` of measurements made with an SLO.

    Raises:
        InvalidValueError: A number is out of range, or there is no such rate or quantile.
        UnknownPrice: A price is not known.
    """
    _check(traffic_rps, headroom_ratio, rate)
    wanted: tuple[Requirement, ...] = (*requirements, *_limits(slo, slo_quantile))
    cells: dict[Deployment, list[_Cell]] = {}
    for measurement in measurements:
        shortfalls = shortfalls_of(measurement, costs.cost(measurement), wanted)
        cells.setdefault(measurement.deployment, []).append(_Cell(measurement, shortfalls, _rate(measurement, rate)))
    options = [_option(tuple(group), costs, traffic_rps, headroom_ratio, rate) for group in cells.values()]
    options.sort(key=lambda option: (option.replicas is None, _or_infinite(option.usd_per_month)))
    return CapacityPlan(traffic_rps=traffic_rps, headroom_ratio=headroom_ratio, options=tuple(options))


@attrs.frozen
class _Cell:
    measurement: Measurement
    shortfalls: tuple[Shortfall, ...]
    rate: Estimate | None


def _check(traffic_rps: float, headroom_ratio: float, rate: str) -> None:
    if not is_finite_number(traffic_rps) or traffic_rps <= 0:
        raise InvalidValueError(f"traffic_rps must be a number above 0, got {traffic_rps!r}")
    if not is_finite_number(headroom_ratio) or not 0 <= headroom_ratio < 1:
        raise InvalidValueError(f"headroom_ratio must be at least 0 and below 1, got {headroom_ratio!r}")
    if rate not in _RATES:
        raise InvalidValueError(f"rate must be one of {', '.join(_RATES)}, got {rate!r}")


def _limits(slo: SLO | None, quantile: float) -> Iterator[AtMost]:
    if slo is None:
        return
    for name, limit in attrs.asdict(slo).items():
        if limit is not None:
            yield AtMost(of=name, limit=limit, quantile=quantile)


def _rate(measurement: Measurement, rate: str) -> Estimate | None:
    figure: Estimate | None = getattr(measurement.metrics, rate)
    return figure if figure is not None and figure.value > 0 else None


def _option(
    cells: tuple[_Cell, ...], costs: CostModel, traffic_rps: float, headroom_ratio: float, rate: str
) -> CapacityOption:
    deployment = cells[0].measurement.deployment
    best: tuple[float, _Cell, Estimate] | None = None
    for cell in cells:
        if cell.rate is not None and not cell.shortfalls and (best is None or cell.rate.value > best[0]):
            best = (cell.rate.value, cell, cell.rate)
    if best is None:
        nearest = min(cells, key=lambda cell: (len(cell.shortfalls), sum(map(_excess, cell.shortfalls))))
        why = "; ".join(shortfall.sentence for shortfall in nearest.shortfalls)
        return CapacityOption(
            deployment=deployment,
            measurement=nearest.measurement,
            rate_rps=nearest.rate,
            shortfalls=nearest.shortfalls,
            reason=why or f"no {rate} is known ({cell_name(nearest.measurement)})",
        )
    rate_rps, cell, estimate = best

    def copies(of_one_rps: float) -> int:
        return math.ceil(traffic_rps / (of_one_rps * (1 - headroom_ratio)) - 1e-9)  # 8 / (10 * 0.8) is 1

    replicas, bounds = copies(rate_rps), estimate.interval
    busy_ratio = traffic_rps / (replicas * rate_rps)
    hourly = costs.cost(_carrying(cell.measurement, busy_ratio)).usd_per_hour
    return CapacityOption(
        deployment=deployment,
        measurement=cell.measurement,
        rate_rps=estimate,
        replicas=replicas,
        replicas_interval=(copies(bounds[1]), copies(bounds[0])) if bounds is not None and bounds[0] > 0 else None,
        busy_ratio=busy_ratio,
        usd_per_month=None if hourly is None else hourly.value * replicas * HOURS_PER_MONTH,
    )


def _carrying(measurement: Measurement, share: float) -> Measurement:
    """The measurement as it would be with a share of its traffic: what bills tokens bills fewer of them."""

    def part(rate: Estimate | None) -> Estimate | None:
        return None if rate is None else Estimate(rate.value * share)

    metrics = measurement.metrics
    derived = metrics.littles_law_throughput_tps
    return attrs.evolve(
        measurement,
        metrics=attrs.evolve(
            metrics,
            output_throughput_tps=part(metrics.output_throughput_tps),
            request_throughput_rps=part(metrics.request_throughput_rps),
            goodput_rps=part(metrics.goodput_rps),
            littles_law_throughput_tps=None if derived is None else derived * share,
        ),
    )


def _excess(shortfall: Shortfall) -> float:
    return _or_infinite(shortfall.by_ratio)


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value
