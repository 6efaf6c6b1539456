"""Runs a server in a container on this machine's Docker engine, and leaves nothing of it behind."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from contextlib import asynccontextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import attrs
from attrs import validators

from tgibench.backends import one_at_a_time
from tgibench.backends.docker.container import Container
from tgibench.backends.docker.endpoint import DockerEndpoint
from tgibench.backends.docker.engine import open_engine
from tgibench.backends.docker.leftovers import remove_deployment
from tgibench.backends.docker.ownership import labels_of
from tgibench.backends.docker.servers import SERVERS, ServerImage
from tgibench.backends.docker.specification import device_requests, specify
from tgibench.backends.first_token import start_up_of
from tgibench.backends.http import learn_facts, wait_until_ready
from tgibench.backends.teardown import to_the_end
from tgibench.client import HttpEndpoint
from tgibench.errors import DeployError, InvalidValueError
from tgibench.identities import changed, identity
from tgibench.provenance import Source
from tgibench.validators import above_zero

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from tgibench.backends import Room
    from tgibench.backends.docker.engine import Engine
    from tgibench.backends.docker.specification import Gpus, Specification
    from tgibench.deployments import Deployment
    from tgibench.protocols import WireProtocol

__all__ = ["DockerBackend", "ServerImage"]

_LOADING_STOP_S = 5.0


def _gpus(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    del attribute
    device_requests(value, by_default=False)


def _folder_or_volume(_: object, attribute: attrs.Attribute[str | None], value: str | None) -> None:
    if value is not None and PurePath(value).is_absolute() and not Path(value).is_dir():
        raise InvalidValueError(
            f"{attribute.name} must be a folder that is there, or the name of a volume, got {value!r}"
        )


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _silent(_: str) -> None:
    """Where nobody wants to know."""


@attrs.define
class _Patience:
    """How long the server may take to end: what never served has nothing to finish."""

    finishing_s: float
    serves: bool = False

    @property
    def seconds(self) -> float:
        return self.finishing_s if self.serves else min(self.finishing_s, _LOADING_STOP_S)


@attrs.frozen(kw_only=True)
class DockerBackend:
    """A container of one's own on this machine: TGI, vLLM or llama.cpp by the deployment's `server`, or any other image.

    The container is published on 127.0.0.1 alone, carries labels of ours and is removed on the way out, whatever happens; after a
    kill (SIGKILL, power) `tgibench cleanup` removes what is left. When it is ready it is asked one short request, whose first token is
    timed. Sweeps run one container at a time.

    Args:
        server: How the server's image is run; by default by the deployment's `server`: ``"tgi"``, ``"vllm"`` or ``"llama.cpp"``.
        protocol: How it is spoken to; by default its own.
        variant: Behind the version in the image's tag: ``"intel-cpu"`` or ``"rocm"``.
        gpus: ``"auto"`` for all of NVIDIA's where the engine has its runtime and the image is for them, ``"all"``, how many, which
            (``("0", "2")``), or None for none.
        hf_token: The hub's token. It is shown nowhere, `docker inspect` included.
        cache: A folder (absolute) or a volume's name in which weights are kept; by default they are loaded anew for each deployment.
        shm_gib: Shared memory, GiB; by default 1, or 64 where accelerators share a model.
        port: The port on 127.0.0.1; None leaves the choice to the engine.
        engine: The engine's address; by default ``DOCKER_HOST``, else the usual socket.
        ready_timeout_s: How long it may take from its start to answer its health check; downloads included.
        stop_timeout_s: How long it may take to stop before it is killed; by default the server's own.
        on_progress: Called on the event loop with one sentence for each step: pulling, starting, loading; keep it short.

    Raises:
        InvalidValueError: A value is out of range, or the cache is no folder.
    """

    server: ServerImage | None = None
    protocol: WireProtocol | None = None
    variant: str | None = None
    gpus: Gpus = attrs.field(default="auto", validator=_gpus)
    hf_token: str | None = attrs.field(default=None, repr=False)
    cache: str | None = attrs.field(default=None, converter=_text, validator=_folder_or_volume)
    shm_gib: float | None = attrs.field(default=None, validator=validators.optional(above_zero))
    port: int | None = attrs.field(
        default=None, validator=validators.optional([validators.ge(1), validators.le(65535)])
    )
    engine: str | None = None
    ready_timeout_s: float = attrs.field(default=1800.0, validator=above_zero)
    stop_timeout_s: float | None = attrs.field(default=None, validator=validators.optional(above_zero))
    on_progress: Callable[[str], None] = attrs.field(default=_silent, repr=False)

    @property
    def name(self) -> str:
        """Its name."""
        return "docker"

    @property
    def identity(self) -> str:
        """Its name, and a digest of what is not the default of the server, how it is spoken to and what it runs on."""
        return identity(self.name, **changed(self, "server", "protocol", "variant", "gpus", "shm_gib", "engine"))

    @property
    def source(self) -> Source:
        """MEASURED; a server that says it is the emulator makes its cells EMULATED."""
        return Source.MEASURED

    @asynccontextmanager
    async def deploy(self, deployment: Deployment) -> AsyncIterator[DockerEndpoint]:
        """Run the container; on leaving, stop and remove it with its volume, and make sure that both are gone.

        Raises:
            MissingExtraError: aiodocker is not installed.
            DeployError: No engine, no image, no GPU runtime; or the server ends before it is ready or is not ready in time: with the
                reason that its log shows, or its last lines.
            TeardownError: Something is still there, or it cannot be told.
        """
        server = self._server(deployment)
        image = server.image_of(deployment, self.variant)
        async with open_engine(self.engine) as engine:
            known = await engine.image(image, self.on_progress)
            identity = uuid.uuid4().hex
            specification = specify(
                deployment,
                server,
                image=image,
                entrypoint=known["Config"].get("Entrypoint") or (),
                labels=labels_of(identity, model_id=deployment.model_id),
                gpus=self.gpus,
                nvidia_here=engine.has_nvidia,
                hf_token=self.hf_token,
                cache=self.cache,
                shm_gib=self.shm_gib,
                port=self.port,
            )
            patience = _Patience(self.stop_timeout_s or server.stop_timeout_s)
            async with self._container(engine, identity, specification, patience) as container:
                url = f"http://127.0.0.1:{await container.published_port(server.port)}"
                http = HttpEndpoint(url, self.protocol or server.protocol(deployment))
                await self._until_ready(container, http, server.health_path)
                patience.serves = True
                facts = {**await learn_facts(http), **await container.facts(), "image_id": str(known["Id"])}
                self.on_progress(f"ready at {url}")
                yield DockerEndpoint(
                    http=attrs.evolve(http, facts=facts, start_up=await start_up_of(http)),
                    engine=engine.address,
                    container=container.name,
                    logs_requests=server.logs_requests,
                )

    async def rooms(self, deployments: Sequence[Deployment]) -> list[Room | None]:
        """One at a time: side by side they would take each other's accelerators and cores, and show it in each other's figures."""
        return one_at_a_time("this machine", deployments)

    @asynccontextmanager
    async def _container(
        self, engine: Engine, identity: str, specification: Specification, patience: _Patience
    ) -> AsyncIterator[Container]:
        """A container that runs; on leaving it and its volume are removed."""
        container = Container(engine, f"tgibench-{identity[:12]}", specification)
        try:
            # to the end: a container that the engine is still making could not be found and removed
            await to_the_end(engine.create(container.name, specification.config, specification.files))
            self.on_progress(f"created {container.name} of {specification.image}")
            await to_the_end(engine.start(container.name))
            self.on_progress(f"started {container.name}")
            yield container
        finally:
            try:
                self.on_progress(f"stopping {container.name}")
            finally:
                await to_the_end(remove_deployment(engine, identity, patience_s=patience.seconds))

    def _server(self, deployment: Deployment) -> ServerImage:
        if self.server is not None:
            return self.server
        if deployment.server not in SERVERS:
            raise DeployError(
                f"no image is known for the server {deployment.server!r}; known are {', '.join(SERVERS)}: "
                "give DockerBackend(server=ServerImage(...))"
            )
        return SERVERS[deployment.server]

    async def _until_ready(self, container: Container, http: HttpEndpoint, path: str) -> None:
        """Wait for health and for the container's end at once.

        Raises:
            DeployError: It ended, or time is up; with what its log shows.
        """
        problem: DeployError | None = None
        try:
            async with asyncio.timeout(None) as until_end, asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch(container, until_end))
                try:
                    await wait_until_ready(http, timeout_s=self.ready_timeout_s, path=path)
                except DeployError as error:
                    problem = error
                watch.cancel()
        except TimeoutError:
            raise await container.early_end() from None
        if problem is not None:
            raise await container.failure(str(problem)) from None

    async def _watch(self, container: Container, until_end: asyncio.Timeout) -> None:
        """Tell what the log says, and let the limit run out when the container ends."""
        with contextlib.suppress(DeployError):  # what the engine cannot tell now, it is asked for afterwards
            async with contextlib.aclosing(container.engine.follow(container.name)) as lines:
                async for line in lines:
                    self.on_progress(f"loading {container.name}: {container.shown(line)}")
            await container.engine.ended(container.name)
        until_end.reschedule(0)
