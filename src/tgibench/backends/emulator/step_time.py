"""Step times that are given rather than modelled."""

from __future__ import annotations

import attrs

__all__ = ["FixedTimes"]


@attrs.frozen(kw_only=True)
class FixedTimes:
    """The same duration for every step: a server of known timing, to test clients with."""

    prefill: float
    decode: float

    def decode_s(self, sequences: int, context_tokens: int) -> float:
        """The fixed decode time."""
        del sequences, context_tokens
        return self.decode

    def prefill_s(self, tokens: int, requests: int) -> float:
        """The fixed prefill time."""
        del tokens, requests
        return self.prefill
