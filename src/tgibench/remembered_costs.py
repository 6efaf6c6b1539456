"""Costs that are reckoned once, however often they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from tgibench.costs import Cost, CostModel
    from tgibench.measurements import Measurement

__all__ = ["RememberedCosts"]


@attrs.frozen(eq=False)
class RememberedCosts:
    """A cost model that keeps each measurement's cost: for choosing by several goals and reporting from one large study.

    Args:
        costs: The model that reckons. It must give the same cost for the same measurement.
    """

    costs: CostModel
    _known: dict[int, tuple[Measurement, Cost]] = attrs.field(factory=dict, init=False, repr=False)

    def cost(self, measurement: Measurement) -> Cost:
        """What `costs` said of this very measurement, or says now.

        Raises:
            UnknownPrice: A price that it needs is not known.
        """
        known = self._known.get(id(measurement))  # the entry keeps the measurement alive, so its id stays its own
        if known is None:
            known = self._known[id(measurement)] = (measurement, self.costs.cost(measurement))
        return known[1]
