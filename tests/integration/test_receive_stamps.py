"""The kernel's receive stamps, through real sockets on loopback."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

import tgibench as tb
from scripted_server import END, HEAD, RESET, chunk, serving, tgi_event
from tgibench.receive_stamps import StampedReader

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these stamps")


class Pair:
    """A connected pair of sockets, one end of which is read with stamps."""

    def __init__(self, reader):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.near = socket.create_connection(listener.getsockname())
            self.far, _ = listener.accept()
        self.near.setblocking(False)
        self.loop = asyncio.get_running_loop()
        self.reader = reader
        self.reads, self.events = [], asyncio.Queue()
        self.number = self.reader.add(
            self.near.fileno(),
            self._take,
            ended=lambda: self.events.put_nowait("ended"),
            broken=lambda error: self.events.put_nowait(type(error)),
        )

    def _take(self, arrived_s, data):
        self.reads.append((arrived_s, data))
        self.events.put_nowait("read")

    def close(self):
        """Close everything."""
        self.reader.close()
        self.near.close()
        self.far.close()

    async def next(self):
        """What happened next."""
        async with asyncio.timeout(10):
            return await self.events.get()


@pytest.fixture
async def pair():
    reader = await StampedReader.open()
    assert reader is not None
    one = Pair(reader)
    yield one
    one.close()


async def test_the_stamp_is_of_the_arrival_and_not_of_the_read(pair):
    """A loop that was busy for long reads late; what it reads arrived before it was."""
    pair.far.sendall(b"early")
    sent_s = pair.loop.time()
    busy_until_s = sent_s + 0.2
    while pair.loop.time() < busy_until_s:
        pass
    assert await pair.next() == "read"
    arrived_s, data = pair.reads[0]
    assert data == b"early"
    assert arrived_s < busy_until_s - 0.1
    assert pair.reader.complete


async def test_who_holds_the_loop_for_long_can_have_waiting_sockets_read_in_between(pair):
    """Two tokens that come while the loop is busy stay two reads with their own times, and what comes later is read as ever."""
    for text in (b"one", b"two"):
        pair.far.sendall(text)
        busy_until_s = pair.loop.time() + 0.02
        while pair.loop.time() < busy_until_s:
            pair.reader.catch_up()
    assert [data for _, data in pair.reads] == [b"one", b"two"]
    assert pair.reads[1][0] - pair.reads[0][0] > 0.01
    assert [await pair.next(), await pair.next()] == ["read", "read"]
    pair.far.sendall(b"three")
    assert await pair.next() == "read"


async def test_when_wall_time_is_set_no_arrival_lies_in_the_future(pair):
    """The distance of the clocks is measured anew: the stamps before and after make sense."""
    pair.far.sendall(b"one")
    await pair.next()
    pair.reader._clock.loop_s += 3600  # as if wall time had been set forward by an hour since it was measured
    pair.far.sendall(b"two")
    await pair.next()
    assert pair.reads[0][0] < pair.reads[1][0] <= pair.loop.time()


async def test_all_that_came_before_the_end_is_read_and_the_end_is_told_once(pair):
    """Also when both came before the first read."""
    pair.far.sendall(b"x" * 100_000)
    pair.far.close()
    await asyncio.sleep(0.05)
    events = [await pair.next()]
    while events[-1] == "read":
        events.append(await pair.next())
    assert events[-1] == "ended"
    assert b"".join(data for _, data in pair.reads) == b"x" * 100_000
    assert pair.events.empty()


async def test_a_socket_that_is_removed_is_read_no_more(pair):
    """Nothing that comes later is handed on; removing it again does nothing."""
    pair.reader.remove(pair.number)
    pair.reader.remove(pair.number)
    pair.far.sendall(b"late")
    await asyncio.sleep(0.05)
    assert pair.reads == []


async def test_a_reset_before_any_answer_is_told_as_one():
    """As asyncio's own reads would tell it."""
    async with serving(lambda number: [RESET]) as url, tb.HttpEndpoint(url).connect() as client:
        exchange = await client.generate(tb.GenerationRequest(prompt="Hello"), tb.Timeouts())
    assert exchange.failure is not None
    assert exchange.failure.kind in {tb.FailureKind.CONNECTION_RESET, tb.FailureKind.CONNECTION_ABORTED}


async def test_malformed_framing_is_undecodable_and_keeps_what_came():
    """The tokens before it are kept, the connection is not used again."""
    script = [HEAD, chunk(tgi_event(1, 8)), b"zz\r\n\r\n", END]
    async with serving(lambda number: script) as url, tb.HttpEndpoint(url).connect() as client:
        first, second = [await client.generate(tb.GenerationRequest(prompt="Hello"), tb.Timeouts()) for _ in range(2)]
    assert first.failure is not None
    assert first.failure.kind is tb.FailureKind.UNDECODABLE
    assert first.output_tokens == 1
    assert second.connect_s is not None


async def test_where_the_kernel_gives_no_stamps_the_time_is_that_of_the_ready_socket(monkeypatch):
    """As in a sandbox that ignores the option; the result says so."""
    monkeypatch.setattr(StampedReader, "stamps_come", lambda _: False)
    monkeypatch.setattr("tgibench.receive_stamps._MOST_PROBES", 2)
    async with (
        serving(lambda number: [HEAD, chunk(tgi_event(1, 1)), END]) as url,
        tb.HttpEndpoint(url).connect() as client,
    ):
        exchange = await client.generate(tb.GenerationRequest(prompt="Hello"), tb.Timeouts())
        assert client.stamps is tb.StampSource.SOCKET_READY
    assert exchange.failure is None
