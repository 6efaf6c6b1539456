"""Amazon's event stream: bytes in, the payloads of its frames out (`application/vnd.amazon.eventstream`).

A frame is: its length and the length of its headers (two big-endian 32-bit numbers), a CRC-32 of those eight bytes, the headers, the
payload, and a CRC-32 of everything before. A header is a name, a type and a value. Both checksums are checked. Payloads are cut at
arbitrary places of what the container wrote. Source: botocore's parser and the Smithy specification of the format.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING
from zlib import crc32

import attrs

from tgibench.protocols._answers import object_or_empty
from tgibench.records import Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MEDIA_TYPE", "FrameStream", "StreamedError", "encode_frame"]

MEDIA_TYPE = "application/vnd.amazon.eventstream"

_PRELUDE = struct.Struct(">III")
_CRC = struct.Struct(">I")
_crc_at = _CRC.unpack_from
_EMPTY_BYTES = _PRELUDE.size + _CRC.size
_MAX_HEADERS_BYTES = 128 * 1024  # the format's own limits
_MAX_PAYLOAD_BYTES = 24 * 1024 * 1024
_MAX_PREFIXES = 4096  # few lengths make up most of a stream
_NO_PREFIXES: dict[int, tuple[bytes, int, int]] = {}
_STRING = 7
_FIXED_BYTES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}  # true, false, byte, short, int, long, time, UUID
_COUNTED = frozenset({6, _STRING})  # bytes and text, their length in two bytes before them


@attrs.frozen
class StreamedError:
    """An exception that the service sent inside a stream whose status was 200 already.

    Args:
        name: Its type, such as ``"ModelStreamError"``.
        message: The service's words.
        code: The ``ErrorCode`` of a ModelStreamError (``"ModelInvocationTimeExceeded"``, ``"StreamBroken"``); None without one.
    """

    name: str
    message: str
    code: str | None = None

    @property
    def failure(self) -> Failure:
        """As a request's failure: an error event inside a stream is one of the model's."""
        name = self.name if self.code is None else f"{self.name} ({self.code})"
        return Failure(FailureKind.GENERATION, f"{name}: {self.message}", 200)


class _MalformedError(ValueError):
    """Bytes that are no frame."""


class FrameStream:
    """Takes a stream of frames in pieces of any size.

    The first failure ends it: bytes that are no frame, a checksum that does not fit, a frame larger than the format allows, or
    an exception that the service sent. What came before it has been handed out.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of frames that are not whole yet
        self._have = 0
        self._need = _PRELUDE.size
        self._event_headers = b""  # of the last event: where they come again they need no parsing
        self._prefixes = _NO_PREFIXES  # of events with these headers
        self._routine_prefixes = _NO_PREFIXES  # the same where the next byte begins a frame
        self.failure: Failure | None = None
        self.error: StreamedError | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads of the events that this piece completes, in order."""
        payload = self.routine(data)
        return self._feed_slowly(data) if payload is None else [payload]

    def routine(self, data: bytes) -> bytes | None:
        """The payload of a piece that is one whole event with the headers of the last; None, and nothing taken, where it is not.

        All before the payload is the same in each such event of this length, so that it is compared and its checksum known.
        """
        known = self._routine_prefixes.get(len(data))
        if known is not None and data.startswith(known[0]):
            payload = data[known[2] : -4]
            if crc32(payload, known[1]) == _crc_at(data, -4)[0]:
                return payload
        return None

    def _feed_slowly(self, data: bytes) -> list[bytes]:
        if self.failure:
            return []
        if self._have:
            self._pieces.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            data = b"".join(self._pieces)
            self._pieces.clear()
            self._have = 0
        payloads: list[bytes] = []
        self._routine_prefixes = _NO_PREFIXES
        try:
            rest = self._take_frames(data, payloads)
        except _MalformedError as error:
            self.failure = Failure(FailureKind.UNDECODABLE, f"no event stream: {error}", 200)
            return payloads
        if rest < len(data) and self.failure is None:
            self._pieces.append(data[rest:] if rest else data)
            self._have = len(data) - rest
        elif self.failure is None:
            self._routine_prefixes = self._prefixes
        return payloads

    def close(self) -> Failure | None:
        """What was wrong with the stream; TRUNCATED where it ended inside a frame."""
        if self.failure is None and self._have:
            need = f"of {self._need} " if self._have >= _PRELUDE.size else ""
            message = f"the stream ended inside a frame, {self._have} {need}bytes into it"
            return Failure(FailureKind.TRUNCATED, message, 200)
        return self.failure

    def _take_frames(self, data: bytes, payloads: list[bytes]) -> int:
        """Take all whole frames; where the first that is not whole begins."""
        at, end = 0, len(data)
        while end - at >= 12:
            total, headers_bytes = _lengths(data[at : at + 12])
            stop = at + total
            if stop > end:
                self._need = total
                return at
            frame_crc, crc = _crc_at(data, stop - 4)[0], crc32(data[at : stop - 4])
            if crc != frame_crc:
                raise _MalformedError(f"the checksum of a frame is {frame_crc:08x}, its bytes' is {crc:08x}")
            body = at + 12 + headers_bytes
            headers = data[at + 12 : body]
            if (headers and headers == self._event_headers) or self._is_event(headers, data[body : stop - 4]):
                payloads.append(data[body : stop - 4])
                if total not in self._prefixes and len(self._prefixes) < _MAX_PREFIXES:
                    prefix = data[at:body]
                    self._prefixes[total] = prefix, crc32(prefix), len(prefix)
            if self.failure:
                return end
            at = stop
        self._need = _PRELUDE.size
        return at

    def _is_event(self, raw: bytes, payload: bytes) -> bool:
        headers = dict(_headers(raw))
        kind = headers.get(":message-type")
        if kind == "event":
            if headers.get(":event-type") != "PayloadPart":
                return False
            self._event_headers, self._prefixes = raw, _prefixes_of(raw)
            return True
        if kind not in {"exception", "error"}:
            raise _MalformedError(f"a frame of message type {kind!r}")
        self.error = _streamed_error(headers, payload)
        self.failure = self.error.failure
        return False


@functools.lru_cache(maxsize=64)  # services send the same few, in every stream
def _prefixes_of(headers: bytes) -> dict[int, tuple[bytes, int, int]]:
    """What events with these headers begin with, up to their payload: by their length the bytes, their checksum and their number.

    Empty at first; filled as such events are seen.
    """
    del headers
    return {}


@functools.lru_cache(maxsize=4096)  # few lengths make up most of a stream
def _lengths(prelude: bytes) -> tuple[int, int]:
    """The length of a frame and that of its headers.

    Raises:
        _MalformedError: Their checksum does not fit, or the format does not allow them.
    """
    total, headers_bytes, given = _PRELUDE.unpack(prelude)
    crc = crc32(prelude[:8])
    if crc != given:
        raise _MalformedError(f"the checksum of a frame's lengths is {given:08x}, theirs is {crc:08x}")
    payload_bytes = total - _EMPTY_BYTES - headers_bytes
    if headers_bytes > _MAX_HEADERS_BYTES or not 0 <= payload_bytes <= _MAX_PAYLOAD_BYTES:
        raise _MalformedError(f"a frame of {total} bytes with {headers_bytes} bytes of headers")
    return total, headers_bytes


def encode_frame(headers: dict[str, str], payload: bytes) -> bytes:
    """A frame with these headers, all of them texts."""
    block = b"".join(
        bytes((len(name),)) + name.encode() + struct.pack(">BH", _STRING, len(value.encode())) + value.encode()
        for name, value in headers.items()
    )
    lengths = struct.pack(">II", _EMPTY_BYTES + len(block) + len(payload), len(block))
    frame = lengths + _CRC.pack(crc32(lengths)) + block + payload
    return frame + _CRC.pack(crc32(frame))


def _headers(raw: bytes) -> Iterator[tuple[str, str]]:
    """Names and values of a frame's headers that are texts; others are checked and passed over."""
    at, end, seen = 0, len(raw), set()
    while at < end:
        name_stop = at + 1 + raw[at]
        if name_stop >= end:
            raise _MalformedError("a header is cut off")
        name, kind = raw[at + 1 : name_stop], raw[name_stop]
        at = name_stop + 1
        if kind in _COUNTED:
            length = int.from_bytes(raw[at : at + 2], "big")
            at += 2
        elif kind in _FIXED_BYTES:
            length = _FIXED_BYTES[kind]
        else:
            raise _MalformedError(f"a header of the unknown type {kind}")
        if at + length > end:
            raise _MalformedError("a header is cut off")
        if name in seen:
            raise _MalformedError(f"the header {name!r} comes twice")
        seen.add(name)
        if kind == _STRING:
            try:
                yield name.decode(), raw[at : at + length].decode()
            except UnicodeDecodeError as error:
                raise _MalformedError(f"a header is not UTF-8: {error}") from error
        at += length


def _streamed_error(headers: dict[str, str], payload: bytes) -> StreamedError:
    body = object_or_empty(payload)
    name = headers.get(":exception-type") or headers.get(":error-code") or "an exception without a type"
    message = body.get("Message") or body.get("message") or headers.get(":error-message")
    code = body.get("ErrorCode")
    return StreamedError(
        name, str(message or payload.decode("utf-8", "replace") or "no message"), None if code is None else str(code)
    )
