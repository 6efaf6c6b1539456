"""Names and tags by which tgibench knows its own resources in an account: nothing without both is ever touched."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tgibench._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tgibench.deployments import Deployment

__all__ = ["PREFIX", "is_ours", "name_for", "new_run", "tags_for"]

PREFIX = "tgib-"
_NAME = re.compile(r"tgib-(?P<run>[0-9a-f]{8})-[0-9a-f]{8}")
_NOT_IN_TAGS = re.compile(r"[^\w\s.:/=+\-@]")


def new_run() -> str:
    """A run's own eight hex digits."""
    return secrets.token_hex(4)


def name_for(deployment: Deployment, run: str) -> str:
    """What the model, the endpoint configuration and the endpoint of a deployment are called in a run."""
    described = json.dumps(deployment.described(), sort_keys=True)
    return f"{PREFIX}{run}-{hashlib.sha256(described.encode()).hexdigest()[:8]}"


def tags_for(run: str, owner: str, lifetime_s: float) -> dict[str, str]:
    """What each resource carries."""
    now = datetime.now(UTC).replace(microsecond=0)
    return {
        "tgibench:run": run,
        "tgibench:owner": _NOT_IN_TAGS.sub("_", owner)[:256],
        "tgibench:created": now.isoformat(),
        "tgibench:expires": (now + timedelta(seconds=lifetime_s)).isoformat(),
        "tgibench:version": __version__,
    }


def is_ours(name: str, tags: Mapping[str, str]) -> bool:
    """Whether a resource is tgibench's: its name has the form, and its tag the run that the name says."""
    told = _NAME.fullmatch(name)
    return told is not None and tags.get("tgibench:run") == told["run"]
