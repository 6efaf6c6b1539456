"""The emulator as a real HTTP server that speaks the wire format of a TGI version."""

from __future__ import annotations

import asyncio
import errno
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
from aiohttp import web

from tgibench.backends.emulator import settings_for
from tgibench.backends.emulator.bodies import RequestRefusedError
from tgibench.backends.emulator.server_native import NativeRoutes
from tgibench.backends.emulator.server_openai import OpenAIRoutes
from tgibench.backends.emulator.serving import EmulatedServer, ServerOptions
from tgibench.backends.emulator.wire import TgiVersion
from tgibench.errors import DeployError
from tgibench.twin.step_time import ModelledTimes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp.typedefs import Middleware

    from tgibench.deployments import Deployment
    from tgibench.twin.policy import EngineSettings
    from tgibench.twin.step_time import StepTimes

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

__all__ = ["emulator_server", "serve"]

_PAYLOAD_LIMIT_BYTES = 2_000_000
_TOO_LARGE = "Failed to buffer the request body: length limit exceeded"
_GRACE_S = 1.0


@asynccontextmanager
async def emulator_server(
    deployment: Deployment,
    *,
    tgi_version: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    step_times: StepTimes | None = None,
    settings: EngineSettings | None = None,
    options: ServerOptions | None = None,
) -> AsyncIterator[str]:
    """Serve an emulated deployment over HTTP in this process, in real time, until the context is left.

    Args:
        deployment: What is emulated.
        tgi_version: Whose wire format; by default the deployment's `server_version`, else 1.0.3.
        host: Address to listen on.
        port: 0 for a free one.
        step_times: Step times of your own, such as `FixedTimes`.
        settings: The scheduler's settings; by default those of the version and the emulated memory.
        options: Faults, answers' lengths, log and seed.

    Yields:
        The server's address, such as ``"http://127.0.0.1:8080"``.

    Raises:
        DeployError: The model, the machine or the version is unknown, the model does not fit, or the port is in use.
    """
    text = tgi_version or deployment.server_version or "1.0.3"
    version = TgiVersion.of(text)
    deployment = attrs.evolve(deployment, server_version=text)
    cache_tokens = None
    if step_times is None:
        step_times = modelled = ModelledTimes.of(deployment)
        cache_tokens = modelled.cache_tokens
    server = EmulatedServer(
        deployment,
        version,
        settings or settings_for(deployment, cache_tokens),
        step_times,
        options or ServerOptions(),
    )
    runner = web.AppRunner(_application(server), handler_cancellation=True, access_log=None, shutdown_timeout=_GRACE_S)
    await runner.setup()
    try:
        await _listen(runner, host, port)
        address = runner.addresses[0]
        yield f"http://{host}:{address[1]}"
    finally:
        await runner.cleanup()


async def serve(
    deployment: Deployment,
    on_ready: Callable[[str], None],
    *,
    tgi_version: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    options: ServerOptions | None = None,
) -> None:
    """Serve until cancelled; `on_ready` gets the address once the port is open.

    Raises:
        DeployError: As for `emulator_server`.
    """
    async with emulator_server(deployment, tgi_version=tgi_version, host=host, port=port, options=options) as url:
        on_ready(url)
        await asyncio.Event().wait()


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise DeployError(f"port {port} of {host} is in use: choose another, or 0 for any that is free") from error
        raise DeployError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def _application(server: EmulatedServer) -> web.Application:
    application = web.Application(client_max_size=_PAYLOAD_LIMIT_BYTES, middlewares=[_answering(server)])
    native, version = NativeRoutes(server), server.version
    openai = OpenAIRoutes(server)
    router = application.router
    for path in ("/", "/health", "/ping"):
        router.add_get(path, native.health)
    router.add_get("/info", native.info)
    router.add_get("/metrics", native.metrics)
    router.add_post("/", native.compat)
    router.add_post("/generate", native.generate)
    router.add_post("/generate_stream", native.generate_stream)
    router.add_post("/invocations", openai.invocations)
    if version.has_chat:
        router.add_post("/tokenize", native.tokenize)
        router.add_post("/v1/chat/completions", openai.chat)
    if version.has_completions:
        router.add_post("/v1/completions", openai.completions)
    if version.since(2, 3):
        router.add_get("/v1/models", openai.models)
    return application


def _answering(server: EmulatedServer) -> Middleware:
    """Turn refusals into TGI's error answers, drop connections of a server that is not ready, and take leave of clients that left."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        if asyncio.get_running_loop().time() < server.ready_at_s and request.transport is not None:
            request.transport.abort()
            return web.Response()
        key = server.options.api_key
        if key is not None and request.method == "POST" and not _authorised(request, key):
            return web.Response(status=401)
        try:
            return await handler(request)
        except RequestRefusedError as refusal:
            return web.Response(
                status=refusal.status, body=refusal.body, headers={"content-type": refusal.content_type}
            )
        except web.HTTPException as error:
            too_large = isinstance(error, web.HTTPRequestEntityTooLarge)
            return web.Response(status=error.status, text=_TOO_LARGE if too_large else None)
        except ConnectionError:  # the client has left, and this handler would have been cancelled a moment later
            return web.Response()

    return answer


def _authorised(request: web.Request, key: str) -> bool:
    return request.headers.get("authorization", "").lower() == f"bearer {key}".lower()
