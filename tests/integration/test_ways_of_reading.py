"""TLS, and a kernel without stamps: every outcome is what it is over plain TCP, and the result says where its times come from."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading

import pytest

import tgibench as tb
from outcomes import EVENTS, FAILURES, SUCCESSES, N, stream
from scripted_server import END, HEAD, chunk, tgi_event
from tgibench.receive_stamps import StampedReader
from tgibench.testing import scripted_server
from tgibench.tls_reads import Ciphertext

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere asyncio reads")

ASK = tb.GenerationRequest(prompt="Hello", max_new_tokens=N)


@pytest.fixture(params=["TLS", "no stamps", "TLS, no stamps"])
def way(request, tls, monkeypatch):
    """A server's side of TLS or None, and where the times of answers come from."""
    if "no stamps" in request.param:
        monkeypatch.setattr(StampedReader, "stamps_come", lambda _: False)
        monkeypatch.setattr("tgibench.receive_stamps._MOST_PROBES", 2)
    stamps = tb.StampSource.SOCKET_READY if "no stamps" in request.param else tb.StampSource.KERNEL
    return (tls if "TLS" in request.param else None), stamps


async def ask(script, tls, protocol=None, *, requests=1):
    """Send requests one after the other; the exchanges, and where their times come from."""
    async with (
        scripted_server(lambda _: script, tls=tls) as url,
        tb.HttpEndpoint(url, protocol or tb.TgiProtocol(), verify_tls=False).connect() as client,
    ):
        return [await client.generate(ASK, tb.Timeouts()) for _ in range(requests)], client.stamps


async def asked_at_once(cases, tls):
    """The exchange of each case, by its name; (protocol, script) come first in a case."""
    async with asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(ask(case[1], tls, case[0])) for name, case in cases.items()}
    return {name: (task.result()[0][0], task.result()[1]) for name, task in tasks.items()}


async def test_every_legal_form_is_a_success(way):
    """Chunked however cut, of a length, to the connection's end, compressed."""
    tls, stamps = way
    for name, (exchange, source) in (await asked_at_once(SUCCESSES, tls)).items():
        assert exchange.failure is None, name
        assert (exchange.output_tokens, int(exchange.chunk_tokens.sum()), source) == (N, N, stamps), name
        assert exchange.sent_s <= exchange.chunk_times_s[0] <= exchange.chunk_times_s[-1] <= exchange.ended_s, name


async def test_every_failure_has_its_one_kind(way):
    """Also a connection that is reset or closed, before an answer or within."""
    tls, _ = way
    cases = {name: case for name, case in FAILURES.items() if not case[2].startswith("timeout")}
    for name, (exchange, _) in (await asked_at_once(cases, tls)).items():
        _, _, kind, status, tokens = cases[name]
        assert (exchange.failure.kind, exchange.failure.status) == (kind, status), name
        assert tokens in {None, exchange.output_tokens}, name


async def test_a_connection_is_kept_alive(way):
    """It is opened once, and every answer on it is read alike."""
    tls, stamps = way
    exchanges, source = await ask(stream(*EVENTS), tls, requests=3)
    assert [exchange.failure for exchange in exchanges] == [None] * 3
    assert [exchange.connect_s is None for exchange in exchanges] == [False, True, True]
    assert [exchange.chunk_tokens.tolist() for exchange in exchanges] == [exchanges[0].chunk_tokens.tolist()] * 3
    assert source is stamps


async def test_a_stop_in_the_middle_of_an_answer_leaves_nothing_behind(way):
    """The connection is closed at once though the server goes on."""
    tls, _ = way
    script = [HEAD, *([chunk(tgi_event(1, 1000)), 0.01] * 500), END]
    async with (
        scripted_server(lambda _: script, tls=tls) as url,
        tb.HttpEndpoint(url, verify_tls=False).connect() as client,
    ):
        limits = tb.Timeouts(first_token_s=5.0, between_tokens_s=5.0, total_s=0.3)
        exchange = await client.generate(ASK, limits)
    assert exchange.failure.kind is tb.FailureKind.TIMEOUT_TOTAL
    assert asyncio.all_tasks() == {asyncio.current_task()}


class ThreadServer:
    """Sends a token when it is told to, whatever the test's loop is doing."""

    def __init__(self, listener):
        self.listener = listener
        self.asked, self.go, self.sent = threading.Event(), threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._serve)

    def _serve(self):
        connection, _ = self.listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(HEAD)
            self.asked.set()
            self.go.wait(30)
            connection.sendall(chunk(tgi_event(1, 1)) + END)
            self.sent.set()
            connection.recv(65536)  # its close


async def test_under_tls_the_stamp_is_of_the_arrival_and_not_of_the_read(tls):
    """A loop that was busy for long decrypts late; what it decrypts arrived before it was."""
    loop = asyncio.get_running_loop()
    with tls.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True) as listener:
        server = ThreadServer(listener)
        server.thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        async with tb.HttpEndpoint(url, verify_tls=False).connect() as client, asyncio.TaskGroup() as group:
            task = group.create_task(client.generate(ASK, tb.Timeouts()))
            await asyncio.to_thread(server.asked.wait, 30)
            server.go.set()
            assert server.sent.wait(30)
            busy_until_s = loop.time() + 0.2
            while loop.time() < busy_until_s:
                pass
        server.thread.join(30)
    exchange = task.result()
    assert exchange.failure is None
    assert exchange.chunk_times_s[0] < busy_until_s - 0.1


async def test_where_asyncios_tls_is_built_otherwise_asyncio_reads_and_the_result_says_so(tls, monkeypatch):
    """The same tokens."""
    monkeypatch.setattr(Ciphertext, "below", classmethod(lambda cls, transport: None))
    (exchange,), stamps = await ask(stream(*EVENTS), tls)
    assert (exchange.failure, exchange.output_tokens) == (None, N)
    assert stamps is tb.StampSource.SOCKET_READ


async def test_a_socket_has_the_time_at_which_it_was_seen_to_be_ready():
    """However long it took to deal with others that were ready too."""
    loop = asyncio.get_running_loop()
    reader = StampedReader(loop, kernel=False)
    near, far = zip(*(socket.socketpair() for _ in range(3)), strict=True)
    arrivals = asyncio.Queue()

    def take(arrived_s, data):
        arrivals.put_nowait((arrived_s, loop.time(), data))
        until_s = loop.time() + 0.05
        while loop.time() < until_s:
            pass

    for number, one in enumerate(near):
        one.setblocking(False)
        reader.add(one.fileno(), take, ended=lambda: None, broken=lambda _: None)
        far[number].sendall(b"%d" % number)
    async with asyncio.timeout(10):
        got = [await arrivals.get() for _ in near]
    assert len({arrived_s for arrived_s, _, _ in got}) == 1
    assert got[-1][1] - got[-1][0] >= 0.1
    reader.close()
    for one in (*near, *far):
        one.close()
