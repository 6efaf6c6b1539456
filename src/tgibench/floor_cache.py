"""What calibrations found, kept in the user's cache folder: one small file for each machine and set of software."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from tgibench._version import __version__
from tgibench.client_floor import ClientFloor, ClientHost, LimitCheck
from tgibench.files import write_whole
from tgibench.serialization import figure_from_json, figure_to_json, health_from_json, health_to_json

if TYPE_CHECKING:
    from tgibench.client_health import StampSource

__all__ = ["floor_from_json", "floor_to_json", "keep_floor", "remembered_floor", "this_host"]

_DISTRIBUTIONS = ("ttft_error_s", "icl_error_s", "tpot_error_s", "latency_error_s")
_ESTIMATES = ("cpu_per_token_s", "cpu_per_request_s")


def this_host(stamps: StampSource) -> ClientHost:
    """This machine and software, as a floor names them."""
    return ClientHost(
        name=platform.node(),
        machine_id=_first_line(Path("/etc/machine-id")),
        cpu_model=_cpu_model(),
        cores=_cores(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        tgibench=__version__,
        aiohttp=metadata.version("aiohttp"),
        stamps=stamps,
    )


def remembered_floor(*stamps: StampSource) -> ClientFloor | None:
    """The floor that was found on this machine with this software and one of these kinds of stamps; None when there is none."""
    for each in stamps:
        host = this_host(each)
        try:
            floor = floor_from_json(json.loads(_file(host).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # what cannot be read is found anew
        if floor.host == host:
            return floor
    return None


def keep_floor(floor: ClientFloor) -> Path:
    """Remember a floor; where.

    Raises:
        OSError: It cannot be written.
    """
    path = _file(floor.host)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(floor_to_json(floor), indent=1, allow_nan=False) + "\n")
    return path


def floor_to_json(floor: ClientFloor) -> dict[str, Any]:
    """A floor as JSON values; what it holds for the limits is told beside what that was reckoned from."""
    return {
        "host": attrs.asdict(floor.host),
        "found_at": floor.found_at.isoformat(),
        "load": floor.load,
        **{name: figure_to_json(getattr(floor, name)) for name in (*_DISTRIBUTIONS, *_ESTIMATES)},
        "health": health_to_json(floor.health),
        "check": None if floor.check is None else attrs.asdict(floor.check),
        "core_share": floor.core_share,
        "notes": list(floor.notes),
        "tokens_per_s": floor.tokens_per_s,
        "requests_per_s": floor.requests_per_s,
    }


def floor_from_json(record: dict[str, Any]) -> ClientFloor:
    """A floor from JSON values.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: The values are not those of a floor.
    """
    return ClientFloor(
        host=ClientHost(**record["host"]),
        found_at=datetime.fromisoformat(record["found_at"]),
        load=record["load"],
        **{name: figure_from_json(record[name]) for name in (*_DISTRIBUTIONS, *_ESTIMATES)},
        health=health_from_json(record["health"]),
        check=None if record["check"] is None else LimitCheck(**record["check"]),
        core_share=record["core_share"],
        notes=tuple(record["notes"]),
    )


def _file(host: ClientHost) -> Path:
    shared = os.environ.get("XDG_CACHE_HOME")
    base = Path(shared) if shared else Path.home() / ".cache"
    digest = hashlib.sha256(json.dumps(attrs.asdict(host), sort_keys=True).encode()).hexdigest()[:16]
    return base / "tgibench" / f"client-floor-{digest}.json"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _cpu_model() -> str:
    """As Linux names it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None
