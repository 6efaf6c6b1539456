"""Whether this process may hold the connections that a load needs: looked at before a run, which would fail in the midst of it."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from tgibench.errors import InvalidValueError

if sys.platform != "win32":
    import resource

__all__ = ["make_room_for"]

_FILES_OF_A_CONNECTION = 2  # its socket, and the descriptor through which arrival times are read
_SPARE = 64  # name look-ups, temporary files, a store
_LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def make_room_for(connections: int, *, servers: int = 1) -> None:
    """See that there is room for so many connections to each server; this process's limit of open files is raised as far as it goes.

    Raises:
        InvalidValueError: There is not: the limit is too low, or one machine has too few ports for them.
    """
    ports = _local_ports()
    if ports is not None and connections > ports:
        raise InvalidValueError(
            f"{connections} requests in flight need as many connections, and this machine has {ports} local ports for those to one "
            "server: spread the load over several machines, or widen net.ipv4.ip_local_port_range"
        )
    connections *= servers
    needed = _open_files() + connections * _FILES_OF_A_CONNECTION + _SPARE
    allowed = _open_files_allowed(needed)
    if allowed is not None and needed > allowed:
        raise InvalidValueError(
            f"{connections} requests in flight need {needed} open files, and this process may have {allowed}: raise the hard limit "
            f"(`ulimit -Hn {needed}` as root, or LimitNOFILE=), put fewer requests in flight, or spread the load over workers"
        )


def _open_files_allowed(needed: int) -> int | None:
    """The limit, once raised; None where there is none."""
    if sys.platform == "win32":
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, needed):  # some systems take no soft limit as high as the hard one
        if soft != hard and (limit == hard or soft < needed):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                soft = limit
    return None if soft == resource.RLIM_INFINITY else soft


def _open_files() -> int:
    try:
        return len(os.listdir("/dev/fd"))  # noqa: PTH208 - names, not paths
    except OSError:
        return 3


def _local_ports() -> int | None:
    """How many connections to one address and port can be told apart; None where the system does not say."""
    try:
        first, last = map(int, _LOCAL_PORTS.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return None
    return last - first + 1
