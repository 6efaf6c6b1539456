"""Texts that tell configured objects apart: by their values, the same in every process and on every machine.

Functions and classes are known by their names, not by what they do; an object that has an `identity` of its own by that; any other by all
that it holds.
"""

from __future__ import annotations

import enum
import hashlib
import json
import pickle
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any, cast

import attrs
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["changed", "identity"]


_DEEPEST = 50


def identity(name: str, **told: object) -> str:
    """The name and a digest of what is told, which shows no secret; the name alone where nothing is."""
    if not told:
        return name
    text = json.dumps(_plain(told), sort_keys=True)
    return f"{name}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def changed(instance: object, *names: str) -> dict[str, object]:
    """Those fields of an attrs instance whose values are not their defaults; of the named ones, where some are named."""
    fields = [
        field for field in attrs.fields(type(cast("attrs.AttrsInstance", instance))) if field.name in names or not names
    ]
    return {
        field.name: value
        for field in fields
        if _plain(value := getattr(instance, field.name)) != _plain(_default(instance, field))
    }


def _default(instance: object, field: attrs.Attribute[Any]) -> object:
    default: Any = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # a class, which its stub calls a function
        return default.factory(instance) if default.takes_self else default.factory()
    return default


def _plain(value: object, above: tuple[object, ...] = ()) -> Any:
    """Any value as JSON values: an object as its class and what it holds, down to values that are plain."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, str | int | float):
        return value
    for depth, each in enumerate(above):
        if each is value:
            return ["above", depth]
    if len(above) == _DEEPEST:  # what makes itself anew whenever it is looked at
        return "…"
    parts = [_plain(part, (*above, value)) for part in _parts(value)]
    return sorted(parts, key=json.dumps) if isinstance(value, Mapping | AbstractSet) else parts


def _parts(value: object) -> Iterable[object]:
    match value:
        case list() | tuple() | AbstractSet():
            parts: Iterable[object] = value
        case Mapping():
            parts = value.items()
        case bytes() | bytearray():
            parts = [type(value), value.hex()]
        case np.ndarray() | np.generic():
            parts = [value.tolist()]
        case enum.Enum():
            parts = [type(value), value.name]
        case type() | FunctionType() | BuiltinFunctionType():
            parts = [f"{value.__module__}.{value.__qualname__}"]
        case _ if isinstance(own := getattr(value, "identity", None), str):
            parts = [type(value), own]
        case _ if attrs.has(type(value)):
            parts = [type(value), changed(value)]
        case _:
            parts = [type(value), _state(value)]
    return parts


def _state(value: object) -> object:
    """What an object holds, as copying it would take it along; None of one that cannot be copied."""
    try:
        reduced = value.__reduce_ex__(2)
    except (TypeError, pickle.PicklingError):
        return None
    return [list(part) if isinstance(part, Iterator) else part for part in reduced]
