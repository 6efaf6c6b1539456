"""What an adaptive sweep is asked for, and what the model says of it beforehand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from attrs import validators

from tgibench.costs import Cost
from tgibench.errors import InvalidValueError
from tgibench.figures import figure_of
from tgibench.measurements import Measurement
from tgibench.metrics import Metrics
from tgibench.provenance import Provenance, Source
from tgibench.stats import Distribution
from tgibench.validators import not_negative

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tgibench.backends import Backend
    from tgibench.costs import CostModel
    from tgibench.deployments import Deployment
    from tgibench.endpoints import Endpoint
    from tgibench.loads import LoadProfile
    from tgibench.requests import PromptSource
    from tgibench.stats import Estimate
    from tgibench.twin.performance import PerformanceModel
    from tgibench.twin.racing import Goal

__all__ = ["COST_FIGURES", "Measure", "Plan"]

COST_FIGURES = frozenset(field.name for field in attrs.fields(Cost)) - {"run_usd", "prices", "basis"}
"""Names of the figures of `Cost`."""

_METRICS = frozenset(field.name for field in attrs.fields(Metrics)) | {"throughput_tps"}


class Measure(Protocol):
    """Measures one load on an endpoint that is deployed."""

    async def __call__(
        self, deployment: Deployment, endpoint: Endpoint, load: LoadProfile, *, seed: int
    ) -> Measurement:
        """Run the load and return the cell."""


def _whole(_: object, attribute: attrs.Attribute[int], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidValueError(f"{attribute.name} must be a whole number of at least 0, got {value!r}")


@attrs.frozen(kw_only=True)
class Plan:
    """What an adaptive sweep is asked for; `adaptive_sweep` documents the fields."""

    deployments: tuple[Deployment, ...]
    loads: tuple[LoadProfile, ...]
    goals: tuple[Goal, ...]
    model: PerformanceModel
    backend: Backend
    prompts: PromptSource
    costs: CostModel
    budget_usd: float | None = attrs.field(validator=validators.optional(not_negative))
    k: float = attrs.field(validator=not_negative)
    seed: int = attrs.field(validator=_whole)
    measure: Measure
    tie_ratio: float = attrs.field(validator=not_negative)
    repeats: int = attrs.field(validator=_whole)
    deploy_s: float = attrs.field(validator=not_negative)
    pause_s: float = attrs.field(validator=not_negative)
    on_measurement: Callable[[Measurement], None] | None

    def check(self) -> None:
        """Refuse what cannot be decided."""
        numbers = [len(self.deployments), len(self.loads), len(self.goals)]
        if not all(numbers):
            raise InvalidValueError(
                f"an adaptive sweep needs at least one deployment, load and goal, got {numbers[0]}, {numbers[1]} and {numbers[2]}"
            )
        for goal in self.goals:
            if goal.load not in self.loads:
                raise InvalidValueError(f"the load {goal.load.label!r} of goal {goal.name!r} is not among the loads")
            if not any(goal.competes(deployment) for deployment in self.deployments):
                raise InvalidValueError(f"no deployment competes in goal {goal.name!r}")

    def check_figures(self, *, others: bool) -> None:
        """Refuse figures that no measurement has; `others` says whether there may be more than a run's own."""
        for goal in self.goals:
            if goal.of in COST_FIGURES or (others and goal.of not in _METRICS):
                continue
            try:
                figure_of(self.nothing_known_of(self.deployments[0]), goal.of)
            except InvalidValueError as error:
                costs = ", ".join(sorted(COST_FIGURES))
                raise InvalidValueError(f"goal {goal.name!r}: {error}; and of costs {costs}") from error
            if goal.of == "goodput_rps" and not others:
                raise InvalidValueError(
                    f"goal {goal.name!r}: goodput_rps is counted against an SLO: give a measure that has one, such as "
                    "functools.partial(tgibench.measure, backend=…, prompts=…, slo=…)"
                )

    def nothing_known_of(self, deployment: Deployment) -> Measurement:
        """A cell without a figure."""
        nothing: dict[str, Any] = dict.fromkeys(field.name for field in attrs.fields(Metrics))
        nothing |= {"counts": {"succeeded": 0, "failed": 0}, "failures": {}, "tokens_from": {}, "extra": {}}
        return Measurement(
            deployment=deployment,
            load=self.loads[0],
            prompts=self.prompts.identity,
            metrics=Metrics(**nothing),
            source=Source.PREDICTED,
            provenance=Provenance(backend=self.backend.name),
        )

    def figure(self, goal: Goal, measurement: Measurement) -> Estimate | None:
        """A measurement's figure for a goal: of a distribution the median; None where it has none."""
        metrics = measurement.metrics
        figure: Estimate | None = None
        if goal.of in COST_FIGURES:
            figure = getattr(self.costs.cost(measurement), goal.of)
        elif goal.of in _METRICS or goal.of in metrics.extra:
            value = getattr(metrics, goal.of, metrics.extra.get(goal.of))
            figure = figure_of(measurement, goal.of, 0.5 if isinstance(value, Distribution) else None).estimate
        return None if figure is None or math.isnan(figure.value) else figure

    def loads_of(self, goals: Iterable[int]) -> tuple[LoadProfile, ...]:
        """The loads of these goals, each once."""
        return tuple(dict.fromkeys(self.goals[goal].load for goal in goals))
