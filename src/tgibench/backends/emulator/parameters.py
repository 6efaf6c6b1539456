"""What a request to TGI may say, and how each version refuses what it may not: bodies in, a `Generation` or a refusal out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.backends.emulator.wire import compact_json, count_tokens
from tgibench.errors import TgibenchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tgibench.backends.emulator.scheduler import EngineSettings
    from tgibench.backends.emulator.wire import TgiVersion

__all__ = [
    "MAX_STOP_SEQUENCES",
    "MAX_TOP_N_TOKENS",
    "Generation",
    "RequestRefusedError",
    "checked",
    "native",
    "parse_body",
]

MAX_STOP_SEQUENCES = 4
MAX_TOP_N_TOKENS = 5
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


@attrs.frozen(kw_only=True)
class Generation:
    """A request that was understood and allowed.

    Args:
        prompt: Its text.
        input_tokens: Its length, after truncation.
        max_new_tokens: Most tokens to generate.
        unasked_length: Whether the request left the length to a server that fills the model's whole length.
        stop: Texts that end the answer.
        details: Whether the last event or the answer carries details.
        decoder_input_details: Whether the prompt's tokens are listed.
        return_full_text: Whether the prompt is repeated before the answer.
        top_n_tokens: Alternatives listed for each token.
        seed: The sampling seed as the answer shows it: None for greedy decoding.
        parameters: The native parameters given, for the log line.
    """

    prompt: str
    input_tokens: int
    max_new_tokens: int
    unasked_length: bool = False
    stop: tuple[str, ...] = ()
    details: bool = False
    decoder_input_details: bool = False
    return_full_text: bool = False
    top_n_tokens: int = 0
    seed: int | None = None
    parameters: Mapping[str, Any] = attrs.field(factory=dict)


def parse_body(raw: bytes, content_type: str) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        RequestRefusedError: The header, the JSON or its kind is wrong.
    """
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise RequestRefusedError("Expected request with `Content-Type: application/json`", error_type=None, status=415)
    try:
        body = json.loads(raw)
    except ValueError as error:
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
    return {list: "sequence", dict: "map"}.get(type(value), "null")


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


_NATIVE_TYPES = {
    "best_of": "usize",
    "temperature": "f32",
    "repetition_penalty": "f32",
    "frequency_penalty": "f32",
    "top_k": "i32",
    "top_p": "f32",
    "typical_p": "f32",
    "do_sample": "a boolean",
    "max_new_tokens": "u32",
    "return_full_text": "a boolean",
    "stop": "a sequence",
    "truncate": "usize",
    "watermark": "a boolean",
    "details": "a boolean",
    "decoder_input_details": "a boolean",
    "seed": "u64",
    "top_n_tokens": "u32",
}
_NEVER_NULL = {"do_sample", "stop", "watermark", "details"}


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


def native(
    body: Mapping[str, Any],
    raw: bytes,
    *,
    version: TgiVersion,
    settings: EngineSettings,
    stream: bool,
    compat: bool = False,
) -> Generation:
    """A request in TGI's own form.

    Raises:
        RequestRefusedError: Its form or a parameter is wrong.
    """
    require(body, "inputs", raw)
    check_types(body, {"inputs": "a string", "parameters": "a map", "stream": "a boolean"}, raw, never_null={"inputs"})
    parameters = body.get("parameters") or {}
    check_types(parameters, _NATIVE_TYPES, raw, never_null=_NEVER_NULL)
    if version.since(1, 4) and not body.get("parameters"):
        parameters = {"do_sample": True}
    return checked(
        body["inputs"],
        parameters,
        version=version,
        settings=settings,
        stream=stream,
        default_full_text=compat and version.since(1, 4, 2),
    )


def checked(
    prompt: str,
    parameters: Mapping[str, Any],
    *,
    version: TgiVersion,
    settings: EngineSettings,
    stream: bool,
    default_full_text: bool = False,
) -> Generation:
    """The generation that a prompt and native parameters ask for.

    Raises:
        RequestRefusedError: A parameter or a length is out of range, in TGI's words.
    """
    _check_ranges(parameters, version=version, settings=settings, stream=stream)
    if not prompt:
        raise _invalid("`inputs` cannot be empty")
    input_tokens = count_tokens(prompt)
    if parameters.get("truncate"):
        input_tokens = min(input_tokens, parameters["truncate"])
    input_tokens = max(input_tokens, 1)
    asked = parameters.get("max_new_tokens")
    wanted = asked if asked is not None else version.default_max_new_tokens
    room = settings.max_total_tokens - input_tokens
    if wanted is not None and wanted > room and not version.shortens_long_answers:
        raise _invalid(
            f"`inputs` tokens + `max_new_tokens` must be <= {settings.max_total_tokens}. "
            f"Given: {input_tokens} `inputs` tokens and {wanted} `max_new_tokens`"
        )
    if input_tokens > settings.max_input_tokens:
        raise _invalid(f"`inputs` must have less than {settings.max_input_tokens} tokens. Given: {input_tokens}")
    prefill_listed = bool(parameters.get("decoder_input_details"))
    full_text = parameters.get("return_full_text")
    return Generation(
        prompt=prompt,
        input_tokens=input_tokens,
        max_new_tokens=max(1, room if wanted is None else min(wanted, room)),
        unasked_length=wanted is None,
        stop=tuple(parameters.get("stop") or ()),
        details=bool(parameters.get("details")) or prefill_listed,
        decoder_input_details=prefill_listed,
        return_full_text=default_full_text if full_text is None else full_text,
        top_n_tokens=parameters.get("top_n_tokens") or 0,
        seed=_seed(parameters),
        parameters=parameters,
    )


def _seed(parameters: Mapping[str, Any]) -> int | None:
    """Shown only when sampling: as given, else one of the server's own (always the same here)."""
    sampling = parameters.get("do_sample") or any(
        parameters.get(name) is not None for name in ("temperature", "top_k", "top_p", "typical_p")
    )
    if not sampling:
        return None
    seed = parameters.get("seed")
    return 17 if seed is None else int(seed)


def _invalid(text: str) -> RequestRefusedError:
    return RequestRefusedError(f"Input validation error: {text}")


def _check_ranges(
    parameters: Mapping[str, Any], *, version: TgiVersion, settings: EngineSettings, stream: bool
) -> None:
    best_of = parameters.get("best_of")
    if best_of is not None and best_of != 1:
        raise _invalid("`best_of` != 1 is not allowed for this endpoint")
    for name in ("temperature", "repetition_penalty"):
        value = parameters.get(name)
        if value is not None and value <= 0:
            raise _invalid(f"`{name}` must be strictly positive")
    penalty = parameters.get("frequency_penalty")
    if version.since(1, 4, 1) and penalty is not None and not -2 <= penalty <= 2:
        raise _invalid("`frequency_penalty` must be >= -2.0 and <= 2.0")
    for name in ("top_p", "typical_p"):
        value = parameters.get(name)
        if value is not None and not 0 < value < 1:
            raise _invalid(f"`{name}` must be > 0.0 and < 1.0")
    if parameters.get("top_k") is not None and parameters["top_k"] <= 0:
        raise _invalid("`top_k` must be strictly positive")
    if parameters.get("max_new_tokens") == 0:
        raise _invalid("`max_new_tokens` must be strictly positive")
    stops = parameters.get("stop") or ()
    if len(stops) > MAX_STOP_SEQUENCES:
        raise _invalid(f"`stop` supports up to {MAX_STOP_SEQUENCES} stop sequences. Given: {len(stops)}")
    if stream and parameters.get("decoder_input_details"):
        raise _invalid("`decoder_input_details` == true is not supported when streaming tokens")
    top = parameters.get("top_n_tokens") or 0
    if top > MAX_TOP_N_TOKENS:
        raise _invalid(f"`top_n_tokens` must be >= 0 and <= {MAX_TOP_N_TOKENS}. Given: {top}")
    truncate = parameters.get("truncate")
    if truncate is not None and not 0 < truncate <= settings.max_input_tokens:
        raise _invalid(
            f"`truncate` must be strictly positive and less than {settings.max_input_tokens}. Given: {truncate}"
        )
