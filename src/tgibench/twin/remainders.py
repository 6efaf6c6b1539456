"""What a calibration's two factors leave of the errors at the loads that were measured, carried over to the loads between.

A Gaussian process over the logarithm of the number of users: a prediction agrees with what was measured where it was measured, but for
the noise of measurements, and what is known of one load says the less of another the further it is away. Its three figures are round
ones from outside: an error at one load says little of a load three times as high, the model is some 10 % wrong, and two runs of one
cell differ by some 2 %.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

__all__ = ["carried_over"]

_REACH = 1.0
_MODEL, _NOISE = 0.10, 0.02


def carried_over(users: float, measured_users: Sequence[float], left: Sequence[float]) -> float:
    """The logarithm of measured / predicted to expect at a load, and 0 where nothing was measured near it.

    Args:
        users: That load.
        measured_users: The loads that were measured.
        left: Logarithms of measured / predicted there; NaN where a figure was not measured.
    """
    errors = np.asarray(left, dtype=np.float64)
    known = np.isfinite(errors)
    if not known.any():
        return 0.0
    places = np.log(np.asarray(measured_users, dtype=np.float64)[known])
    among = _alike(places[:, None] - places) + _NOISE**2 * np.eye(len(places))
    return float(_alike(np.log(users) - places) @ np.linalg.solve(among, errors[known]))


def _alike(distance: Numbers) -> Numbers:
    return np.asarray(_MODEL**2 * np.exp(-0.5 * (distance / _REACH) ** 2))
