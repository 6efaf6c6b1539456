"""What a request to TGI may say, and how each version refuses what it may not: bodies in, a `Generation` or a refusal out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from tgibench.backends.emulator.answers import count_tokens
from tgibench.backends.emulator.bodies import RequestRefusedError, check_types, require

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tgibench.backends.emulator.wire import TgiVersion
    from tgibench.twin.policy import EngineSettings

__all__ = ["MAX_STOP_SEQUENCES", "MAX_TOP_N_TOKENS", "Generation", "checked", "native"]

MAX_STOP_SEQUENCES = 4
MAX_TOP_N_TOKENS = 5


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
    """The first rule that is broken, in the order in which TGI looks at them."""
    longest = settings.max_input_tokens
    rules: list[tuple[str, Callable[[Any], bool], str]] = [
        ("best_of", lambda value: value == 1, "`best_of` != 1 is not allowed for this endpoint"),
        ("temperature", lambda value: value > 0, "`temperature` must be strictly positive"),
        ("repetition_penalty", lambda value: value > 0, "`repetition_penalty` must be strictly positive"),
        (
            "frequency_penalty",
            lambda value: not version.since(1, 4, 1) or -2 <= value <= 2,
            "`frequency_penalty` must be >= -2.0 and <= 2.0",
        ),
        ("top_p", lambda value: 0 < value < 1, "`top_p` must be > 0.0 and < 1.0"),
        ("typical_p", lambda value: 0 < value < 1, "`typical_p` must be > 0.0 and < 1.0"),
        ("top_k", lambda value: value > 0, "`top_k` must be strictly positive"),
        ("max_new_tokens", lambda value: value > 0, "`max_new_tokens` must be strictly positive"),
        (
            "stop",
            lambda value: len(value) <= MAX_STOP_SEQUENCES,
            f"`stop` supports up to {MAX_STOP_SEQUENCES} stop sequences. Given: {len(parameters.get('stop') or ())}",
        ),
        (
            "decoder_input_details",
            lambda value: not (value and stream),
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
        (
            "top_n_tokens",
            lambda value: value <= MAX_TOP_N_TOKENS,
            f"`top_n_tokens` must be >= 0 and <= {MAX_TOP_N_TOKENS}. Given: {parameters.get('top_n_tokens')}",
        ),
        (
            "truncate",
            lambda value: 0 < value <= longest,
            f"`truncate` must be strictly positive and less than {longest}. Given: {parameters.get('truncate')}",
        ),
    ]
    for name, allows, text in rules:
        value = parameters.get(name)
        if value is not None and not allows(value):
            raise _invalid(text)
