"""JSON lines: bytes in, the lines out that hold something (jsonlines.org)."""

from __future__ import annotations

__all__ = ["JsonLines"]


class JsonLines:
    """Takes a stream of lines in pieces of any size. Has the face of `EventStream`: a line is an event."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # a line whose end has not come

    def between_events(self) -> bool:
        """Never: no whole event may pass this by."""
        return False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that this piece completes, in order; blank ones, which LMI sends between and at the end, are passed over."""
        first, *others = data.split(b"\n")
        self._rest.append(first)
        if not others:
            return []
        lines = [b"".join(self._rest), *others[:-1]]
        self._rest = [others[-1]]
        return [line for line in map(bytes.strip, lines) if line]

    def close(self) -> list[bytes]:
        """A last line that lacks its end."""
        line = b"".join(self._rest).strip()
        self._rest = []
        return [line] if line else []
