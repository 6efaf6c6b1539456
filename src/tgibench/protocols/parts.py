"""What protocols have in common, for writing one's own: server-sent events, JSON lines, bodies of errors, JSON that may be anything."""

from __future__ import annotations

from tgibench.protocols._answers import (
    ErrorBody,
    UndecodableError,
    count_in,
    error_event,
    is_event_stream,
    is_json_lines,
    json_object,
    object_in,
    undecodable,
)
from tgibench.protocols._json_lines import JsonLines
from tgibench.protocols._sse import EventStream

__all__ = [
    "ErrorBody",
    "EventStream",
    "JsonLines",
    "UndecodableError",
    "count_in",
    "error_event",
    "is_event_stream",
    "is_json_lines",
    "json_object",
    "object_in",
    "undecodable",
]
