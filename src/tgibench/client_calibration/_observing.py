"""Runs a load on the token server and keeps all that the two sides know of it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp
import attrs
import numpy as np

from tgibench.errors import CalibrationError
from tgibench.requests import GenerationRequest
from tgibench.runner import run_load

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tgibench.client import HttpEndpoint
    from tgibench.loads import LoadProfile
    from tgibench.records import RequestLog

__all__ = ["Answer", "Observation", "Schedule", "observe"]

_SAMPLE_EVERY_S = 0.05


@attrs.frozen(kw_only=True)
class Schedule:
    """How the token server is to answer: a prompt source. Every prompt bears its number, so that either side's times can be matched.

    Args:
        first_s: From reading the request to the first token.
        gap_s: From one token to the next.
        tokens: How many.
    """

    first_s: float
    gap_s: float
    tokens: int

    def request(self, index: int, *, seed: int) -> GenerationRequest:
        """The prompt that says when to answer."""
        del seed
        prompt = f"{index} {self.first_s * 1e3:g} {self.gap_s * 1e3:g}"
        return GenerationRequest(prompt=prompt, max_new_tokens=self.tokens)

    @property
    def identity(self) -> str:
        """Names the schedule."""
        return f"schedule:{self.first_s:g}:{self.gap_s:g}:{self.tokens}"

    @property
    def length_s(self) -> float:
        """How long an answer takes."""
        return self.first_s + self.gap_s * (self.tokens - 1)


@attrs.frozen(eq=False)
class Answer:
    """The server's own times of one answer, in seconds of the clock that the event loop has too.

    Args:
        read_s: The request was read.
        written_s: Each token was written.
    """

    read_s: float
    written_s: NDArray[np.float64]


@attrs.frozen(kw_only=True, eq=False)
class Observation:
    """One run, from both sides.

    Args:
        log: The client's.
        schedule: What was asked for.
        answers: The server's, by the number of the request.
        sampled_s: Instants of the loop's clock, ascending.
        cpu_s: The CPU time that this process had used at each of them.
    """

    log: RequestLog
    schedule: Schedule
    answers: dict[int, Answer]
    sampled_s: NDArray[np.float64]
    cpu_s: NDArray[np.float64]

    def full_swing_s(self, sending_s: float) -> tuple[float, float]:
        """From the end of the first answer until sending ended, when as many answers end as begin."""
        first_s = min(answer.read_s for answer in self.answers.values())
        return first_s + self.schedule.length_s, first_s + sending_s

    def cpu_between(self, begin_s: float, end_s: float) -> tuple[float, float]:
        """How long a stretch is, and the CPU time of this process in it, between samples."""
        begin_s, end_s = np.clip((begin_s, end_s), self.sampled_s[0], self.sampled_s[-1])
        used_s = np.interp((begin_s, end_s), self.sampled_s, self.cpu_s)
        return float(end_s - begin_s), float(used_s[1] - used_s[0])

    def written_between(self, begin_s: float, end_s: float) -> tuple[int, int]:
        """Tokens written, and answers ended, in a stretch."""
        tokens, ends = self.events_s()[:2]
        return tuple(int(np.count_nonzero((each >= begin_s) & (each < end_s))) for each in (tokens, ends))  # type: ignore[return-value]

    def events_s(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """When tokens were written, when answers ended, when requests were read."""
        answers = self.answers.values()
        written_s = [answer.written_s for answer in answers]
        ends_s = np.array([each[-1] for each in written_s])
        return np.concatenate(written_s), ends_s, np.array([answer.read_s for answer in answers])


async def observe(endpoint: HttpEndpoint, load: LoadProfile, schedule: Schedule) -> Observation:
    """Run a load on the token server.

    Raises:
        CalibrationError: A request failed.
    """
    samples: list[tuple[float, float]] = []
    async with asyncio.TaskGroup() as group:
        sampling = group.create_task(_sample_cpu(samples))
        try:
            log = await run_load(endpoint, load, schedule)
        finally:
            sampling.cancel()
    if log.stopped == "cancelled":
        raise asyncio.CancelledError  # `run_load` ends in order when it is cancelled; here nothing is worth keeping
    if log.counts["failed"] or not len(log):
        kind, message = next(((str(log.failures), text) for text in log.messages.values()), ("", "nothing was sent"))
        raise CalibrationError(f"the client's own requests to its token server failed: {kind} {message}".rstrip())
    times = np.array(samples)
    return Observation(
        log=log, schedule=schedule, answers=await _answers(endpoint), sampled_s=times[:, 0], cpu_s=times[:, 1]
    )


async def _sample_cpu(samples: list[tuple[float, float]]) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        samples.append((clock(), time.process_time()))
        await asyncio.sleep(_SAMPLE_EVERY_S)


async def _answers(endpoint: HttpEndpoint) -> dict[int, Answer]:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{endpoint.url}/stamps") as response:
            rows = await response.json(content_type=None)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise CalibrationError(f"the token server does not tell its times: {error}") from error
    return {number: Answer(read_ns * 1e-9, np.array(stamps_ns) * 1e-9) for number, read_ns, stamps_ns in rows}
