"""What text-generation-inference sends, version by version: pure functions of values, no clock and no socket.

The facts are those of TGI's router source at the tags 1.0.3 to 3.3.7.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.backends.emulator.answers import prompt_pieces
from tgibench.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tgibench.backends.emulator.answers import Answer

__all__ = [
    "RequestTimes",
    "TgiVersion",
    "compact_json",
    "frame",
    "generate_event",
    "generate_response",
    "stream_headers",
    "timing_headers",
]

KEEP_ALIVE = b":\n\n"


@attrs.frozen
class TgiVersion:
    """A release of text-generation-inference, and what changed on its wire."""

    numbers: tuple[int, ...]

    @classmethod
    def of(cls, text: str) -> TgiVersion:
        """From text such as ``"3.3.7"``.

        Raises:
            DeployError: It is no version.
        """
        if not re.fullmatch(r"\d+(\.\d+){1,2}", text):
            raise DeployError(f"the TGI version must be numbers with dots, such as 1.0.3 or 3.3.7, got {text!r}")
        numbers = [int(part) for part in text.split(".")]
        return cls(tuple(numbers + [0] * (3 - len(numbers))))

    def since(self, *numbers: int) -> bool:
        """Whether this is that release or a later one."""
        return self.numbers >= numbers

    def __str__(self) -> str:
        return ".".join(map(str, self.numbers))

    @property
    def data_prefix(self) -> bytes:
        """What stands before an event's JSON: axum 0.7 brought a space."""
        return b"data: " if self.since(2, 1) else b"data:"

    @property
    def has_chat(self) -> bool:
        """Whether there is /v1/chat/completions."""
        return self.since(1, 4)

    @property
    def has_completions(self) -> bool:
        """Whether there is /v1/completions."""
        return self.since(1, 4, 4)

    @property
    def sends_done(self) -> bool:
        """Whether OpenAI streams end with ``[DONE]``."""
        return self.since(2, 2)

    @property
    def default_max_new_tokens(self) -> int | None:
        """What a request that does not say gets; None where it may fill the model's whole length."""
        if not self.since(1, 2):
            return 20
        if not self.since(1, 4) or self.since(3):
            return None
        return 100

    @property
    def shortens_long_answers(self) -> bool:
        """Whether a `max_new_tokens` beyond the model's length is accepted (and cut) rather than refused."""
        return self.since(3, 1, 1)

    @property
    def has_error_objects(self) -> bool:
        """Whether an error inside an OpenAI stream is an object rather than two flat fields."""
        return self.since(2, 4, 1)


@attrs.frozen(kw_only=True)
class RequestTimes:
    """How long a finished request took in each part, in seconds, as TGI defines them."""

    validation_s: float
    queue_s: float
    inference_s: float
    total_s: float
    generated_tokens: int

    @property
    def time_per_token_s(self) -> float:
        """Inference (prefill and stalls included) by generated tokens."""
        return self.inference_s / self.generated_tokens


def compact_json(value: Mapping[str, Any] | list[Any]) -> bytes:
    """As serde writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def frame(version: TgiVersion, payload: Mapping[str, Any] | bytes) -> bytes:
    """One server-sent event."""
    data = payload if isinstance(payload, bytes) else compact_json(payload)
    return version.data_prefix + data + b"\n\n"


def generate_event(
    version: TgiVersion,
    answer: Answer,
    index: int,
    *,
    text: str,
    details: bool,
    seed: int | None,
    input_tokens: int,
    top_n_tokens: int = 0,
) -> dict[str, Any]:
    """The event of one token; the last one also carries `text`, the generated text, and the details if they were asked for."""
    last = index == answer.tokens - 1
    event: dict[str, Any] = {"index": index + 1} if version.since(1, 4) else {}
    event["token"] = answer.token(index).shown()
    if top_n_tokens:
        event["top_tokens"] = answer.top_tokens(index, top_n_tokens)
    event["generated_text"] = text if last else None
    event["details"] = None
    if last and details:
        event["details"] = {"finish_reason": answer.finish_reason, "generated_tokens": answer.tokens, "seed": seed}
        if version.since(2, 3):
            event["details"]["input_length"] = input_tokens
    return event


def generate_response(
    answer: Answer, *, text: str, details: bool, seed: int | None, prefill: str | None, top_n_tokens: int = 0
) -> dict[str, Any]:
    """The whole answer; `prefill` is the prompt whose tokens were asked for with `decoder_input_details`."""
    response: dict[str, Any] = {"generated_text": text}
    if not details:
        return response
    pieces = [] if prefill is None else prompt_pieces(prefill)
    response["details"] = {
        "finish_reason": answer.finish_reason,
        "generated_tokens": answer.tokens,
        "seed": seed,
        "prefill": [
            {"id": zlib.crc32(piece.encode()) % 32000, "text": piece, "logprob": None if number == 0 else -1.5}
            for number, (_, piece) in enumerate(pieces)
        ],
        "tokens": [answer.token(index).shown() for index in range(answer.tokens)],
    }
    if top_n_tokens:
        positions = range(answer.tokens)
        response["details"]["top_tokens"] = [answer.top_tokens(index, top_n_tokens) for index in positions]
    return response


def timing_headers(
    version: TgiVersion, times: RequestTimes, *, compute_type: str, characters: int, input_tokens: int
) -> dict[str, str]:
    """The headers of an answer that is no stream: whole milliseconds, cut off, but for the compute time of later versions."""
    seconds = version.since(1, 4, 3)
    headers = {
        "x-compute-type": compute_type,
        "x-compute-time": repr(times.total_s) if seconds else _milliseconds(times.total_s),
        "x-compute-characters": str(characters),
        "x-total-time": _milliseconds(times.total_s),
        "x-validation-time": _milliseconds(times.validation_s),
        "x-queue-time": _milliseconds(times.queue_s),
        "x-inference-time": _milliseconds(times.inference_s),
        "x-time-per-token": _milliseconds(times.time_per_token_s),
    }
    if version.since(1, 4):
        headers["x-prompt-tokens"] = str(input_tokens)
        headers["x-generated-tokens"] = str(times.generated_tokens)
    return headers


def stream_headers(*, compute_type: str, characters: int) -> dict[str, str]:
    """The headers of a stream: no time is known yet."""
    return {
        "content-type": "text/event-stream",
        "cache-control": "no-cache",
        "x-compute-type": compute_type,
        "x-compute-characters": str(characters),
        "x-accel-buffering": "no",
    }


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
