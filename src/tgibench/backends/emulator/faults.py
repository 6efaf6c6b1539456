"""How an emulated server misbehaves: which requests are hit, by what, and when."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs
from attrs import validators

from tgibench.errors import InvalidValueError
from tgibench.validators import above_zero, count, not_negative

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Fault", "FaultKind", "Faults"]


class FaultKind(enum.StrEnum):
    """What goes wrong with a request."""

    TRUNCATE = "truncate"  # the answer ends cleanly, but before its end
    ABORT = "abort"  # the connection closes in the middle of the answer
    ERROR = "error"  # an error event inside the stream; status 424 where there is no stream
    OVERLOADED = "overloaded"  # HTTP 429
    STALL = "stall"  # nothing comes for a while in the middle of the answer
    COALESCE = "coalesce"  # the events of several tokens leave in one write
    SEVERAL_TOKENS = "several_tokens"  # one event of an OpenAI stream holds several tokens
    NO_USAGE = "no_usage"  # an OpenAI answer without usage
    NO_DONE = "no_done"  # an OpenAI stream without [DONE]
    CRLF = "crlf"  # events separated by carriage return and line feed
    NO_SPACE = "no_space"  # "data:" with no space after it


def _share(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not 0 <= value <= 1:
        raise InvalidValueError(f"{attribute.name} must be between 0 and 1, got {value!r}")


@attrs.frozen(kw_only=True)
class Fault:
    """One thing that goes wrong, and with which requests.

    Args:
        kind: What.
        every: It hits each request whose number (from 1) this divides; None to draw instead.
        probability: How likely it hits a request where `every` is None.
        after_tokens: Tokens sent before it happens; at least one is always held back.
        seconds: Length of a stall.
        tokens: Tokens of one write or one event.
    """

    kind: FaultKind = attrs.field(converter=FaultKind)
    every: int | None = attrs.field(default=None, validator=validators.optional(count))
    probability: float = attrs.field(default=1.0, validator=_share)
    after_tokens: int = attrs.field(default=3, validator=validators.ge(0))
    seconds: float = attrs.field(default=2.0, validator=above_zero)
    tokens: int = attrs.field(default=4, validator=count)

    def hits(self, number: int, rng: np.random.Generator) -> bool:
        """Whether it befalls the request of that number, from 1."""
        if self.every is not None:
            return number % self.every == 0
        return bool(rng.random() < self.probability)


@attrs.frozen
class Faults:
    """Everything that goes wrong with a server; nothing by default.

    Args:
        rules: What befalls requests. Of two of one kind that hit the same request the later counts.
        starts_after_s: For so long after its start the server drops every connection without an answer, as a container does
            whose port is published but whose server still loads.
    """

    rules: tuple[Fault, ...] = ()
    starts_after_s: float = attrs.field(default=0.0, validator=not_negative, kw_only=True)

    @classmethod
    def every_nth(
        cls, every: int, kind: str, *, seconds: float = 2.0, tokens: int = 4, after_tokens: int = 3
    ) -> Faults:
        """Hits each request whose number (from 1) `every` divides; 1 for all.

        Raises:
            InvalidValueError: The kind is unknown or a number is out of range.
        """
        if kind not in set(FaultKind):
            raise InvalidValueError(f"kind must be one of {', '.join(FaultKind)}, got {kind!r}")
        fault = Fault(kind=FaultKind(kind), every=every, seconds=seconds, tokens=tokens, after_tokens=after_tokens)
        return cls((fault,))

    @classmethod
    def sometimes(
        cls, probability: float, kind: str, *, seconds: float = 2.0, tokens: int = 4, after_tokens: int = 3
    ) -> Faults:
        """Hits each request with this probability.

        Raises:
            InvalidValueError: The kind is unknown or a number is out of range.
        """
        (fault,) = cls.every_nth(1, kind, seconds=seconds, tokens=tokens, after_tokens=after_tokens).rules
        return cls((attrs.evolve(fault, every=None, probability=probability),))

    def __or__(self, other: Faults) -> Faults:
        return Faults(self.rules + other.rules, starts_after_s=max(self.starts_after_s, other.starts_after_s))

    def befalling(self, number: int, rng: np.random.Generator) -> dict[FaultKind, Fault]:
        """What befalls the request of that number, from 1."""
        return {fault.kind: fault for fault in self.rules if fault.hits(number, rng)}
