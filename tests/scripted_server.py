"""A raw HTTP/1.1 server on loopback that answers each request by a script: bytes, pauses, and how to end."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import asynccontextmanager

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
CLOSE_DELIMITED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
ABORT, RESET = "abort", "reset"


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


@asynccontextmanager
async def serving(script):
    """Serve `script(number)`, a list of bytes to send, seconds to wait, ABORT or RESET, for request `number`; yields the URL."""
    numbers = iter(range(1_000_000))
    connections = set()

    async def serve(reader, writer):
        connections.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                for step in script(next(numbers)):
                    if isinstance(step, bytes):
                        writer.write(step)
                        await writer.drain()
                    elif isinstance(step, str):
                        if step == RESET:
                            raw = writer.get_extra_info("socket")
                            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        writer.transport.abort() if step == RESET else writer.close()
                        return
                    else:
                        await asyncio.sleep(step)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            connections.discard(asyncio.current_task())
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await server.wait_closed()
        await asyncio.sleep(0)
