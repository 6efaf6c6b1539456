"""HTTP/1.1's chunked transfer coding (RFC 9112, section 7.1): framed bytes in, the body's bytes out."""

from __future__ import annotations

import re

__all__ = ["ChunkedFraming"]

_SIZE_LINE = re.compile(rb"[0-9A-Fa-f]{1,15}(?:[ \t]*(?:;[^\r\n]*)?)")
_LONGEST_LINE = 8190
_LONGEST_KNOWN = 4096
_HEADS: dict[int, bytes] = {}  # by the length of a piece: the size line with which it is one whole chunk


class ChunkedFraming:
    """Takes a chunked body in pieces of any size.

    Attributes:
        ended: Whether the last chunk and the trailer section have passed.
        excess: What came after them, which belongs to nothing.
        malformed: What was wrong with bytes that do not go on where the last ones ended; None while nothing is. No more is taken then.
    """

    def __init__(self) -> None:
        self.ended = False
        self.excess = b""
        self.malformed: str | None = None
        self._left = 0  # bytes of the current chunk still to come
        self._line = b""  # a line whose end has not come
        self._state = _Size

    def feed(self, data: bytes) -> bytes:
        """The part of the body that this piece holds."""
        if self._state is _Size and not self._line and self.malformed is None:
            # one whole chunk in one read, as a server that sends token by token gives it
            begin = data.find(b"\r\n") + 2
            try:
                size = int(data[: begin - 2], 16) if 3 <= begin <= 10 and data[0] in _HEX else 0
            except ValueError:
                size = 0
            if size and begin + size + 2 == len(data) and data.endswith(b"\r\n"):
                if len(data) < _LONGEST_KNOWN:
                    _HEADS[len(data)] = data[:begin]
                return data[begin:-2]
        return self._feed_parts(data)

    def feed_each(self, pieces: list[bytes], begin: int, end: int) -> None:
        """Put in the place of some pieces what each holds of the body."""
        known, between = _HEADS.get, False
        for number in range(begin, end):
            data = pieces[number]
            head = known(len(data))
            if between and head is not None and data.startswith(head) and data.endswith(b"\r\n"):
                pieces[number] = data[len(head) : -2]
            else:
                pieces[number] = self.feed(data)
                between = self._state is _Size and not self._line and self.malformed is None

    def _feed_parts(self, data: bytes) -> bytes:
        body, place = [], 0
        while place < len(data) and not self.ended and self.malformed is None:
            if self._state is _Data:
                part = data[place : place + self._left]
                body.append(part)
                place += len(part)
                self._left -= len(part)
                if not self._left:
                    self._state = _DataEnd
                continue
            end = data.find(b"\n", place)
            line = self._line + (data[place:] if end < 0 else data[place : end + 1])
            if len(line) > _LONGEST_LINE:
                self.malformed = f"a chunk's line is longer than {_LONGEST_LINE} bytes"
            if end < 0:
                self._line = line
                break
            self._line, place = b"", end + 1
            self._take_line(line.removesuffix(b"\n").removesuffix(b"\r"))
        if self.ended:
            self.excess += data[place:]
        return b"".join(body)

    def _take_line(self, line: bytes) -> None:
        if self._state is _Size:
            if not _SIZE_LINE.fullmatch(line):
                self.malformed = f"a chunk begins with {line[:40]!r} where its size should stand"
                return
            self._left = int(re.split(rb"[ \t;]", line, maxsplit=1)[0], 16)
            self._state = _Data if self._left else _Trailer
        elif self._state is _DataEnd:
            if line:
                self.malformed = f"a chunk is followed by {line[:40]!r} where its line should end"
            self._state = _Size
        elif not line:  # the trailer section's end
            self.ended = True


_HEX = frozenset(b"0123456789abcdefABCDEF")
_Size, _Data, _DataEnd, _Trailer = "size", "data", "data end", "trailer"
