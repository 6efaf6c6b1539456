"""What every protocol's answers have in common: bodies that are no stream, and errors in all their forms."""

from __future__ import annotations

import json
from typing import Any

from tgibench.protocols import Completion
from tgibench.protocols._json_lines import JsonLines
from tgibench.protocols._sse import EventStream
from tgibench.records import Failure, FailureKind

__all__ = [
    "ErrorBody",
    "UndecodableError",
    "count_in",
    "ended_in_error",
    "error_event",
    "events_of",
    "is_event_stream",
    "is_json_lines",
    "is_stream",
    "joined_text",
    "json_object",
    "object_in",
    "object_or_empty",
    "raw_text",
    "undecodable",
]

_STREAM_TYPES = ("text/event-stream", "application/vnd.amazon.eventstream")
_LINES_TYPES = ("application/jsonlines", "application/jsonl", "application/x-jsonlines", "application/x-ndjson")
_COUNT_LIMIT = 2**32  # logs keep the tokens of a chunk in 32 bits
_OVERLOAD_STATUSES = frozenset({429, 503})
_VALIDATION_STATUSES = frozenset({400, 413, 415, 422})
_GENERATION_STATUSES = frozenset({424})


class UndecodableError(ValueError):
    """Bytes that the protocol does not allow."""


def json_object(data: bytes) -> dict[str, Any]:
    """Parse an event or body that must be a JSON object.

    Raises:
        UndecodableError: It is none.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise UndecodableError(f"not JSON: {error}: {_excerpt(data)}") from error
    if not isinstance(value, dict):
        raise UndecodableError(f"not a JSON object: {_excerpt(data)}")
    return value


def object_or_empty(data: bytes) -> dict[str, Any]:
    """A JSON object where there may be one; anything else says nothing: an empty one."""
    try:
        return json_object(data)
    except UndecodableError:
        return {}


def object_in(holder: dict[str, Any], key: str) -> dict[str, Any]:
    """An object that may be absent; anything else in its place says nothing either."""
    value = holder.get(key)
    return value if isinstance(value, dict) else {}


def count_in(holder: dict[str, Any], key: str) -> int | None:
    """A number of tokens; None where there is none, or something that cannot be one."""
    value = holder.get(key)
    return value if type(value) is int and 0 <= value < _COUNT_LIMIT else None  # a bool is no count


def raw_text(text: Any) -> bytes:
    """A chunk's text as the inside of a JSON string, the form in which the routine way keeps it.

    Raises:
        UndecodableError: It is no text.
    """
    if not isinstance(text, str):
        raise UndecodableError(f"a chunk's text is {_excerpt(repr(text).encode())}")
    return json.dumps(text)[1:-1].encode()


def joined_text(raw_texts: list[bytes]) -> tuple[str, Failure | None]:
    """The text of all chunks, and the failure that bytes which are no UTF-8 are: the routine way never looked at them."""
    # a line feed, which no raw text holds: the halves of a character in two chunks are no character
    raw, failure = b"\n".join(raw_texts), None
    try:
        lines = raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        lines = raw.decode("utf-8", "replace")
        failure = undecodable(UndecodableError(f"not UTF-8: {error}"))
    inside = lines.replace("\n", "")
    return str(json.loads(f'"{inside}"')), failure


def undecodable(error: UndecodableError, status: int = 200) -> Failure:
    """The failure that undecodable bytes are."""
    return Failure(FailureKind.UNDECODABLE, str(error), status)


def is_event_stream(headers: Any) -> bool:
    """Whether an answer's content type is that of an event stream, server-sent or Amazon's."""
    return str(headers.get("content-type", "")).lower().startswith(_STREAM_TYPES)


def is_json_lines(headers: Any) -> bool:
    """Whether an answer's content type is that of JSON lines, in which LMI streams."""
    return str(headers.get("content-type", "")).lower().startswith(_LINES_TYPES)


def is_stream(headers: Any) -> bool:
    """Whether an answer's content type is that of any stream."""
    return is_event_stream(headers) or is_json_lines(headers)


def events_of(headers: Any) -> EventStream | JsonLines | None:
    """What takes the events of an answer out of its bytes; None where it is no stream."""
    if is_json_lines(headers):
        return JsonLines()
    return EventStream() if is_event_stream(headers) else None


def ended_in_error(reason: str | None) -> Failure | None:
    """The failure that LMI and vLLM tell of by a finish reason alone."""
    return (
        Failure(FailureKind.GENERATION, "the server ended the generation by an error", 200)
        if reason == "error"
        else None
    )


def error_event(event: dict[str, Any], status: int = 200) -> Failure | None:
    """The failure that an event inside a stream tells of; None when it tells of none. The status is that of the stream."""
    is_error = event.get("object") == "error"  # older vLLM: the event itself
    error = event if is_error else event.get("error")
    if error is None:
        return None
    message, hint = _words(error)
    hint = f"{event.get('error_type', '')} {hint}".lower()
    return Failure(_kind_of_words(message.lower(), hint), message, status)


class ErrorBody:
    """Decodes an answer whose status says that it is an error."""

    def __init__(self, status: int) -> None:
        self._status = status
        self._body = b""

    def feed(self, data: bytes) -> list[int]:
        """Take a piece; an error has no tokens."""
        self._body += data
        return []

    def close(self, *, clean: bool = True) -> Completion:
        """The failure, in the server's own words."""
        del clean  # a cut error body is the same failure
        return Completion(failure=Failure(self._kind(), self._message(), self._status))

    def _kind(self) -> FailureKind:
        if self._status in _OVERLOAD_STATUSES:
            return FailureKind.OVERLOADED
        if self._status in _VALIDATION_STATUSES:
            return FailureKind.VALIDATION
        return FailureKind.GENERATION if self._status in _GENERATION_STATUSES else FailureKind.HTTP_ERROR

    def _message(self) -> str:
        try:
            body = json_object(self._body)
        except UndecodableError:
            return self._body.decode("utf-8", "replace").strip() or f"HTTP {self._status} with an empty body"
        for key in ("error", "message", "detail"):
            if body.get(key):
                return _words(body[key])[0]
        return _excerpt(self._body)


def _words(error: Any) -> tuple[str, str]:
    """An error's message, and what else hints at its kind."""
    if not isinstance(error, dict):
        return str(error), ""
    hint = f"{error.get('type', '')} {error.get('error_type', '')} {error.get('code', '')}"
    return str(error.get("message", error)), f"{hint} {error.get('http_status_code', '')}"


def _kind_of_words(message: str, hint: str) -> FailureKind:
    """TGI's chat calls every failure 422, so the message decides before the number does."""
    if "overloaded" in message or "overloaded" in hint or "429" in hint or "503" in hint:
        return FailureKind.OVERLOADED
    if "during generation" in message or "incomplete generation" in message or "generation" in hint:
        return FailureKind.GENERATION
    if any(word in message or word in hint for word in ("validation", "invalid", "template", "400", "422")):
        return FailureKind.VALIDATION
    return FailureKind.GENERATION


def _excerpt(data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    return repr(text if len(text) <= 80 else text[:77] + "...")
