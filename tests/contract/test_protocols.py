"""The protocols that tgibench ships pass the contract that it ships."""

from __future__ import annotations

import json

import attrs

import tgibench as tb
from scripted_server import chat_event, tgi_event
from tgibench.protocols import ResponseHead
from tgibench.protocols._event_stream import MEDIA_TYPE, encode_frame
from tgibench.testing import Answer, ProtocolContract

JSON = ResponseHead(200, {"content-type": "application/json"})
TGI_LAST = (
    b'{"index":3,"token":{"id":2,"text":"","logprob":-0.1,"special":true},"generated_text":"a caf\xc3\xa9",'
    b'"details":{"finish_reason":"eos_token","generated_tokens":3,"seed":null,"input_length":9}}'
)


def tgi_answers(prefix=b"data: ", end=b"\n\n"):
    """As TGI writes them, in one framing."""
    tokens = [
        b'{"index":%d,"token":{"id":5,"text":"%s","logprob":-0.5,"special":false},"generated_text":null,"details":null}'
        % (number, text)
        for number, text in enumerate((b"a", b" caf\xc3\xa9"), start=1)
    ]
    body = b"".join(prefix + token + end for token in tokens)
    said = {"output_tokens": 3, "input_tokens": 9, "finish_reason": "eos_token"}
    error = b'{"error":"Request failed during generation: Server error: x","error_type":"generation"}'
    overloaded = b'{"error":"Model is overloaded","error_type":"overloaded"}'
    return (
        Answer(body=body, end=prefix + TGI_LAST + end, text="a caf\u00e9", **said),
        Answer(body=b":\n\n" + body + prefix + error + end, failure=tb.FailureKind.GENERATION),
        Answer(body=prefix + overloaded + end, failure=tb.FailureKind.OVERLOADED),
    )


SPACED = Answer(
    body=tgi_event(1, 2), end=tgi_event(2, 2), text="all of it", output_tokens=2, finish_reason="length"
)  # fmt: skip


def tgi_body(before=b"{", after=b"}"):
    """A whole answer of `/generate`, or a list of one as the root path gives it."""
    details = b'"details":{"finish_reason":"length","generated_tokens":2,"seed":null,"prefill":[],"tokens":[]}'
    return Answer(
        head=ResponseHead(200, {"content-type": "application/json", "x-prompt-tokens": "4"}),
        streamed=False,
        body=before + b'"generated_text":"caf\xc3\xa9",' + details,
        end=after,
        text="caf\u00e9",
        output_tokens=2,
        input_tokens=4,
        finish_reason="length",
    )


class TestTgi(ProtocolContract):
    """`/generate` and `/generate_stream`, framed as TGI did before and since 2.1, and otherwise."""

    protocol = tb.TgiProtocol()
    answers = (*tgi_answers(), *tgi_answers(b"data:"), *tgi_answers(end=b"\r\n\r\n"), SPACED, tgi_body())


class TestTgiCompat(ProtocolContract):
    """The root path."""

    protocol = tb.TgiCompatProtocol()
    answers = (*tgi_answers(), tgi_body(), tgi_body(b"[{", b"}]"))


def openai_chunk(text, *, part, **further):
    """A chunk of a chat or of a completion."""
    said = {"delta": {"role": "assistant", "content": text}} if part == "delta" else {"text": text}
    choice = {"index": 0, **said, "finish_reason": further.pop("reason", None)}
    return b"data: %s\n\n" % json.dumps({"choices": [choice], **further}, ensure_ascii=False).encode()


def openai_answers(part):
    """Usage in a chunk of its own, on the last chunk, and nowhere; errors in each form; a whole answer."""
    usage = {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
    body = b"".join(openai_chunk(text, part=part, usage=None) for text in ("a", "", " caf\u00e9", ' "'))
    finish, done = openai_chunk("", part=part, reason="stop"), b"data: [DONE]\n\n"
    apart = b"data: %s\n\n" % json.dumps({"choices": [], "usage": usage}).encode()
    said = {"text": 'a caf\u00e9 "', "finish_reason": "stop"}
    counted = {**said, "output_tokens": 3, "input_tokens": 4}
    holder = {"message": {"content": "caf\u00e9"}} if part == "delta" else {"text": "caf\u00e9"}
    whole = json.dumps({"usage": usage, "choices": [{"index": 0, **holder, "finish_reason": "stop"}]}).encode()
    nested = b'data: {"error":{"message":"Model is overloaded","http_status_code":422}}\n\ndata: [DONE]\n\n'
    flat = b'data: {"error":"Input validation error: x","error_type":"validation"}\n\n'
    return (
        Answer(body=body, end=finish + apart + done, **counted),
        Answer(body=body, end=openai_chunk("", part=part, reason="stop", usage=usage), **counted),
        Answer(body=body, end=finish, **said),
        Answer(body=body, end=done, text=said["text"]),
        Answer(body=body + nested, failure=tb.FailureKind.OVERLOADED),
        Answer(body=flat, failure=tb.FailureKind.VALIDATION),
        Answer(
            head=JSON, streamed=False, body=whole[:-9], end=whole[-9:], text="caf\u00e9", finish_reason="stop",
            output_tokens=3, input_tokens=4,
        ),
    )  # fmt: skip


class TestOpenAIChat(ProtocolContract):
    """`/v1/chat/completions`."""

    protocol = tb.OpenAIChatProtocol(model="m")
    answers = (
        *openai_answers("delta"),
        Answer(
            body=chat_event("x") + chat_event("y"), end=chat_event("", finish="length", usage=2), text="xy",
            output_tokens=2, input_tokens=5, finish_reason="length",
        ),
    )  # fmt: skip


class TestOpenAICompletions(ProtocolContract):
    """`/v1/completions`."""

    protocol = tb.OpenAICompletionsProtocol(model="m")
    answers = openai_answers("text")


LINES = ResponseHead(200, {"content-type": "application/jsonlines"})


def lmi_answers():
    """LMI's own schema as JSON lines: of its rolling batch, of its asynchronous handler (blank lines, a count too high), and failures."""
    old = [{"token": {"id": 5, "text": text, "log_prob": -0.5}} for text in ("a", " caf\u00e9", "!")]
    details = {"finish_reason": "length", "generated_tokens": 3, "inputs": "x"}
    old[-1] |= {"generated_text": "a caf\u00e9!", "details": details}
    new = [
        {"index": 0, "token": {"id": 5, "text": text, "logprob": -0.5}, "generated_text": None, "details": None}
        for text in ("a", " caf\u00e9", "!")
    ]
    told = {"finish_reason": "length", "seed": None, "generated_tokens": 4, "input_length": 9}
    new[-1] |= {"generated_text": "a caf\u00e9!", "details": told}
    old, new = ([json.dumps(line, ensure_ascii=False).encode() for line in lines] for lines in (old, new))
    error = json.dumps(
        {"token": {"id": -1, "text": "", "log_prob": -1}, "generated_text": "", "details": {"finish_reason": "error"}}
    )
    said = {"head": LINES, "text": "a caf\u00e9!", "output_tokens": 3, "finish_reason": "length"}
    return (
        Answer(body=b"\n".join(old[:2]) + b"\n", end=old[2] + b"\n", **said),
        Answer(body=b"\n\n".join(new[:2]) + b"\n", end=new[2] + b"\n\n\n", input_tokens=9, **said),
        Answer(head=LINES, body=old[0] + b"\n" + error.encode() + b"\n", failure=tb.FailureKind.GENERATION),
        Answer(
            head=LINES,
            body=new[0] + b'\n{"error": {"message": "during generation", "code": 424}}\n',
            failure=tb.FailureKind.GENERATION,
        ),
    )


def lmi_chat_answers():
    """Chunks of a chat as JSON lines, with and without usage; and an error."""
    chunks = [openai_chunk(text, part="delta")[6:-1] for text in ("a", " caf\u00e9")]
    usage = {"prompt_tokens": 4, "completion_tokens": 3}
    finish = openai_chunk("!", part="delta", reason="length")[6:-1]
    counted = json.dumps({"choices": [], "usage": usage}).encode()
    failed = openai_chunk("", part="delta", reason="error")[6:-1]
    said = {"head": LINES, "text": "a caf\u00e9!", "finish_reason": "length"}
    return (
        Answer(body=b"".join(chunks), end=finish, **said),
        Answer(body=b"\n".join(chunks), end=finish + counted + b"\n\n", output_tokens=3, input_tokens=4, **said),
        Answer(head=LINES, body=chunks[0] + failed, failure=tb.FailureKind.GENERATION),
    )


class TestLmi(ProtocolContract):
    """TGI's bodies, which LMI takes, answered in JSON lines."""

    protocol = tb.TgiCompatProtocol()
    answers = lmi_answers()


class TestLmiChat(ProtocolContract):
    """OpenAI's bodies, answered in JSON lines."""

    protocol = tb.OpenAIChatProtocol()
    answers = lmi_chat_answers()


class TestSageMakerLmi(ProtocolContract):
    """JSON lines in frames that cut them anywhere."""

    protocol = tb.SageMakerProtocol(endpoint_name="e")

    @property
    def answers(self):
        """Those of LMI, framed."""
        return tuple(framed(answer, size) for answer in lmi_answers() for size in (7, 110))


def framed(answer, size):
    """The same in Amazon's frames, of so many bytes of the container's output; its end is a frame of its own."""
    event = {":message-type": "event", ":event-type": "PayloadPart"}
    parts = [answer.body[at : at + size] for at in range(0, len(answer.body), size)]
    head = ResponseHead(
        200, {"content-type": MEDIA_TYPE, "x-amzn-sagemaker-content-type": answer.head.headers["content-type"]}
    )
    body = b"".join(encode_frame(event, part) for part in parts)
    return attrs.evolve(answer, head=head, body=body, end=encode_frame(event, answer.end))


class TestSageMaker(ProtocolContract):
    """TGI's streams in frames that cut them anywhere."""

    protocol = tb.SageMakerProtocol(endpoint_name="e")
    answers = tuple(framed(answer, size) for answer in tgi_answers() for size in (7, 50, 110))
