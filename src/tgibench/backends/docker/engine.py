"""The Docker engine behind a few verbs; the one module that imports aiodocker. Each way to fail is one sentence of our own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import tarfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import aiohttp

from tgibench.backends.docker.pulling import PullProgress
from tgibench.errors import DeployError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence

    from aiodocker import Docker
    from aiodocker.containers import DockerContainer

__all__ = ["AbsentError", "Engine", "Held", "open_engine"]

T = TypeVar("T")

_CALL_S = 120.0  # of a call that only the engine works on; starting a container on a busy machine takes seconds
_LOG_TAIL = 5000
_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock", "~/.docker/run/docker.sock")


class AbsentError(DeployError):
    """The engine has no such image, container or volume."""


class Held(NamedTuple):
    """Something that the engine holds."""

    name: str
    labels: dict[str, str]
    image: str


def _address(url: str | None) -> str:
    """Where the engine is: as given, else ``DOCKER_HOST``, else the first socket there is.

    Raises:
        DeployError: There is none, or it is another machine's.
    """
    url = url or os.environ.get("DOCKER_HOST")
    if not url:
        sockets = [path for name in _SOCKETS if (path := Path(name).expanduser()).is_socket()]
        if not sockets:
            raise DeployError(
                f"no Docker engine: there is no socket at {', '.join(_SOCKETS)} and DOCKER_HOST is not set; "
                "install and start one"
            )
        return f"unix://{sockets[0]}"
    scheme, _, rest = url.partition("://")
    host = rest.rpartition(":")[0].strip("[]")
    if scheme != "unix" and host not in {"127.0.0.1", "localhost", "::1"}:
        raise DeployError(
            f"the Docker engine must be this machine's (unix://... or tcp://127.0.0.1:...), got {url!r}: a container's port is "
            "published on the engine's own machine only; run there, or start the server by hand and use HttpBackend"
        )
    return url


@asynccontextmanager
async def open_engine(url: str | None) -> AsyncIterator[Engine]:
    """The engine, once it answers.

    Raises:
        MissingExtraError: aiodocker is not installed.
        DeployError: There is none, it does not answer, or it may not be used.
    """
    try:
        import aiodocker  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError('Docker needs aiodocker: pip install "tgibench[docker]"') from error
    address = _address(url)
    async with aiodocker.Docker(url=address) as docker:
        engine = Engine(docker, address, aiodocker.DockerError)
        await engine.learn()
        yield engine


class Engine:
    """An engine that answers. Every verb has a time limit; a cancelled one leaves what it asked for to the engine.

    All raise `DeployError` in one sentence, and `AbsentError` where what they are about is not there.
    """

    def __init__(self, docker: Docker, address: str, error: type[Exception]) -> None:
        self._docker, self.address = docker, address
        self._problems = (TimeoutError, aiohttp.ClientError, OSError, error)
        self.facts: dict[str, str] = {}
        self.has_nvidia = False

    async def learn(self) -> None:
        """Ask what it is."""
        doing = "the Docker engine does not tell what it is"
        version = await self._done(doing, self._docker.version())
        info = await self._done(doing, self._docker.system.info())
        self.facts = {"docker": str(version.get("Version")), "docker_kernel": str(version.get("KernelVersion"))}
        # the runtime is registered with the engine, or its hook is found on the path: then only the driver shows
        self.has_nvidia = "nvidia" in info.get("Runtimes", {}) or _has_driver()

    async def image(self, name: str, tell: Callable[[str], None]) -> dict[str, Any]:
        """What the engine knows of an image; it is pulled where it is absent, which may take as long as it takes."""
        asking = f"cannot ask for the image {name}"
        try:
            return await self._done(asking, self._docker.images.inspect(name))
        except AbsentError:
            await self._pull(name, tell)
            return await self._done(asking, self._docker.images.inspect(name))

    async def _pull(self, name: str, tell: Callable[[str], None]) -> None:
        progress = PullProgress()
        tell(f"pulling {name}")
        try:
            async for event in self._docker.images.pull(name, stream=True):
                said = progress.take(event)
                if said is not None:
                    tell(f"pulling {name}: {said}")
        except self._problems as problem:
            raise self._told(f"cannot pull the image {name}", problem) from problem

    async def create(self, name: str, config: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Make a container with files of its own; it does not run yet."""
        doing = f"the Docker engine refuses to make the container {name}"
        await self._done(doing, self._docker.containers.create(dict(config), name=name))
        if files:
            await self._done(doing, self._container(name).put_archive("/", _tar(files)))  # type: ignore[no-untyped-call]

    async def start(self, name: str) -> None:
        """Let it run."""
        await self._done(f"the Docker engine cannot start the container {name}", self._container(name).start())

    async def state(self, name: str) -> dict[str, Any]:
        """What the engine knows of a container."""
        return await self._done(f"cannot ask for the container {name}", self._container(name).show())

    async def follow(self, name: str) -> AsyncGenerator[str, None]:
        """The lines of a container's log as they are written, until it ends."""
        from aiodocker.multiplexed import multiplexed_result_stream  # noqa: PLC0415 - an extra

        rest, parameters = "", {"stdout": True, "stderr": True, "follow": True}
        try:
            # not DockerContainer.log: it leaves the answer open when the reader is cancelled
            response = await self._docker._do_query(f"containers/{name}/logs", "GET", params=parameters)  # noqa: SLF001
            try:
                async for piece in multiplexed_result_stream(response):  # type: ignore[no-untyped-call]
                    *lines, rest = (rest + piece).split("\n")
                    for line in lines:
                        yield line.rstrip("\r")
            finally:
                response.close()
        except self._problems as problem:
            raise self._told(f"cannot follow the log of the container {name}", problem) from problem

    async def log(self, name: str, *, since_s: int | None = None) -> list[str]:
        """The lines of a container's log: the last of them, or all since a second of wall time (Unix)."""
        span: dict[str, Any] = {"tail": _LOG_TAIL} if since_s is None else {"since": since_s}
        reading = self._container(name).log(stdout=True, stderr=True, **span)
        return "".join(await self._done(f"cannot read the log of the container {name}", reading)).splitlines()

    async def ended(self, name: str) -> None:
        """Wait until a container runs no more."""
        await self._done(f"cannot wait for the container {name}", self._container(name).wait(), limit_s=None)

    async def output(self, name: str, command: Sequence[str]) -> str | None:
        """What a command prints inside a running container; None when it cannot be run there or fails."""
        try:
            return await self._done("no output", self._execute(name, command))
        except DeployError:
            return None

    async def _execute(self, name: str, command: Sequence[str]) -> str | None:
        execution = await self._container(name).exec(list(command), stderr=False)
        printed = b""
        async with execution.start(detach=False) as stream:
            while (message := await stream.read_out()) is not None:
                printed += message.data
        code = (await execution.inspect())["ExitCode"]
        return printed.decode("utf-8", "replace") if code == 0 else None

    async def containers(self, label: str) -> list[Held]:
        """Each container, running or not, that has the label (or ``label=value``)."""
        asking = self._docker.containers.list(all=True, filters=json.dumps({"label": [label]}))
        found = [each._container for each in await self._done("cannot list the engine's containers", asking)]  # noqa: SLF001
        return [Held(each["Names"][0].removeprefix("/"), each["Labels"], each["Image"]) for each in found]

    async def volumes(self, label: str) -> list[Held]:
        """Each volume that has the label (or ``label=value``)."""
        asking = self._docker.volumes.list(filters={"label": [label]})  # type: ignore[no-untyped-call]
        found = await self._done("cannot list the engine's volumes", asking)
        return [Held(each["Name"], each["Labels"], "") for each in found.get("Volumes") or ()]

    async def stop(self, name: str, *, patience_s: float) -> None:
        """Ask a container to end, and kill it when it has not by then; one that is gone or does not run is passed over."""
        asking = self._container(name).stop(t=round(patience_s))
        with contextlib.suppress(AbsentError):
            await self._done(f"cannot stop the container {name}", asking, limit_s=patience_s + _CALL_S)

    async def remove_container(self, name: str) -> None:
        """Kill and remove it with its anonymous volumes; one that is gone is passed over."""
        asking = self._container(name).delete(force=True, v=True)
        with contextlib.suppress(AbsentError):
            await self._done(f"cannot remove the container {name}", asking)

    async def remove_volume(self, name: str) -> None:
        """Remove it; one that is gone is passed over."""
        doing = f"cannot remove the volume {name}"
        with contextlib.suppress(AbsentError):
            volume = await self._done(doing, self._docker.volumes.get(name))  # type: ignore[no-untyped-call]
            await self._done(doing, volume.delete())

    def _container(self, name: str) -> DockerContainer:
        return self._docker.containers.container(name)

    async def _done(self, doing: str, work: Coroutine[Any, Any, T], *, limit_s: float | None = _CALL_S) -> T:
        try:
            async with asyncio.timeout(limit_s):
                return await work
        except self._problems as problem:
            raise self._told(doing, problem) from problem

    def _told(self, doing: str, problem: Exception) -> DeployError:
        """One sentence of whatever the engine, or the way to it, says."""
        if isinstance(problem, TimeoutError):
            return DeployError(f"{doing}: the engine at {self.address} does not answer")
        if isinstance(problem, aiohttp.ClientError | OSError):
            return DeployError(f"{doing}: the engine at {self.address} broke off: {problem}")
        status, message = getattr(problem, "status", 0), str(getattr(problem, "message", problem))
        going = status == 409 and "already in progress" in message  # somebody else removes it just now
        kind = AbsentError if status in {304, 404} or going else DeployError
        return kind(_sentence(doing, status, message, self.address))


def _sentence(doing: str, status: int, message: str, address: str) -> str:
    message = " ".join(message.split())
    lower = message.lower()
    if status == 900 and "permission denied" in lower:  # aiodocker's own number for no connection
        return f"no permission to use the Docker engine at {address}: run as root, or as a member of the group docker"
    if status == 900:
        return f"no Docker engine answers at {address}: start it, or set DOCKER_HOST to the one that runs"
    if "could not select device driver" in lower or "nvidia-container-cli" in lower or "unknown device" in lower:
        return (
            f"{doing}: no GPU runtime, or no such GPU ({message}); install the NVIDIA container toolkit and choose GPUs that "
            "`nvidia-smi -L` lists, or take gpus=None"
        )
    if "port is already allocated" in lower or "address already in use" in lower:
        return (
            f"{doing}: the port is taken ({message}); choose another, or leave the choice to the engine with port=None"
        )
    for words, meaning in _PULL_PROBLEMS:
        if words in lower:
            return f"{doing}: {meaning} ({message})"
    return f"{doing}: {message}"


_PULL_PROBLEMS = (
    ("manifest unknown", "no such image"),
    ("not found", "no such image"),
    ("pull access denied", "no such image, or only for those who are logged in"),
    ("no such image", "no such image"),
    ("unauthorized", "the registry wants a login"),
    ("no such host", "the registry cannot be reached"),
    ("connection refused", "the registry cannot be reached"),
    ("timeout", "the registry cannot be reached"),
    ("no space left", "the disk is full"),
)


def _has_driver() -> bool:
    return Path("/dev/nvidiactl").exists()


def _tar(files: Mapping[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(content), 0o444
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()
