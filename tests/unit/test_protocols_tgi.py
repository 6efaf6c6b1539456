"""TGI's own API: what is sent, and what each answer of any version means."""

from __future__ import annotations

import json

import pytest

import tgibench as tb
from tgibench.protocols import ResponseHead
from tgibench.records import ServerTimings

STREAM = ResponseHead(200, {"content-type": "text/event-stream"})
JSON = ResponseHead(200, {"content-type": "application/json"})


def event(text, *, prefix="data:", **further):
    """One token as TGI writes it."""
    token = {"id": 5, "text": text, "logprob": -0.5, "special": False}
    fields = {"token": token, "generated_text": None, "details": None, **further}
    return f"{prefix}{json.dumps(fields, separators=(',', ':'))}\n\n".encode()


def last(text, whole, **details):
    """The last token of an answer."""
    details = {"finish_reason": "length", "generated_tokens": 2, "seed": None, **details}
    return event(text, generated_text=whole, details=details)


def answer(head, *pieces, clean=True, protocol=None):
    """Counts and completion."""
    decoder = (protocol or tb.TgiProtocol()).decoder(head)
    counts = [count for piece in pieces for count in decoder.feed(piece)]
    return counts, decoder.close(clean=clean)


def test_a_greedy_request_sends_every_default_that_versions_disagree_on():
    """No temperature: TGI refuses 0."""
    sent = tb.TgiProtocol().encode(tb.GenerationRequest(prompt="hi", max_new_tokens=7))
    assert (sent.method, sent.path, sent.streamed) == ("POST", "/generate_stream", True)
    assert json.loads(sent.body) == {
        "inputs": "hi",
        "parameters": {
            "max_new_tokens": 7,
            "details": True,
            "decoder_input_details": False,
            "return_full_text": False,
            "do_sample": False,
        },
    }


def test_sampling_parameters_are_sent_as_given():
    """Stop is a list: TGI refuses a string."""
    request = tb.GenerationRequest(prompt="hi", temperature=0.5, seed=3, stop=("a", "b"), stream=False)
    sent = tb.TgiProtocol().encode(request)
    parameters = json.loads(sent.body)["parameters"]
    assert (sent.path, sent.streamed) == ("/generate", False)
    assert (parameters["temperature"], parameters["do_sample"]) == (0.5, True)
    assert (parameters["seed"], parameters["stop"]) == (3, ["a", "b"])


@pytest.mark.parametrize("stream", [True, False])
def test_the_root_path_is_told_in_the_body_whether_to_stream(stream):
    """Its path is the same for both."""
    sent = tb.TgiCompatProtocol().encode(tb.GenerationRequest(prompt="hi", stream=stream))
    assert sent.path == "/"
    assert json.loads(sent.body)["stream"] is stream


@pytest.mark.parametrize(
    ("first", "details", "input_tokens"),
    [
        (event("a"), {}, None),  # up to 1.3: no index, no space
        (event("a", index=1), {}, None),  # 1.4 to 2.0
        (event("a", index=1, prefix="data: "), {}, None),  # 2.1
        (event("a", index=1, prefix="data: "), {"input_length": 9}, 9),  # from 2.3
        (event("a", top_tokens=[{"id": 1, "text": '","x', "logprob": None, "special": False}]), {}, None),
    ],
)
def test_the_stream_of_every_version_is_understood(first, details, input_tokens):
    """Keep-alives are no tokens."""
    counts, completion = answer(STREAM, b":\n\n", first, b":\n\n", last("b", "ab", **details))
    assert counts == [1, 1]
    assert (completion.failure, completion.text, completion.finish_reason) == (None, "ab", "length")
    assert (completion.output_tokens, completion.input_tokens) == (2, input_tokens)


def test_a_token_without_text_counts_nought():
    """It may be a special token; whether it counts is settled against the server's total."""
    counts, _ = answer(STREAM, event("a"), event(""), last("", "a"))
    assert counts == [1, 0, 0]


@pytest.mark.parametrize("begun", [b":", b"x", b"data: {", b": keep-alive\r\n:", b"event: "])
def test_what_looks_like_an_event_but_goes_on_with_a_line_begun_before_is_none(begun):
    """A read that holds a whole event by itself may still be the rest of a comment or of another field."""
    counts, completion = answer(STREAM, event("a"), begun, event("b"), last("c", "ac"))
    together, completion_together = answer(STREAM, event("a") + begun + event("b") + last("c", "ac"))
    assert (counts, completion.failure) == (together, completion_together.failure)
    assert counts in ([1, 1], [1])


def test_a_line_of_an_event_that_was_begun_before_belongs_to_it():
    """Two data lines are one event, which is then no JSON."""
    counts, completion = answer(STREAM, event("a"), event("b")[:-1], event("c"), last("d", "ad"))
    assert (counts, completion.failure.kind) == ([1], tb.FailureKind.UNDECODABLE)


def test_a_last_event_without_its_blank_line_still_counts():
    """A server that closes early has said everything."""
    counts, completion = answer(STREAM, event("a"), last("b", "ab")[:-2])
    assert (counts, completion.failure, completion.text) == ([1], None, "ab")


def test_a_stream_that_ends_cleanly_before_its_last_event_is_truncated():
    """Its text so far is kept."""
    counts, completion = answer(STREAM, event("a"), last("b", "ab")[:40])
    assert (counts, completion.failure.kind, completion.text) == ([1], tb.FailureKind.TRUNCATED, "a")


def test_of_a_broken_connection_the_decoder_keeps_what_came_and_blames_nothing():
    """The client knows better what broke."""
    counts, completion = answer(STREAM, event("a"), event("b")[:-9], clean=False)
    assert (counts, completion.failure, completion.text) == ([1], None, "a")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"error": "Model is overloaded", "error_type": "overloaded"}, tb.FailureKind.OVERLOADED),
        ({"error": "Input validation error: `top_p`", "error_type": "validation"}, tb.FailureKind.VALIDATION),
        ({"error": "Request failed during generation: invalid", "error_type": "generation"}, tb.FailureKind.GENERATION),
        ({"error": "Incomplete generation", "error_type": "incomplete_generation"}, tb.FailureKind.GENERATION),
        ({"error": "something else"}, tb.FailureKind.GENERATION),
    ],
)
def test_errors_inside_a_stream_are_told_apart(error, kind):
    """The status was 200; tokens before it are kept and none after it counts."""
    counts, completion = answer(STREAM, event("a"), f"data:{json.dumps(error)}\n\n".encode(), event("b"))
    assert (counts, completion.text) == ([1], "a")
    assert completion.failure == tb.Failure(kind, error["error"], 200)


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (429, b'{"error":"Model is overloaded","error_type":"overloaded"}', tb.FailureKind.OVERLOADED, "Model is over"),
        (503, b'{"error":"unhealthy","error_type":"healthcheck"}', tb.FailureKind.OVERLOADED, "unhealthy"),
        (422, b'{"error":"Input validation error: x"}', tb.FailureKind.VALIDATION, "Input validation error: x"),
        (422, b"Failed to deserialize the JSON body", tb.FailureKind.VALIDATION, "Failed to deserialize"),
        (400, b'{"error":{"message":"bad","code":400}}', tb.FailureKind.VALIDATION, "bad"),
        (413, b"", tb.FailureKind.VALIDATION, "HTTP 413"),
        (415, b"Expected request", tb.FailureKind.VALIDATION, "Expected request"),
        (424, b'{"error":"Request failed","error_type":"generation"}', tb.FailureKind.GENERATION, "Request failed"),
        (401, b"", tb.FailureKind.HTTP_ERROR, "HTTP 401"),
        (500, b'{"error":"Incomplete generation"}', tb.FailureKind.HTTP_ERROR, "Incomplete generation"),
        (302, b"<html>", tb.FailureKind.HTTP_ERROR, "<html>"),
        (502, b"\xff\xfe", tb.FailureKind.HTTP_ERROR, "\ufffd"),
    ],
)
def test_the_status_classifies_an_error_and_the_body_words_it(status, body, kind, message):
    """Whatever form the body has, and in pieces."""
    counts, completion = answer(ResponseHead(status, {}), body[:3], body[3:])
    assert counts == []
    assert (completion.failure.kind, completion.failure.status) == (kind, status)
    assert completion.failure.message.startswith(message)


@pytest.mark.parametrize(
    "piece",
    [
        b"data:{broken\n\n",
        b"data:[1]\n\n",
        b'data:"text"\n\n',
        b'data:{"token":{"id":1,"text":5}}\n\n',
        b'data:{"token":{"id":1,"text":{"a":"b"}}}\n\n',
        b'data:{"a":' + b"[" * 100_000 + b"\n\n",
        event("a").replace(b'"a"', b'"\xff"'),  # of the routine shape, but no UTF-8
    ],
)
def test_bytes_that_the_protocol_does_not_allow_are_undecodable(piece):
    """Even when the answer then ends as it should."""
    _, completion = answer(STREAM, event("a"), piece, last("b", "ab"))
    assert completion.failure.kind is tb.FailureKind.UNDECODABLE


@pytest.mark.parametrize("details", ["x", [1], 5, {"generated_tokens": "7"}, {"generated_tokens": -1}])
def test_details_that_make_no_sense_say_nothing(details):
    """The text stands; the tokens are then counted from the chunks."""
    _, streamed = answer(STREAM, event("a", generated_text="a", details=details))
    _, whole = answer(JSON, json.dumps({"generated_text": "a", "details": details}).encode())
    for completion in (streamed, whole):
        assert (completion.failure, completion.text, completion.output_tokens) == (None, "a", None)


@pytest.mark.parametrize("form", ["{}", "[{}]"])
def test_a_whole_answer_is_an_object_or_at_the_root_a_list_of_one(form):
    """In pieces of any size."""
    body = '{"generated_text":"é","details":{"finish_reason":"eos_token","generated_tokens":3}}'
    data = form.replace("{}", body).encode()
    counts, completion = answer(JSON, *(bytes([byte]) for byte in data), protocol=tb.TgiCompatProtocol())
    assert counts == []
    assert (completion.failure, completion.text) == (None, "é")
    assert (completion.finish_reason, completion.output_tokens) == ("eos_token", 3)


def test_a_whole_answer_takes_times_and_missing_counts_from_the_headers():
    """Headers are in milliseconds."""
    headers = {
        "x-queue-time": "12",
        "x-inference-time": "340",
        "x-total-time": "355",
        "x-prompt-tokens": "9",
        "x-generated-tokens": "4",
    }
    _, completion = answer(ResponseHead(200, headers), b'{"generated_text":"a"}')
    assert (completion.input_tokens, completion.output_tokens) == (9, 4)
    assert completion.server == ServerTimings(queue_s=0.012, inference_s=0.34, total_s=0.355)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"[1]", b"5", b'{"generated_text":3}', b"{}"])
def test_a_whole_answer_of_another_form_is_undecodable(body):
    """No text, no answer."""
    _, completion = answer(JSON, body)
    assert completion.failure.kind is tb.FailureKind.UNDECODABLE


def test_the_content_type_decides_how_an_answer_is_read_and_not_the_request():
    """A server may stream unasked, or not stream though asked."""
    streamed = ResponseHead(200, {"content-type": "Text/Event-Stream; charset=utf-8"})
    assert answer(streamed, last("b", "b"))[1].failure is None
    assert answer(JSON, b'{"generated_text":"b"}')[1].failure is None
