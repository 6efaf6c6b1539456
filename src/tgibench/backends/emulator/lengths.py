"""How long the emulated model's answers are."""

from __future__ import annotations

import zlib
from typing import Protocol

import attrs
import numpy as np

from tgibench.errors import InvalidValueError

__all__ = ["EarlyStops", "OutputLengths"]


class OutputLengths(Protocol):
    """Decides an answer's length from its prompt, the same for the same prompt and seed."""

    def tokens(self, prompt: str, max_new_tokens: int, *, seed: int) -> int:
        """Between 1 and `max_new_tokens`."""


@attrs.frozen
class EarlyStops:
    """Most answers run to their limit; a share of them ends earlier, at any length alike.

    Args:
        ratio: That share. 6 % is what the 2023 study's rows suggest (back-solved, poorly identified).
    """

    ratio: float = attrs.field(default=0.06)

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise InvalidValueError(f"ratio must lie between 0 and 1, got {self.ratio!r}")

    def tokens(self, prompt: str, max_new_tokens: int, *, seed: int) -> int:
        """The limit, or a length drawn for this prompt."""
        rng = np.random.default_rng([seed, zlib.crc32(prompt.encode())])
        if rng.random() >= self.ratio:
            return max_new_tokens
        return int(rng.integers(1, max_new_tokens + 1))
