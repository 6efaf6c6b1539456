"""Who leads a run: says when it starts, when its next phase begins and when it stops. A run of one process leads itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

    from tgibench.client_health import StampSource
    from tgibench.endpoints import Endpoint, Timeouts
    from tgibench.loads import LoadProfile
    from tgibench.records import Failure
    from tgibench.requests import PromptSource

__all__ = ["Alone", "Conductor", "FailureStreak", "Job", "RunProgress", "Running"]


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


@attrs.frozen(kw_only=True)
class Job:
    """What one event loop is to do, as a value that can be pickled; see `tgibench.run_load` for each."""

    endpoint: Endpoint
    load: LoadProfile
    prompts: PromptSource
    seed: int
    timeouts: Timeouts
    keep_chunk_times: bool


class Running(Protocol):
    """A run, as its conductor sees it."""

    def stop(self, reason: str) -> None:
        """Send nothing more; requests in flight are let finish."""

    def progress(self) -> RunProgress:
        """How far it has come."""


class Conductor(Protocol):
    """Leads one run."""

    async def start(self, stamps: StampSource) -> float:
        """The client is ready: wait for the start and return its instant on the loop's clock, which becomes second 0."""

    def follow(self, run: Running) -> None:
        """The run began."""

    def request_ended(self, failure: Failure | None) -> None:
        """One more request ended."""

    async def phase_ended(self) -> float:
        """A phase without a planned end is over: wait until the next may begin and return its beginning."""

    async def finished(self) -> None:
        """The last answer is in: wait until its record is wanted."""


class FailureStreak:
    """Counts failures in a row.

    Args:
        give_up_after: How many are too many.
    """

    def __init__(self, give_up_after: int) -> None:
        self._give_up_after, self._length = give_up_after, 0

    def note(self, failures: int, *, after_success: bool, last: str) -> str | None:
        """So many more, after a success or straight after the earlier ones; why to give up, None to go on."""
        self._length = failures if after_success else self._length + failures
        if failures and self._length >= self._give_up_after:
            return f"gave up after {self._length} failures in a row, the last: {last}"
        return None


class Alone:
    """The conductor of a run that has its load for itself.

    Args:
        give_up_after: Failures in a row after which it stops.
        on_progress: Called after each finished request.
    """

    def __init__(self, give_up_after: int, on_progress: Callable[[RunProgress], None] | None) -> None:
        self._streak, self._on_progress = FailureStreak(give_up_after), on_progress
        self._run: Running | None = None

    async def start(self, stamps: StampSource) -> float:
        """At once."""
        del stamps
        return asyncio.get_running_loop().time()

    def follow(self, run: Running) -> None:
        """The run began."""
        self._run = run

    def request_ended(self, failure: Failure | None) -> None:
        """Stop after too many failures in a row; tell of the progress."""
        if self._run is None:
            return
        last = "" if failure is None else f"{failure.kind}: {failure.message}"
        reason = self._streak.note(int(failure is not None), after_success=failure is None, last=last)
        if reason is not None:
            self._run.stop(reason)
        if self._on_progress:
            self._on_progress(self._run.progress())

    async def phase_ended(self) -> float:
        """The next begins at once."""
        return asyncio.get_running_loop().time()

    async def finished(self) -> None:
        """The record is wanted at once."""
