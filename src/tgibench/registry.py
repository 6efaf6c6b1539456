"""Names in files and on the command line that stand for objects: entry points, looked up when a name is used.

A third party's package offers a name by declaring an entry point in one of the groups; tgibench's own are declared the same way.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from tgibench.errors import UnknownNameError

__all__ = ["BACKENDS", "PRICE_TABLES", "PROTOCOLS", "known_names", "load"]

BACKENDS = "tgibench.backends"
PRICE_TABLES = "tgibench.price_tables"
PROTOCOLS = "tgibench.protocols"


def known_names(group: str) -> list[str]:
    """The names of a group, sorted; nothing is imported."""
    return sorted({entry.name for entry in entry_points(group=group)})


def load(group: str, name: str) -> Any:
    """The object that a name stands for.

    Raises:
        UnknownNameError: Nothing installed offers it; the message lists what is.
    """
    for entry in entry_points(group=group, name=name):
        return entry.load()
    kind = group.rpartition(".")[2].removesuffix("s").replace("_", " ")
    raise UnknownNameError(f"unknown {kind} {name!r}; known are {', '.join(known_names(group))}")
