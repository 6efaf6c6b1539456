"""Which deployments could still win a goal, given what a model predicts and what was measured: the rules of an adaptive sweep."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from tgibench.deployments import Deployment
    from tgibench.loads import LoadProfile

    Numbers = NDArray[np.float64]

__all__ = ["Goal", "Race"]

_LEAST_DEVIATION = 1e-9  # of figures that are known, such as the price of an hour


@attrs.frozen(kw_only=True)
class Goal:
    """What one wants to know: the best deployment in one figure under one load.

    Args:
        name: For reports.
        load: Under which load.
        of: A figure of `Cost` (``"usd_per_million_output_tokens"``), ``"throughput_tps"``, or a distribution of `Metrics`, whose median
            is meant.
        among: Which deployments compete; None for all.
    """

    name: str
    load: LoadProfile
    of: str
    among: Callable[[Deployment], bool] | None = None

    @classmethod
    def cheapest(
        cls, load: LoadProfile, *, name: str = "cheapest", among: Callable[[Deployment], bool] | None = None
    ) -> Goal:
        """Least dollars per output token."""
        return cls(name=name, load=load, of="usd_per_million_output_tokens", among=among)

    @classmethod
    def fastest(
        cls,
        load: LoadProfile,
        *,
        name: str = "fastest",
        of: str = "normalized_latency_s",
        among: Callable[[Deployment], bool] | None = None,
    ) -> Goal:
        """Least latency."""
        return cls(name=name, load=load, of=of, among=among)

    @classmethod
    def highest_throughput(
        cls, load: LoadProfile, *, name: str = "highest throughput", among: Callable[[Deployment], bool] | None = None
    ) -> Goal:
        """Most output tokens per second."""
        return cls(name=name, load=load, of="throughput_tps", among=among)

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return not self.of.endswith(("_tps", "_rps"))

    def competes(self, deployment: Deployment) -> bool:
        """Whether a deployment takes part."""
        return self.among is None or self.among(deployment)

    def score(self, value: float) -> float:
        """The logarithm, signed so that less is better; infinite of 0, which is the best of times and dollars and the worst of rates."""
        logarithm = math.log(value) if value > 0 else -math.inf
        return logarithm if self.lower else -logarithm


class Race:
    """Predicted and measured scores of goals (rows) and deployments (columns), less being better; NaN where one does not compete.

    Args:
        predicted: The model's scores; -inf where it cannot predict, so that only a measurement can rule that deployment out.
        deviations: Standard deviations of measured - predicted.
        prices: Dollars an hour of each deployment.
        k: A deployment is ruled out when it would have to be better than predicted by so many deviations.
    """

    def __init__(self, predicted: Numbers, deviations: Numbers, prices: Sequence[float], k: float) -> None:
        self.predicted, self.measured = predicted, np.full(predicted.shape, np.nan)
        self._hopes = predicted - k * deviations
        self._prices = np.asarray(prices, dtype=np.float64)
        self._gone = np.zeros(predicted.shape[1], dtype=bool)
        self._out = self._gone.copy()

    def record(self, goal: int, deployment: int, score: float) -> None:
        """A measurement's score; infinity where it gave no figure, which never wins."""
        self.measured[goal, deployment] = score

    def leave(self, deployment: int) -> None:
        """The deployment is not to be deployed again."""
        self._gone[deployment] = True

    def withdraw(self, deployment: int) -> None:
        """The deployment cannot be had: it wins nothing that it was not measured for."""
        self.leave(deployment)
        self._out[deployment] = True

    def best(self, goal: int) -> float:
        """The best measured score; infinity before the first."""
        return float(np.fmin.reduce(self.measured[goal], initial=math.inf))

    def winner(self, goal: int) -> int | None:
        """The deployment measured best; None before the first."""
        return int(np.nanargmin(self.measured[goal])) if self.best(goal) < math.inf else None

    def open(self, goal: int) -> NDArray[np.bool_]:
        """Which deployments were not measured and could still win."""
        hopeful = self._hopes[goal] < self.best(goal)
        return np.asarray(hopeful & np.isnan(self.measured[goal]) & ~self._out)

    def alive(self, goal: int) -> NDArray[np.bool_]:
        """Which of them may still be deployed."""
        return np.asarray(self.open(goal) & ~self._gone)

    def next(self) -> tuple[int, list[int]] | None:
        """What to deploy next and for which goals to measure it; None when nothing is alive.

        Among the likeliest winners of the undecided goals, the one whose hour costs least: it may rule out the dearer ones.
        """
        alive = [self.alive(goal) for goal in range(len(self.predicted))]
        likeliest = {
            int(np.nanargmin(np.where(hopeful, self.predicted[goal], np.nan)))
            for goal, hopeful in enumerate(alive)
            if hopeful.any()
        }
        if not likeliest:
            return None
        chosen = min(likeliest, key=lambda deployment: (self._prices[deployment], deployment))
        return chosen, [goal for goal, hopeful in enumerate(alive) if hopeful[chosen]]

    def confidence(self, goal: int, deviations: Numbers) -> float:
        """The chance that none of those that were not measured is better than the winner, were the model's errors independent.

        0 before the first measurement and where nothing is predicted of one of them. Those that cannot be had do not count.
        """
        best = self.best(goal)
        if math.isinf(best):
            return 0.0 if best > 0 else 1.0
        rivals = np.isnan(self.measured[goal]) & ~np.isnan(self.predicted[goal]) & ~self._out
        gaps = (self.predicted[goal] - best)[rivals] / np.maximum(deviations[goal][rivals], _LEAST_DEVIATION)
        return float(np.prod([0.5 * (1 + math.erf(gap / math.sqrt(2))) for gap in gaps]))
