"""The OpenAI-compatible API: what is sent, and what each server's answers mean."""

from __future__ import annotations

import json

import pytest

import tgibench as tb
from tgibench.protocols import ResponseHead

STREAM = ResponseHead(200, {"content-type": "text/event-stream"})
JSON = ResponseHead(200, {"content-type": "application/json"})
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


def chunk(**fields):
    """One event."""
    return f"data: {json.dumps(fields)}\n\n".encode()


def delta(text, finish_reason=None, **fields):
    """A chat chunk with the role, as TGI sends it each time."""
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return chunk(id="", choices=[choice], **fields)


def answer(head, *pieces, clean=True, protocol=None):
    """Counts and completion."""
    decoder = (protocol or tb.OpenAIChatProtocol()).decoder(head)
    counts = [count for piece in pieces for count in decoder.feed(piece)]
    return counts, decoder.close(clean=clean)


def test_a_greedy_chat_asks_for_temperature_nought_and_usage():
    """TGI takes any model's name but its own for an adapter."""
    sent = tb.OpenAIChatProtocol().encode(tb.GenerationRequest(prompt="hi", max_new_tokens=7))
    assert (sent.path, sent.streamed) == ("/v1/chat/completions", True)
    assert json.loads(sent.body) == {
        "model": "tgi",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 7,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_whole_completion_asks_for_no_stream_options():
    """Servers refuse them without a stream."""
    request = tb.GenerationRequest(prompt="hi", temperature=0.5, seed=3, stop=("a",), stream=False, max_new_tokens=7)
    sent = tb.OpenAICompletionsProtocol(model="m").encode(request)
    assert (sent.path, sent.streamed) == ("/v1/completions", False)
    assert json.loads(sent.body) == {
        "model": "m",
        "prompt": "hi",
        "max_tokens": 7,
        "temperature": 0.5,
        "stream": False,
        "seed": 3,
        "stop": ["a"],
    }


@pytest.mark.parametrize(
    ("ending", "tokens"),
    [
        ([delta("", "stop", usage=USAGE), DONE], 2),  # TGI 2.3 to 3.1
        ([delta("", "stop", usage=None), chunk(choices=[], usage=USAGE), DONE], 2),  # TGI from 3.2, vLLM
        ([delta("", "eos_token"), DONE], None),  # TGI 2.2
        ([delta("", "eos_token")], None),  # TGI 1.4
    ],
)
def test_usage_comes_on_the_last_chunk_in_one_of_its_own_or_not_at_all(ending, tokens):
    """And [DONE] may be absent."""
    counts, completion = answer(STREAM, delta(""), delta("a"), delta("b"), *ending)
    assert counts == [1, 1, 0]
    assert (completion.failure, completion.text, completion.output_tokens) == (None, "ab", tokens)


def test_a_finish_reason_that_is_empty_is_none():
    """TGI's completions write "" until the last chunk, and up to 2.4 even there: [DONE] then ends the answer."""
    chunks = [chunk(choices=[{"index": 0, "text": text, "finish_reason": ""}]) for text in "ab"]
    protocol = tb.OpenAICompletionsProtocol()
    counts, completion = answer(STREAM, *chunks, DONE, protocol=protocol)
    assert (counts, completion.failure, completion.text, completion.finish_reason) == ([1, 1], None, "ab", None)
    assert answer(STREAM, *chunks, protocol=protocol)[1].failure.kind is tb.FailureKind.TRUNCATED


def test_done_without_any_text_is_no_answer():
    """Nothing was generated and nothing said to be finished."""
    assert answer(STREAM, DONE)[1].failure.kind is tb.FailureKind.TRUNCATED


@pytest.mark.parametrize("names", [("reasoning",), ("reasoning_content",), ("reasoning", "reasoning_content")])
def test_reasoning_is_text_once(names):
    """Under either name; some servers send both."""
    thought = chunk(choices=[{"delta": dict.fromkeys(names, "hm")}])
    counts, completion = answer(STREAM, thought, delta("a"), delta("", "stop"))
    assert (counts, completion.text) == ([1, 1, 0], "hma")


def test_chunks_that_differ_beside_their_text_are_read_for_what_they_are():
    """A role, a reason or an error in the routine chunk's place is seen."""
    role = chunk(id="", choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    tricky = '","finish_reason":"stop'
    counts, completion = answer(STREAM, delta("a"), delta("b"), role, delta(tricky), delta("c", "length"))
    assert counts == [1, 1, 1, 1]
    assert (completion.text, completion.finish_reason) == ("ab" + tricky + "c", "length")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "Model is overloaded", "http_status_code": 422}, tb.FailureKind.OVERLOADED),
        ({"message": "Input validation error: x", "http_status_code": 422}, tb.FailureKind.VALIDATION),
        ({"message": "Request failed during generation: x", "http_status_code": 422}, tb.FailureKind.GENERATION),
        ({"message": "x", "type": "BadRequestError", "code": 400}, tb.FailureKind.VALIDATION),
        ({"message": "x", "code": 503}, tb.FailureKind.OVERLOADED),
        ({"message": "engine died", "code": 500}, tb.FailureKind.GENERATION),
        ("CUDA error", tb.FailureKind.GENERATION),
    ],
)
def test_errors_inside_a_stream_are_told_apart_by_their_words(error, kind):
    """TGI numbers every one of them 422, and [DONE] follows."""
    counts, completion = answer(STREAM, delta("a"), chunk(error=error), DONE)
    message = error if isinstance(error, str) else error["message"]
    assert (counts, completion.text) == ([1], "a")
    assert completion.failure == tb.Failure(kind, message, 200)


def test_an_error_may_be_the_event_itself():
    """As older servers send it."""
    _, completion = answer(STREAM, chunk(object="error", message="too long", type="BadRequestError", code=400), DONE)
    assert completion.failure == tb.Failure(tb.FailureKind.VALIDATION, "too long", 200)


@pytest.mark.parametrize(
    "piece",
    [
        b"data: {broken\n\n",
        chunk(choices={"a": 1}),
        chunk(choices=5),
        chunk(choices=[1]),
        chunk(choices=[{"text": {"a": 1}}]),
        delta("a").replace(b'"a"', b'"\xff"'),  # differs from the chunk before in its text alone, but is no UTF-8
    ],
)
def test_bytes_that_the_protocol_does_not_allow_are_undecodable(piece):
    """Even when the answer then ends as it should."""
    _, completion = answer(STREAM, delta("a"), piece, delta("", "stop"), DONE)
    assert completion.failure.kind is tb.FailureKind.UNDECODABLE


@pytest.mark.parametrize("usage", ["x", 5, [1], {"completion_tokens": "7"}, {"completion_tokens": 1.5}])
def test_usage_that_makes_no_sense_says_nothing(usage):
    """The tokens are then counted from the chunks."""
    _, completion = answer(STREAM, delta("a"), delta("", "stop", usage=usage))
    assert (completion.failure, completion.output_tokens) == (None, None)


def test_whole_answers_of_both_kinds_are_read():
    """Chat holds a message, completions a text."""
    chat = {"choices": [{"message": {"role": "assistant", "content": "é"}, "finish_reason": "length"}], "usage": USAGE}
    completions = {"choices": [{"text": "é", "finish_reason": "length"}], "usage": USAGE}
    for body in (chat, completions):
        counts, completion = answer(JSON, json.dumps(body).encode())
        assert counts == []
        assert (completion.failure, completion.text, completion.finish_reason) == (None, "é", "length")
        assert (completion.output_tokens, completion.input_tokens) == (2, 4)
