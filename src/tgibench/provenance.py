"""Where a number comes from: its `Source`, and the `Provenance` of the run that gave it."""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from tgibench.errors import InvalidValueError

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
        began_at: Wall time (UTC, aware) at which the load began; None where it is not known.
        ended_at: Wall time (UTC, aware) at which the last answer ended; None where it is not known.
        seed: The seed of arrivals, prompts and emulation; None where there was none.
        ready_after_s: Seconds from the order to deploy until the server was ready; None when it already ran.
        facts: Whatever else identifies the run, text by text: server, version, image, region, host, clock.
    """

    backend: str
    began_at: datetime | None = attrs.field(default=None, validator=_aware)
    ended_at: datetime | None = attrs.field(default=None, validator=_aware)
    seed: int | None = None
    ready_after_s: float | None = None
    facts: Mapping[str, str] = attrs.field(factory=dict, converter=_frozen_facts, hash=False)
