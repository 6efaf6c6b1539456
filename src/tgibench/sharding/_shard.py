"""One part of a shared run, as the leading process knows it, and the talk with its worker."""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from tgibench.client_health import StampSource, Worker
from tgibench.loads import ClosedPhase, count_requests
from tgibench.sharding._channel import Channel, ChannelError
from tgibench.sharding._clocks import ClockOffset, clock_offset

if TYPE_CHECKING:
    from tgibench.loads import LoadProfile
    from tgibench.records import RequestLog

__all__ = ["Lead", "Shard", "State"]

_PINGS = 16
_SILENCE_S = 30.0  # progress comes a few times a second: a worker that is silent for so long is gone


class State(enum.IntEnum):
    """How far a part has come."""

    AWAITED = 0
    READY = 1
    RUNNING = 2
    FINISHED = 3
    KEPT = 4
    LOST = 5


class Lead(Protocol):
    """What a part needs of the process that leads."""

    async def start(self) -> float:
        """Wait for the start; its instant on this loop's clock."""

    def moved(self, shard: Shard) -> None:
        """The part's state, phase or progress changed."""

    def failed(self, failures: int, *, after_success: bool, last: str) -> None:
        """Requests of the part failed."""

    async def all_finished(self) -> None:
        """Wait until every part is finished or lost."""


@attrs.define(eq=False)
class Shard:
    """One part of a run.

    Args:
        number: Which, from 0.
        load: Its part of the load.
    """

    number: int
    load: LoadProfile
    state: State = State.AWAITED
    place: str | None = None
    stamps: StampSource | None = None
    clock: ClockOffset | None = None
    drift_s: float | None = None
    late_s: float | None = None
    in_flight: int = 0
    finished: int = 0
    failed: int = 0
    output_tokens: int = 0
    phases_ended: int = 0
    lost: str | None = None
    log: RequestLog | None = None
    channel: Channel | None = None

    @property
    def on_the_way(self) -> bool:
        """Whether it runs still."""
        return self.state in {State.READY, State.RUNNING}

    def lose(self, why: str) -> None:
        """Its record will not come."""
        if self.state not in {State.KEPT, State.LOST}:
            self.state, self.lost = State.LOST, why

    def tell(self, **order: Any) -> None:
        """Send an order, if there is anybody to take it."""
        if self.channel is not None and self.on_the_way:
            self.channel.post(**order)

    def begin(self, at_s: float) -> None:
        """Let it begin its next phase at an instant of our clock."""
        self.phases_ended = 0
        if self.clock is not None:
            self.tell(begin_s=self.clock.theirs(at_s))

    async def converse(self, channel: Channel, lead: Lead) -> None:
        """Lead a worker through its part.

        Raises:
            ChannelError: It is gone.
            TimeoutError: It is silent.
        """
        self.channel = channel
        channel.post(welcome=True)
        self.stamps = _stamps(await channel.receive())
        self.clock = await _measured(channel)
        self.state = State.READY
        lead.moved(self)
        at_s = await lead.start()
        channel.post(start_s=self.clock.theirs(at_s))
        self.state = State.RUNNING
        while self._goes_on(await _receive(channel), lead):
            pass
        self.drift_s = (await _measured(channel)).offset_s - self.clock.offset_s
        self.state = State.FINISHED
        lead.moved(self)
        await lead.all_finished()
        channel.post(send=True)
        self.log = await channel.receive_log(silence_s=_SILENCE_S)
        channel.post(kept=True)
        self.state = State.KEPT
        lead.moved(self)

    def _goes_on(self, message: dict[str, Any], lead: Lead) -> bool:
        match message:
            case {
                "progress": [int(in_flight), int(finished), int(failed), int(output_tokens)],
                "late_s": float(late_s),
                "failures": int(failures),
                "after_success": bool(after_success),
                "last": str(last),
            }:
                self.in_flight, self.finished, self.failed = in_flight, finished, failed
                self.output_tokens, self.late_s = output_tokens, late_s
                lead.failed(failures, after_success=after_success, last=last)
                lead.moved(self)
            case {"phase_ended": True}:
                self.phases_ended = 1
                lead.moved(self)
            case {"finished": True}:
                return False
        return True

    def planned(self, seed: int) -> int:
        """Requests that its part of the plan holds; where only a duration is planned, those it was known to have taken up."""
        numbers = []
        for phase in self.load.phases(seed):
            if isinstance(phase, ClosedPhase) and phase.duration_s is not None:
                continue
            plan = phase.indices if isinstance(phase, ClosedPhase) else phase.arrivals
            numbers.append(count_requests(plan) if phase.requests is None else phase.requests)
        return max(sum(numbers), self.finished + self.in_flight)

    def worker(self, seed: int) -> Worker:
        """What the run's log says of it."""
        return Worker(
            number=self.number,
            place=self.place,
            health=None if self.log is None else self.log.health,
            clock_offset_s=None if self.clock is None else self.clock.offset_s,
            clock_uncertainty_s=None if self.clock is None else self.clock.uncertainty_s,
            clock_drift_s=self.drift_s,
            late_s=self.late_s,
            lost=self.lost,
            lost_requests=0 if self.lost is None else self.planned(seed),
        )


def _stamps(message: dict[str, Any]) -> StampSource:
    try:
        return StampSource(message["ready"])
    except (KeyError, ValueError):
        raise ChannelError("it does not say that it is ready") from None


async def _receive(channel: Channel) -> dict[str, Any]:
    async with asyncio.timeout(_SILENCE_S):
        return await channel.receive()


async def _measured(channel: Channel) -> ClockOffset:
    """Its clock against ours, by a few questions one after the other."""
    clock, exchanges = asyncio.get_running_loop().time, []
    for number in range(_PINGS):
        sent_s = clock()
        channel.post(ping=number)
        match await _receive(channel):
            case {"pong": answered, "clock_s": float(theirs_s)} if answered == number:
                exchanges.append((sent_s, theirs_s, clock()))
            case _:
                raise ChannelError("it does not tell its clock")
    return clock_offset(exchanges)
