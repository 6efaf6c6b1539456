"""What killed runs left behind, wherever they ran: a loop over the backends that start something."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

import attrs

from tgibench.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["CLEANERS", "Cleaner", "Leftover", "cleaner"]

CLEANERS = {
    "docker": "tgibench.backends.docker.leftovers",
    "sagemaker": "tgibench.backends.sagemaker.leftovers",
}
"""The backends that start something, and the module of each that finds and removes what is left of it."""


@attrs.frozen(kw_only=True)
class Leftover:
    """One thing that a killed run left.

    Args:
        kind: What it is: ``"container"``, ``"endpoint"``, ….
        name: Its name, by which it is removed.
        note: What tells it from others: for which model, since when.
    """

    kind: str
    name: str
    note: str


class Cleaner(Protocol):
    """What such a module offers."""

    @property
    def find(self) -> Callable[..., Awaitable[list[Leftover]]]:
        """Awaited for what dead runs left; with ``everything=True`` also for what may be in use.

        Raises:
            MissingExtraError: What it needs is not installed.
            DeployError: It cannot be looked at.
        """

    @property
    def remove(self) -> Callable[[list[Leftover]], Awaitable[None]]:
        """Remove what was found, and make sure of it.

        Raises:
            DeployError: It cannot be removed; the message says what is left.
        """


def cleaner(backend: str) -> Cleaner:
    """The cleaner of a backend.

    Raises:
        UnknownNameError: It starts nothing that could be left.
    """
    if backend not in CLEANERS:
        raise UnknownNameError(f"no backend {backend!r} leaves anything behind; known are {', '.join(CLEANERS)}")
    return cast("Cleaner", importlib.import_module(CLEANERS[backend]))
