"""What the engine schedules: a job and its ticket, and which queued jobs fit into the next prefill."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import attrs

from tgibench.validators import count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from tgibench.twin.policy import EngineSettings

__all__ = ["Job", "Ticket", "fitting", "tokens_reserved"]


@attrs.frozen(kw_only=True)
class Job:
    """What a request asks of the engine.

    Args:
        input_tokens: Length of the prompt.
        max_new_tokens: Length reserved for the answer.
        output_tokens: Length that the answer will really have; at most `max_new_tokens`.
    """

    input_tokens: int = attrs.field(validator=count)
    max_new_tokens: int = attrs.field(validator=count)
    output_tokens: int = attrs.field(validator=count)


@attrs.define(eq=False, kw_only=True)
class Ticket:
    """A job on its way through the engine.

    Args:
        job: The job.
        queued_s: When it joined the queue.
        started_s: When it was taken into a prefill; None before.
        done: Set when its last token was made.
        on_token: Called at each of its tokens with the token's number, from 0.
        dropped: Whether its client went away.
        made: Tokens made so far.
        first_s: When its first token was made.
        joined_at: Number of the engine's decodes before its second token.
        later: When its further tokens were made; None while it is running.
        unprefilled: Prompt tokens still to be prefilled.
    """

    job: Job
    queued_s: float
    done: asyncio.Event = attrs.field(factory=asyncio.Event)
    on_token: Callable[[int], None] | None = None
    started_s: float | None = None
    dropped: bool = False
    made: int = 0
    first_s: float = 0.0
    joined_at: int = 0
    later: NDArray[np.float64] | None = None
    unprefilled: int = 0

    @property
    def finished(self) -> bool:
        """Whether its last token was made."""
        return self.made == self.job.output_tokens


def fitting(
    queue: Iterable[Ticket], settings: EngineSettings, *, running: int, reserved_tokens: int
) -> Iterator[Ticket]:
    """The queue's head, as far as the budgets of one prefill and of the batch reach: nobody overtakes one that does not fit.

    Args:
        queue: The waiting tickets, first come first.
        settings: The budgets.
        running: Sequences that are running.
        reserved_tokens: Tokens that they reserve.
    """
    prefill_tokens = 0
    budget = settings.max_batch_prefill_tokens - (running if settings.chunked_prefill else 0)
    for number, ticket in enumerate(queue):
        if settings.chunked_prefill:
            if prefill_tokens >= budget:
                return
            prefill_tokens += ticket.job.input_tokens
        else:
            prefill_tokens += _in_blocks(ticket.job.input_tokens, settings)
            if prefill_tokens > budget:
                return
        reserved_tokens += tokens_reserved(ticket.job, settings)
        full = settings.max_batch_size is not None and running + number >= settings.max_batch_size
        if full or reserved_tokens > settings.max_batch_total_tokens:
            return
        yield ticket


def tokens_reserved(job: Job, settings: EngineSettings) -> int:
    """Tokens of the cache that a job holds from its prefill to its end: its prompt and its longest answer, in whole blocks."""
    return _in_blocks(job.input_tokens, settings) + _in_blocks(job.max_new_tokens, settings)


def _in_blocks(tokens: int, settings: EngineSettings) -> int:
    return -(-tokens // settings.block_tokens) * settings.block_tokens
