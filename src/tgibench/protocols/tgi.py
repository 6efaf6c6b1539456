"""Text Generation Inference's own API, every version from 0.9 to 3.3."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.protocols import Completion, HttpRequest
from tgibench.protocols._answers import (
    ErrorBody,
    UndecodableError,
    count_in,
    ended_in_error,
    error_event,
    events_of,
    joined_text,
    json_object,
    object_in,
    raw_text,
    undecodable,
)
from tgibench.protocols._json_lines import JsonLines
from tgibench.records import Failure, FailureKind, ServerTimings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tgibench.protocols import ResponseHead, StreamDecoder
    from tgibench.protocols._sse import EventStream
    from tgibench.requests import GenerationRequest

__all__ = ["TgiCompatProtocol", "TgiProtocol"]

# The routine event of a stream: a token, and nothing else yet. Anything else takes the way through the JSON parser.
_TOKEN = (
    rb'\{(?:"index":\d++,)?+"token":\{"id":\d++,"text":"([^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+)",'
    rb'"logprob":(?:-?+\d++(?:\.\d++)?+(?:[eE][-+]?+\d++)?+|null),"special":(?:true|false)\},'
    rb'"generated_text":null,"details":null\}'
)
_TOKEN_EVENT = re.compile(_TOKEN).fullmatch
_TOKEN_READ = re.compile(rb"data: ?" + _TOKEN + rb"\n\n").fullmatch


@attrs.frozen
class TgiProtocol:
    """`/generate_stream` for streams, `/generate` otherwise."""

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return "tgi"

    @property
    def tokens_per_chunk_known(self) -> bool:
        """TGI sends one token an event."""
        return True

    def encode(self, request: GenerationRequest) -> HttpRequest:
        """The request as bytes."""
        path = "/generate_stream" if request.stream else "/generate"
        return HttpRequest(path=path, body=_body(request), streamed=request.stream)

    def decoder(self, head: ResponseHead) -> StreamDecoder:
        """A decoder for an answer with this head."""
        return _decoder(head)


@attrs.frozen
class TgiCompatProtocol:
    """The root path, with ``"stream"`` in the body; SageMaker's `/invocations` takes the same body.

    Args:
        path: Where to post.
    """

    path: str = "/"

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return "tgi-compat"

    @property
    def tokens_per_chunk_known(self) -> bool:
        """TGI sends one token an event."""
        return True

    def encode(self, request: GenerationRequest) -> HttpRequest:
        """The request as bytes."""
        return HttpRequest(path=self.path, body=_body(request, stream=request.stream), streamed=request.stream)

    def decoder(self, head: ResponseHead) -> StreamDecoder:
        """A decoder for an answer with this head."""
        return _decoder(head)


def _body(request: GenerationRequest, **further: bool) -> bytes:
    """Everything that has a version-dependent default is sent explicitly."""
    parameters: dict[str, Any] = {
        "max_new_tokens": request.max_new_tokens,
        "details": True,
        "decoder_input_details": False,
        "return_full_text": False,
        "do_sample": request.temperature is not None,
    }
    if request.temperature is not None:
        parameters["temperature"] = request.temperature
    if request.seed is not None:
        parameters["seed"] = request.seed
    if request.stop:
        parameters["stop"] = list(request.stop)
    return json.dumps({"inputs": request.prompt, "parameters": parameters, **further}).encode()


def _decoder(head: ResponseHead) -> StreamDecoder:
    if head.status >= 300:
        return ErrorBody(head.status)
    events = events_of(head.headers)
    return _TgiBody(head.headers) if events is None else _TgiStream(events)


class _TgiStream:
    def __init__(self, events: EventStream | JsonLines) -> None:
        self._events = events
        self._raw_texts: list[bytes] = []
        self._last: dict[str, Any] | None = None
        self._failure: Failure | None = None

    def feed(self, data: bytes) -> list[int]:
        routine = _TOKEN_READ(data)
        if routine and self._failure is None and self._events.between_events():  # one event in one read
            raw = routine[1]
            self._raw_texts.append(raw)
            return [1 if raw else 0]
        return [number for event in self._events.feed(data) if (number := self._take(event)) is not None]

    def _take(self, event: bytes) -> int | None:
        if self._failure:
            return None
        routine = _TOKEN_EVENT(event)
        if routine:
            raw = routine[1]
            self._raw_texts.append(raw)
            return 1 if raw else 0
        if event == b"[DONE]" or not event.strip():  # a heartbeat may be an event without data
            return None
        try:
            return self._take_object(json_object(event))
        except UndecodableError as error:
            self._failure = undecodable(error)
        return None

    def _take_object(self, event: dict[str, Any]) -> int | None:
        self._failure = error_event(event)
        token = event.get("token")
        if self._failure or not isinstance(token, dict):
            return None
        text = token.get("text") or ""
        self._raw_texts.append(raw_text(text))
        if event.get("generated_text") is not None:
            self._last = event
        return 1 if text else 0

    def close(self, *, clean: bool = True) -> Completion:
        for event in self._events.close():
            self._take_unless_cut(event)
        details = object_in(self._last or {}, "details")
        text, not_text = joined_text(self._raw_texts)
        failure = self._failure or not_text or ended_in_error(_finish_reason(details))
        if failure is None and self._last is None and clean:
            failure = Failure(FailureKind.TRUNCATED, "the stream ended without its last event", 200)
        return Completion(
            failure=failure,
            finish_reason=_finish_reason(details),
            output_tokens=self._counted(details),
            input_tokens=count_in(details, "input_length"),
            text=text if self._last is None else str(self._last["generated_text"]),
        )

    def _counted(self, details: dict[str, Any]) -> int | None:
        """The server's count. LMI's asynchronous handler tells one more than vLLM counted (djl_python, request_response_utils.py)."""
        counted = count_in(details, "generated_tokens")
        lines = len(self._raw_texts)
        return lines if isinstance(self._events, JsonLines) and counted == lines + 1 else counted

    def _take_unless_cut(self, event: bytes) -> None:
        """An event without its blank line may have been cut off: then it is no error but the end of a truncated stream."""
        before = self._failure
        self._take(event)
        if before is None and self._failure and self._failure.kind is FailureKind.UNDECODABLE:
            self._failure = None


class _TgiBody:
    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self._body = bytearray()

    def feed(self, data: bytes) -> list[int]:
        self._body += data
        return []

    def close(self, *, clean: bool = True) -> Completion:
        try:
            answer = self._answer()
        except UndecodableError as error:
            return Completion(failure=undecodable(error) if clean else None)
        failure, text = error_event(answer), answer.get("generated_text")
        if not isinstance(text, str):
            failure, text = failure or undecodable(UndecodableError("the answer has no generated_text")), ""
        details = object_in(answer, "details")
        counted = count_in(details, "generated_tokens")
        return Completion(
            failure=failure,
            finish_reason=_finish_reason(details),
            output_tokens=self._count("x-generated-tokens") if counted is None else counted,
            input_tokens=self._count("x-prompt-tokens"),
            server=self._timings(),
            text=text,
        )

    def _answer(self) -> dict[str, Any]:
        body = bytes(self._body).strip()
        if body.startswith(b"[") and body.endswith(b"]"):  # the compat root answers a list of one
            body = body[1:-1]
        return json_object(body)

    def _count(self, header: str) -> int | None:
        text = self._headers.get(header, "")
        return int(text) if text.isdecimal() and len(text) < len("4294967296") else None

    def _timings(self) -> ServerTimings | None:
        """Headers in whole milliseconds, rounded down by the server."""

        def seconds(header: str) -> float | None:
            milliseconds = self._count(header)
            return None if milliseconds is None else milliseconds / 1000

        timings = ServerTimings(
            validation_s=seconds("x-validation-time"),
            queue_s=seconds("x-queue-time"),
            inference_s=seconds("x-inference-time"),
            total_s=seconds("x-total-time"),
            # a header of 0 ms means "below one": the inference time over the tokens says it better
            time_per_token_s=None,
        )
        return None if timings == ServerTimings() else timings


def _finish_reason(details: dict[str, Any]) -> str | None:
    reason = details.get("finish_reason")
    return reason if isinstance(reason, str) else None
