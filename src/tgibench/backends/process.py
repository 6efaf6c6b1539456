"""Starts a server on this machine, waits until it is ready and stops it with all its children.

A guard beside the server does the stopping where this process cannot any more: see `tgibench.backends._launcher`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import socket
import sys
from collections import deque
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import attrs

from tgibench.backends import LongestTimes, one_at_a_time
from tgibench.backends.first_token import FIRST_TOKEN_S, start_up_of
from tgibench.backends.http import learn_facts, wait_until_ready
from tgibench.backends.teardown import to_the_end
from tgibench.client import HttpEndpoint
from tgibench.deployments import sounds_secret
from tgibench.errors import DeployError, InvalidValueError, TeardownError
from tgibench.identities import changed, identity
from tgibench.protocols.tgi import TgiProtocol
from tgibench.provenance import Source
from tgibench.validators import above_zero

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from tgibench.backends import Room
    from tgibench.deployments import Deployment
    from tgibench.protocols import WireProtocol

__all__ = ["ProcessBackend"]

_LAST_LINES = 20
_LINE_BYTES = 1 << 16
_KILL_S = 10.0
_POLL_S = 0.05
_LAUNCHER = Path(__file__).with_name("_launcher.py")


def _command(_: object, attribute: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    if not value or not any("{port}" in part for part in value):
        raise InvalidValueError(
            f"{attribute.name} must be a program with a {{port}} among its arguments, got {value!r}"
        )


def _as_tuple(command: Iterable[str]) -> tuple[str, ...]:
    return tuple(command)


@attrs.frozen
class ProcessBackend:
    """A server of one's own on this machine: `text-generation-launcher`, `vllm serve`, `transformers serve`, ….

    When it is ready it is asked one short request, whose first token is timed. Sweeps run one such server at a time.

    It is stopped with all processes of its group when the context is left, and also when this process dies, by SIGKILL too. What leaves
    the group (a daemon that begins a session of its own) is beyond reach.

    Args:
        command: Program and arguments. ``{port}`` stands for a free port, ``{model_id}`` and the other names of `Deployment`'s fields
            for its values.
        protocol: How it is spoken to.
        ready_timeout_s: How long it may take to answer its health check; loading a large model takes many minutes.
        stop_timeout_s: How long it may take to stop before it is killed; TGI finishes what is in flight for up to 90 s.
        environment: Variables added to this process's own and the deployment's; their values are shown nowhere.

    Raises:
        InvalidValueError: The command is empty or has no ``{port}``.
    """

    command: tuple[str, ...] = attrs.field(converter=_as_tuple, validator=_command)
    protocol: WireProtocol = attrs.field(factory=TgiProtocol)
    ready_timeout_s: float = attrs.field(default=900.0, validator=above_zero, kw_only=True)
    stop_timeout_s: float = attrs.field(default=100.0, validator=above_zero, kw_only=True)
    environment: Mapping[str, str] = attrs.field(factory=dict, repr=lambda names: repr(sorted(names)), kw_only=True)

    @property
    def name(self) -> str:
        """Its name."""
        return "process"

    @property
    def identity(self) -> str:
        """Its name, and a digest of the command, of the protocol where that is not TGI's, and of variables that do not sound secret."""
        told = changed(self, "protocol")
        if self.environment:
            told["environment"] = {
                name: "***" if sounds_secret(name) else value for name, value in self.environment.items()
            }
        return identity(self.name, command=self.command, **told)

    @property
    def source(self) -> Source:
        """MEASURED; a server that says it is the emulator makes its cells EMULATED."""
        return Source.MEASURED

    @asynccontextmanager
    async def deploy(self, deployment: Deployment) -> AsyncIterator[HttpEndpoint]:
        """Start the server; on leaving, stop it and everything it started.

        Raises:
            DeployError: It cannot be started, ends before it is ready, or is not ready in time; with its last lines.
            TeardownError: Something of it survives being killed.
        """
        port = _free_port()
        log = _Log()
        with _Guard() as guard:
            process = await self._start(deployment, port, log, guard)
            try:
                endpoint = HttpEndpoint(f"http://127.0.0.1:{port}", self.protocol)
                await self._until_ready(process, endpoint, log)
                facts = await learn_facts(endpoint)
                yield attrs.evolve(endpoint, facts=facts, start_up=await start_up_of(endpoint))
            finally:
                await to_the_end(self._stop(process, guard))

    async def rooms(self, deployments: Sequence[Deployment]) -> list[Room | None]:
        """One at a time: side by side they would take each other's accelerators and cores, and show it in each other's figures."""
        return one_at_a_time("this machine", deployments)

    def longest_times(self, deployment: Deployment) -> LongestTimes:
        """As its own limits have it."""
        del deployment
        stopping_s = self.stop_timeout_s + 2 * _KILL_S
        return LongestTimes(startup_s=self.ready_timeout_s + FIRST_TOKEN_S, teardown_s=stopping_s, abandon_s=stopping_s)

    async def _start(self, deployment: Deployment, port: int, log: _Log, guard: _Guard) -> _Server:
        values = {**attrs.asdict(deployment), "port": port}
        command = [_filled(part, values) for part in self.command]
        environment = {**os.environ, **dict(deployment.environment), **self.environment}
        if shutil.which(command[0], path=environment.get("PATH")) is None:
            raise DeployError(f"cannot start {shlex.join(command)}: there is no such program")
        loop = asyncio.get_running_loop()
        with guard.other_end as end:
            launcher = (sys.executable, "-I", "-S", str(_LAUNCHER), str(end.fileno()), str(self.stop_timeout_s))
            try:
                transport, protocol = await loop.subprocess_exec(
                    lambda: _Server(log),
                    *launcher,
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,  # never the input of whoever measures
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    env=environment,
                    pass_fds=(end.fileno(),),
                    start_new_session=True,  # a group of its own: its children are stopped with it
                )
            except OSError as error:
                raise DeployError(f"cannot start {shlex.join(command)}: {error.strerror or error}") from error
        protocol.transport, protocol.pid = transport, transport.get_pid()
        return protocol

    async def _until_ready(self, server: _Server, endpoint: HttpEndpoint, log: _Log) -> None:
        try:
            async with asyncio.timeout(None) as until_exit:
                server.ends(until_exit)
                await wait_until_ready(endpoint, timeout_s=self.ready_timeout_s)
        except TimeoutError:
            code = server.transport.get_returncode()
            raise DeployError(f"the server ended with exit code {code} before it was ready{log.last()}") from None
        except DeployError as error:
            raise DeployError(f"{error}{log.last()}") from None

    async def _stop(self, server: _Server, guard: _Guard) -> None:
        """Ask, wait, kill; then make sure that nothing of the process group is left."""
        try:
            for number, patience_s in ((signal.SIGTERM, self.stop_timeout_s), (signal.SIGKILL, _KILL_S)):
                _signal_group(server.pid, number)
                if await _gone(server, patience_s):
                    await guard.dismiss()
                    return
        finally:
            server.transport.close()
        raise TeardownError(
            f"process group {server.pid} survives SIGKILL: look with `ps -g {server.pid}` and end it by hand"
        )


async def _gone(server: _Server, patience_s: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + patience_s
    while not server.exited or _group_alive(server.pid):
        if loop.time() > deadline_s:
            return False
        await asyncio.sleep(_POLL_S)  # there is no event for the end of a process that is not one's child
    return True


class _Guard:
    """This process's end of the socket to the guard; should this process die, its end closes, and the guard stops the server."""

    def __init__(self) -> None:
        self._end, self.other_end = socket.socketpair()
        self._end.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()
        self.other_end.close()

    async def dismiss(self) -> None:
        """Nothing is left to guard: let it go, and wait until it is gone."""
        with contextlib.suppress(OSError, TimeoutError):  # it was gone already, or never came into being
            async with asyncio.timeout(_KILL_S):
                self._end.send(b".")
                await asyncio.get_running_loop().sock_recv(self._end, 1)


class _Log:
    """The last lines of a server's output."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._rest = b""

    def add(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_LINE_BYTES:]
        self._lines += (line.decode("utf-8", "replace").rstrip() for line in lines)

    def last(self) -> str:
        lines = [*self._lines, *([self._rest.decode("utf-8", "replace")] if self._rest else [])]
        return "; its last lines:\n" + "\n".join(f"  {line}" for line in lines) if lines else "; it printed nothing"


class _Server(asyncio.SubprocessProtocol):
    """A started server: its output goes to a log, its end runs out a time limit."""

    transport: asyncio.SubprocessTransport
    pid: int

    def __init__(self, log: _Log) -> None:
        self._log = log
        self._limit: asyncio.Timeout | None = None
        self.exited = False

    def ends(self, limit: asyncio.Timeout) -> None:
        """Let this limit run out when the server ends."""
        self._limit = limit
        if self.exited:
            limit.reschedule(0)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        del fd
        self._log.add(data)

    def process_exited(self) -> None:
        self.exited = True
        if self._limit and self._limit.when() is None and not self._limit.expired():
            with contextlib.suppress(RuntimeError):  # the wait it limited is over
                self._limit.reschedule(0)


def _filled(part: str, values: Mapping[str, object]) -> str:
    for name, value in values.items():
        part = part.replace("{" + name + "}", "" if value is None else str(value))
    return part


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    states = _states(group)
    return not states or any(state not in b"ZX" for state in states)


def _states(group: int) -> list[bytes]:
    """The states of a group's processes as Linux tells them; empty elsewhere.

    A process that is dead but waited for by nobody (Z), as in a container without an init, still takes signals.
    """
    states = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            state, _parent, its_group = stat.read_bytes().rpartition(b")")[2].split()[:3]
            if int(its_group) == group:
                states.append(state)
    return states
