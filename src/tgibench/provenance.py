"""Where a number comes from: its `Source`, and the `Provenance` of the run that gave it."""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs
from attrs import validators

from tgibench.errors import InvalidValueError
from tgibench.validators import not_blank, not_negative

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = ["Provenance", "Source"]


class Source(enum.StrEnum):
    """How a number was come by; it is printed beside every number."""

    MEASURED = "MEASURED"
    EMULATED = "EMULATED"
    PREDICTED = "PREDICTED"
    PUBLISHED = "PUBLISHED"


def _aware(_: object, attribute: attrs.Attribute[datetime | None], value: datetime | None) -> None:
    if value is not None and value.tzinfo is None:
        raise InvalidValueError(f"{attribute.name} must be an aware datetime (UTC), got the naive {value!r}")


def _frozen_facts(facts: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(facts))


@attrs.frozen(kw_only=True)
class Provenance:
    """What one must know to judge or repeat a run. The only place for wall time.

    Args:
        backend: The backend's name, such as ``"emulator"`` or ``"http"``.
        backend_identity: What tells it apart from others of its name, such as that of another URL; None, as in older results, where
            nothing but its name is known.
        began_at: Wall time (UTC, aware) at which the load began; None where it is not known.
        ended_at: Wall time (UTC, aware) at which the last answer ended; None where it is not known.
        seed: The seed of arrivals, prompts and emulation; None where there was none.
        ready_after_s: Seconds from the order to deploy until the server was ready and had answered what its backend asks it first; None
            when it already ran.
        first_token_after_ready_s: Seconds from the first request that the ready server got to its first token; None where it is not known.
        startup_usd: US dollars for its machines during `ready_after_s`, which is the most that the start-up is billed; None where their
            price is not known.
        startup_price: The price that was reckoned with, its day and source; None without `startup_usd`.
        facts: Whatever else identifies the run, text by text: server, version, image, region, host, clock.

    Raises:
        InvalidValueError: A time of day without its zone, a negative number, or dollars without the price that they rest on.
    """

    backend: str
    backend_identity: str | None = None
    began_at: datetime | None = attrs.field(default=None, validator=_aware)
    ended_at: datetime | None = attrs.field(default=None, validator=_aware)
    seed: int | None = None
    ready_after_s: float | None = attrs.field(default=None, validator=validators.optional(not_negative))
    first_token_after_ready_s: float | None = attrs.field(default=None, validator=validators.optional(not_negative))
    startup_usd: float | None = attrs.field(default=None, validator=validators.optional(not_negative))
    startup_price: str | None = attrs.field(default=None, validator=validators.optional(not_blank))
    facts: Mapping[str, str] = attrs.field(factory=dict, converter=_frozen_facts, hash=False)

    def __attrs_post_init__(self) -> None:
        if (self.startup_usd is None) != (self.startup_price is None):
            raise InvalidValueError(
                f"startup_usd and the startup_price that it rests on go together, got {self.startup_usd!r} and {self.startup_price!r}"
            )
