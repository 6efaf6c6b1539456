"""The line that TGI's router logs for each request it answered, read as times: text, coloured text or JSON, of every version."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.records import ServerTimings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["LoggedRequest", "logged_request", "logged_requests", "rust_seconds", "without_colour"]

# CloudWatch writes the escape byte as the four characters #033; a JSON writer as \u001b
_COLOUR = re.compile(r"(?:\x1b|#033|\\u001b|\\x1b|\\033)\[[0-9;]*m")
_FIELD = re.compile(r'\b(\w+)\s*=\s*"([^"]*)"')
_SPAN = re.compile(r"(\w+)\{")
_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|ms|us|[\u00b5\u03bc]s|ns)")
_UNIT_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ns": 1e-9}
_TIMES = {
    "validation_time": "validation_s",
    "queue_time": "queue_s",
    "inference_time": "inference_s",
    "total_time": "total_s",
    "time_per_token": "time_per_token_s",
}


@attrs.frozen(kw_only=True)
class LoggedRequest:
    """A request as the server's log tells it.

    Args:
        ended_at: Wall time (UTC, aware) at which the server logged it: its end; None where the line has no stamp.
        span: What kind of request it was: ``"generate"``, ``"generate_stream"``, ``"chat_completions"``, …; None where the line is silent.
        server: The times it tells.
    """

    ended_at: datetime | None
    span: str | None
    server: ServerTimings


def logged_requests(lines: Iterable[str]) -> Iterator[LoggedRequest]:
    """The requests that a log tells of, in its order; every other line is passed over."""
    for line in lines:
        request = logged_request(line)
        if request is not None:
            yield request


def logged_request(line: str) -> LoggedRequest | None:
    """What one line tells of an answered request; None for any other line, whatever it holds.

    A failed request has no such line. The prompt's own text may hold what looks like a time: the last value of each name counts,
    as the router writes them after the parameters.
    """
    if "Success" not in line or "total_time" not in line:
        return None
    line = line.strip()
    if line.startswith("{"):
        return _from_json(line)
    line = without_colour(line)
    head, success, rest = line.rpartition("Success")
    if not success or rest.strip():
        return None
    spans = [name for name in _SPAN.findall(head) if not name.startswith(("compat", "GenerateParameters"))]
    return _request(dict(_FIELD.findall(head)), span=_last_request_span(spans), stamp=_STAMP.search(head))


def rust_seconds(text: str) -> float | None:
    """Seconds of a duration as Rust prints it (``"1.23s"``, ``"12.3ms"``, ``"45.6\u00b5s"``, ``"789ns"``); None when it is none."""
    match = _DURATION.fullmatch(text.strip())
    return None if match is None else float(match[1]) * _UNIT_S[match[2]]


def without_colour(line: str) -> str:
    """The line without terminal colours, in whatever form a log service kept them."""
    return _COLOUR.sub("", line)


def _from_json(line: str) -> LoggedRequest | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    message = event.get("message", event.get("fields"))
    if isinstance(message, dict):
        message = message.get("message")
    span = event.get("span")
    if message != "Success" or not isinstance(span, dict):
        return None
    name = span.get("name")
    stamp = _STAMP.fullmatch(str(event.get("timestamp")))
    return _request(span, span=name if isinstance(name, str) else None, stamp=stamp)


def _request(fields: Mapping[str, Any], *, span: str | None, stamp: re.Match[str] | None) -> LoggedRequest | None:
    times = {_TIMES[name]: rust_seconds(str(value)) for name, value in fields.items() if name in _TIMES}
    if times.get("total_s") is None:
        return None
    ended_at = None if stamp is None else _instant(stamp[0])
    return LoggedRequest(ended_at=ended_at, span=span, server=ServerTimings(**times))


def _instant(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:  # digits, but no date
        return None


def _last_request_span(names: list[str]) -> str | None:
    known = [name for name in names if name.startswith(("generate", "chat_completions", "completions"))]
    return known[-1] if known else None
