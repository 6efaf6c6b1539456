"""The OpenAI-compatible API as TGI, vLLM, SGLang, llama.cpp and others serve it."""

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
from tgibench.records import Failure, FailureKind

if TYPE_CHECKING:
    from tgibench.protocols import ResponseHead, StreamDecoder
    from tgibench.protocols._json_lines import JsonLines
    from tgibench.protocols._sse import EventStream
    from tgibench.requests import GenerationRequest

__all__ = ["OpenAIChatProtocol", "OpenAICompletionsProtocol"]

_STRING_BODY = rb'[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+'
_TEXT_FIELD = re.compile(rb'"(?:content|text)":\s?"(' + _STRING_BODY + rb')"')
_is_string_body = re.compile(_STRING_BODY).fullmatch
_PREFIXES = (b"data:", b"data: ")


@attrs.frozen
class OpenAIChatProtocol:
    """`/v1/chat/completions`.

    Args:
        model: The model's name as the server knows it; TGI wants ``"tgi"``, any other name is an adapter to it.
        path: Where to post.
    """

    model: str = "tgi"
    path: str = "/v1/chat/completions"

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return "openai-chat"

    @property
    def tokens_per_chunk_known(self) -> bool:
        """A chunk may carry any number of tokens."""
        return False

    def encode(self, request: GenerationRequest) -> HttpRequest:
        """The request as bytes."""
        messages = [{"role": "user", "content": request.prompt}]
        body = _body(self.model, request, messages=messages)
        return HttpRequest(path=self.path, body=body, streamed=request.stream)

    def decoder(self, head: ResponseHead) -> StreamDecoder:
        """A decoder for an answer with this head."""
        return _decoder(head)


@attrs.frozen
class OpenAICompletionsProtocol:
    """`/v1/completions`. Arguments as of `OpenAIChatProtocol`."""

    model: str = "tgi"
    path: str = "/v1/completions"

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return "openai-completions"

    @property
    def tokens_per_chunk_known(self) -> bool:
        """A chunk may carry any number of tokens."""
        return False

    def encode(self, request: GenerationRequest) -> HttpRequest:
        """The request as bytes."""
        body = _body(self.model, request, prompt=request.prompt)
        return HttpRequest(path=self.path, body=body, streamed=request.stream)

    def decoder(self, head: ResponseHead) -> StreamDecoder:
        """A decoder for an answer with this head."""
        return _decoder(head)


def _body(model: str, request: GenerationRequest, **content: object) -> bytes:
    body: dict[str, Any] = {
        "model": model,
        **content,
        "max_tokens": request.max_new_tokens,
        "temperature": request.temperature or 0,  # 0 is greedy
        "stream": request.stream,
    }
    if request.stream:
        body["stream_options"] = {"include_usage": True}
    if request.seed is not None:
        body["seed"] = request.seed
    if request.stop:
        body["stop"] = list(request.stop)
    return json.dumps(body).encode()


def _decoder(head: ResponseHead) -> StreamDecoder:
    if head.status >= 300:
        return ErrorBody(head.status)
    events = events_of(head.headers)
    return _OpenAIBody() if events is None else _OpenAIStream(events)


class _Answer:
    """What chunks and bodies have in common: choices, a finish reason, usage."""

    def __init__(self) -> None:
        self.raw_texts: list[bytes] = []
        self.failure: Failure | None = None
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] = {}

    def take(self, chunk: dict[str, Any], part: str) -> int | None:
        """Take a chunk whose choices hold their text under `part`; its number for `StreamDecoder.feed`."""
        self.failure = self.failure or error_event(chunk)
        self.usage = object_in(chunk, "usage") or self.usage
        choices = chunk.get("choices") or []
        if self.failure or not choices:
            return None
        if not isinstance(choices, list) or not isinstance(choices[0], dict):
            raise UndecodableError("choices are no list of objects")
        choice = choices[0]
        raw = raw_text(_text(choice, part))
        reason = choice.get("finish_reason")
        finished = isinstance(reason, str) and reason != ""
        if finished:
            self.finish_reason = reason
            self.failure = ended_in_error(reason)
        if raw:
            self.raw_texts.append(raw)
            return 1
        return 0 if finished else None

    def completion(self, failure: Failure | None) -> Completion:
        text, not_text = joined_text(self.raw_texts)
        return Completion(
            failure=self.failure or not_text or failure,
            finish_reason=self.finish_reason,
            output_tokens=count_in(self.usage, "completion_tokens"),
            input_tokens=count_in(self.usage, "prompt_tokens"),
            text=text,
        )


class _OpenAIStream:
    def __init__(self, events: EventStream | JsonLines) -> None:
        self._events = events
        self._answer = _Answer()
        self._done = False
        # The bytes around the text of a chunk, within its event and within a read that was that event alone: where they come
        # again, only the text differs. None before the first, and after a failure.
        self._around: tuple[bytes, bytes] | None = None
        self._around_in_read: tuple[bytes, bytes] | None = None

    def feed(self, data: bytes) -> list[int]:
        around = self._around_in_read
        if around and data.startswith(around[0]) and data.endswith(around[1]) and self._events.between_events():
            raw = data[len(around[0]) : -len(around[1])]  # empty where the two overlap
            if raw and _is_string_body(raw):
                self._answer.raw_texts.append(raw)
                return [1]
        events = self._events.feed(data)
        numbers = [number for event in events if (number := self._take(event)) is not None]
        if len(events) == 1:
            self._remember_read(data, events[0])
        return numbers

    def _take(self, event: bytes) -> int | None:
        if self._answer.failure:
            return None
        around = self._around
        if around and event.startswith(around[0]) and event.endswith(around[1]):
            raw = event[len(around[0]) : -len(around[1])]
            if raw and _is_string_body(raw):
                self._answer.raw_texts.append(raw)
                return 1
        if event == b"[DONE]":
            self._done = True
            return None
        if not event.strip():  # a heartbeat may be an event without data
            return None
        try:
            number = self._answer.take(json_object(event), "delta")
        except UndecodableError as error:
            self._answer.failure = undecodable(error)
            number = None
        if self._answer.failure:
            self._around = self._around_in_read = None
        elif number:
            self._remember(event)
        return number

    def _remember(self, event: bytes) -> None:
        fields = list(_TEXT_FIELD.finditer(event))
        if len(fields) == 1 and self._answer.finish_reason is None and not self._answer.usage:
            (field,) = fields
            if json.loads(b'"%b"' % field[1]) == json.loads(
                b'"%b"' % self._answer.raw_texts[-1]
            ):  # all of the chunk's text
                self._around = event[: field.start(1)], event[field.end(1) :]

    def _remember_read(self, data: bytes, event: bytes) -> None:
        prefix = data[: -len(event) - 2]
        if self._around and prefix in _PREFIXES and data.endswith(event + b"\n\n"):
            self._around_in_read = prefix + self._around[0], self._around[1] + b"\n\n"

    def close(self, *, clean: bool = True) -> Completion:
        answer = self._answer
        for event in self._events.close():
            before = answer.failure
            self._take(event)
            if before is None and answer.failure and answer.failure.kind is FailureKind.UNDECODABLE:
                answer.failure = None  # it was cut off: the end of a truncated stream
        failure = answer.failure
        whole = answer.finish_reason is not None or (self._done and answer.raw_texts)
        if failure is None and not whole and clean:
            failure = Failure(FailureKind.TRUNCATED, "the stream ended without a finish reason or [DONE]", 200)
        return answer.completion(failure)


class _OpenAIBody:
    def __init__(self) -> None:
        self._body = bytearray()

    def feed(self, data: bytes) -> list[int]:
        self._body += data
        return []

    def close(self, *, clean: bool = True) -> Completion:
        answer = _Answer()
        try:
            answer.take(json_object(bytes(self._body)), "message")
        except UndecodableError as error:
            return Completion(failure=undecodable(error) if clean else None)
        failure = answer.failure
        if failure is None and answer.finish_reason is None:
            failure = Failure(FailureKind.TRUNCATED, "the answer has no finish reason", 200)
        return answer.completion(failure)


def _text(choice: dict[str, Any], part: str) -> Any:
    """A chunk's text. Reasoning is text too; some servers send it under both of its names."""
    holder = choice.get(part)
    if not isinstance(holder, dict):
        return choice.get("text") or ""
    texts = (holder.get("reasoning_content") or holder.get("reasoning"), holder.get("content"))
    return "".join(text for text in texts if isinstance(text, str))
