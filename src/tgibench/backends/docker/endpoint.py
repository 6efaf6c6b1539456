"""The endpoint of a container: HTTP, and the server's side of a run out of its log and its counters."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import aiohttp
import attrs
import numpy as np

from tgibench.backends.docker.engine import open_engine
from tgibench.endpoints import ServerView
from tgibench.errors import DeployError
from tgibench.protocols.tgi_logs import logged_requests
from tgibench.protocols.tgi_metrics import read_metrics
from tgibench.server_side import count_disagreements, join_server_times, mean_batch_and_queue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from tgibench.client import HttpClient, HttpEndpoint
    from tgibench.endpoints import StartUp
    from tgibench.records import RequestLog
    from tgibench.server_side import Joined

__all__ = ["DockerEndpoint"]

_SCRAPE_S = 10.0
_LOG_POLL_S = 0.2
_LOG_PATIENCE_S = 5.0  # the engine writes a container's lines with a delay


@attrs.frozen(kw_only=True)
class DockerEndpoint:
    """A server in a container on this machine.

    Args:
        http: How it is reached.
        engine: The engine's address.
        container: The container's name.
        logs_requests: Whether it logs and counts as TGI does.
    """

    http: HttpEndpoint
    engine: str
    container: str
    logs_requests: bool

    @property
    def facts(self) -> Mapping[str, str]:
        """What is known of the server, its image, its engine and its GPUs."""
        return self.http.facts

    @property
    def start_up(self) -> StartUp | None:
        """How it was started."""
        return self.http.start_up

    @property
    def url(self) -> str:
        """Its base address."""
        return self.http.url

    def connect(self) -> AbstractAsyncContextManager[HttpClient]:
        """A client with connections of its own, opened as they are needed."""
        return self.http.connect()

    async def watch_run(self) -> Callable[[RequestLog], Awaitable[ServerView]]:
        """Read the server's counters; afterwards join the times it logged, and compare its counts with ours."""
        before = await self._metrics()
        began_at = datetime.now(UTC)

        async def view(log: RequestLog) -> ServerView:
            if not self.logs_requests:
                return ServerView(log=log)
            try:
                joined = await self._joined(log, began_at)
            except DeployError as error:
                return ServerView(log=log, warnings=(f"the server's own times are not joined: {error}",))
            after = await self._metrics()
            warnings = count_disagreements(before, after, log)
            return ServerView(
                log=joined.log,
                warnings=warnings if joined.problem is None else (joined.problem, *warnings),
                facts=mean_batch_and_queue(before, after),
            )

        return view

    async def _joined(self, log: RequestLog, began_at: datetime) -> Joined:
        """Join as soon as the log holds every line, and when it does not in time what it holds."""
        deadline_s = asyncio.get_running_loop().time() + _LOG_PATIENCE_S
        succeeded = int(np.count_nonzero(log.succeeded))
        async with open_engine(self.engine) as engine:
            while True:
                lines = await engine.log(self.container, since_s=int(began_at.timestamp()))
                requests = list(logged_requests(lines))
                # not the line of the first request, which was asked just before
                of_run = [each for each in requests if each.ended_at is None or each.ended_at >= began_at]
                if len(of_run) >= succeeded:
                    return join_server_times(log, of_run, began_at=began_at)
                if asyncio.get_running_loop().time() > deadline_s:  # an engine elsewhere may have another clock
                    return join_server_times(log, requests, began_at=began_at)
                await asyncio.sleep(_LOG_POLL_S)

    async def _metrics(self) -> dict[str, float]:
        """The server's counters; none where they cannot be read."""
        timeout = aiohttp.ClientTimeout(total=_SCRAPE_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"{self.url}/metrics") as response,
            ):
                return read_metrics(await response.text()) if response.status == 200 else {}
        except (aiohttp.ClientError, OSError, TimeoutError, UnicodeDecodeError):
            return {}
