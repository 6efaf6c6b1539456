"""Scripts of answers and what becomes of them: every legal form, every failure."""

from __future__ import annotations

import gzip

import tgibench as tb
from scripted_server import ABORT, CLOSE_DELIMITED, END, HEAD, RESET, chat_event, chunk, response, tgi_event

__all__ = ["CHAT", "EVENTS", "FAILURES", "OVERLOAD", "SUCCESSES", "TGI", "N", "stream"]

N = 8
TGI, CHAT = tb.TgiProtocol(), tb.OpenAIChatProtocol()
EVENTS = [tgi_event(number, N) for number in range(1, N + 1)]
CHAT_EVENTS = [chat_event(f" w{number}") for number in range(1, N)] + [chat_event(" end", finish="length")]
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":8,"total_tokens":13}}\n\n'
DONE = b"data: [DONE]\n\n"
OVERLOAD = b'data:{"error":"Model is overloaded","error_type":"overloaded"}\n\n'
LINES = HEAD.replace(b"text/event-stream", b"application/jsonlines")


def stream(*events, end=(END,)):
    """A chunked stream of events."""
    return [HEAD, *map(chunk, events), *end]


SUCCESSES = {
    "plain": (TGI, stream(*EVENTS)),
    "no space after data:": (TGI, stream(*(tgi_event(k, N, space=False) for k in range(1, N + 1)))),
    "CRLF": (TGI, stream(*(tgi_event(k, N, end="\r\n\r\n") for k in range(1, N + 1)))),
    "keep-alive comments": (TGI, stream(b":\n\n", EVENTS[0], b":\n\n", *EVENTS[1:])),
    "events without data": (TGI, stream(b"event: ping\ndata: \n\n", EVENTS[0], b"data:\n\n", *EVENTS[1:], b"data\n\n")),
    "all events in one read": (TGI, stream(b"".join(EVENTS))),
    "cut at every byte": (TGI, [HEAD, *(chunk(bytes([byte])) for byte in b"".join(EVENTS)), END]),
    "head and body in one read": (TGI, [HEAD + b"".join(map(chunk, EVENTS)) + END]),
    "chunk framing cut anywhere": (
        TGI, [HEAD, *(bytes([byte]) for byte in b"".join(map(chunk, EVENTS)) + END)],
    ),
    "trailers": (TGI, stream(*EVENTS, end=(b"0\r\nx-trailer: 1\r\n\r\n",))),
    "compressed": (
        TGI,
        [HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n"), chunk(gzip.compress(b"".join(EVENTS))), END],
    ),
    "with a length": (TGI, [response(200, b"".join(EVENTS), "text/event-stream")]),
    "close-delimited": (TGI, [CLOSE_DELIMITED, *EVENTS, ABORT]),
    "chat, usage apart, [DONE]": (CHAT, stream(*CHAT_EVENTS, USAGE, DONE)),
    "chat, usage on the last chunk": (CHAT, stream(*CHAT_EVENTS[:-1], chat_event(" end", finish="stop", usage=N))),
    "chat, no usage, no [DONE]": (CHAT, stream(*CHAT_EVENTS)),
    "chat, role first": (CHAT, stream(chat_event(""), *CHAT_EVENTS, DONE)),
    "chat, events without data": (
        CHAT, stream(b"data:\n\n", CHAT_EVENTS[0], b"event: ping\ndata: \n\n", *CHAT_EVENTS[1:], b"data:\ndata:\n\n", DONE),
    ),
    "JSON lines": (TGI, [LINES, *(chunk(event[6:-1]) for event in EVENTS), END]),
    "chat, JSON lines": (CHAT, [LINES, *(chunk(event[6:-1]) for event in (*CHAT_EVENTS, USAGE)), END]),
}  # fmt: skip


FAILURES = {
    "truncated": (TGI, stream(*EVENTS[:5]), "truncated", 200, 5),
    "truncated, chat": (CHAT, stream(*CHAT_EVENTS[:5]), "truncated", 200, 5),
    "truncated within an event": (TGI, stream(*EVENTS[:5], EVENTS[5][:30]), "truncated", 200, 5),
    "error event, overloaded": (
        TGI, stream(b'data:{"error":"Model is overloaded","error_type":"overloaded"}\n\n'), "overloaded", 200, 0,
    ),
    "error event, validation": (
        TGI, stream(b'data: {"error":"Input validation error: x","error_type":"validation"}\n\n'), "validation", 200, 0,
    ),
    "error event, generation": (
        TGI,
        stream(*EVENTS[:3], b'data: {"error":"Request failed during generation: y","error_type":"generation"}\n\n'),
        "generation", 200, 3,
    ),
    "chat error object, overloaded though it says 422": (
        CHAT,
        stream(b'data: {"error":{"message":"Model is overloaded","http_status_code":422}}\n\n', DONE),
        "overloaded", 200, 0,
    ),
    "chat error object, validation": (
        CHAT,
        stream(b'data: {"error":{"message":"Input validation error: z","http_status_code":422}}\n\n', DONE),
        "validation", 200, 0,
    ),
    "HTTP 429": (TGI, [response(429, b'{"error":"Model is overloaded","error_type":"overloaded"}')], "overloaded", 429, 0),
    "HTTP 503": (TGI, [response(503, b"")], "overloaded", 503, 0),
    "HTTP 422 as text": (TGI, [response(422, b"missing field", "text/plain")], "validation", 422, 0),
    "HTTP 424": (TGI, [response(424, b'{"error":"Request failed during generation"}')], "generation", 424, 0),
    "HTTP 500": (TGI, [response(500, b"<html>")], "http_error", 500, 0),
    "HTTP 302": (TGI, [response(302, b"")], "http_error", 302, 0),
    "reset before an answer": (TGI, [RESET], "connection_reset", None, 0),
    "reset in the stream": (TGI, [HEAD, chunk(EVENTS[0]), 0.05, RESET], "connection_reset", 200, 1),
    "closed before an answer": (TGI, [ABORT], "connection_aborted", None, 0),
    "closed in the stream": (TGI, [HEAD, *map(chunk, EVENTS[:3]), 0.05, ABORT], "connection_aborted", 200, 3),
    "no first token": (TGI, [HEAD, *([chunk(b":\n\n"), 0.1] * 20)], "timeout_first_token", 200, 0),
    "no answer at all": (TGI, [5.0], "timeout_first_token", None, 0),
    "no further token": (TGI, [HEAD, chunk(EVENTS[0]), *([chunk(b":\n\n"), 0.1] * 20)], "timeout_between_tokens", 200, 1),
    "too long in all": (TGI, [HEAD, *([chunk(EVENTS[0]), 0.1] * 20)], "timeout_total", 200, None),
    "error event, then closed": (TGI, [HEAD, chunk(EVENTS[0]), chunk(OVERLOAD), 0.05, ABORT], "overloaded", 200, 1),
    "error event, then reset": (TGI, [HEAD, chunk(EVENTS[0]), chunk(OVERLOAD), 0.05, RESET], "overloaded", 200, 1),
    "error event without its blank line, then closed": (TGI, [HEAD, chunk(OVERLOAD[:-2]), 0.05, ABORT], "overloaded", 200, 0),
    "chat error object, then closed": (
        CHAT,
        [HEAD, chunk(CHAT_EVENTS[0]), chunk(b'data: {"error":{"message":"Model is overloaded"}}\n\n'), 0.05, ABORT],
        "overloaded", 200, 1,
    ),
    "error event, cut off": (TGI, [HEAD, chunk(OVERLOAD[:30]), 0.05, ABORT], "connection_aborted", 200, 0),
    "HTTP 503, cut off": (TGI, [response(503, b'{"error":"Model is overloaded"}')[:-9], 0.05, ABORT], "overloaded", 503, 0),
    "HTTP 500, cut off": (TGI, [response(500, b"<html>")[:-3], 0.05, RESET], "http_error", 500, 0),
    "broken JSON": (TGI, stream(EVENTS[0], b"data: {oops\n\n", *EVENTS[2:]), "undecodable", 200, None),
    "not HTTP": (TGI, [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", ABORT], "undecodable", None, 0),
}  # fmt: skip
