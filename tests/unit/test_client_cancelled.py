"""A request that is cancelled while its answer, which came long ago, is still being decoded."""

from __future__ import annotations

import asyncio

import attrs
import pytest

import tgibench as tb
from scripted_server import tgi_event
from tgibench.client import HttpClient
from tgibench.protocols import ResponseHead

TOKENS = 2000
ERROR = b'data: {"error":"Request failed during generation: x","error_type":"generation"}\n\n'


@attrs.frozen
class Delivered:
    """A transport whose answers are there at once."""

    reads: list
    stamps = tb.StampSource.VIRTUAL

    async def exchange(self, request, arrivals, *, connect_timeout_s):
        arrivals.head = ResponseHead(200, {"content-type": "text/event-stream"})
        arrivals.sent_s = arrivals.ended_s = asyncio.get_running_loop().time()
        pieces = iter([(arrivals.sent_s, read) for read in self.reads])
        arrivals.take = lambda: pieces


@pytest.mark.parametrize(
    ("last", "kinds"), [(ERROR, ["generation"]), (tgi_event(TOKENS, TOKENS), [])], ids=["an error", "a success"]
)
async def test_an_error_that_had_come_is_told_of_a_request_cancelled_while_it_is_decoded(last, kinds):
    """A success is as good as cancelled: nothing is told of it."""
    reads = [*(tgi_event(number, TOKENS) for number in range(1, TOKENS)), last]
    told = []

    async def asking():
        try:
            await HttpClient(Delivered(reads), tb.TgiProtocol()).generate(
                tb.GenerationRequest(prompt="x"), tb.Timeouts()
            )
        except asyncio.CancelledError as cancellation:
            told.append([exchange.failure.kind for exchange in cancellation.args])
            raise

    async with asyncio.TaskGroup() as group:
        task = group.create_task(asking())
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
    assert told == [kinds]
