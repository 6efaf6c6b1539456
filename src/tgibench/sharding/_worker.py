"""What runs in a worker: one part of a load in an event loop of its own, led over the control channel."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import platform
import signal
import threading
from typing import TYPE_CHECKING, Any

import attrs

from tgibench._version import __version__
from tgibench.errors import WorkerError
from tgibench.sharding._channel import LINE_LIMIT, Channel, ChannelError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import FrameType

    from tgibench.client_health import StampSource
    from tgibench.conductors import Conductor, Job, Running
    from tgibench.records import Failure, RequestLog

__all__ = ["Task", "run_shard"]

_PROGRESS_EVERY_S = 0.2
_DIAL_S = 20.0


@attrs.frozen(kw_only=True)
class Task:
    """What a worker is sent. No credential is in it: endpoints resolve theirs where they are connected.

    Args:
        run: Does a job, as a conductor says.
        job: The part of the load.
        number: Which part, from 0.
        host: Where the leading process listens.
        port: Its port.
        token: What the worker must show there; good for this run alone.
        give_up_after: Failures in a row that must be told at once.
    """

    run: Callable[[Job, Conductor], Awaitable[RequestLog]]
    job: Job
    number: int
    host: str
    port: int
    token: str = attrs.field(repr=False)
    give_up_after: int


def run_shard(task: Task) -> None:
    """Run one part of a load; its record goes over the control channel, so that a broken executor cannot lose it.

    Raises:
        WorkerError: The leading process could not be reached, or did not want this worker.
    """
    with _obeying_the_channel_alone():
        try:
            asyncio.run(_run(task))
        except BaseExceptionGroup as group:
            raise _first(group) from None


@contextlib.contextmanager
def _obeying_the_channel_alone() -> Iterator[None]:
    """Leave SIGINT to the process that leads, and SIGTERM until the record is delivered.

    A terminal's Ctrl-C reaches every process of the group. A `ProcessPoolExecutor` that lost one worker terminates the others, which
    would lose what they measured: they end when they are done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers are set in the main thread alone; a Dask worker's tasks run in others
        return
    told_to_end = False

    def note(_: int, __: FrameType | None) -> None:
        nonlocal told_to_end
        told_to_end = True

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, note),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        parent = multiprocessing.parent_process()
        if told_to_end or (parent is not None and not parent.is_alive()):
            os.kill(os.getpid(), signal.SIGTERM)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _run(task: Task) -> None:
    try:
        async with asyncio.timeout(_DIAL_S):
            reader, writer = await asyncio.open_connection(task.host, task.port, limit=LINE_LIMIT)
    except (OSError, TimeoutError) as error:
        why = str(error) or f"no connection within {_DIAL_S:g} s"
        raise WorkerError(
            f"the worker on {platform.node()} cannot reach the leading process at {task.host}:{task.port}: {why}"
        ) from error
    channel = Channel(reader, writer)
    try:
        channel.post(token=task.token, shard=task.number, version=__version__, place=f"{platform.node()}:{os.getpid()}")
        answer = await channel.receive()
        if "refused" in answer:
            raise WorkerError(f"part {task.number} was refused: {answer['refused']}")
        led = _Led(channel, task)
        async with asyncio.TaskGroup() as beside:
            helpers = [beside.create_task(led.listen()), beside.create_task(led.report())]
            try:
                await channel.send_log(await task.run(task.job, led))
                await led.kept.wait()
            finally:
                for helper in helpers:
                    helper.cancel()
    finally:
        await channel.close()


class _Led:
    """The conductor of a part: passes on what the leading process orders."""

    def __init__(self, channel: Channel, task: Task) -> None:
        self._channel, self._give_up_after = channel, task.give_up_after
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._start: asyncio.Future[float] = self._loop.create_future()
        self._send: asyncio.Future[None] = self._loop.create_future()
        self._begin: asyncio.Future[float] | None = None
        self._run: Running | None = None
        self._stopped = self._finished = False
        self._late_s = 0.0
        # since the last report: failures after the latest success, whether there was one; and failures in a row since ever
        self._failures, self._after_success, self._in_a_row, self._last = 0, False, 0, ""
        self.kept = asyncio.Event()

    async def start(self, stamps: StampSource) -> float:
        """Say that the client is ready; wait for the agreed instant."""
        self._channel.post(ready=stamps.value)
        at_s = await self._start
        await asyncio.sleep(at_s - self._loop.time())
        self._late_s = max(0.0, self._loop.time() - at_s)
        return at_s

    def follow(self, run: Running) -> None:
        """The run began."""
        self._run = run
        self._report()

    def request_ended(self, failure: Failure | None) -> None:
        """Keep count of failures in a row; what may be too many is told at once."""
        if failure is None:
            self._failures, self._after_success, self._in_a_row = 0, True, 0
            return
        self._failures += 1
        self._in_a_row += 1
        self._last = f"{failure.kind}: {failure.message}"[:1000]
        if self._in_a_row % self._give_up_after == 0:
            self._report()

    async def phase_ended(self) -> float:
        """All parts begin their next phase together, when the last of them is ready for it."""
        if self._stopped:
            return self._loop.time()
        self._begin = self._loop.create_future()
        self._channel.post(phase_ended=True)
        begin_s = await self._begin
        await asyncio.sleep(begin_s - self._loop.time())
        return begin_s

    async def finished(self) -> None:
        """Building the record takes a processor's time: not before the last part is done."""
        self._report()
        self._finished = True
        self._channel.post(finished=True)
        await self._send

    async def report(self) -> None:
        """Tell of the progress a few times a second."""
        while True:
            await asyncio.sleep(_PROGRESS_EVERY_S)
            self._report()

    def _report(self) -> None:
        if self._run is None or self._finished:
            return
        at = self._run.progress()
        self._channel.post(
            progress=[at.in_flight, at.finished, at.failed, at.output_tokens],
            failures=self._failures,
            after_success=self._after_success,
            last=self._last,
            late_s=self._late_s,
        )
        self._failures, self._after_success = 0, False

    async def listen(self) -> None:
        """Carry out orders until the record is kept; a leading process that is gone ends the run."""
        try:
            while not self.kept.is_set():
                self._obey(await self._channel.receive())
        except ChannelError as error:
            lost = WorkerError(f"the leading process is gone: {error}")
            for waiting in (self._start, self._send, self._begin):
                if waiting is not None and not waiting.done():
                    waiting.set_exception(lost)
                    waiting.exception()  # taken note of, whether or not anybody waits
            self._cancel()
            self.kept.set()

    def _obey(self, order: dict[str, Any]) -> None:
        match order:
            case {"ping": number}:
                self._channel.post(pong=number, clock_s=self._loop.time())
            case {"start_s": float(at_s)} if not self._start.done():
                self._start.set_result(at_s)
            case {"begin_s": float(at_s)} if self._begin is not None and not self._begin.done():
                self._begin.set_result(at_s)
            case {"stop": str(reason)}:
                self._stop(reason)
            case {"cancel": True}:
                self._cancel()
            case {"send": True} if not self._send.done():
                self._send.set_result(None)
            case {"kept": True}:
                self.kept.set()

    def _stop(self, reason: str) -> None:
        self._stopped = True
        if self._run is not None and not self._finished:
            self._run.stop(reason)
        if self._begin is not None and not self._begin.done():
            self._begin.set_result(self._loop.time())

    def _cancel(self) -> None:
        self._stopped = True
        if self._task is not None and not self._finished:
            self._task.cancel()
