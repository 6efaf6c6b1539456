"""A running emulated server: requests become jobs of its engines, and finished ones numbers and log lines."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from tgibench.backends.emulator.answers import Answer
from tgibench.backends.emulator.bodies import RequestRefusedError
from tgibench.backends.emulator.engine import Engine, EngineOverloadedError
from tgibench.backends.emulator.faults import Fault, FaultKind, Faults
from tgibench.backends.emulator.lengths import EarlyStops
from tgibench.backends.emulator.log_lines import LogFormat, success_line
from tgibench.backends.emulator.scheduler import Job
from tgibench.backends.emulator.server_metrics import ServerMetrics
from tgibench.backends.emulator.wire import RequestTimes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from tgibench.backends.emulator.lengths import OutputLengths
    from tgibench.backends.emulator.parameters import Generation
    from tgibench.backends.emulator.scheduler import Ticket
    from tgibench.backends.emulator.wire import TgiVersion
    from tgibench.deployments import Deployment
    from tgibench.twin.policy import EngineSettings
    from tgibench.twin.step_time import StepTimes

__all__ = ["EmulatedServer", "Run", "ServerOptions"]

_NATURAL_TOKENS = (
    256  # of an answer whose length nobody asked for, where the server would fill the model's whole length
)


@attrs.frozen(kw_only=True)
class ServerOptions:
    """How a server behaves beyond its deployment.

    Args:
        faults: What goes wrong.
        lengths: How long answers are; by default as long as asked for.
        seed: Of the lengths and of faults that are drawn.
        log: Called with a line for each finished request; None for no log.
        log_format: How those lines are written.
        clock: The wall time (UTC, aware) that dates them.
        keep_alive_s: After so long without an event a stream gets a comment; TGI's 15 s.
        api_key: Wanted as a bearer token by every POST route; None for an open server.
    """

    faults: Faults = attrs.field(factory=Faults)
    lengths: OutputLengths = attrs.field(factory=lambda: EarlyStops(0.0))
    seed: int = 0
    log: Callable[[str], None] | None = None
    log_format: LogFormat = LogFormat.PLAIN
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    keep_alive_s: float = 15.0
    api_key: str | None = attrs.field(default=None, repr=False)


@attrs.define(eq=False, kw_only=True)
class Run:
    """One generation on its way: what was asked, what will be answered, and how far the engine is.

    Args:
        generation: What was asked.
        answer: What is answered, in full.
        arrived_s: When the request was taken up.
        engine: Where it runs.
        ticket: Its place there.
        woken: Set at each token.
        made: Tokens made so far.
    """

    generation: Generation
    answer: Answer
    arrived_s: float
    engine: Engine
    woken: asyncio.Event
    ticket: Ticket | None = None
    made: int = 0

    @property
    def text(self) -> str:
        """The generated text as TGI hands it out."""
        return (self.generation.prompt if self.generation.return_full_text else "") + self.answer.text

    def begin(self) -> None:
        """Queue it.

        Raises:
            RequestRefusedError: No permit is left.
        """
        job = Job(
            input_tokens=self.generation.input_tokens,
            max_new_tokens=self.generation.max_new_tokens,
            output_tokens=self.answer.tokens,
        )
        try:
            self.ticket = self.engine.submit(job, self._count)
        except EngineOverloadedError as error:
            raise RequestRefusedError.overloaded() from error

    def _count(self, number: int) -> None:
        self.made = number + 1
        self.woken.set()

    async def finished(self) -> None:
        """Wait for the last token."""
        if self.ticket is not None:
            await self.ticket.done.wait()

    def times(self) -> RequestTimes:
        """How long it took, now that the answer is built."""
        now_s = asyncio.get_running_loop().time()
        queued_s = self.arrived_s if self.ticket is None else self.ticket.queued_s
        started_s = queued_s if self.ticket is None or self.ticket.started_s is None else self.ticket.started_s
        return RequestTimes(
            validation_s=queued_s - self.arrived_s,
            queue_s=started_s - queued_s,
            inference_s=now_s - started_s,
            total_s=now_s - self.arrived_s,
            generated_tokens=self.answer.tokens,
        )

    def drop(self) -> None:
        """The client went away, or the answer broke off."""
        if self.ticket is not None:
            self.engine.drop(self.ticket)


class EmulatedServer:
    """The state of a server: its engines, what it counted, and which request comes next."""

    def __init__(
        self,
        deployment: Deployment,
        version: TgiVersion,
        settings: EngineSettings,
        step_times: StepTimes,
        options: ServerOptions,
    ) -> None:
        self.deployment = deployment
        self.version = version
        self.settings = settings
        self.options = options
        self.metrics = ServerMetrics(settings)
        self.engines = [Engine(settings, step_times) for _ in range(deployment.replicas)]
        self.ready_at_s = asyncio.get_running_loop().time() + options.faults.starts_after_s
        self._rng = np.random.default_rng([options.seed, 7])
        self._requests = 0

    @property
    def environment(self) -> dict[str, str]:
        """The deployment's environment variables."""
        return dict(self.deployment.environment)

    @property
    def compute_type(self) -> str:
        """As the launcher names the machine."""
        return self.environment.get("COMPUTE_TYPE", "gpu+optimized")

    def next_request(self) -> dict[FaultKind, Fault]:
        """Count a request; what befalls it.

        Raises:
            RequestRefusedError: It is to be answered with status 429.
        """
        self._requests += 1
        self.metrics.arrived += 1
        befalling = self.options.faults.befalling(self._requests, self._rng)
        if FaultKind.OVERLOADED in befalling:
            raise RequestRefusedError.overloaded()
        return befalling

    @contextmanager
    def counting_failures(self) -> Iterator[None]:
        """Count what is refused, fails or whose client goes away."""
        try:
            yield
        except RequestRefusedError as refusal:
            self.metrics.failed[refusal.error_type or "validation"] += 1
            raise
        except (asyncio.CancelledError, ConnectionError):
            self.metrics.failed["dropped"] += 1
            raise

    def break_off(self, faults: Mapping[FaultKind, Fault]) -> None:
        """Count a stream that a fault ended."""
        self.metrics.failed["generation" if FaultKind.ERROR in faults else "incomplete"] += 1

    @asynccontextmanager
    async def running(self, generations: list[Generation], arrived_s: float) -> AsyncIterator[list[Run]]:
        """Queue the generations of one request; whatever is unfinished on leaving is dropped.

        Raises:
            RequestRefusedError: No permit is left.
        """
        runs = self._begin(generations, arrived_s)
        try:
            yield runs
        finally:
            for run in runs:
                run.drop()

    def _begin(self, generations: list[Generation], arrived_s: float) -> list[Run]:
        """Queue the generations of one request on the least busy engine.

        Raises:
            RequestRefusedError: No permit is left; nothing is queued then.
        """
        engine = min(self.engines, key=lambda engine: engine.in_flight)
        woken = asyncio.Event()
        runs: list[Run] = []
        for generation in generations:
            self.metrics.accept(input_tokens=generation.input_tokens, max_new_tokens=generation.max_new_tokens)
            run = Run(
                generation=generation, answer=self._answer(generation), arrived_s=arrived_s, engine=engine, woken=woken
            )
            try:
                run.begin()
            except RequestRefusedError:
                for begun in runs:
                    begun.drop()
                raise
            runs.append(run)
        return runs

    def _answer(self, generation: Generation) -> Answer:
        limit = generation.max_new_tokens
        natural = self.options.lengths.tokens(generation.prompt, limit, seed=self.options.seed)
        if generation.unasked_length:
            natural = min(natural, _NATURAL_TOKENS)
        return Answer.to(generation.prompt, natural_tokens=natural, max_new_tokens=limit, stop=generation.stop)

    def succeed(self, run: Run, *, span: str, compat: bool = False) -> RequestTimes:
        """Count and log a request whose answer is complete."""
        times = run.times()
        self.metrics.succeed(times)
        if self.options.log is not None:
            line = success_line(
                self.options.clock(),
                self.version,
                times,
                span=span,
                parameters=run.generation.parameters,
                seed=run.generation.seed,
                compat=compat,
                log_format=self.options.log_format,
            )
            self.options.log(line)
        return times

    def info(self) -> dict[str, Any]:
        """The body of `/info`."""
        return describe(self.deployment, self.version, self.settings)


def describe(deployment: Deployment, version: TgiVersion, settings: EngineSettings) -> dict[str, Any]:
    """What `/info` says, with the keys of that version."""
    info: dict[str, Any] = {
        "model_id": deployment.model_id,
        "model_sha": deployment.revision,
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": settings.max_concurrent_requests,
        "max_best_of": 1,
        "max_stop_sequences": 4,
        "max_input_tokens" if version.since(2, 1) else "max_input_length": settings.max_input_tokens,
        "max_total_tokens": settings.max_total_tokens,
        "validation_workers": 2,
        "version": str(version),
        "sha": None,
        "docker_label": "tgibench-emulator",  # whoever asks can tell that nothing here is measured
    }
    if not version.since(2, 3):
        info |= {
            "model_dtype": "torch.float16",
            "model_device_type": "cuda",
            "waiting_served_ratio": settings.waiting_served_ratio,
            "max_batch_total_tokens": settings.max_batch_total_tokens,
            "max_waiting_tokens": settings.max_waiting_tokens,
        }
        if version.since(1, 4, 1):
            info["max_batch_size"] = settings.max_batch_size
    if version.since(2, 0, 1):
        info["max_client_batch_size"] = 4
        info["router"] = "text-generation-router"
    return info
