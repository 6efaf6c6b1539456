"""A container's log in CloudWatch, read after each run: what TGI logged of each request becomes the run's server-side times.

FilterLogEvents, not Logs Insights: it has no limit of 10,000 rows, costs nothing, and what it gives is what was written. No filter
pattern: but for the lines of a start, TGI writes nothing else, and how a pattern takes colour codes is not documented.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from tgibench.backends.sagemaker.clock import ClockOffset
from tgibench.endpoints import ServerView
from tgibench.errors import AwsError
from tgibench.protocols.tgi_logs import logged_requests
from tgibench.server_side import join_server_times, second_zero
from tgibench.validators import above_zero

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tgibench.backends.sagemaker.aws import Aws
    from tgibench.protocols.tgi_logs import LoggedRequest
    from tgibench.records import RequestLog
    from tgibench.server_side import Joined

__all__ = ["ServerLog", "log_group"]

_BACKOFF_S, _LONGEST_WAIT_S = 0.5, 10.0
_EARLIER = timedelta(seconds=60)  # events are dated by the host's agent; lines of other runs are passed over later
_MARGINS = (timedelta(seconds=0.02), timedelta(seconds=1))  # clocks that are set by the network, and others


def log_group(endpoint_name: str, inference_component: str | None = None) -> str:
    """Where SageMaker writes what a container prints."""
    if inference_component is not None:
        return f"/aws/sagemaker/InferenceComponents/{inference_component}"
    return f"/aws/sagemaker/Endpoints/{endpoint_name}"


@attrs.frozen(kw_only=True)
class ServerLog:
    """The log of a container that logs as TGI does. A value: it holds no connection and no credential, and can be pickled.

    Args:
        aws: The account.
        group: The log group.
        patience_s: How long after a run its lines are waited for; CloudWatch shows them seconds, at times minutes later.
        poll_s: Seconds until the second look; later ones are farther apart.
    """

    aws: Aws
    group: str
    patience_s: float = attrs.field(default=120.0, validator=above_zero)
    poll_s: float = attrs.field(default=2.0, validator=above_zero)

    def watch_run(self) -> Callable[[RequestLog], Awaitable[ServerView]]:
        """Called just before a run; what it returns joins the times that the container logged to the run's log."""
        began_at = datetime.now(UTC)

        async def view(log: RequestLog) -> ServerView:
            if not np.any(log.succeeded):
                return ServerView(log=log)
            reading = _Reading(self, log, began_at, datetime.now(UTC))
            try:
                async with asyncio.timeout(self.patience_s):
                    joined = await reading.until_joined()
            except TimeoutError:
                return ServerView(
                    log=log, warnings=(f"{reading.problem} ({self.group}, {self.patience_s:g} s after the run)",)
                )
            except AwsError as error:
                return ServerView(log=log, warnings=(f"the server's own times are not joined: {self.group}: {error}",))
            told = f"{joined.requests} of {len(log)}"
            return ServerView(log=joined.log, facts={"server_log": self.group, "server_times_of": told})

        return view


class _Reading:
    """The log of one run, looked at until its lines are there."""

    def __init__(self, source: ServerLog, log: RequestLog, began_at: datetime, ended_at: datetime) -> None:
        self._source, self._log = source, log
        self._began_at, self._ended_at = began_at, ended_at
        self._offset = ClockOffset()
        self.problem = "the server's own times are not joined: its log could not be read in time"

    async def until_joined(self) -> Joined:
        """Look again and again until every success has its line.

        Raises:
            AwsError: The log may not be read, say.
        """
        loop = asyncio.get_running_loop()
        client = await asyncio.to_thread(self._source.aws.client, "logs")
        wait_s = self._source.poll_s
        while True:
            looked_s = loop.time()
            joined = self._joined(await self._requests(client))
            if joined.problem is None:
                return joined
            self.problem = joined.problem
            await asyncio.sleep(max(wait_s, loop.time() - looked_s))  # a long log is not read all the time
            wait_s = min(1.5 * wait_s, max(_LONGEST_WAIT_S, self._source.poll_s))

    def _joined(self, requests: list[LoggedRequest]) -> Joined:
        """Only lines of requests that began after the run did, and ended before its end: by the clock's word, else with a margin."""
        ahead = timedelta(seconds=self._offset.best_s)
        earliest, latest = self._began_at + ahead, self._ended_at + ahead
        for margin in _MARGINS:
            of_run = [request for request in requests if _within(request, earliest - margin, latest + margin)]
            zero = second_zero(self._log, of_run, earliest=earliest, latest=latest)
            joined = join_server_times(self._log, of_run, began_at=zero)
            if joined.problem is None:
                break
        return joined

    async def _requests(self, client: Any) -> list[LoggedRequest]:
        """What the log tells at this moment of requests since shortly before the run."""
        since = self._began_at + timedelta(seconds=self._offset.best_s) - _EARLIER
        asked: dict[str, Any] = {"logGroupName": self._source.group, "startTime": int(since.timestamp() * 1000)}
        requests: list[LoggedRequest] = []
        while True:
            try:
                page = await self._page(client, asked)
            except AwsError as error:
                if error.code != "ResourceNotFoundException":
                    raise
                return []  # no container has written anything yet, or nothing of it has come
            requests += logged_requests(event["message"] for event in page["events"])
            if not page.get("nextToken"):  # pages may be empty, and others follow
                return requests
            asked["nextToken"] = page["nextToken"]

    async def _page(self, client: Any, asked: dict[str, Any]) -> dict[str, Any]:
        wait_s = _BACKOFF_S
        while True:
            asked_at = datetime.now(UTC)
            try:
                page = await self._source.aws.call(client, "filter_log_events", asked)
            except AwsError as error:
                if not error.busy:
                    raise
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                continue
            date = page["ResponseMetadata"]["HTTPHeaders"].get("date")
            self._offset = self._offset.told(date, asked_at=asked_at, answered_at=datetime.now(UTC))
            return page


def _within(request: LoggedRequest, first: datetime, last: datetime) -> bool:
    if request.ended_at is None or request.server.total_s is None:
        return False
    return first <= request.ended_at - timedelta(seconds=request.server.total_s) and request.ended_at <= last
