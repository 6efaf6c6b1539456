"""Where workers come from, and how they reach the process that leads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tgibench.errors import InvalidValueError
from tgibench.validators import above_zero, count

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["Workers"]


def _address(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    host, port = _split(value)
    if host in {"", "0.0.0.0", "::"} or not port.isdigit() or int(port) > 65535:  # noqa: S104 - refused, as it cannot be dialled
        raise InvalidValueError(f"{attribute.name} must be an address such as 10.0.0.5 or 10.0.0.5:7700, got {value!r}")


def _split(address: str) -> tuple[str, str]:
    if address.count(":") == 1:
        host, _, port = address.partition(":")
        return host, port
    if address.startswith("["):
        host, _, port = address[1:].partition("]")
        return host, port.removeprefix(":") or "0"
    return address, "0"


@attrs.frozen
class Workers:
    """Who shares a run.

    Args:
        executor: Where workers come from.
        shards: How many parts the load is split into; all run at once.
        listen: The address of this machine at which workers reach it, with a port or without.
        start_within_s: How long they may take to report.

    Raises:
        InvalidValueError: A value is out of range, or the executor is known to have fewer workers.
    """

    executor: Executor
    shards: int = attrs.field(validator=count)
    listen: str = attrs.field(default="127.0.0.1", validator=_address, kw_only=True)
    start_within_s: float = attrs.field(default=60.0, validator=above_zero, kw_only=True)

    def __attrs_post_init__(self) -> None:
        # pools of threads and processes keep their size there; of others it shows when too few workers report
        size = getattr(self.executor, "_max_workers", None)
        if isinstance(size, int) and size < self.shards:
            raise InvalidValueError(f"shards must not exceed the executor's {size} workers, got {self.shards}")

    @property
    def host(self) -> str:
        """The address without its port."""
        return _split(self.listen)[0]

    @property
    def port(self) -> int:
        """The port; 0 for any that is free."""
        return int(_split(self.listen)[1])
