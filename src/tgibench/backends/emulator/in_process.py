"""The emulator without HTTP: an endpoint whose client asks the engine directly and gets exact token times."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench.backends.emulator.engine import Engine, EngineOverloadedError, Job
from tgibench.client_health import StampSource
from tgibench.records import Exchange, Failure, FailureKind, ServerTimings
from tgibench.virtual_time import on_grid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from tgibench.backends.emulator.engine import Ticket
    from tgibench.backends.emulator.lengths import OutputLengths
    from tgibench.endpoints import Timeouts
    from tgibench.requests import GenerationRequest
    from tgibench.twin.policy import EngineSettings
    from tgibench.twin.step_time import StepTimes

__all__ = ["EmulatedEndpoint", "count_tokens", "refusal"]

_CHARACTERS_PER_TOKEN = 4
_JITTER_STREAM = 17


@attrs.frozen(kw_only=True)
class EmulatedEndpoint:
    """An emulated server in this process; each connection has engines of its own, one a replica.

    Args:
        settings: The scheduler's.
        step_times: How long steps take.
        replicas: Engines behind the endpoint; a request goes to the least busy.
        lengths: How long answers are.
        round_trip_s: Network time of a request: half before the server sees it, half before the client sees a token.
        jitter_s: Mean of what the way to the server takes longer at times, exponentially distributed.
        seed: Of the lengths and the jitter.
        facts: What the server says of itself.
    """

    settings: EngineSettings
    step_times: StepTimes
    replicas: int
    lengths: OutputLengths
    round_trip_s: float
    jitter_s: float = 0.0
    seed: int
    facts: Mapping[str, str]

    @property
    def one_way_s(self) -> float:
        """Half of the round trip."""
        return on_grid(self.round_trip_s / 2)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[EmulatedClient]:
        """A client of fresh, idle engines."""
        engines = [Engine(self.settings, self.step_times) for _ in range(self.replicas)]
        yield EmulatedClient(self, engines, np.random.default_rng([_JITTER_STREAM, self.seed]))


@attrs.define(eq=False)
class EmulatedClient:
    """Asks the engines in this process."""

    endpoint: EmulatedEndpoint
    engines: list[Engine]
    _rng: np.random.Generator

    @property
    def stamps(self) -> StampSource:
        """The engine's own times."""
        return StampSource.VIRTUAL

    async def generate(self, request: GenerationRequest, timeouts: Timeouts) -> Exchange:
        """Run a request through the least busy engine."""
        loop = asyncio.get_running_loop()
        started_s, one_way_s = loop.time(), self.endpoint.one_way_s
        await asyncio.sleep(on_grid(one_way_s + self._rng.exponential(self.endpoint.jitter_s)))
        input_tokens = count_tokens(request)
        failure = refusal(input_tokens, request, self.endpoint.settings)
        if failure:
            return await self._refused(started_s, failure)
        engine = min(self.engines, key=lambda engine: engine.in_flight)
        wanted = request.output_tokens or self.endpoint.lengths.tokens(
            request.prompt, request.max_new_tokens, seed=self.endpoint.seed
        )
        job = Job(
            input_tokens=input_tokens,
            max_new_tokens=request.max_new_tokens,
            output_tokens=min(wanted, request.max_new_tokens),
        )
        try:
            ticket = engine.submit(job)
        except EngineOverloadedError as error:
            return await self._refused(started_s, Failure(FailureKind.OVERLOADED, str(error), 429))
        try:
            timed_out = await _finished(engine, ticket, timeouts, started_s - one_way_s)
            await asyncio.sleep(one_way_s)
        finally:
            engine.drop(ticket)
        return self._exchange(request, engine, ticket, started_s=started_s, failure=timed_out)

    async def _refused(self, started_s: float, failure: Failure) -> Exchange:
        await asyncio.sleep(self.endpoint.one_way_s)
        return Exchange(
            started_s=started_s,
            sent_s=started_s,
            ended_s=asyncio.get_running_loop().time(),
            chunk_times_s=np.empty(0),
            chunk_tokens=np.empty(0, np.uint32),
            failure=failure,
        )

    def _exchange(
        self,
        request: GenerationRequest,
        engine: Engine,
        ticket: Ticket,
        *,
        started_s: float,
        failure: Failure | None,
    ) -> Exchange:
        job, now_s = ticket.job, asyncio.get_running_loop().time()
        times_s = engine.token_times_s(ticket) + self.endpoint.one_way_s
        tokens = np.ones(len(times_s), np.uint32)
        if failure is not None:
            arrived = times_s <= now_s
            times_s, tokens = times_s[arrived], tokens[arrived]
        elif not request.stream:
            times_s, tokens = times_s[-1:], np.array([job.output_tokens], np.uint32)
        return Exchange(
            started_s=started_s,
            sent_s=started_s,
            ended_s=now_s,
            chunk_times_s=times_s,
            chunk_tokens=tokens,
            streamed=request.stream,
            output_tokens=int(tokens.sum()),
            input_tokens=job.input_tokens,
            finish_reason=None if failure else "length" if job.output_tokens == job.max_new_tokens else "eos_token",
            failure=failure,
            server=None if failure else _timings(engine, ticket),
        )


def count_tokens(request: GenerationRequest) -> int:
    """The prompt's length as far as it can be known without a tokenizer: as declared, else four characters a token."""
    return request.input_tokens or max(1, round(len(request.prompt) / _CHARACTERS_PER_TOKEN))


def refusal(input_tokens: int, request: GenerationRequest, settings: EngineSettings) -> Failure | None:
    """Why TGI would refuse a request by its lengths; None when it would not."""
    total = input_tokens + request.max_new_tokens
    if total > settings.max_total_tokens:
        message = (
            f"Input validation error: `inputs` tokens + `max_new_tokens` must be <= {settings.max_total_tokens}. "
            f"Given: {input_tokens} `inputs` tokens and {request.max_new_tokens} `max_new_tokens`"
        )
    elif input_tokens > settings.max_input_tokens:
        message = (
            f"Input validation error: `inputs` must have less than {settings.max_input_tokens} tokens. "
            f"Given: {input_tokens}"
        )
    else:
        return None
    return Failure(FailureKind.VALIDATION, message, 422)


async def _finished(engine: Engine, ticket: Ticket, timeouts: Timeouts, started_s: float) -> Failure | None:
    """Wait for a ticket's last token within the limits; the failure when one is exceeded.

    The client sees everything the same time later than the engine, so its limits hold here as if it had started that much earlier.
    """
    loop = asyncio.get_running_loop()
    while True:
        times_s = engine.token_times_s(ticket) if ticket.made else None
        limits = [(started_s + timeouts.total_s, FailureKind.TIMEOUT_TOTAL, timeouts.total_s)]
        if times_s is None:
            limits.append((started_s + timeouts.first_token_s, FailureKind.TIMEOUT_FIRST_TOKEN, timeouts.first_token_s))
        else:
            between_s = timeouts.between_tokens_s
            limits.append((float(times_s[-1]) + between_s, FailureKind.TIMEOUT_BETWEEN_TOKENS, between_s))
        due_s, kind, limit_s = min(limits)
        if due_s <= loop.time():
            return Failure(kind, f"no answer within {limit_s:g} s")
        # before the first token, look often enough not to miss the limit on the second
        due_s = due_s if ticket.made else min(due_s, loop.time() + timeouts.between_tokens_s)
        try:
            async with asyncio.timeout_at(due_s):
                await ticket.done.wait()
        except TimeoutError:
            continue
        return None


def _timings(engine: Engine, ticket: Ticket) -> ServerTimings:
    """As TGI takes them: inference is everything from the prefill's start to the last token."""
    times_s = engine.token_times_s(ticket)
    started_s = ticket.queued_s if ticket.started_s is None else ticket.started_s
    inference_s = float(times_s[-1]) - started_s
    return ServerTimings(
        validation_s=0.0,
        queue_s=started_s - ticket.queued_s,
        inference_s=inference_s,
        total_s=float(times_s[-1]) - ticket.queued_s,
        time_per_token_s=inference_s / len(times_s),
    )
