"""Against a server of known timing (TTFT 100 ms, 10 ms a token, 64 tokens) every figure must come out right.

The server is scripted on the virtual clock below the transport seam: client, decoders, runner and metrics are the real ones, and the
truth is exact. That real sockets give the same outcomes and counts is tested apart, over HTTP.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import attrs
import pytest

import tgibench as tb
from scripted_server import chat_event, tgi_event
from tgibench.client import HttpClient
from tgibench.protocols import ResponseHead

TTFT_S, STEP_S, TOKENS = 0.1, 0.01, 64
LATENCY_S = TTFT_S + (TOKENS - 1) * STEP_S
STREAM = ResponseHead(200, {"content-type": "text/event-stream"})
TGI, CHAT = tb.TgiProtocol(), tb.OpenAIChatProtocol()


def tgi_events(end="\n\n", *, space=True):
    """All events of an answer, one a token."""
    return [tgi_event(number, TOKENS, end=end, space=space) for number in range(1, TOKENS + 1)]


def chat_events(per_chunk=1, end="\n\n"):
    """All events of a chat answer, `per_chunk` tokens each, usage on the last."""
    texts = [" w" * per_chunk] * (TOKENS // per_chunk)
    return [
        *(chat_event(text, end=end) for text in texts[:-1]),
        chat_event(texts[-1], finish="length", usage=TOKENS, end=end),
    ]


@attrs.frozen
class Script:
    """What the server does: pieces of body with the instant of each after the request, an end, a head."""

    pieces: tuple
    head: ResponseHead = STREAM
    failure: tb.Failure | None = None


def paced(events, *, per_piece=1, stall_before=None, stall_s=0.0, **script):
    """Each piece comes when its last token is made; from token number `stall_before` on everything is late by `stall_s`."""
    pieces = []
    tokens_each = TOKENS // len(events) if len(events) in (TOKENS, TOKENS // 4) else 1
    for start in range(0, len(events), per_piece):
        body = b"".join(events[start : start + per_piece])
        last = min(start + per_piece, len(events)) * tokens_each - 1
        late_s = stall_s if stall_before is not None and last >= stall_before else 0.0
        pieces.append((TTFT_S + last * STEP_S + late_s, body))
    return Script(tuple(pieces), **script)


@attrs.define
class ScriptedEndpoint:
    """An endpoint whose n-th request follows `scripts[n % len(scripts)]`, through the real client."""

    protocol: object
    scripts: list
    number: int = 0
    facts: dict = attrs.field(factory=dict)
    stamps = tb.StampSource.VIRTUAL

    @asynccontextmanager
    async def connect(self):
        yield HttpClient(self, self.protocol)

    async def exchange(self, request, arrivals, *, connect_timeout_s):
        script = self.scripts[self.number % len(self.scripts)]
        self.number += 1
        loop = asyncio.get_running_loop()
        arrivals.sent_s = loop.time()
        arrived = []

        def take():
            taken, arrived[:] = arrived[:], []
            return iter(taken)

        arrivals.take = take
        for instant_s, body in script.pieces:
            await asyncio.sleep(arrivals.sent_s + instant_s - loop.time())
            arrivals.head = script.head
            arrived.append((loop.time(), body))
        arrivals.head = script.head
        if script.failure is None:
            arrivals.ended_s = loop.time()
        return script.failure


def measured(protocol, *scripts, load=None):
    """Metrics of 24 requests at concurrency 4 of a server with these scripts."""
    load = load or tb.ClosedLoop(4, requests=24)
    prompts = tb.FixedPrompt(prompt="Hello", max_new_tokens=TOKENS)
    run = tb.run_load(ScriptedEndpoint(protocol, list(scripts)), load, prompts)
    return tb.Metrics.of(tb.virtual_time.run(run))


PLAIN = {
    "TGI": (TGI, paced(tgi_events())),
    "TGI, no space after data:": (TGI, paced(tgi_events(space=False))),
    "TGI, CRLF": (TGI, paced(tgi_events(end="\r\n\r\n"))),
    "chat": (CHAT, paced(chat_events())),
    "chat, CRLF": (CHAT, paced(chat_events(end="\r\n\r\n"))),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_run(name):
    """TTFT, TPOT, latency, tokens and both rates are the truth."""
    metrics = measured(*PLAIN[name])
    assert metrics.counts == {"issued": 24, "succeeded": 24, "failed": 0, "unsent": 0}
    assert metrics.ttft_s.mean == pytest.approx(TTFT_S)
    assert metrics.tpot_s.mean == pytest.approx(STEP_S)
    assert metrics.latency_s.mean == pytest.approx(LATENCY_S)
    assert (metrics.output_tokens.min, metrics.output_tokens.max) == (TOKENS, TOKENS)
    assert metrics.request_throughput_rps.value == pytest.approx(4 / LATENCY_S, rel=0.01)
    assert metrics.output_throughput_tps.value == pytest.approx(4 * TOKENS / LATENCY_S, rel=0.01)


@pytest.mark.parametrize(
    ("protocol", "script"),
    [(TGI, paced(tgi_events(), per_piece=4)), (CHAT, paced(chat_events(per_chunk=4)))],
    ids=["four TGI events in a read", "four tokens in a chat chunk"],
)
def test_four_tokens_a_chunk(protocol, script):
    """TPOT is exact though the first token cannot be told from the next three; gaps are those of the chunks."""
    metrics = measured(protocol, script)
    assert metrics.tpot_s.mean == pytest.approx(STEP_S, rel=0.02)
    assert metrics.ttft_s.mean == pytest.approx(TTFT_S + 3 * STEP_S)
    assert metrics.output_tokens.mean == TOKENS
    assert metrics.icl_s.max == pytest.approx(4 * STEP_S)


@pytest.mark.parametrize("per_chunk", [4, 16, 32])
def test_several_tokens_a_chunk_with_the_finish_and_usage_apart(per_chunk):
    """TPOT is as exact: the chunk that tells the finish reason alone carried none of them."""
    chunks = TOKENS // per_chunk
    texts = [(TTFT_S + (k * per_chunk - 1) * STEP_S, chat_event(" w" * per_chunk)) for k in range(1, chunks + 1)]
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":%d}}\n\n' % TOKENS
    metrics = measured(CHAT, Script((*texts, (LATENCY_S, chat_event("", finish="stop")), (LATENCY_S, usage))))
    assert metrics.tpot_s.mean == pytest.approx(STEP_S)
    assert metrics.output_tokens.mean == TOKENS


ERROR = b'data: {"error":"Request failed during generation: x","error_type":"generation"}\n\n'
RESET = tb.Failure(tb.FailureKind.CONNECTION_RESET, "reset by peer", 200)
REFUSED = Script(((0.001, b'{"error":"Model is overloaded"}'),), head=ResponseHead(429, {}))
QUARTER_FAILS = {
    "ends early, cleanly": (Script(paced(tgi_events()).pieces[:21]), "truncated"),
    "in-stream error": (Script((*paced(tgi_events()).pieces[:21], (0.5, ERROR))), "generation"),
    "TCP abort": (Script(paced(tgi_events()).pieces[:21], failure=RESET), "connection_reset"),
    "HTTP 429": (REFUSED, "overloaded"),
}


@pytest.mark.parametrize("name", QUARTER_FAILS)
def test_a_quarter_of_the_requests_fails(name):
    """Six of 24 fail, exactly; they touch no latency, and their partial tokens are in no throughput."""
    bad, kind = QUARTER_FAILS[name]
    good = paced(tgi_events())
    metrics = measured(TGI, good, good, good, bad)
    assert metrics.counts == {"issued": 24, "succeeded": 18, "failed": 6, "unsent": 0}
    assert dict(metrics.failures) == {kind: 6}
    assert metrics.latency_s.count == 18
    assert metrics.latency_s.max == pytest.approx(LATENCY_S)
    assert (metrics.output_tokens.min, metrics.output_tokens.max) == (TOKENS, TOKENS)


def test_a_two_second_stall_in_every_reply():
    """The gap shows it, the stall ratio counts it, TPOT alone would smear it."""
    metrics = measured(TGI, paced(tgi_events(), stall_before=32, stall_s=2.0))
    assert metrics.icl_s.max == pytest.approx(2.01)
    assert metrics.largest_gap_s.min == pytest.approx(2.01)
    assert metrics.stall_ratio.value == 1.0
    assert measured(TGI, paced(tgi_events())).stall_ratio.value == 0.0
