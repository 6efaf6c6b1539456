"""How far the pulling of an image has come, from the engine's events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PullProgress"]

_STEP_RATIO = 0.05


class PullProgress:
    """Adds up the layers; speaks whenever another twentieth of what is known by then has come."""

    def __init__(self) -> None:
        self._bytes: dict[str, tuple[int, int]] = {}
        self._told = 0.0

    def take(self, event: Mapping[str, Any]) -> str | None:
        """Take the engine's next event; what there is to say, if anything."""
        layer, detail = event.get("id"), event.get("progressDetail") or {}
        total, status = detail.get("total"), event.get("status")
        if layer and status == "Downloading" and total:
            self._bytes[layer] = (int(detail.get("current", 0)), int(total))
        elif layer in self._bytes and status in {"Download complete", "Pull complete"}:
            self._bytes[layer] = (self._bytes[layer][1],) * 2
        else:
            return None
        come, known = (sum(column) for column in zip(*self._bytes.values(), strict=True))
        if come / known < self._told + _STEP_RATIO and come < known:
            return None
        if come == known and self._told == 1.0:
            return None
        self._told = come / known
        return f"{come / 1e6:.1f} of {known / 1e6:.1f} MB"
