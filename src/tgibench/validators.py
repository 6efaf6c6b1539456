"""Validators of the values' fields: each names the field, the value and what it should be."""

from __future__ import annotations

import math
from datetime import date
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from tgibench.errors import InvalidValueError

if TYPE_CHECKING:
    import attrs

__all__ = [
    "above_zero",
    "ascending_instants",
    "below_one",
    "count",
    "day_or_none",
    "header_lines",
    "http_url",
    "is_finite_number",
    "not_blank",
    "not_negative",
    "one_line",
    "share",
]


def is_finite_number(value: object) -> bool:
    """Whether it is an int or float (no bool) that is neither NaN nor infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def above_zero(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    """A number above 0."""
    if not is_finite_number(value) or value <= 0:
        raise InvalidValueError(f"{attribute.name} must be a number above 0, got {value!r}")


def not_negative(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    """A number of at least 0."""
    if not is_finite_number(value) or value < 0:
        raise InvalidValueError(f"{attribute.name} must be a number of at least 0, got {value!r}")


def share(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    """A number above 0 and at most 1."""
    if not is_finite_number(value) or not 0 < value <= 1:
        raise InvalidValueError(f"{attribute.name} must be above 0 and at most 1, got {value!r}")


def below_one(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    """A number of at least 0 and below 1."""
    if not is_finite_number(value) or not 0 <= value < 1:
        raise InvalidValueError(f"{attribute.name} must be at least 0 and below 1, got {value!r}")


def count(_: object, attribute: attrs.Attribute[int], value: object) -> None:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidValueError(f"{attribute.name} must be a whole number of at least 1, got {value!r}")


def day_or_none(_: object, attribute: attrs.Attribute[date | None], value: object) -> None:
    """A date without a time of day, or None."""
    if value is not None and type(value) is not date:
        raise InvalidValueError(f"{attribute.name} must be a datetime.date or None, got {value!r}")


def not_blank(_: object, attribute: attrs.Attribute[str], value: object) -> None:
    """A text with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidValueError(f"{attribute.name} must be a non-empty text, got {value!r}")


def ascending_instants(_: object, attribute: attrs.Attribute[tuple[float, ...]], starts: tuple[float, ...]) -> None:
    """Seconds of at least 0 in ascending order, and at least one of them."""
    if not starts:
        raise InvalidValueError(f"{attribute.name} must hold at least one instant, got none")
    before = 0.0
    for start in starts:
        if not is_finite_number(start) or start < before:
            raise InvalidValueError(
                f"{attribute.name} must be seconds of at least 0 in ascending order, got {start!r} after {before!r}"
            )
        before = start


def http_url(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """The address of an HTTP server, without user and password."""
    try:
        parts = urlsplit(value)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        secret = parts.username is not None or parts.password is not None
        more = "?" in value or "#" in value
    except ValueError:
        valid = secret = more = False
    if secret:
        raise InvalidValueError(f"{attribute.name} must hold no user or password: give a key with api_key or headers")
    if not valid:
        raise InvalidValueError(f"{attribute.name} must be http://host[:port] or https://…, got {value!r}")
    if more:
        raise InvalidValueError(
            f"{attribute.name} must end where the protocol adds its path: one with ? or # was given; a key belongs in headers"
        )


def one_line(_: object, attribute: attrs.Attribute[str | None], value: str | None) -> None:
    """Printable ASCII on one line, or None; the value is not shown."""
    if value is not None and not (value.isprintable() and value.isascii()):
        raise InvalidValueError(f"{attribute.name} must be printable ASCII on one line; the one given is not")


def header_lines(
    endpoint: object, attribute: attrs.Attribute[tuple[tuple[str, str], ...]], value: tuple[tuple[str, str], ...]
) -> None:
    """Pairs of such texts."""
    for pair in value:
        for part in pair:
            one_line(endpoint, cast("attrs.Attribute[str | None]", attribute), part)
