"""Each request over real HTTP ends in exactly one outcome, with exact counts."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

import tgibench as tb
from outcomes import CHAT, EVENTS, FAILURES, OVERLOAD, SUCCESSES, TGI, N, stream
from scripted_server import ABORT, END, HEAD, RESET, chunk, response, serving

FAST = tb.Timeouts(connect_s=2.0, first_token_s=0.3, between_tokens_s=0.3, total_s=0.8)


async def ask(script, protocol=TGI, *, requests=1, timeouts=FAST, stream=True):
    """Send requests one after the other; the exchanges."""
    async with serving(lambda number: script) as url, tb.HttpEndpoint(url, protocol).connect() as client:
        request = tb.GenerationRequest(prompt="Hello", max_new_tokens=N, stream=stream)
        return [await client.generate(request, timeouts) for _ in range(requests)]


async def cancelled(script, protocol=TGI):
    """Cancel a request after a while; the arguments of the cancellation."""
    told = []

    async def asking(client):
        try:
            await client.generate(tb.GenerationRequest(prompt="Hello"), tb.Timeouts())
        except asyncio.CancelledError as cancellation:
            told.append(cancellation.args)
            raise

    async with (
        serving(lambda number: script) as url,
        tb.HttpEndpoint(url, protocol).connect() as client,
        asyncio.TaskGroup() as group,
    ):
        task = group.create_task(asking(client))
        await asyncio.sleep(0.2)
        task.cancel()
    (arguments,) = told
    return arguments


@pytest.mark.parametrize("name", SUCCESSES)
async def test_every_legal_form_is_a_success_with_exact_tokens(name):
    """Whatever the framing, eight tokens are eight tokens."""
    protocol, script = SUCCESSES[name]
    (exchange,) = await ask(script, protocol)
    assert exchange.failure is None
    assert exchange.output_tokens == N
    assert int(exchange.chunk_tokens.sum()) == N
    assert exchange.started_s <= exchange.sent_s <= exchange.chunk_times_s[0]
    assert exchange.chunk_times_s[-1] <= exchange.ended_s


@pytest.mark.parametrize("name", FAILURES)
async def test_every_failure_has_its_one_kind_and_keeps_the_partial_tokens(name):
    """Kind, status and the tokens that arrived."""
    protocol, script, kind, status, tokens = FAILURES[name]
    (exchange,) = await ask(script, protocol)
    assert exchange.failure is not None
    assert (exchange.failure.kind, exchange.failure.status) == (kind, status)
    assert exchange.failure.message
    if tokens is not None:
        assert exchange.output_tokens == tokens
        assert int(exchange.chunk_tokens.sum()) == tokens


SAID = {  # of an error, before the answer is whole
    "an event": (TGI, [HEAD, chunk(OVERLOAD)], "overloaded", 200, "Model is overloaded"),
    "a chat event": (
        CHAT,
        [HEAD, chunk(b'data: {"error":{"message":"Input validation error: x"}}\n\n')],
        "validation",
        200,
        "Input validation error: x",
    ),
    "HTTP 503": (TGI, [response(503, b"Overloaded.", "text/plain")[:-1]], "overloaded", 503, "Overloaded"),
    "HTTP 422 alone": (TGI, [response(422, b"x")[:-1]], "validation", 422, "HTTP 422 with an empty body"),
}


@pytest.mark.parametrize("end", [ABORT, RESET, 5.0], ids=["closed", "reset", "for ever"])
@pytest.mark.parametrize("name", SAID)
async def test_what_the_server_said_of_an_error_is_kept_when_the_connection_then_fails(name, end):
    """Kind, status and words are those of the same error delivered whole."""
    protocol, script, *said = SAID[name]
    (exchange,) = await ask([*script, 0.05, end], protocol)
    assert [exchange.failure.kind, exchange.failure.status, exchange.failure.message] == said


@pytest.mark.parametrize("name", SAID)
async def test_what_the_server_said_of_an_error_is_told_of_a_cancelled_request(name):
    """The exchange is an argument of the cancellation."""
    protocol, script, *said = SAID[name]
    (exchange,) = await cancelled([*script, 5.0], protocol)
    assert [exchange.failure.kind, exchange.failure.status, exchange.failure.message] == said


@pytest.mark.parametrize("script", [[5.0], [HEAD, 5.0], [HEAD, chunk(EVENTS[0]), chunk(OVERLOAD[:30]), 5.0]])
async def test_a_cancellation_before_the_server_said_anything_tells_nothing(script):
    """It is a cancellation and no more."""
    assert await cancelled(script) == ()


@pytest.mark.parametrize(
    "rest", [[], [chunk(EVENTS[1]), *map(chunk, EVENTS[2:]), END]], ids=["for ever", "then goes on"]
)
async def test_a_gap_longer_than_the_limit_ends_the_request_whenever_it_comes(rest):
    """A stall early in an answer is found though the first token would have been allowed much longer."""
    limits = tb.Timeouts(first_token_s=30.0, between_tokens_s=0.3, total_s=60.0)
    (exchange,) = await ask([HEAD, 0.1, chunk(EVENTS[0]), 1.0, *rest], timeouts=limits)
    assert exchange.failure.kind is tb.FailureKind.TIMEOUT_BETWEEN_TOKENS
    assert exchange.ended_s - exchange.chunk_times_s[0] < 0.9


async def test_nobody_listening_is_a_refused_connection():
    """A port without a server."""
    async with serving(lambda number: []) as url:
        pass
    async with tb.HttpEndpoint(url).connect() as client:
        exchange = await client.generate(tb.GenerationRequest(prompt="Hello"), FAST)
    assert exchange.failure.kind is tb.FailureKind.CONNECTION_REFUSED


async def test_a_kept_alive_connection_is_used_again_and_told_from_a_new_one():
    """Connect time belongs to the first request alone, and is no part of TTFT."""
    first, second, third = await ask(stream(*EVENTS), requests=3)
    assert first.connect_s > 0
    assert (second.connect_s, third.connect_s) == (None, None)
    assert [exchange.output_tokens for exchange in (first, second, third)] == [N, N, N]


async def test_a_failed_request_is_sent_once_only():
    """Nothing is ever retried, on a connection kept alive neither."""
    seen = []

    def script(number):
        seen.append(number)
        return stream(*EVENTS) if number == 0 else [RESET]

    async with serving(script) as url, tb.HttpEndpoint(url).connect() as client:
        kinds = []
        for _ in range(3):
            exchange = await client.generate(tb.GenerationRequest(prompt="Hello"), FAST)
            kinds.append(exchange.failure and exchange.failure.kind)
    assert kinds == [None, "connection_reset", "connection_reset"]
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("protocol", [TGI, tb.TgiCompatProtocol(), CHAT, tb.OpenAICompletionsProtocol()])
async def test_answers_that_are_no_stream(protocol):
    """One chunk with all tokens; no time to first token; TGI's header timings in seconds."""
    if protocol.name.startswith("tgi"):
        answer = {"generated_text": "x", "details": {"finish_reason": "length", "generated_tokens": N}}
        body = json.dumps([answer] if protocol.name == "tgi-compat" else answer).encode()
    else:
        choice = {"index": 0, "message": {"content": "x"}, "text": "x", "finish_reason": "length"}
        body = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": N}}).encode()
    head = response(200, body).replace(b"\r\n\r\n", b"\r\nx-queue-time: 12\r\nx-inference-time: 240\r\n\r\n", 1)
    (exchange,) = await ask([head], protocol, stream=False)
    assert exchange.failure is None
    assert (exchange.output_tokens, exchange.streamed, exchange.chunk_tokens.tolist()) == (N, False, [N])
    if protocol.name.startswith("tgi"):
        assert (exchange.server.queue_s, exchange.server.inference_s) == (0.012, 0.24)


async def test_two_hundred_requests_are_in_flight_at_once():
    """No hidden cap on connections."""
    most = now = 0

    def script(number):
        return [HEAD, chunk(EVENTS[0]), 0.5, *map(chunk, EVENTS[1:]), END]

    async with serving(script) as url:
        log = await tb.run_load(
            tb.HttpEndpoint(url), tb.ClosedLoop(200, requests=200), tb.FixedPrompt(prompt="x"), give_up_after=1000
        )
    starts, ends = log.sent_s, log.ended_s
    most = max(now := int(((starts <= t) & (ends > t)).sum()) for t in starts)
    assert log.counts["succeeded"] == 200
    assert most == 200
    assert now


async def test_no_task_is_left_behind():
    """After a run with failures of every kind the loop has this test's task only."""
    scripts = [script for _, script, *_ in FAILURES.values()]
    async with serving(lambda number: scripts[number % len(scripts)]) as url, tb.HttpEndpoint(url).connect() as client:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(client.generate(tb.GenerationRequest(prompt="x"), FAST)) for _ in range(len(scripts))
            ]
        assert all(task.result().failure for task in tasks)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_aiohttp_without_the_hooks_is_read_chunk_by_chunk_and_says_so(monkeypatch):
    """The same tokens; the stamps are called STREAM_READ."""
    monkeypatch.setattr("tgibench.transports._hook", lambda connector, reader: False)
    async with serving(lambda number: stream(*EVENTS)) as url, tb.HttpEndpoint(url).connect() as client:
        exchange = await client.generate(tb.GenerationRequest(prompt="Hello"), FAST)
        assert client.stamps is tb.StampSource.STREAM_READ
    assert exchange.output_tokens == N


async def test_on_linux_without_tls_stamps_are_the_kernels():
    """What the result says of its clock."""
    async with serving(lambda number: stream(*EVENTS)) as url, tb.HttpEndpoint(url).connect() as client:
        await client.generate(tb.GenerationRequest(prompt="Hello"), FAST)
        assert client.stamps is (tb.StampSource.KERNEL if sys.platform == "linux" else tb.StampSource.SOCKET_READ)


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://x", "http://", "http://host:notaport"])
def test_what_is_no_url_is_refused(url):
    """The error names it."""
    with pytest.raises(tb.InvalidValueError, match="url must be http"):
        tb.HttpEndpoint(url)


@pytest.mark.parametrize("url", ["http://host/?key=verysecret", "http://host/v1#part", "http://host?"])
def test_a_url_that_goes_on_behind_its_path_is_refused(url):
    """The protocol's path would become part of the query; what the query holds may be secret."""
    with pytest.raises(tb.InvalidValueError, match="must end where the protocol adds its path") as refused:
        tb.HttpEndpoint(url)
    assert "verysecret" not in str(refused.value)


def test_half_a_character_in_a_server_s_words_can_be_printed():
    """JSON can say it, an output cannot."""
    failure = tb.Failure(tb.FailureKind.HTTP_ERROR, "bad \ud800 input", 400)
    assert failure.message == "bad \\ud800 input"


def test_a_url_with_a_password_is_refused_without_showing_it():
    """It would end up in results."""
    with pytest.raises(tb.InvalidValueError, match="must hold no user or password") as refused:
        tb.HttpEndpoint("http://user:verysecret@host")
    assert "verysecret" not in str(refused.value)


def test_a_key_that_is_no_header_is_refused_without_showing_it():
    """A line feed from a file, say."""
    with pytest.raises(tb.InvalidValueError, match="api_key must be printable") as refused:
        tb.HttpEndpoint("http://host", api_key="sk-verysecret\n")
    assert "verysecret" not in str(refused.value)


def test_keys_are_shown_nowhere():
    """No repr holds them."""
    endpoint = tb.HttpEndpoint("http://x", api_key="sk-verysecret", headers=(("X-Key", "alsosecret"),))
    assert "secret" not in repr(endpoint)
