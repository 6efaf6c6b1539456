"""JSON bodies of requests, and how a server refuses them: in TGI's form or in its web framework's plain text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tgibench.backends.emulator.wire import compact_json
from tgibench.errors import TgibenchError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RequestRefusedError", "check_types", "parse_body", "require", "undeserialisable"]

_U32, _U64 = 2**32 - 1, 2**64 - 1


class RequestRefusedError(TgibenchError):
    """A request gets an error for an answer: its status, and TGI's body or the web framework's plain text."""

    def __init__(self, message: str, *, error_type: str | None = "validation", status: int = 422) -> None:
        super().__init__(message)
        self.message = message
        self.error_type = error_type
        self.status = status

    @classmethod
    def overloaded(cls) -> RequestRefusedError:
        """No permit of `max_concurrent_requests` was left."""
        return cls("Model is overloaded", error_type="overloaded", status=429)

    @classmethod
    def failed(cls) -> RequestRefusedError:
        """The model failed while it generated."""
        return cls(
            "Request failed during generation: Server error: CUDA error: an illegal memory access was encountered",
            error_type="generation",
            status=424,
        )

    @property
    def body(self) -> bytes:
        """As sent."""
        if self.error_type is None:
            return self.message.encode()
        return compact_json({"error": self.message, "error_type": self.error_type})

    @property
    def content_type(self) -> str:
        """Of the body."""
        return "text/plain; charset=utf-8" if self.error_type is None else "application/json"


def parse_body(raw: bytes, content_type: str) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        RequestRefusedError: The header, the JSON or its kind is wrong.
    """
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise RequestRefusedError("Expected request with `Content-Type: application/json`", error_type=None, status=415)
    try:
        body = json.loads(raw)
        if b"\\ud" in raw.lower():  # perhaps half a character, which Python's parser takes and TGI's does not
            json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        position = f"line {getattr(error, 'lineno', 1)} column {getattr(error, 'colno', 1)}"
        raise RequestRefusedError(
            f"Failed to parse the request body as JSON: expected value at {position}", error_type=None, status=400
        ) from error
    if not isinstance(body, dict):
        raise undeserialisable(f"invalid type: {_kind(body)}, expected a map", raw)
    return body


def undeserialisable(reason: str, raw: bytes | None) -> RequestRefusedError:
    """The web framework's refusal of a body; `raw` where it tells the position."""
    if raw is None:
        return RequestRefusedError(
            f"Failed to deserialize the JSON body into the target type: {reason}", error_type=None
        )
    lines = raw.decode(errors="replace").rstrip().split("\n")
    return RequestRefusedError(
        f"Failed to deserialize the JSON body into the target type: {reason} at line {len(lines)} column {len(lines[-1])}",
        error_type=None,
    )


def _kind(value: object) -> str:
    """A JSON value as serde names it in an error."""
    if isinstance(value, str):
        return f"string {json.dumps(value, ensure_ascii=False)}"
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, int):
        return f"integer `{value}`"
    if isinstance(value, float):
        return f"floating point `{value}`"
    if isinstance(value, list):
        return "sequence"
    return "map" if isinstance(value, dict) else "null"


def _fits(value: object, expected: str) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    match expected:
        case "a string":
            return isinstance(value, str)
        case "a boolean":
            return isinstance(value, bool)
        case "f32":
            return whole or isinstance(value, float)
        case "a sequence":
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case "a map":
            return isinstance(value, dict)
        case _:
            limit = {"u32": _U32, "u64": _U64, "i32": 2**31 - 1, "usize": _U64}[expected]
            return isinstance(value, int) and whole and (expected == "i32" or value >= 0) and value <= limit


def check_types(values: Mapping[str, Any], types: Mapping[str, str], raw: bytes, *, never_null: set[str]) -> None:
    """Refuse a value of the wrong type with the web framework's text; unknown fields pass, as they do in TGI.

    Raises:
        RequestRefusedError: Status 422, plain text.
    """
    for name, expected in types.items():
        if name not in values or (values[name] is None and name not in never_null):
            continue
        if not _fits(values[name], expected):
            raise undeserialisable(f"{name}: invalid type: {_kind(values[name])}, expected {expected}", raw)


def require(values: Mapping[str, Any], name: str, raw: bytes) -> None:
    """Refuse a body without a field that has no default.

    Raises:
        RequestRefusedError: Status 422, plain text.
    """
    if name not in values:
        raise undeserialisable(f"missing field `{name}`", raw)
