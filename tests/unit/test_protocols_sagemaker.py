"""SageMaker's runtime as a protocol: paths, frames around another protocol's stream, and errors of service and container."""

from __future__ import annotations

import json
import pickle

import pytest

import tgibench as tb
from scripted_server import chat_event, tgi_event
from tgibench.protocols import ResponseHead
from tgibench.protocols._event_stream import encode_frame

EVENT = {":message-type": "event", ":event-type": "PayloadPart"}
FRAMED = ResponseHead(
    200,
    {"content-type": "application/vnd.amazon.eventstream", "x-amzn-sagemaker-content-type": "text/event-stream"},
)
REQUEST = tb.GenerationRequest(prompt="Hello", max_new_tokens=4)


def protocol(inner=None, **options):
    """One for the endpoint `ep`."""
    return tb.SageMakerProtocol(endpoint_name="ep", inner=inner or tb.TgiProtocol(), **options)


def completion(head, *pieces, clean=True):
    """What an answer in these pieces says."""
    decoder = protocol().decoder(head)
    counts = [count for piece in pieces for count in decoder.feed(piece)]
    return counts, decoder.close(clean=clean)


def refusal(status, body, error_type=None, **headers):
    """The failure that an answer with this status is."""
    if error_type:
        headers["x-amzn-errortype"] = error_type
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return completion(ResponseHead(status, headers), raw)[1].failure


def test_streams_and_whole_answers_have_paths_of_their_own():
    """The body says which is wanted, as the container has one path for both; only streams want SageMaker's own accept header."""
    streamed, whole = protocol().encode(REQUEST), protocol().encode(tb.GenerationRequest(prompt="Hello", stream=False))
    assert streamed.path == "/endpoints/ep/invocations-response-stream"
    assert whole.path == "/endpoints/ep/invocations"
    assert (json.loads(streamed.body)["stream"], json.loads(whole.body)["stream"]) == (True, False)
    assert ("X-Amzn-SageMaker-Accept", "text/event-stream") in streamed.headers
    assert "X-Amzn-SageMaker-Accept" not in dict(whole.headers)


def test_openai_bodies_go_the_same_way_or_the_openai_path():
    """With an inference component in the path there, in a header elsewhere."""
    chat = tb.OpenAIChatProtocol()
    assert protocol(chat).encode(REQUEST).path == "/endpoints/ep/invocations-response-stream"
    assert protocol(chat, openai_path=True).encode(REQUEST).path == "/endpoints/ep/openai/v1/chat/completions"
    component = protocol(chat, openai_path=True, inference_component="ic").encode(REQUEST)
    assert component.path == "/endpoints/ep/inference-components/ic/openai/v1/chat/completions"
    header = dict(protocol(inference_component="ic", target_variant="v").encode(REQUEST).headers)
    assert (header["X-Amzn-SageMaker-Inference-Component"], header["X-Amzn-SageMaker-Target-Variant"]) == ("ic", "v")


@pytest.mark.parametrize("options", [{"endpoint_name": "a/b"}, {"endpoint_name": "-a"}, {"endpoint_name": "a" * 64}])
def test_a_name_that_is_none_is_refused(options):
    """Before it can become a path."""
    with pytest.raises(tb.InvalidValueError, match="endpoint_name must be"):
        tb.SageMakerProtocol(**options)


def test_the_openai_path_wants_an_openai_protocol():
    """TGI's own bodies are not understood there."""
    with pytest.raises(tb.InvalidValueError, match="openai_path needs"):
        protocol(openai_path=True)


def test_it_is_a_value():
    """It pickles, equals its copy and names what it carries."""
    one = protocol(tb.OpenAIChatProtocol())
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - our own bytes
    assert (one.name, one.tokens_per_chunk_known) == ("sagemaker:openai-chat", False)


def test_frames_that_cut_events_anywhere_give_the_whole_answer():
    """Each event over two frames, two events in one frame: one number for each token."""
    data = b"".join(tgi_event(number, 5) for number in range(1, 6))
    for size in (1, 7, 100, 150, len(data)):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        counts, whole = completion(FRAMED, *(encode_frame(EVENT, piece) for piece in pieces))
        assert counts == [1] * 5
        assert (whole.failure, whole.text, whole.output_tokens) == (None, "all of it", 5)


def test_an_openai_stream_inside_frames():
    """As the container wrote it, [DONE] included."""
    decoder = protocol(tb.OpenAIChatProtocol()).decoder(FRAMED)
    parts = [chat_event("a"), chat_event("b", finish="stop"), b"data: [DONE]\n\n"]
    counts = [count for part in parts for count in decoder.feed(encode_frame(EVENT, part))]
    assert (counts, decoder.close().text) == ([1, 1], "ab")


def test_a_frame_cut_off_at_the_end_of_a_whole_http_answer_is_truncation():
    """Even after the last event, and also where the container's stream itself stops early inside whole frames."""
    whole = [encode_frame(EVENT, tgi_event(number, 2)) for number in (1, 2)]
    cut_off, early = completion(FRAMED, *whole, whole[0][:-1])[1], completion(FRAMED, whole[0])[1]
    assert cut_off.failure.kind is early.failure.kind is tb.FailureKind.TRUNCATED
    assert "inside a frame" in cut_off.failure.message
    assert completion(FRAMED, whole[0], whole[1][:9], clean=False)[1].failure is None


def test_an_exception_inside_the_stream_fails_the_request_and_keeps_its_tokens():
    """With its error code, which botocore drops."""
    broken = {":message-type": "exception", ":exception-type": "ModelStreamError"}
    body = b'{"Message":"The model took too long","ErrorCode":"ModelInvocationTimeExceeded"}'
    counts, said = completion(FRAMED, encode_frame(EVENT, tgi_event(1, 9)), encode_frame(broken, body))
    assert counts == [1]
    assert said.text == " w1"
    assert said.failure == tb.Failure(
        tb.FailureKind.GENERATION, "ModelStreamError (ModelInvocationTimeExceeded): The model took too long", 200
    )


def test_a_container_that_answers_whole_where_a_stream_was_asked_for_fails():
    """There is no first token to time in it."""
    head = ResponseHead(200, {**FRAMED.headers, "x-amzn-sagemaker-content-type": "application/json"})
    counts, said = completion(head, encode_frame(EVENT, b'[{"generated_text":"x"}]'))
    assert counts == []
    assert said.failure.kind is tb.FailureKind.UNDECODABLE
    assert "application/json" in said.failure.message


def test_a_whole_answer_comes_as_the_container_gave_it():
    """A list of one."""
    body = b'[{"generated_text":"x","details":{"finish_reason":"length","generated_tokens":3}}]'
    said = completion(ResponseHead(200, {"content-type": "application/json"}), body)[1]
    assert (said.failure, said.text, said.output_tokens) == (None, "x", 3)


@pytest.mark.parametrize(
    ("original", "message", "kind"),
    [
        (429, '{"error":"Model is overloaded","error_type":"overloaded"}', tb.FailureKind.OVERLOADED),
        (422, '{"error":"Input validation error: x","error_type":"validation"}', tb.FailureKind.VALIDATION),
        (424, '{"error":"Request failed during generation: y"}', tb.FailureKind.GENERATION),
        (500, '{"error":"Incomplete generation"}', tb.FailureKind.HTTP_ERROR),
    ],
)
def test_a_model_error_is_what_the_container_said(original, message, kind):
    """Not the 424 that it comes with; the words are the container's."""
    body = {"OriginalStatusCode": original, "OriginalMessage": message, "Message": "Received client error"}
    failure = refusal(424, body, "ModelError:http://internal.amazon.com/")
    assert (failure.kind, failure.status) == (kind, 424)
    assert failure.message == f"{json.loads(message)['error']} (the container's status {original})"


def test_a_model_error_without_its_fields_is_read_from_its_sentence():
    """As the older form of the service's answer has it; without any status it is the model's."""
    body = {"Message": 'Received client error (429) from primary with message "Model is overloaded".'}
    assert refusal(424, body, "ModelError").kind is tb.FailureKind.OVERLOADED
    assert refusal(424, {"Message": "?"}, "ModelError").kind is tb.FailureKind.GENERATION


@pytest.mark.parametrize(
    "body",
    [
        b'{"OriginalStatusCode":429,"OriginalMessage":"Model is over',
        b'{"Message":"Received client error (429) from primary with mess',
    ],
)
def test_a_model_error_that_was_cut_off_is_read_as_far_as_it_came(body):
    """The container's status is in it, and so are the words that came."""
    failure = refusal(424, body, "ModelError")
    assert (failure.kind, failure.status) == (tb.FailureKind.OVERLOADED, 424)
    assert body.decode() in failure.message


@pytest.mark.parametrize(
    ("status", "name", "kind"),
    [
        (400, "ThrottlingException", tb.FailureKind.OVERLOADED),
        (503, "ServiceUnavailable", tb.FailureKind.OVERLOADED),
        (400, "ValidationError", tb.FailureKind.VALIDATION),
        (403, "ExpiredTokenException", tb.FailureKind.HTTP_ERROR),
        (500, "InternalFailure", tb.FailureKind.HTTP_ERROR),
        (530, "InternalDependencyException", tb.FailureKind.HTTP_ERROR),
    ],
)
def test_the_services_own_errors_keep_their_name(status, name, kind):
    """In the header or in the body."""
    assert refusal(status, {"Message": "m"}, name) == tb.Failure(kind, f"{name}: m", status)
    assert refusal(status, {"__type": f"com.amazon#{name}", "message": "m"}) == tb.Failure(kind, f"{name}: m", status)


def test_a_refused_signatures_message_shows_no_session_token():
    """The service repeats what was signed."""
    words = "The request signature we calculated does not match.\n\nThe Canonical String for this request should have been\n"
    failure = refusal(403, {"message": words + "'POST\nx-amz-security-token:SECRET'"}, "InvalidSignatureException")
    assert failure.message == "InvalidSignatureException: The request signature we calculated does not match."


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"null"])
def test_an_error_that_is_no_json_is_still_one(body):
    """A proxy's page, or nothing."""
    assert refusal(502, body).kind is tb.FailureKind.HTTP_ERROR
    assert refusal(424, body, "ModelError").kind is tb.FailureKind.GENERATION


@pytest.mark.parametrize(("lines", "told", "counted"), [(3, 3, 3), (3, 4, 3), (3, 6, 6), (1, 2, 1)])
def test_a_count_that_lmi_told_one_too_high_is_put_right(lines, told, counted):
    """Its asynchronous handler adds one to vLLM's; a line may carry several tokens, and then only the server knows."""
    head = ResponseHead(200, {**FRAMED.headers, "x-amzn-sagemaker-content-type": "application/jsonlines"})
    body = [{"index": 0, "token": {"id": 1, "text": "a", "logprob": 0.0}, "generated_text": None} for _ in range(lines)]
    body[-1] |= {"generated_text": "a" * lines, "details": {"finish_reason": "length", "generated_tokens": told}}
    counts, said = completion(head, *(encode_frame(EVENT, json.dumps(line).encode() + b"\n") for line in body))
    assert (counts, said.output_tokens, said.failure) == ([1] * lines, counted, None)
