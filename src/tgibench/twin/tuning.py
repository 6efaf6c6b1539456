"""Kernels that a fresh server tunes while it serves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from tgibench.twin.step_time import ModelledTimes, StepTimes

__all__ = ["TunedOnLine"]


@attrs.define(eq=False)
class TunedOnLine:
    """Step times of a fresh GPTQ server that tunes its kernels while it serves, as TGI 1.0 did: it holds what it has met so far.

    A step stalls when its number of tokens falls into a power-of-two class, or needs a specialisation (one token, a multiple of 16, any
    other number), that has not been met yet.
    """

    times: StepTimes
    tuning_s: float
    compile_s: float
    _met: set[int] = attrs.field(factory=set)
    _specialised: set[int] = attrs.field(factory=set)

    @classmethod
    def where_needed(cls, times: ModelledTimes) -> StepTimes:
        """These step times of a fresh server, where the engine tunes its kernels on line; else as they are."""
        profile = times.profile
        if not times.gptq or not (profile.tuning_s or profile.compile_s):
            return times
        return cls(times, profile.tuning_s, profile.compile_s)

    def decode_s(self, sequences: int, context_tokens: int) -> float:
        """One token for each sequence, and the stall."""
        return self.times.decode_s(sequences, context_tokens) + self._stall_s(sequences)

    def prefill_s(self, tokens: int, requests: int) -> float:
        """The first token of each request, and the stall."""
        return self.times.prefill_s(tokens, requests) + self._stall_s(tokens)

    def _stall_s(self, tokens: int) -> float:
        size, kernel = math.ceil(math.log2(tokens)), 1 if tokens == 1 else 16 if tokens % 16 == 0 else 0
        stall_s = 0.0
        if size not in self._met:
            self._met.add(size)
            stall_s += self.tuning_s
        if kernel not in self._specialised:
            self._specialised.add(kernel)
            stall_s += self.compile_s
        return stall_s
