"""Asks a server that has just become ready its first request: how long its first token takes belongs to the start-up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgibench.endpoints import StartUp, Timeouts
from tgibench.requests import GenerationRequest

if TYPE_CHECKING:
    from tgibench.endpoints import Endpoint
    from tgibench.records import Exchange

__all__ = ["FIRST_TOKEN_S", "first_token_s", "start_up_of"]

FIRST_TOKEN_S = 300.0
"""Longest that the first request may take; what then comes is for the load to find out."""

_HELLO = GenerationRequest(prompt="Say hello.", max_new_tokens=8)


async def start_up_of(endpoint: Endpoint) -> StartUp:
    """Ask one short request. One that fails is no error: the first load will tell more of it."""
    limits = Timeouts(first_token_s=FIRST_TOKEN_S, between_tokens_s=FIRST_TOKEN_S, total_s=FIRST_TOKEN_S)
    async with endpoint.connect() as client:
        return StartUp(first_token_s=first_token_s(await client.generate(_HELLO, limits)))


def first_token_s(exchange: Exchange) -> float | None:
    """Seconds from sending a request to its first token; None where none came."""
    if exchange.failure is not None or not len(exchange.chunk_times_s):
        return None
    return float(exchange.chunk_times_s[0]) - (exchange.started_s if exchange.sent_s is None else exchange.sent_s)
