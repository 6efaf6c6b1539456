"""A continuous-batching engine with TGI's scheduling, as a discrete-event machine on the running loop's clock.

One operation at a time: a prefill of newcomers, during which running sequences get no token, or a decode that gives each of them one.
Requests queue first in, first out; where the first does not fit, nobody behind it is tried. With chunked prefill (TGI 3) newcomers and
running sequences are forwarded together within a budget of tokens.

The rules were read in TGI's router (`queue.rs`, `infer.rs`): see `EngineSettings` for the names they have there.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from array import array
from collections import deque
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from tgibench.backends.emulator.scheduler import Job, Ticket, fitting, tokens_reserved
from tgibench.errors import TgibenchError
from tgibench.twin.policy import EngineSettings
from tgibench.virtual_time import on_grid

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tgibench.twin.step_time import StepTimes

__all__ = ["Engine", "EngineCounters", "EngineOverloadedError", "EngineSettings", "Job", "Ticket"]


class EngineOverloadedError(TgibenchError):
    """No permit of `max_concurrent_requests` is left."""


@attrs.define
class EngineCounters:
    """What the engine did so far, for its `/metrics`."""

    accepted: int = 0
    refused: int = 0
    finished: int = 0
    dropped: int = 0
    prefills: int = 0
    decodes: int = 0
    output_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


class Engine:
    """One engine. It works whenever it has something to do; it holds no task and no thread.

    Args:
        settings: The scheduler's.
        step_times: How long each step takes.
    """

    def __init__(self, settings: EngineSettings, step_times: StepTimes) -> None:
        self.settings = settings
        self.counters = EngineCounters()
        self._times = step_times
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Ticket] = deque()
        self._prefilling: list[Ticket] = []
        self._running: dict[int, Ticket] = {}
        self._finishing: list[tuple[int, int]] = []  # (decode at which it ends, id) of running tickets
        self._ids = itertools.count()
        self._decode_ends = array("d")
        self._context_tokens = self._reserved_tokens = self._listeners = self._permits_held = 0
        self._decodes_waited = 0
        self._working = False
        self._step_ends_s = 0.0

    @property
    def queue_size(self) -> int:
        """Requests that wait for their prefill."""
        return len(self._queue)

    @property
    def batch_size(self) -> int:
        """Sequences that are running."""
        return len(self._running)

    @property
    def in_flight(self) -> int:
        """Requests that hold a permit."""
        return self._permits_held

    def submit(self, job: Job, on_token: Callable[[int], None] | None = None) -> Ticket:
        """Queue a job.

        Raises:
            EngineOverloadedError: No permit is left.
        """
        if self.in_flight >= self.settings.max_concurrent_requests:
            self.counters.refused += 1
            raise EngineOverloadedError("Model is overloaded")
        self.counters.accepted += 1
        self._permits_held += 1
        ticket = Ticket(job=job, queued_s=self._loop.time(), on_token=on_token)
        self._queue.append(ticket)
        self._wake()
        return ticket

    def drop(self, ticket: Ticket) -> None:
        """The client went away: its permit is free at once, its job is forgotten at the next step."""
        if ticket.finished or ticket.dropped:
            return
        ticket.dropped = True
        self._permits_held -= 1
        if ticket.started_s is None:
            self._queue.remove(ticket)
            self.counters.dropped += 1
            ticket.done.set()
            self._wake()  # it may have been what held up the others

    def _wake(self) -> None:
        if not self._working:
            self._working = True
            self._step_ends_s = self._loop.time()
            self._loop.call_soon(self._next_step)

    def _step(self, seconds: float, then: Callable[..., None], *arguments: Any) -> None:
        """Take so long from the planned end of the step before: in real time a late call must not delay all that follow."""
        self._step_ends_s += on_grid(seconds)
        self._loop.call_at(self._step_ends_s, then, *arguments)

    def token_times_s(self, ticket: Ticket) -> NDArray[np.float64]:
        """When each token so far was made, on the loop's clock."""
        if not ticket.made:
            return np.empty(0)
        later = ticket.later
        if later is None:
            later = np.array(self._decode_ends[ticket.joined_at : ticket.joined_at + ticket.made - 1])
        return np.concatenate(([ticket.first_s], later))

    def _next_step(self) -> None:
        self._forget_dropped()
        newcomers = self._admit()
        if self.settings.chunked_prefill and (newcomers or self._prefilling):
            self._prefill_beside(newcomers)
        elif newcomers:
            self._prefill_alone(newcomers)
        else:
            self._decode()

    def _decode(self) -> None:
        if not self._running:
            self._working = False
            return
        seconds = self._times.decode_s(len(self._running), self._context_tokens)
        self.counters.decodes += 1
        self.counters.decode_s += seconds
        self._step(seconds, self._decoded)

    def _decoded(self) -> None:
        self._decodes_waited += 1
        self._tell_decode()
        self._next_step()

    def _prefill_alone(self, newcomers: list[Ticket]) -> None:
        seconds = self._times.prefill_s(sum(ticket.job.input_tokens for ticket in newcomers), len(newcomers))
        self.counters.prefills += 1
        self.counters.prefill_s += seconds
        was_idle = not self._running
        self._step(seconds, self._prefilled, newcomers, was_idle)

    def _prefilled(self, newcomers: list[Ticket], was_idle: bool) -> None:  # noqa: FBT001 - a call_at argument
        self._decodes_waited = 1
        for ticket in newcomers:
            self._join(ticket)
        # between two prefills the running sequences get one decode; an idle engine may prefill again at once
        self._next_step() if was_idle else self._decode_unless_empty()

    def _decode_unless_empty(self) -> None:
        self._decode() if self._running else self._next_step()

    def _prefill_beside(self, newcomers: list[Ticket]) -> None:
        self._prefilling += newcomers
        budget = max(1, self.settings.max_batch_prefill_tokens - len(self._running))
        pieces, tokens = [], 0
        for place, ticket in enumerate(self._prefilling):
            others = len(self._prefilling) - place - 1
            piece = min(ticket.unprefilled, max(1, budget - tokens - others))
            ticket.unprefilled -= piece
            tokens += piece
            pieces.append(ticket)
        seconds = self._times.prefill_s(tokens + len(self._running), len(pieces) + len(self._running))
        self.counters.prefills += 1
        self.counters.prefill_s += seconds
        self._step(seconds, self._prefilled_beside)

    def _prefilled_beside(self) -> None:
        if self._running:
            self._tell_decode()
        ready = [ticket for ticket in self._prefilling if not ticket.unprefilled]
        self._prefilling = [ticket for ticket in self._prefilling if ticket.unprefilled]
        for ticket in ready:
            self._join(ticket)
        self._decode_unless_empty()

    def _join(self, ticket: Ticket) -> None:
        """Its first token is made; what remains comes from decodes."""
        if ticket.dropped:
            self._finish(ticket)
            return
        ticket.first_s = self._loop.time()
        ticket.made = 1
        self.counters.output_tokens += 1
        if ticket.on_token:
            ticket.on_token(0)
        if ticket.finished:
            ticket.later = np.empty(0)
            self._finish(ticket)
            return
        number = next(self._ids)
        ticket.joined_at = len(self._decode_ends)
        self._running[number] = ticket
        self._listeners += ticket.on_token is not None
        self._context_tokens += ticket.job.input_tokens + 1
        heapq.heappush(self._finishing, (ticket.joined_at + ticket.job.output_tokens - 1, number))

    def _tell_decode(self) -> None:
        """A decode ended: each running sequence has one token more."""
        self._decode_ends.append(self._loop.time())
        self._context_tokens += len(self._running)
        self.counters.output_tokens += len(self._running)
        for ticket in self._running.values():
            ticket.made += 1
        if self._listeners:
            for ticket in self._running.values():
                if ticket.on_token and not ticket.dropped:
                    ticket.on_token(ticket.made - 1)
        while self._finishing and self._finishing[0][0] <= len(self._decode_ends):
            _, number = heapq.heappop(self._finishing)
            if number in self._running:
                self._leave(number)
        if not self._running:
            del self._decode_ends[:]
            self._finishing.clear()

    def _leave(self, number: int) -> None:
        ticket = self._running.pop(number)
        start = ticket.joined_at
        ticket.later = np.array(self._decode_ends[start : start + ticket.made - 1])
        self._context_tokens -= ticket.job.input_tokens + ticket.made
        self._listeners -= ticket.on_token is not None
        self._finish(ticket)

    def _finish(self, ticket: Ticket) -> None:
        self._reserved_tokens -= tokens_reserved(ticket.job, self.settings)
        if ticket.dropped:
            self.counters.dropped += 1
        else:
            self.counters.finished += 1
            self._permits_held -= 1
        ticket.done.set()

    def _forget_dropped(self) -> None:
        for number in [number for number, ticket in self._running.items() if ticket.dropped]:
            self._leave(number)
        for ticket in [ticket for ticket in self._prefilling if ticket.dropped]:
            self._prefilling.remove(ticket)
            self._finish(ticket)
        if not self._running:
            del self._decode_ends[:]
            self._finishing.clear()

    def _admit(self) -> list[Ticket]:
        """Take from the queue what goes into the next prefill: TGI's `next_batch`."""
        settings = self.settings
        if self._prefilling:
            return []
        fewest = 0
        if self._running and not settings.chunked_prefill and self._decodes_waited < settings.max_waiting_tokens:
            fewest = int(len(self._running) * settings.waiting_served_ratio)
        if len(self._queue) < max(fewest, 1):
            return []
        taken = list(fitting(self._queue, settings, running=len(self._running), reserved_tokens=self._reserved_tokens))
        if len(taken) < fewest:
            return []
        for ticket in taken:
            self._queue.popleft()
            ticket.started_s = self._loop.time()
            ticket.unprefilled = ticket.job.input_tokens
            self._reserved_tokens += tokens_reserved(ticket.job, self.settings)
            self.counters.queue_s += ticket.started_s - ticket.queued_s
        return taken
