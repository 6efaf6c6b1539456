"""What scripts of the shipped scripted server are made of: heads, framing and the events of the protocols."""

from __future__ import annotations

import json

from tgibench.testing.scripted_server import ABORT, RESET
from tgibench.testing.scripted_server import scripted_server as serving

__all__ = [
    "ABORT",
    "CLOSE_DELIMITED",
    "END",
    "HEAD",
    "RESET",
    "chat_event",
    "chunk",
    "response",
    "serving",
    "tgi_event",
]

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
CLOSE_DELIMITED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def chunk(data):
    """A piece in chunked framing."""
    return b"%x\r\n%s\r\n" % (len(data), data)


END = b"0\r\n\r\n"


def response(status, body, content_type="application/json"):
    """A whole answer with a length."""
    return f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def tgi_event(number, of, *, space=True, end="\n\n"):
    """The SSE event of one token; the last says that it is."""
    last = number == of
    event = {
        "index": number,
        "token": {"id": 100 + number, "text": f" w{number}", "logprob": -0.5, "special": False},
        "generated_text": "all of it" if last else None,
        "details": {"finish_reason": "length", "generated_tokens": of, "seed": None} if last else None,
    }
    return f"data:{' ' if space else ''}{json.dumps(event, separators=(',', ':'))}{end}".encode()


def chat_event(text, *, finish=None, usage=None, end="\n\n"):
    """The SSE event of a chat chunk."""
    event = {
        "object": "chat.completion.chunk", "id": "", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish}],
    }  # fmt: skip
    if usage:
        event["usage"] = {"prompt_tokens": 5, "completion_tokens": usage, "total_tokens": usage + 5}
    return f"data: {json.dumps(event)}{end}".encode()
