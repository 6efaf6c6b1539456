"""The line that TGI's router logs for each finished request, as text (coloured or plain) and as JSON."""

from __future__ import annotations

import enum
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from tgibench.backends.emulator.wire import RequestTimes, TgiVersion

__all__ = ["LogFormat", "rust_duration", "success_line"]

_DEFAULTS: dict[str, Any] = {
    "best_of": None,
    "temperature": None,
    "repetition_penalty": None,
    "top_k": None,
    "top_p": None,
    "typical_p": None,
    "do_sample": False,
    "max_new_tokens": None,
    "return_full_text": None,
    "stop": [],
    "truncate": None,
    "watermark": False,
    "details": False,
    "decoder_input_details": False,
    "seed": None,
}
_NEVER_SOME = {"do_sample", "stop", "watermark", "details", "decoder_input_details"}


class LogFormat(enum.StrEnum):
    """How log lines are written."""

    PLAIN = "plain"
    ANSI = "ansi"  # TGI's default, even without a terminal
    JSON = "json"


def rust_duration(seconds: float) -> str:
    """A duration as Rust's ``{:?}`` prints it: whole nanoseconds in the largest unit that leaves something before the point."""
    nanoseconds = round(seconds * 1e9)
    for unit, size in (("s", 1_000_000_000), ("ms", 1_000_000), ("\u00b5s", 1000)):
        if nanoseconds >= size:
            whole, rest = divmod(nanoseconds, size)
            decimals = f"{rest:0{len(str(size)) - 1}d}".rstrip("0")
            return f"{whole}.{decimals}{unit}" if decimals else f"{whole}{unit}"
    return f"{nanoseconds}ns"


def success_line(
    at: datetime,
    version: TgiVersion,
    times: RequestTimes,
    *,
    span: str,
    parameters: Mapping[str, Any],
    seed: int | None,
    compat: bool = False,
    log_format: LogFormat = LogFormat.PLAIN,
) -> str:
    """The line of a finished request.

    Args:
        at: Wall time, UTC.
        version: TGI's.
        times: How long it took.
        span: ``"generate"``, ``"generate_stream"``, ``"chat_completions"`` or ``"completions"``.
        parameters: The native parameters given.
        seed: As the answer shows it.
        compat: Whether it came by / or /invocations.
        log_format: Plain, coloured or JSON.
    """
    fields = _fields(version, times, span=span, parameters=parameters, seed=seed)
    stamp = at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    target, line = "text_generation_router::server", 289 if span == "generate" else 462
    if log_format is LogFormat.JSON:
        spanned = {**fields, "name": span}
        event: dict[str, Any] = {"timestamp": stamp, "level": "INFO", "message": "Success", "target": target}
        event |= {"filename": "router/src/server.rs", "line_number": line}
        return json.dumps({**event, "span": spanned, "spans": [spanned]}, ensure_ascii=False)
    ansi = log_format is LogFormat.ANSI
    spans = _request_span(ansi=ansi) if not version.since(1, 1) else ""
    if compat:
        spans += _span("compat_generate", {"default_return_full_text": "Extension(false)"}, ansi=ansi)
    spans += _span(span, fields, ansi=ansi)
    place = f"router/src/server.rs{_dim(':', ansi=ansi)}{line}{_dim(':', ansi=ansi)}"
    level = "\x1b[32m INFO\x1b[0m" if ansi else " INFO"
    return f"{_dim(stamp, ansi=ansi)} {level} {spans} {_dim(target, ansi=ansi)}{_dim(':', ansi=ansi)} {_dim(place, ansi=ansi)} Success"


def _fields(
    version: TgiVersion, times: RequestTimes, *, span: str, parameters: Mapping[str, Any], seed: int | None
) -> dict[str, str]:
    shown = _rust_parameters(version, parameters)
    openai = span.endswith("completions")
    fields = {} if openai and not version.since(3, 2) else {"parameters": shown}
    fields |= {
        "total_time": rust_duration(times.total_s),
        "validation_time": rust_duration(times.validation_s),
        "queue_time": rust_duration(times.queue_s),
        "inference_time": rust_duration(times.inference_s),
        "time_per_token": rust_duration(times.time_per_token_s),
        "seed": "None" if seed is None else f"Some({seed})",
    }
    return fields


def _rust_parameters(version: TgiVersion, parameters: Mapping[str, Any]) -> str:
    given = {name: value for name, value in parameters.items() if name in _DEFAULTS}
    if given.get("max_new_tokens") is None:
        given["max_new_tokens"] = version.default_max_new_tokens
    plain = _NEVER_SOME if version.since(1, 2) else _NEVER_SOME | {"max_new_tokens"}
    parts = [f"{name}: {_rust(value, plain=name in plain)}" for name, value in {**_DEFAULTS, **given}.items()]
    return f"GenerateParameters {{ {', '.join(parts)} }}"


def _rust(value: Any, *, plain: bool) -> str:
    if value is None:
        return "None"
    shown = json.dumps(value, ensure_ascii=False)
    return shown if plain else f"Some({shown})"


def _request_span(*, ansi: bool) -> str:
    return _span(
        "HTTP request",
        {"otel.name": "POST /", "http.method": "POST", "trace_id": "00000000000000000000000000000000"},
        ansi=ansi,
    )


def _span(name: str, fields: Mapping[str, str], *, ansi: bool) -> str:
    quoted = {"total_time", "validation_time", "queue_time", "inference_time", "time_per_token", "seed"}
    shown = [
        f"{_italic(key, ansi=ansi)}{_dim('=', ansi=ansi)}" + (f'"{value}"' if key in quoted else value)
        for key, value in fields.items()
    ]
    return (
        f"{_bold(name, ansi=ansi)}{_bold('{', ansi=ansi)}{' '.join(shown)}{_bold('}', ansi=ansi)}{_dim(':', ansi=ansi)}"
    )


def _bold(text: str, *, ansi: bool) -> str:
    return f"\x1b[1m{text}\x1b[0m" if ansi else text


def _dim(text: str, *, ansi: bool) -> str:
    return f"\x1b[2m{text}\x1b[0m" if ansi else text


def _italic(text: str, *, ansi: bool) -> str:
    return f"\x1b[3m{text}\x1b[0m" if ansi else text
