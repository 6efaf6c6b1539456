"""TGI's OpenAI routes, and /invocations, which chooses between them and its own."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.backends.emulator.bodies import RequestRefusedError, check_types, require, undeserialisable
from tgibench.backends.emulator.faults import Fault, FaultKind
from tgibench.backends.emulator.framing import EventWriter, pump
from tgibench.backends.emulator.parameters import checked
from tgibench.backends.emulator.server_native import NativeRoutes, broken_off, json_answer, read_body
from tgibench.backends.emulator.wire import RequestTimes, frame, stream_headers, timing_headers
from tgibench.backends.emulator.wire_openai import OpenAIWire, usage_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from tgibench.backends.emulator.parameters import Generation
    from tgibench.backends.emulator.serving import EmulatedServer, Run

__all__ = ["OpenAIRoutes"]

_MAX_CLIENT_BATCH_SIZE = 4
_TYPES = {
    "model": "a string",
    "max_tokens": "u32",
    "temperature": "f32",
    "top_p": "f32",
    "seed": "u64",
    "stop": "a sequence",
    "stream": "a boolean",
    "stream_options": "a map",
    "frequency_penalty": "f32",
    "presence_penalty": "f32",
}


@attrs.frozen
class OpenAIRoutes:
    """Handlers of /v1/chat/completions, /v1/completions, /v1/models and /invocations."""

    server: EmulatedServer

    async def models(self, request: web.Request) -> web.Response:
        """The one model."""
        del request
        name = self.server.deployment.model_id
        model = {"id": name, "object": "model", "created": 0, "owned_by": name}
        return json_answer({"object": "list", "data": [model]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Chat completions."""
        body, raw = await read_body(request)
        return await self._answer(request, body, raw, chat=True)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """Completions of one prompt or of a few."""
        body, raw = await read_body(request)
        return await self._answer(request, body, raw, chat=False)

    async def invocations(self, request: web.Request) -> web.StreamResponse:
        """SageMaker's route: the compat route, or what the body looks like in later versions."""
        body, raw = await read_body(request)
        version = self.server.version
        wants_chat = self.server.environment.get("MESSAGES_API_ENABLED", "").lower() == "true"
        union = version.since(2, 4)
        if union and not {"inputs", "messages", "prompt"} & body.keys():
            raise undeserialisable("data did not match any variant of untagged enum SagemakerRequest", None)
        if (union and "inputs" not in body) or (wants_chat and version.has_chat and not union):
            return await self._answer(request, body, raw, chat="messages" in body or not union)
        return await NativeRoutes(self.server).compat_body(request, body, raw)

    async def _answer(
        self, request: web.Request, body: dict[str, Any], raw: bytes, *, chat: bool
    ) -> web.StreamResponse:
        server, arrived_s = self.server, asyncio.get_running_loop().time()
        require(body, "messages" if chat else "prompt", raw)
        check_types(body, _TYPES, raw, never_null=set())
        with server.counting_failures():
            faults = server.next_request()
        wire = OpenAIWire(
            version=server.version,
            model=self._model_shown(body, chat=chat),
            created=int(datetime.now(UTC).timestamp()),
            chat=chat,
        )
        if body.get("stream"):
            return await self._stream(request, body, wire, faults, arrived_s)
        with server.counting_failures():
            generations = self._generations(body, chat=chat, stream=False)
            async with server.running(generations, arrived_s) as runs:
                return await self._whole(request, wire, faults, runs)

    def _model_shown(self, body: Mapping[str, Any], *, chat: bool) -> str:
        asked = body.get("model")
        if chat and self.server.version.since(3) and asked and asked != "tgi":
            return str(asked)
        return self.server.deployment.model_id

    async def _whole(
        self, request: web.Request, wire: OpenAIWire, faults: Mapping[FaultKind, Fault], runs: list[Run]
    ) -> web.StreamResponse:
        for run in runs:
            await run.finished()
        input_tokens = sum(run.generation.input_tokens for run in runs)
        answers = [run.answer for run in runs]
        answer = json_answer(
            wire.whole(answers, input_tokens=input_tokens, with_usage=FaultKind.NO_USAGE not in faults)
        )
        broken = await broken_off(request, faults, answer)
        if broken is not None:
            return broken
        span = "chat_completions" if wire.chat else "completions"
        times = [self.server.succeed(run, span=span) for run in runs]
        if wire.chat or wire.version.since(2, 0, 1):
            answer.headers.update(self._headers(wire, runs, times))
        return answer

    def _headers(self, wire: OpenAIWire, runs: list[Run], times: list[RequestTimes]) -> dict[str, str]:
        """Those of a native answer, summed over prompts."""
        summed = RequestTimes(
            validation_s=sum(each.validation_s for each in times),
            queue_s=sum(each.queue_s for each in times),
            inference_s=sum(each.inference_s for each in times),
            total_s=sum(each.total_s for each in times),
            generated_tokens=sum(each.generated_tokens for each in times),
        )
        headers = timing_headers(
            wire.version,
            summed,
            compute_type=self.server.compute_type,
            characters=sum(len(run.generation.prompt) for run in runs),
            input_tokens=sum(run.generation.input_tokens for run in runs),
        )
        if not wire.chat:
            del headers["x-compute-time"]
        return headers

    async def _stream(
        self,
        request: web.Request,
        body: dict[str, Any],
        wire: OpenAIWire,
        faults: Mapping[FaultKind, Fault],
        arrived_s: float,
    ) -> web.StreamResponse:
        server = self.server
        dialect = OpenAIDialect(wire=wire, faults=faults, usage_asked=_asks_usage(body))
        prompt = body.get("prompt")
        characters = len(prompt) if isinstance(prompt, str) else 0
        headers = stream_headers(compute_type=server.compute_type, characters=characters)
        try:
            with server.counting_failures():
                generations = self._generations(body, chat=wire.chat, stream=True)
                async with server.running(generations, arrived_s) as runs:
                    writer = await EventWriter.open(request, headers, faults, server.options.keep_alive_s)
                    if not await pump(writer, runs, dialect):
                        server.break_off(faults)
                        return writer.response
                    for run in runs:
                        server.succeed(run, span="chat_completions" if wire.chat else "completions")
        except RequestRefusedError as refusal:
            if refusal.error_type != "validation" and refusal.status == 422:
                raise
            writer = await EventWriter.open(request, headers, {}, server.options.keep_alive_s)
            await writer.write(dialect.error(refusal))
        return writer.response

    def _generations(self, body: Mapping[str, Any], *, chat: bool, stream: bool) -> list[Generation]:
        version = self.server.version
        prompts = [_flattened(body["messages"])] if chat else _prompts(body, self.server)
        parameters = _native_parameters(body, self.server, chat=chat)
        return [
            checked(prompt, parameters, version=version, settings=self.server.settings, stream=stream)
            for prompt in prompts
        ]


@attrs.define
class OpenAIDialect:
    """How an OpenAI stream shows tokens and errors; it remembers what the usage will be."""

    wire: OpenAIWire
    faults: Mapping[FaultKind, Fault]
    usage_asked: bool
    _usage: dict[str, int] | None = attrs.field(default=None, init=False)

    def tokens(self, place: int, run: Run, indices: range) -> list[bytes]:
        """One chunk of these tokens."""
        version, usage = self.wire.version, None
        if indices.stop == run.answer.tokens and FaultKind.NO_USAGE not in self.faults:
            total = usage_of(run.generation.input_tokens, run.answer.tokens)
            if not self.wire.chat:
                usage = total if version.since(3) else None
            elif self.usage_asked and version.since(2, 3):
                self._usage = total if version.since(3, 2) else None
                usage = None if version.since(3, 2) else total
        return [frame(version, self.wire.chunk(place, run.answer, indices, usage=usage))]

    def error(self, refusal: RequestRefusedError) -> list[bytes]:
        """The error, and in later versions the usual end."""
        event = frame(self.wire.version, self.wire.error(refusal.message, refusal.error_type))
        return [event, *self._done()] if self.wire.version.has_error_objects else [event]

    def ending(self) -> list[bytes]:
        """The usage where it stands apart, and ``[DONE]``."""
        usage = [] if self._usage is None else [frame(self.wire.version, self.wire.usage_chunk(self._usage))]
        return usage + self._done()

    def _done(self) -> list[bytes]:
        if not self.wire.version.sends_done or FaultKind.NO_DONE in self.faults:
            return []
        return [frame(self.wire.version, b"[DONE]")]


def _asks_usage(body: Mapping[str, Any]) -> bool:
    return bool((body.get("stream_options") or {}).get("include_usage"))


def _flattened(messages: object) -> str:
    """The prompt that a chat template would make."""
    if not isinstance(messages, list) or not messages:
        raise RequestRefusedError("Template error: no messages", error_type="template_error")
    lines = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            content = " ".join(part.get("text", "") for part in content if isinstance(part, dict))
        if not isinstance(content, str):
            raise undeserialisable("messages: data did not match any variant of untagged enum MessageContent", None)
        lines.append(content)
    return "\n".join(lines)


def _prompts(body: Mapping[str, Any], server: EmulatedServer) -> list[str]:
    if body.get("suffix") is not None:
        raise RequestRefusedError(
            "Suffix is not supported and can be achieved by preprocessing the prompt.",
            error_type="suffix not supported",
        )
    prompt = body["prompt"]
    if isinstance(prompt, str):
        return [prompt]
    several = isinstance(prompt, list) and prompt and all(isinstance(text, str) for text in prompt)
    if not several or not server.version.since(2, 0, 1):
        raise undeserialisable("prompt: invalid type, expected a string", None)
    if len(prompt) > _MAX_CLIENT_BATCH_SIZE:
        raise RequestRefusedError(
            f"Number of prompts exceeds the maximum allowed batch size of {_MAX_CLIENT_BATCH_SIZE}",
            error_type="batch size exceeded",
        )
    return list(prompt)


def _native_parameters(body: Mapping[str, Any], server: EmulatedServer, *, chat: bool) -> dict[str, Any]:
    """TGI's own parameters for an OpenAI body."""
    version = server.version
    limit = body.get("max_tokens")
    if limit is None and chat and version.since(3, 0, 2):
        limit = body.get("max_completion_tokens")
    temperature = body.get("temperature")
    greedy = temperature == 0 and version.since(2, 0, 2)
    stop = [] if chat and not version.since(2, 0, 4) else body.get("stop") or []
    penalty = body.get("presence_penalty")
    return {
        "max_new_tokens": limit,
        "temperature": None if greedy else temperature,
        "repetition_penalty": None if penalty is None else penalty + 2,
        "frequency_penalty": body.get("frequency_penalty"),
        "do_sample": not greedy,
        "top_p": body.get("top_p"),
        "stop": stop,
        "details": True,
        "seed": body.get("seed"),
    }
