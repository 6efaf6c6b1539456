"""Whose a container is: the labels that each one carries, and whether the process that started it still lives."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEPLOYMENT", "MODEL", "STARTED_AT", "labels_of", "owner_of", "owner_state"]

DEPLOYMENT = "tgibench.deployment"
"""The label that everything of ours carries; its value is the deployment's own."""

_OWNER = "tgibench.owner"
STARTED_AT = "tgibench.started_at"
MODEL = "tgibench.model"


def labels_of(identity: str, *, model_id: str) -> dict[str, str]:
    """The labels of a deployment's container and volume."""
    return {
        DEPLOYMENT: identity,
        _OWNER: owner_of(os.getpid()),
        STARTED_AT: datetime.now(UTC).isoformat(timespec="seconds"),
        MODEL: model_id,
    }


def owner_of(process: int) -> str:
    """Names a process of this machine; another one that gets its number later has another name."""
    return f"{socket.gethostname()}/{process}/{_started(process)}"


def owner_state(labels: Mapping[str, str]) -> str:
    """``"gone"`` when the process that started it has ended, ``"alive"``, or ``"elsewhere"`` when another machine would know."""
    host, _, rest = labels.get(_OWNER, "").rpartition("/")[0].partition("/")
    if host != socket.gethostname() or not rest.isdigit():
        return "elsewhere"
    return "alive" if _alive(int(rest)) and owner_of(int(rest)) == labels[_OWNER] else "gone"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, so it lives
        return True
    return True


def _started(process: int) -> str:
    """When the process began, in the kernel's ticks; empty where there is no /proc."""
    try:
        stat = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return ""
    fields = stat.rpartition(b")")[2].split()
    return "" if fields[0] == b"Z" else fields[19].decode()
