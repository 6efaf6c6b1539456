"""Puts a load on an endpoint and records what became of every request."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from tgibench.client_watch import ClientWatch
from tgibench.conductors import Alone, Job, RunProgress
from tgibench.endpoints import ConnectingClient, MortalEndpoint, Timeouts
from tgibench.errors import InvalidValueError
from tgibench.loads import ClosedPhase, OpenPhase, count_requests, most_in_flight, planned_s
from tgibench.recording import LogBuilder
from tgibench.records import Exchange, Failure, FailureKind, Window
from tgibench.sharding import Workers, run_sharded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor

    from tgibench.client_health import ClientHealth
    from tgibench.conductors import Conductor
    from tgibench.endpoints import Client, Endpoint
    from tgibench.loads import LoadProfile, Phase
    from tgibench.records import RequestLog
    from tgibench.requests import PromptSource

__all__ = ["RunProgress", "run_job", "run_load"]


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
    executor: Executor | None = None,
    shards: int | None = None,
    listen: str = "127.0.0.1",
    start_within_s: float = 60.0,
) -> RequestLog:
    """Execute a load plan and return the log of its requests.

    A request that fails is a row of the log like any other. Cancelling the call (Ctrl-C under `asyncio.run`) ends the run: requests
    in flight are recorded as cancelled and the log of what was measured is *returned*, with `RequestLog.stopped` set; the task's
    cancellation count is left as it is, so that a caller can tell with `asyncio.Task.cancelling`.

    With an `executor` the plan is split and each part runs in a worker of its own; the parts start together and their logs are merged
    into the one that a single process would have recorded. A worker that is lost takes its part of the record along:
    `RequestLog.workers` says so, and what is not known of counts as unsent. No part is ever run a second time.

    A run of any length takes the same memory: what is recorded goes to a temporary file beyond some 64 KB of each kind. If that cannot
    be written, the run stops with everything recorded so far.

    Args:
        endpoint: Where the requests go.
        load: How many and when.
        prompts: What they say; request number k of the plan sends prompt k.
        seed: Of arrivals and prompts.
        timeouts: Limits of each request; the defaults of `Timeouts` when None.
        give_up_after: The run stops after this many failures in a row, and the log says so.
        keep_chunk_times: Whether the log keeps the arrival of every chunk (12 bytes each).
        on_progress: Called on the event loop after each finished request (with an executor: a few times a second); keep it short.
        executor: Where workers come from: a `concurrent.futures.ProcessPoolExecutor`, a Dask client's `get_executor()`, or any other.
        shards: The number of parts; all run at once, so there must be as many free workers.
        listen: The address of this machine, with or without a port, at which workers reach it.
        start_within_s: How long workers may take to report; the run starts without those that did not.

    Raises:
        InvalidValueError: `give_up_after` or `shards` is below 1, `seed` below 0, the load cannot be split into so many parts or needs more
            connections than a process may have, only one of `executor` and `shards` is given, or the endpoint lives in this process alone.
        WorkerError: No worker reported in time, or all were lost.
        DeployError: The endpoint ends (or its credentials do) before the load and its last answer.
    """
    if give_up_after < 1:
        raise InvalidValueError(f"give_up_after must be at least 1, got {give_up_after!r}")
    if seed < 0:
        raise InvalidValueError(f"seed must be a whole number of at least 0, got {seed!r}")
    if (executor is None) != (shards is None):
        raise InvalidValueError(f"executor and shards are given together, got {executor!r} and {shards!r}")
    job = Job(
        endpoint=endpoint,
        load=load,
        prompts=prompts,
        seed=seed,
        timeouts=timeouts or Timeouts(),
        keep_chunk_times=keep_chunk_times,
    )
    if isinstance(endpoint, MortalEndpoint):
        await endpoint.check_lasts(planned_s(load, seed) + job.timeouts.total_s)
    if executor is None or shards is None:
        return await run_job(job, Alone(give_up_after, on_progress))
    workers = Workers(executor, shards, listen=listen, start_within_s=start_within_s)
    return await run_sharded(run_job, job, workers, give_up_after=give_up_after, on_progress=on_progress)


async def run_job(job: Job, conductor: Conductor) -> RequestLog:
    """Do a job in this event loop, as the conductor says."""
    loop, phases = asyncio.get_running_loop(), iter(job.load.phases(job.seed))
    first = next(phases, None)  # drawing arrivals takes time: before the start
    async with job.endpoint.connect() as client:
        if isinstance(client, ConnectingClient):
            client.make_room_for(most_in_flight(job.load.phases(job.seed)))
        with ClientWatch(loop).collector_at_rest():
            run = _Run(job, client, conductor, await conductor.start(client.stamps))
            conductor.follow(run)
            watch = ClientWatch(loop)
            try:
                async with asyncio.TaskGroup() as everything:
                    monitor = everything.create_task(watch.sample_lag())
                    try:
                        await run.execute(itertools.chain(() if first is None else (first,), phases))
                    finally:
                        monitor.cancel()
            except asyncio.CancelledError:
                run.stop("cancelled")
        health = watch.health(client.stamps)
    await conductor.finished()
    return run.log(health)


class _Run:
    """One run's state: what is in flight, what ended, whether to stop."""

    def __init__(self, job: Job, client: Client, conductor: Conductor, began_s: float) -> None:
        self._client, self._conductor, self._began_s = client, conductor, began_s
        self._prompts, self._seed, self._timeouts = job.prompts, job.seed, job.timeouts
        self._loop = asyncio.get_running_loop()
        self._builder = LogBuilder(began_s, keep_chunks=job.keep_chunk_times)
        self._stopping = asyncio.Event()
        self._stopped: str | None = None
        self._in_flight = self._failed = self._output_tokens = self._unsent = 0
        self._uncounted: list[Iterator[object]] = []
        self._window_start_s: float | None = None
        self._window_stop_s: float | None = None
        self._users: set[int | None] = set()

    def stop(self, reason: str) -> None:
        """Send nothing more."""
        if self._stopped is None:
            self._stopped = reason
            self._end_window()
        self._stopping.set()

    def progress(self) -> RunProgress:
        """How far it has come."""
        elapsed_s = self._loop.time() - self._began_s
        return RunProgress(elapsed_s, self._in_flight, len(self._builder), self._failed, self._output_tokens)

    async def execute(self, phases: Iterable[Phase]) -> None:
        """Carry out the phases, then wait for the answers still coming."""
        begin_s: float | None = self._began_s
        async with asyncio.TaskGroup() as in_flight:
            for phase in phases:
                if begin_s is None:
                    begin_s = await self._conductor.phase_ended()
                if self._window_start_s is None:
                    self._window_start_s = begin_s + phase.warm_up_s
                if not self._stopping.is_set():
                    self._window_stop_s = None
                if isinstance(phase, ClosedPhase):
                    self._users.add(phase.users)
                    await self._closed(phase, begin_s)
                else:
                    self._users.add(None)
                    await self._open(phase, begin_s, in_flight)
                    self._end_window()
                begin_s = self._planned_end(phase, begin_s)

    def _planned_end(self, phase: Phase, begin_s: float) -> float | None:
        """Where the next phase begins by the plan; None where that is known only when this one is over."""
        planned = isinstance(phase, OpenPhase) and phase.duration_s is not None and not self._stopping.is_set()
        return begin_s + phase.duration_s if planned and phase.duration_s is not None else None

    async def _closed(self, phase: ClosedPhase, begin_s: float) -> None:
        indices = iter(phase.indices)
        end_s = None if phase.duration_s is None else begin_s + phase.duration_s
        due: deque[int] = deque()  # taken before the pause, so that nobody thinks for nothing, and given out after it
        sent, ran_out = 0, False

        async def user() -> None:
            nonlocal sent, ran_out
            pause_s = 0.0
            while not self._stopping.is_set():
                if end_s is not None and self._loop.time() + pause_s >= end_s:
                    await self._sleep(end_s - self._loop.time())
                    self._end_window(end_s)
                    break
                index = next(indices, None)
                if index is None:
                    ran_out = True
                    self._end_window(self._loop.time() + pause_s)
                    break
                due.append(index)
                await self._sleep(pause_s)
                if self._stopping.is_set() or (end_s is not None and self._loop.time() >= end_s):
                    continue
                sent += 1
                await self._one(due.popleft(), self._loop.time(), open_loop=False)
                pause_s = phase.think_time_s
            else:
                self._end_window()

        try:
            async with asyncio.TaskGroup() as users:
                for _ in range(phase.users):
                    users.create_task(user())
        finally:
            if phase.duration_s is None:
                self._leave_unsent(phase.requests, indices, sent, len(due))
        if ran_out:
            self._end_window()  # the last answer may come before the first idle user would have sent again

    async def _open(self, phase: OpenPhase, begin_s: float, in_flight: asyncio.TaskGroup) -> None:
        arrivals = iter(phase.arrivals)
        end_s = None if phase.duration_s is None else begin_s + phase.duration_s
        slots = None if phase.max_in_flight is None else asyncio.Semaphore(phase.max_in_flight)
        taken = sent = 0
        try:
            for index, start_s in arrivals:
                taken += 1
                planned_s = begin_s + start_s
                await self._sleep(planned_s - self._loop.time())
                if self._stopping.is_set() or (slots and not await self._slot(slots, end_s)):
                    break
                in_flight.create_task(self._arrival(index, planned_s, slots))
                sent += 1
            else:
                if end_s is not None:
                    await self._sleep(end_s - self._loop.time())
        finally:
            self._leave_unsent(phase.requests, arrivals, sent, taken - sent)

    def _leave_unsent(self, requests: int | None, rest: Iterator[object], sent: int, due: int) -> None:
        """A phase is over: account for what of its plan was not sent, counted when the last answer is in: that takes time."""
        if requests is None:
            self._unsent += due
            self._uncounted.append(rest)
        else:
            self._unsent += requests - sent

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
        except asyncio.CancelledError as cancelled:
            told = next((said for said in cancelled.args if isinstance(said, Exchange)), None)
            exchange = told or _cancelled(started_s, self._loop.time())
            self._builder.add(index, planned_s, exchange, open_loop=open_loop)
            raise
        finally:
            self._in_flight -= 1
        self._builder.add(index, planned_s, exchange, open_loop=open_loop)
        self._take_note(exchange)

    def _take_note(self, exchange: Exchange) -> None:
        self._output_tokens += exchange.output_tokens or 0
        self._failed += exchange.failure is not None
        if (problem := self._builder.problem) is not None:
            self.stop(problem)
        self._conductor.request_ended(exchange.failure)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but wake when the run stops."""
        if seconds <= 0:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _end_window(self, at_s: float | None = None) -> None:
        """The load is let go now, or at `at_s`, which may be yet to come; the earliest word of a phase counts."""
        at_s = self._loop.time() if at_s is None else at_s
        self._window_stop_s = at_s if self._window_stop_s is None else min(self._window_stop_s, at_s)

    def log(self, health: ClientHealth) -> RequestLog:
        """What was recorded."""
        start_s = self._began_s if self._window_start_s is None else self._window_start_s
        stop_s = self._loop.time() if self._window_stop_s is None else self._window_stop_s
        (users,) = self._users if len(self._users) == 1 else (None,)
        return self._builder.build(
            unsent=self._unsent + count_requests(itertools.chain.from_iterable(self._uncounted)),
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
