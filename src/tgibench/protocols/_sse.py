"""Server-sent events: bytes in, the data of each event out (WHATWG HTML, section 9.2)."""

from __future__ import annotations

__all__ = ["EventStream"]

_BOM = b"\xef\xbb\xbf"


class EventStream:
    """Takes a stream of events in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""  # a line whose end has not come
        self._lines: list[bytes] = []  # data lines of an event whose end has not come
        self._after_cr = False
        self._begun = False

    def between_events(self) -> bool:
        """Whether the next byte begins a line and an event, and not the stream: a whole event may then pass this by."""
        return self._begun and not (self._rest or self._lines or self._after_cr)

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that this piece completes, in order, empty ones too; several data lines are joined by a line feed."""
        if (
            data.startswith(b"data:")
            and data.endswith(b"\n\n")
            and not (self._rest or self._lines or self._after_cr)
            and data.find(b"\n", 0, -2) < 0
            and b"\r" not in data
        ):  # one whole event in one read, as a server that sends token by token gives it
            self._begun = True
            return [data[6:-2] if data[5:6] == b" " else data[5:-2]]
        return self._feed_lines(data)

    def close(self) -> list[bytes]:
        """The data of a last event that lacks its blank line; the specification would drop it, servers rely on its being kept."""
        self._take_line(self._rest)
        self._rest = b""
        if not self._lines:
            return []
        event = b"\n".join(self._lines)
        self._lines.clear()
        return [event]

    def _feed_lines(self, data: bytes) -> list[bytes]:
        if self._after_cr and data.startswith(b"\n"):  # the second half of a line end that was cut in two
            data = data[1:]
            self._after_cr = False
        if not data:
            return []
        self._after_cr = data.endswith(b"\r")
        text = self._rest + data
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not self._begun and len(text) >= len(_BOM):
            text, self._begun = text.removeprefix(_BOM), True
        *lines, self._rest = text.split(b"\n")
        events = []
        for line in lines:
            if line:
                self._take_line(line)
            elif self._lines:
                events.append(b"\n".join(self._lines))
                self._lines.clear()
        return events

    def _take_line(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._lines.append(value.removeprefix(b" "))
