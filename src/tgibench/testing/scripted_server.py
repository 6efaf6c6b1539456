"""A real HTTP server on loopback that says exactly what it is told, broken answers included: `scripted_server`."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterable

__all__ = ["ABORT", "RESET", "scripted_server"]

ABORT = "abort"
RESET = "reset"


@asynccontextmanager
async def scripted_server(
    script: Callable[[int], Iterable[bytes | float | str]], *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Serve requests by a script; yields the base URL. Leaving the context ends every connection.

    Args:
        script: Gives the steps of the answer to request number k (from 0): bytes are sent as they are (status line, headers and
            framing are the script's own business), numbers are seconds to wait, ``ABORT`` closes the connection and ``RESET``
            resets it.
        tls: Speak TLS with this context.
    """
    numbers = iter(range(1_000_000_000))
    connections: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.current_task())
        try:
            while await _request_read(reader) and await _answered(writer, script(next(numbers))):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            connections.discard(asyncio.current_task())
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024, ssl=tls)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"http{'s' if tls else ''}://127.0.0.1:{port}"
    finally:
        server.close()
        for task in connections:
            if task is not None:
                task.cancel()
        await server.wait_closed()
        await asyncio.sleep(0)


async def _request_read(reader: asyncio.StreamReader) -> bool:
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length or 0))
    return True


async def _answered(writer: asyncio.StreamWriter, steps: Iterable[bytes | float | str]) -> bool:
    """Take the steps; False when the last one ended the connection."""
    for step in steps:
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        elif step == RESET:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        elif isinstance(step, str):
            writer.close()
            return False
        else:
            await asyncio.sleep(step)
    return True
