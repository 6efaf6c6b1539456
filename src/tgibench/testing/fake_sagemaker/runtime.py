"""The runtime of a fake account: requests go to emulated containers, their answers come back as the service wraps them."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import aiohttp
import attrs
from aiohttp import web

from tgibench.backends.emulator.log_lines import LogFormat
from tgibench.backends.emulator.server import emulator_server
from tgibench.backends.emulator.serving import ServerOptions
from tgibench.deployments import Deployment
from tgibench.protocols._event_stream import MEDIA_TYPE, encode_frame
from tgibench.testing.fake_sagemaker.resources import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from tgibench.testing.fake_sagemaker.account import Account
    from tgibench.testing.fake_sagemaker.resources import Endpoint
    from tgibench.twin.step_time import StepTimes

__all__ = ["Runtime", "StreamTrouble", "deployment_of"]

_TGI_TAG = re.compile(r"tgi(\d+\.\d+\.\d+)")
_PART = {":message-type": "event", ":event-type": "PayloadPart", ":content-type": "application/octet-stream"}


@attrs.frozen(kw_only=True)
class StreamTrouble:
    """What befalls a stream in its middle.

    Args:
        kind: ``"ModelInvocationTimeExceeded"`` or ``"StreamBroken"`` (a ModelStreamError with this code), ``"InternalStreamFailure"``,
            ``"truncate"`` (the last frame is cut off, the HTTP answer is whole), ``"corrupt"`` (a byte of a frame is changed),
            ``"abort"`` (the connection closes).
        after_parts: Frames sent before it happens.
        times: How many streams it befalls.
    """

    kind: str
    after_parts: int = 3
    times: int = 1


@attrs.define(eq=False)
class Runtime:
    """Containers by endpoint, started when they are first called.

    Args:
        account: Says which endpoint serves.
        step_times: Of every container; None for those of its model and machine.
        log: Gets each container's log lines, with its endpoint's name.
        clock: The wall time that containers write into them.
        cut_bytes: Frames hold this many bytes of the container's output, wherever that cuts; None for what came at once.
    """

    account: Account
    step_times: StepTimes | None = attrs.field(kw_only=True)
    log: Callable[[str, str], None] = attrs.field(kw_only=True)
    clock: Callable[[], datetime] = attrs.field(kw_only=True)
    cut_bytes: int | None = attrs.field(default=None, kw_only=True)
    troubles: list[StreamTrouble] = attrs.field(factory=list, init=False)
    options: ServerOptions = attrs.field(factory=lambda: ServerOptions(log_format=LogFormat.ANSI), kw_only=True)
    _stack: AsyncExitStack = attrs.field(factory=AsyncExitStack, init=False)
    _containers: dict[str, str] = attrs.field(factory=dict, init=False)
    _starting: asyncio.Lock = attrs.field(factory=asyncio.Lock, init=False)
    _session: aiohttp.ClientSession | None = attrs.field(default=None, init=False)

    async def close(self) -> None:
        """Stop every container."""
        await self._stack.aclose()

    async def invoke(self, request: web.Request, body: bytes, *, streamed: bool) -> web.StreamResponse:
        """InvokeEndpoint, or the same with a response stream.

        Raises:
            Refused: There is no such endpoint, or the container answered with an error.
        """
        name = request.match_info["endpoint"]
        url = await self._container(name, self.account.serving(name))
        answer = await self._ask(f"{url}/invocations", body)
        try:
            if answer.status >= 300:
                return self._model_error(answer.status, await answer.read())
            if streamed:
                return await self._framed(request, answer)
            headers = {"x-Amzn-Invoked-Production-Variant": "AllTraffic"}
            return web.Response(body=await answer.read(), content_type=answer.content_type, headers=headers)
        finally:
            answer.close()

    async def openai(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """The OpenAI-compatible path: the container's answer as it is."""
        name = request.match_info["endpoint"]
        url = await self._container(name, self.account.serving(name))
        answer = await self._ask(f"{url}/{request.match_info['rest']}", body)
        try:
            response = web.StreamResponse(
                status=answer.status, headers={"Content-Type": answer.headers["Content-Type"]}
            )
            await response.prepare(request)
            async for data in answer.content.iter_any():
                await response.write(data)
        finally:
            answer.close()
        return response

    async def _ask(self, url: str, body: bytes) -> aiohttp.ClientResponse:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0)
            timeout = aiohttp.ClientTimeout(total=None)
            self._session = await self._stack.enter_async_context(
                aiohttp.ClientSession(connector=connector, timeout=timeout)
            )
        return await self._session.post(url, data=body, headers={"Content-Type": "application/json"})

    async def _container(self, name: str, endpoint: Endpoint) -> str:
        async with self._starting:
            if endpoint.arn + str(endpoint.created) not in self._containers:
                deployment = deployment_of(endpoint.model, endpoint.variant)

                def log(line: str) -> None:
                    self.log(name, line)

                url = await self._stack.enter_async_context(
                    emulator_server(
                        deployment,
                        step_times=self.step_times,
                        options=attrs.evolve(self.options, log=log, clock=self.clock),
                    )
                )
                self._containers[endpoint.arn + str(endpoint.created)] = url
            return self._containers[endpoint.arn + str(endpoint.created)]

    async def _framed(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                "Content-Type": MEDIA_TYPE,
                "X-Amzn-SageMaker-Content-Type": answer.content_type,
                "x-Amzn-Invoked-Production-Variant": "AllTraffic",
            }
        )
        await response.prepare(request)
        trouble = self._next_trouble()
        parts = 0
        async for data in answer.content.iter_any():
            for part in self._cut(data):
                frame = encode_frame(_PART, part)
                if trouble is not None and parts >= trouble.after_parts:
                    await self._happen(trouble, request, response, frame)
                    return response
                await response.write(frame)
                parts += 1
        return response

    def _next_trouble(self) -> StreamTrouble | None:
        if not self.troubles:
            return None
        trouble = self.troubles.pop(0)
        if trouble.times > 1:
            self.troubles.insert(0, attrs.evolve(trouble, times=trouble.times - 1))
        return trouble

    def _cut(self, data: bytes) -> Iterator[bytes]:
        size = self.cut_bytes or len(data)
        return (data[at : at + size] for at in range(0, len(data), size))

    async def _happen(
        self, trouble: StreamTrouble, request: web.Request, response: web.StreamResponse, frame: bytes
    ) -> None:
        match trouble.kind:
            case "truncate":
                await response.write(frame[: len(frame) // 2])
            case "corrupt":
                await response.write(frame[:-6] + bytes([frame[-6] ^ 1]) + frame[-5:])
            case "abort":
                if request.transport is not None:
                    request.transport.abort()
            case kind:
                name = kind if kind == "InternalStreamFailure" else "ModelStreamError"
                said = {"Message": f"the stream ended: {kind}", **({} if name == kind else {"ErrorCode": kind})}
                headers = {
                    ":message-type": "exception",
                    ":exception-type": name,
                    ":content-type": "application/json",
                }
                await response.write(encode_frame(headers, json.dumps(said).encode()))

    def _model_error(self, status: int, body: bytes) -> web.Response:
        text, side = body.decode("utf-8", "replace"), "client" if status < 500 else "server"
        message = f'Received {side} error ({status}) from primary with message "{text}".'
        said = {"OriginalStatusCode": status, "OriginalMessage": text, "Message": message, "LogStreamArn": ""}
        return web.json_response(said, status=424, headers={"x-amzn-ErrorType": "ModelError"})


def deployment_of(model: dict[str, Any], variant: dict[str, Any]) -> Deployment:
    """What a model's container and its variant deploy.

    Raises:
        Refused: The container is none of TGI's, or says no model.
    """
    container = model["PrimaryContainer"]
    environment, tag = dict(container.get("Environment", {})), _TGI_TAG.search(container["Image"])
    if tag is None or "HF_MODEL_ID" not in environment:
        raise Refused(
            "ValidationException", f"the fake can only run TGI's images with HF_MODEL_ID, got {container['Image']!r}"
        )

    def tokens(*names: str) -> int | None:
        return next((int(environment[name]) for name in names if name in environment), None)

    return Deployment(
        environment["HF_MODEL_ID"],
        variant["InstanceType"],
        tensor_parallel=int(environment.get("SM_NUM_GPUS", "1")),
        replicas=variant["InitialInstanceCount"],
        quantization=environment.get("HF_MODEL_QUANTIZE"),
        server_version=tag[1],
        max_input_tokens=tokens("MAX_INPUT_TOKENS", "MAX_INPUT_LENGTH"),
        max_total_tokens=tokens("MAX_TOTAL_TOKENS"),
    )
