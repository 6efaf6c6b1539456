"""TGI's own routes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import attrs
from aiohttp import web

from tgibench.backends.emulator.answers import prompt_pieces
from tgibench.backends.emulator.bodies import RequestRefusedError, parse_body
from tgibench.backends.emulator.faults import Fault, FaultKind
from tgibench.backends.emulator.framing import EventWriter, pump
from tgibench.backends.emulator.parameters import native
from tgibench.backends.emulator.wire import (
    compact_json,
    frame,
    generate_event,
    generate_response,
    stream_headers,
    timing_headers,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tgibench.backends.emulator.serving import EmulatedServer, Run

__all__ = ["NativeRoutes", "broken_off", "json_answer", "read_body"]


async def read_body(request: web.Request) -> tuple[dict[str, Any], bytes]:
    """The JSON object of a request, and its bytes.

    Raises:
        RequestRefusedError: It is none.
    """
    raw = await request.read()
    return parse_body(raw, request.content_type), raw


def json_answer(body: Mapping[str, Any] | list[Any], headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(body=compact_json(body), headers={"content-type": "application/json", **(headers or {})})


async def broken_off(
    request: web.Request, faults: Mapping[FaultKind, Fault], answer: web.Response
) -> web.Response | None:
    """An answer that is no stream as its faults leave it; None where it is whole.

    Raises:
        RequestRefusedError: The model is to fail.
    """
    if FaultKind.STALL in faults:
        await asyncio.sleep(faults[FaultKind.STALL].seconds)
    if FaultKind.ERROR in faults:
        raise RequestRefusedError.failed()
    if FaultKind.ABORT in faults and request.transport is not None:
        request.transport.abort()
        return answer
    if FaultKind.TRUNCATE in faults:
        whole = answer.body
        return web.Response(body=whole[: len(whole) // 2] if isinstance(whole, bytes) else b"", headers=answer.headers)
    return None


@attrs.frozen
class NativeRoutes:
    """Handlers of /generate, /generate_stream, /, and of what tells about the server."""

    server: EmulatedServer

    async def health(self, request: web.Request) -> web.Response:
        """Healthy: an empty answer."""
        del request
        return web.Response()

    async def info(self, request: web.Request) -> web.Response:
        """What is served."""
        del request
        return json_answer(self.server.info())

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus' text."""
        del request
        return web.Response(text=self.server.metrics.page(self.server.engines))

    async def tokenize(self, request: web.Request) -> web.Response:
        """The prompt's tokens and where they stand."""
        body, raw = await read_body(request)
        generation = native(body, raw, version=self.server.version, settings=self.server.settings, stream=False)
        return json_answer(
            [
                {"id": 1000 + number, "text": piece, "start": start, "stop": start + len(piece)}
                for number, (start, piece) in enumerate(prompt_pieces(generation.prompt))
            ]
        )

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """One answer; a `stream` key is ignored."""
        body, raw = await read_body(request)
        return await self._whole(request, body, raw)

    async def generate_stream(self, request: web.Request) -> web.StreamResponse:
        """A stream; a `stream` key is ignored."""
        body, raw = await read_body(request)
        return await self._stream(request, body, raw)

    async def compat(self, request: web.Request) -> web.StreamResponse:
        """A stream where the body asks for one, else a list of one answer."""
        body, raw = await read_body(request)
        return await self.compat_body(request, body, raw)

    async def compat_body(self, request: web.Request, body: dict[str, Any], raw: bytes) -> web.StreamResponse:
        """As `compat`, of a body that was read."""
        if body.get("stream") is True:
            return await self._stream(request, body, raw, compat=True)
        return await self._whole(request, body, raw, compat=True)

    async def _whole(
        self, request: web.Request, body: dict[str, Any], raw: bytes, *, compat: bool = False
    ) -> web.StreamResponse:
        server, arrived_s = self.server, asyncio.get_running_loop().time()
        with server.counting_failures():
            faults = server.next_request()
            generation = native(
                body, raw, version=server.version, settings=server.settings, stream=False, compat=compat
            )
            async with server.running([generation], arrived_s) as (run,):
                await run.finished()
                response = generate_response(
                    run.answer,
                    text=run.text,
                    details=generation.details,
                    seed=generation.seed,
                    prefill=generation.prompt if generation.decoder_input_details else None,
                    top_n_tokens=generation.top_n_tokens,
                )
                answer = json_answer([response] if compat else response)
                broken = await broken_off(request, faults, answer)
                if broken is not None:
                    return broken
                times = server.succeed(run, span="generate", compat=compat)
        answer.headers.update(
            timing_headers(
                server.version,
                times,
                compute_type=server.compute_type,
                characters=len(generation.prompt),
                input_tokens=generation.input_tokens,
            )
        )
        return answer

    async def _stream(
        self, request: web.Request, body: dict[str, Any], raw: bytes, *, compat: bool = False
    ) -> web.StreamResponse:
        server, arrived_s = self.server, asyncio.get_running_loop().time()
        with server.counting_failures():
            faults = server.next_request()
        prompt = body.get("inputs")
        headers = stream_headers(
            compute_type=server.compute_type, characters=len(prompt) if isinstance(prompt, str) else 0
        )
        dialect = NativeDialect(server)
        try:
            with server.counting_failures():
                generation = native(
                    body, raw, version=server.version, settings=server.settings, stream=True, compat=compat
                )
                async with server.running([generation], arrived_s) as runs:
                    writer = await EventWriter.open(request, headers, faults, server.options.keep_alive_s)
                    if not await pump(writer, runs, dialect):
                        server.break_off(faults)
                        return writer.response
                    server.succeed(runs[0], span="generate_stream", compat=compat)
        except RequestRefusedError as refusal:
            if refusal.error_type is None:
                raise
            writer = await EventWriter.open(request, headers, {}, server.options.keep_alive_s)
            await writer.write(dialect.error(refusal))
        return writer.response


@attrs.frozen
class NativeDialect:
    """How /generate_stream shows tokens and errors."""

    server: EmulatedServer

    def tokens(self, place: int, run: Run, indices: range) -> list[bytes]:
        """One event a token, always."""
        del place
        generation = run.generation
        return [
            frame(
                self.server.version,
                generate_event(
                    self.server.version,
                    run.answer,
                    index,
                    text=run.text if index == run.answer.tokens - 1 else "",
                    details=generation.details,
                    seed=generation.seed,
                    input_tokens=generation.input_tokens,
                    top_n_tokens=generation.top_n_tokens,
                ),
            )
            for index in indices
        ]

    def error(self, refusal: RequestRefusedError) -> list[bytes]:
        """One flat event."""
        return [frame(self.server.version, refusal.body)]

    def ending(self) -> list[bytes]:
        """Nothing."""
        return []
