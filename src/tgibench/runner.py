"""Puts a load on an endpoint and records what became of every request."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench.client_watch import ClientWatch
from tgibench.endpoints import Timeouts
from tgibench.errors import InvalidValueError
from tgibench.loads import ClosedPhase
from tgibench.recording import LogBuilder
from tgibench.records import Exchange, Failure, FailureKind, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tgibench.endpoints import Client, Endpoint
    from tgibench.loads import LoadProfile, OpenPhase, Phase
    from tgibench.records import ClientHealth, RequestLog
    from tgibench.requests import PromptSource

__all__ = ["RunProgress", "run_load"]


@attrs.frozen
class RunProgress:
    """How far a run has come.

    Args:
        elapsed_s: Seconds since its start.
        in_flight: Requests under way.
        finished: Requests that ended, failed ones included.
        failed: Those that failed.
        output_tokens: Tokens of the requests that ended.
    """

    elapsed_s: float
    in_flight: int
    finished: int
    failed: int
    output_tokens: int


async def run_load(
    endpoint: Endpoint,
    load: LoadProfile,
    prompts: PromptSource,
    *,
    seed: int = 0,
    timeouts: Timeouts | None = None,
    give_up_after: int = 20,
    keep_chunk_times: bool = True,
    on_progress: Callable[[RunProgress], None] | None = None,
) -> RequestLog:
    """Execute a load plan and return the log of its requests.

    A request that fails is a row of the log like any other. Cancelling the call (Ctrl-C under `asyncio.run`) ends the run: requests
    in flight are recorded as cancelled and the log of what was measured is *returned*, with `RequestLog.stopped` set; the task's
    cancellation count is left as it is, so that a caller can tell with `asyncio.Task.cancelling`.

    Args:
        endpoint: Where the requests go.
        load: How many and when.
        prompts: What they say; request number k of the plan sends prompt k.
        seed: Of arrivals and prompts.
        timeouts: Limits of each request; the defaults of `Timeouts` when None.
        give_up_after: The run stops after this many failures in a row, and the log says so.
        keep_chunk_times: Whether the log keeps the arrival of every chunk (12 bytes each).
        on_progress: Called on the event loop after each finished request; keep it short.

    Raises:
        InvalidValueError: `give_up_after` is below 1, or `seed` below 0.
    """
    if give_up_after < 1:
        raise InvalidValueError(f"give_up_after must be at least 1, got {give_up_after!r}")
    if seed < 0:
        raise InvalidValueError(f"seed must be a whole number of at least 0, got {seed!r}")
    loop = asyncio.get_running_loop()
    async with endpoint.connect() as client:
        run = _Run(client, prompts, seed, timeouts or Timeouts(), give_up_after, keep_chunk_times, on_progress)
        watch = ClientWatch(loop)
        with watch.collector_at_rest():
            try:
                async with asyncio.TaskGroup() as everything:
                    monitor = everything.create_task(watch.sample_lag())
                    try:
                        await run.execute(load.phases(seed))
                    finally:
                        monitor.cancel()
            except asyncio.CancelledError:
                run.stop("cancelled")
        return run.log(watch.health(client.stamps))


class _Run:
    """One run's state: what is in flight, what ended, whether to stop."""

    def __init__(
        self,
        client: Client,
        prompts: PromptSource,
        seed: int,
        timeouts: Timeouts,
        give_up_after: int,
        keep_chunk_times: bool,  # noqa: FBT001 - private, passed on as it came
        on_progress: Callable[[RunProgress], None] | None,
    ) -> None:
        self._client, self._prompts, self._seed, self._timeouts = client, prompts, seed, timeouts
        self._give_up_after, self._on_progress = give_up_after, on_progress
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._builder = LogBuilder(self._began_s, keep_chunks=keep_chunk_times)
        self._stopping = asyncio.Event()
        self._stopped: str | None = None
        self._in_flight = self._failed = self._failed_in_a_row = self._output_tokens = self._unsent = 0
        self._window_start_s: float | None = None
        self._window_stop_s: float | None = None
        self._users: set[int | None] = set()

    def stop(self, reason: str) -> None:
        """Send nothing more."""
        if self._stopped is None:
            self._stopped = reason
            self._end_window()
        self._stopping.set()

    async def execute(self, phases: Iterator[Phase]) -> None:
        """Carry out the phases, then wait for the answers still coming."""
        async with asyncio.TaskGroup() as in_flight:
            for phase in phases:
                begin_s = self._loop.time()
                if self._window_start_s is None:
                    self._window_start_s = begin_s + phase.warm_up_s
                self._window_stop_s = None
                if isinstance(phase, ClosedPhase):
                    self._users.add(phase.users)
                    await self._closed(phase, begin_s)
                else:
                    self._users.add(None)
                    await self._open(phase, begin_s, in_flight)
                self._end_window()

    async def _closed(self, phase: ClosedPhase, begin_s: float) -> None:
        indices = iter(phase.indices)
        end_s = None if phase.duration_s is None else begin_s + phase.duration_s

        async def user() -> None:
            while not self._stopping.is_set() and (end_s is None or self._loop.time() < end_s):
                index = next(indices, None)
                if index is None:
                    break
                await self._one(index, self._loop.time(), open_loop=False)
                if phase.think_time_s:
                    await self._sleep(phase.think_time_s)
            self._end_window(end_s)

        try:
            async with asyncio.TaskGroup() as users:
                for _ in range(phase.users):
                    users.create_task(user())
        finally:
            if phase.duration_s is None:
                self._unsent += _length(indices)

    async def _open(self, phase: OpenPhase, begin_s: float, in_flight: asyncio.TaskGroup) -> None:
        arrivals = iter(phase.arrivals)
        end_s = None if phase.duration_s is None else begin_s + phase.duration_s
        slots = None if phase.max_in_flight is None else asyncio.Semaphore(phase.max_in_flight)
        due = 0
        try:
            for index, start_s in arrivals:
                due = 1
                planned_s = begin_s + start_s
                await self._sleep(planned_s - self._loop.time())
                if self._stopping.is_set() or (slots and not await self._slot(slots, end_s)):
                    break
                in_flight.create_task(self._arrival(index, planned_s, slots))
                due = 0
            else:
                if end_s is not None:
                    await self._sleep(end_s - self._loop.time())
        finally:
            self._unsent += due + _length(arrivals)

    async def _slot(self, slots: asyncio.Semaphore, end_s: float | None) -> bool:
        """Wait for a slot until the phase ends or the run stops; False when none came."""
        if not slots.locked():
            return await slots.acquire()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end_s):
                await slots.acquire()
                if not self._stopping.is_set():
                    return True
                slots.release()
        return False

    async def _arrival(self, index: int, planned_s: float, slots: asyncio.Semaphore | None) -> None:
        try:
            await self._one(index, planned_s, open_loop=True)
        finally:
            if slots:
                slots.release()

    async def _one(self, index: int, planned_s: float, *, open_loop: bool) -> None:
        request = self._prompts.request(index, seed=self._seed)
        started_s = self._loop.time()
        self._in_flight += 1
        try:
            exchange = await self._client.generate(request, self._timeouts)
        except asyncio.CancelledError:
            cancelled = _cancelled(started_s, self._loop.time())
            self._builder.add(index, planned_s, cancelled, open_loop=open_loop)
            raise
        finally:
            self._in_flight -= 1
        self._builder.add(index, planned_s, exchange, open_loop=open_loop)
        self._take_note(exchange)

    def _take_note(self, exchange: Exchange) -> None:
        self._output_tokens += exchange.output_tokens or 0
        if exchange.failure is None:
            self._failed_in_a_row = 0
        else:
            self._failed += 1
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= self._give_up_after:
                kind, message = exchange.failure.kind, exchange.failure.message
                self.stop(f"gave up after {self._failed_in_a_row} failures in a row, the last: {kind}: {message}")
        if self._on_progress:
            elapsed_s = self._loop.time() - self._began_s
            finished = len(self._builder)
            self._on_progress(RunProgress(elapsed_s, self._in_flight, finished, self._failed, self._output_tokens))

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but wake when the run stops."""
        if seconds <= 0:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _end_window(self, at_s: float | None = None) -> None:
        """The load is let go now, or was planned to be at `at_s`; the first word of a phase counts."""
        now_s = self._loop.time()
        if self._window_stop_s is None:
            self._window_stop_s = now_s if at_s is None or self._stopping.is_set() else min(at_s, now_s)

    def log(self, health: ClientHealth) -> RequestLog:
        """What was recorded."""
        start_s = self._began_s if self._window_start_s is None else self._window_start_s
        stop_s = self._loop.time() if self._window_stop_s is None else self._window_stop_s
        (users,) = self._users if len(self._users) == 1 else (None,)
        return self._builder.build(
            unsent=self._unsent,
            window=Window(start_s - self._began_s, max(start_s, stop_s) - self._began_s),
            health=health,
            stopped=self._stopped,
            concurrency=users,
        )


def _cancelled(started_s: float, now_s: float) -> Exchange:
    return Exchange(
        started_s=started_s,
        sent_s=None,
        ended_s=now_s,
        chunk_times_s=np.empty(0),
        chunk_tokens=np.empty(0, np.uint32),
        failure=Failure(FailureKind.CANCELLED, "the run was stopped while the request was in flight"),
    )


def _length(rest: Iterable[object]) -> int:
    return sum(1 for _ in rest)
