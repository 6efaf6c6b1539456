"""The process that leads a shared run: gathers workers, starts them together, stops them together, merges what they recorded."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import pickle
import secrets
from typing import TYPE_CHECKING, Any

import attrs

from tgibench import virtual_time
from tgibench._version import __version__
from tgibench.client_health import StampSource
from tgibench.conductors import FailureStreak, RunProgress
from tgibench.errors import InvalidValueError, TgibenchError, WorkerError
from tgibench.merging import merge_logs
from tgibench.sharding._channel import LINE_LIMIT, Channel, ChannelError
from tgibench.sharding._shard import Shard, State
from tgibench.sharding._worker import Task, run_shard

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Future

    from tgibench.conductors import Conductor, Job
    from tgibench.records import RequestLog
    from tgibench.sharding._workers import Workers

__all__ = ["run_sharded"]

_HELLO_S = 10.0
_LEAD_S = 0.2  # from the agreement on the start until the start
_NEXT_S = 0.02  # the same between two phases
_REASON_S = 1.0  # what an executor knows of a worker's end comes after its connection has ended
_CANCEL_S = 20.0
_END_S = 5.0
_SUBMIT_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, OSError, pickle.PicklingError)


async def run_sharded(
    run: Callable[[Job, Conductor], Awaitable[RequestLog]],
    job: Job,
    workers: Workers,
    *,
    give_up_after: int,
    on_progress: Callable[[RunProgress], None] | None,
) -> RequestLog:
    """Split a job's load, let each part run in a worker, and merge their logs; see `tgibench.run_load`."""
    if virtual_time.is_virtual(asyncio.get_running_loop()):
        raise InvalidValueError("workers have clocks of their own: in virtual time a run has one process")
    leader = _Leader(job, workers, give_up_after, on_progress)
    task = Task(
        run=run,
        job=job,
        number=0,
        host=workers.host,
        port=workers.port,
        token=leader.token,
        give_up_after=give_up_after,
    )
    async with asyncio.TaskGroup() as conversations:
        problem = await leader.lead(task, conversations)
    if problem is not None:
        raise problem
    return leader.merged()


class _Leader:
    """One shared run's state."""

    def __init__(
        self,
        job: Job,
        workers: Workers,
        give_up_after: int,
        on_progress: Callable[[RunProgress], None] | None,
    ) -> None:
        self._job, self._workers, self._on_progress = job, workers, on_progress
        self._shards = [Shard(number, load) for number, load in enumerate(job.load.split(workers.shards))]
        self.token = secrets.token_hex(16)
        self._loop = asyncio.get_running_loop()
        self._streak, self._stopped = FailureStreak(give_up_after), False
        self._gathered, self._all_finished, self._done = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._start: asyncio.Future[float] = self._loop.create_future()
        self._futures: dict[int, Future[None]] = {}
        self._ended: dict[int, asyncio.Event] = {shard.number: asyncio.Event() for shard in self._shards}
        self._talks: set[asyncio.Task[None]] = set()
        self._cancelled = False

    async def lead(self, task: Task, group: asyncio.TaskGroup) -> TgibenchError | None:
        """From the first worker's start to the last one's record; why there is none, None when there is."""

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._talks.add(group.create_task(self._talk(Channel(reader, writer))))

        try:
            server = await asyncio.start_server(accept, task.host, task.port, limit=LINE_LIMIT)
        except OSError as error:
            return WorkerError(f"cannot listen for workers at {self._workers.listen}: {error}")
        task = attrs.evolve(task, port=server.sockets[0].getsockname()[1])
        try:
            self._submit(task)
            await self._gather(task)
            problem = self._cannot_start()
            if problem is None:
                self._start.set_result(self._loop.time() + _LEAD_S)
                await self._follow_through()
        finally:
            server.close()
            await self._leave()
        return problem

    def _submit(self, task: Task) -> None:
        for shard in self._shards:
            own = attrs.evolve(task, number=shard.number, job=attrs.evolve(task.job, load=shard.load))
            try:
                future = self._workers.executor.submit(run_shard, own)
            except _SUBMIT_ERRORS as error:
                self._lose(shard, f"the executor did not take it: {_text(error)}")
                self._ended[shard.number].set()
                continue
            self._futures[shard.number] = future
            future.add_done_callback(lambda _, shard=shard: self._from_elsewhere(shard))  # type: ignore[misc]

    def _from_elsewhere(self, shard: Shard) -> None:
        """A future is done; this is called in any thread, perhaps after all is over."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._future_done, shard)

    def _future_done(self, shard: Shard) -> None:
        self._ended[shard.number].set()
        if shard.channel is None and shard.state is State.AWAITED:
            self._lose(shard, f"it did not start: {self._reason(shard) or 'it ended at once'}")

    def _reason(self, shard: Shard) -> str | None:
        """Why a part's task ended, as the executor says; None when it says nothing."""
        future = self._futures.get(shard.number)
        if future is None or not future.done() or future.cancelled():
            return None
        error = future.exception()
        return None if error is None else _text(error)

    async def _gather(self, task: Task) -> None:
        """Wait for every worker to be ready or lost; those that are neither in time are left behind."""
        limit_s = self._workers.start_within_s
        try:
            async with asyncio.timeout(limit_s):
                await self._gathered.wait()
        except TimeoutError:
            for shard in self._shards:
                if shard.state is State.AWAITED:
                    self._lose(
                        shard,
                        f"it did not report within {limit_s:g} s: there must be {len(self._shards)} free workers "
                        f"that reach this process at {task.host}:{task.port} (listen=…)",
                    )

    def _cannot_start(self) -> TgibenchError | None:
        ready = [shard for shard in self._shards if shard.state is State.READY]
        if not ready:
            return WorkerError(f"none of {len(self._shards)} workers started; the first: {self._shards[0].lost}")
        if any(shard.stamps is StampSource.VIRTUAL for shard in ready):
            return InvalidValueError(
                "the endpoint lives inside one process, so each worker would have a server of its own: "
                "serve it over HTTP (tgibench emulate), or leave out executor and shards"
            )
        return None

    async def _follow_through(self) -> None:
        """Wait for the last record. Cancelled, let every worker end as a single process would, and keep what they have."""
        try:
            await self._done.wait()
        except asyncio.CancelledError:
            self._cancelled = True
            for shard in self._shards:
                shard.tell(cancel=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CANCEL_S):
                    await self._done.wait()
            if not any(shard.log for shard in self._shards):
                raise

    async def _leave(self) -> None:
        """End every conversation and wait a little for the tasks; what has not begun never will."""
        for number, future in self._futures.items():
            if self._shards[number].state is not State.KEPT:
                future.cancel()
        for shard in self._shards:
            shard.lose("the run was over before its record came")
        for talk in self._talks:
            talk.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                for ended in self._ended.values():
                    await ended.wait()
        for future in self._futures.values():
            future.cancel()

    async def _talk(self, channel: Channel) -> None:
        shard: Shard | None = None
        try:
            async with asyncio.timeout(_HELLO_S):
                hello = await channel.receive()
            shard, refusal = self._admitted(hello)
            if shard is None:
                channel.post(refused=refusal)
            else:
                await shard.converse(channel, self)
        except (ChannelError, TimeoutError, OSError) as error:
            if shard is not None:
                await self._take_leave(shard, "it fell silent" if isinstance(error, TimeoutError) else str(error))
        finally:
            await channel.close()

    def _admitted(self, hello: dict[str, Any]) -> tuple[Shard | None, str]:
        """The part that a worker runs; None, and why not, for one that must not."""
        token, number = hello.get("token"), hello.get("shard")
        if not isinstance(token, str) or not hmac.compare_digest(token.encode(), self.token.encode()):
            return None, "this is another run"
        if not isinstance(number, int) or not 0 <= number < len(self._shards):
            return None, f"there is no part {number!r}"
        shard = self._shards[number]
        if hello.get("version") != __version__:
            refusal = f"the worker has tgibench {hello.get('version')}, the leading process {__version__}"
            self._lose(shard, refusal)
            return None, refusal
        if shard.place is not None:
            return None, "it was begun before, and no part is run twice"
        if shard.state is not State.AWAITED:
            return None, "the run began without it"
        shard.place = str(hello.get("place"))
        return shard, ""

    async def _take_leave(self, shard: Shard, why: str) -> None:
        began_s = self._start.result() if self._start.done() else None
        when = "before the start" if began_s is None else f"after {max(0.0, self._loop.time() - began_s):.1f} s"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REASON_S):
                await self._ended[shard.number].wait()
        reason = self._reason(shard)
        self._lose(shard, f"lost {when}: {why}" + (f" ({reason})" if reason else ""))

    def _lose(self, shard: Shard, why: str) -> None:
        shard.lose(why)
        self.moved(shard)

    async def start(self) -> float:
        """Wait for the start; its instant on this loop's clock."""
        return await asyncio.shield(self._start)

    async def all_finished(self) -> None:
        """Wait until every part is finished or lost."""
        await self._all_finished.wait()

    def moved(self, shard: Shard) -> None:
        """A part's state, phase or progress changed."""
        states = [each.state for each in self._shards]
        if State.AWAITED not in states:
            self._gathered.set()
        if self._start.done():
            running = [each for each in self._shards if each.on_the_way]
            if running and all(each.phases_ended for each in running):
                uncertainty_s = max(each.clock.uncertainty_s for each in running if each.clock is not None)
                at_s = self._loop.time() + _NEXT_S + 2 * uncertainty_s
                for each in running:
                    each.begin(at_s)
            if not running:
                self._all_finished.set()
        if all(state in {State.KEPT, State.LOST} for state in states):
            self._done.set()
        if self._on_progress and shard.state is State.RUNNING:
            self._on_progress(self._progress())

    def _progress(self) -> RunProgress:
        totals = {
            name: sum(getattr(shard, name) for shard in self._shards)
            for name in ("in_flight", "finished", "failed", "output_tokens")
        }
        return RunProgress(self._loop.time() - self._start.result(), **totals)

    def failed(self, failures: int, *, after_success: bool, last: str) -> None:
        """Requests of a part failed: too many in a row over all parts end the run."""
        reason = self._streak.note(failures, after_success=after_success, last=last)
        if reason is not None and not self._stopped:
            self._stopped = True
            for shard in self._shards:
                shard.tell(stop=reason)

    def merged(self) -> RequestLog:
        """The log of the whole run.

        Raises:
            WorkerError: No part's record is there.
        """
        logs = [shard.log for shard in self._shards if shard.log is not None]
        if not logs:
            raise WorkerError(f"all {len(self._shards)} workers were lost; the first: {self._shards[0].lost}")
        log = merge_logs(logs, tuple(shard.worker(self._job.seed) for shard in self._shards))
        return attrs.evolve(log, stopped="cancelled") if self._cancelled else log


def _text(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()) if str(error) else type(error).__name__
