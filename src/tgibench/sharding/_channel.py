"""The control channel between the process that leads a run and its workers: JSON lines over TCP, and arrays as bytes after their line."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from tgibench.client_health import ClientHealth, StampSource
from tgibench.merging import ROW_COLUMNS
from tgibench.records import RequestLog, Window
from tgibench.spills import Spill

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["LINE_LIMIT", "Channel", "ChannelError"]

LINE_LIMIT = 1 << 16
"""The longest line, in bytes."""

_PIECE_BYTES = 1 << 20
_CLOSE_S = 2.0
_CHUNK_COLUMNS = ("chunk_offsets", "chunk_times_s", "chunk_tokens")
_COLUMNS = {*ROW_COLUMNS, *_CHUNK_COLUMNS, "texts"}


class ChannelError(ConnectionError):
    """The other side closed the channel, or said what it must not."""


@attrs.frozen(eq=False)
class Channel:
    """One connection. Nothing that comes over it is unpickled.

    Args:
        reader: What comes in.
        writer: What goes out.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def post(self, **message: Any) -> None:
        """Send a message without waiting for it to leave."""
        self.writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> dict[str, Any]:
        """The next message.

        Raises:
            ChannelError: The channel was closed, or holds no message.
        """
        try:
            line = await self.reader.readline()
            message = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, OSError) as error:  # ValueError: too long a line, or no JSON
            raise ChannelError(str(error) or type(error).__name__) from error
        if message is None:
            raise ChannelError("the connection ended")
        if not isinstance(message, dict):
            raise ChannelError("a message is no object")
        return message

    async def send_log(self, log: RequestLog) -> None:
        """Send a part's log: what it counts as a line, its columns as bytes."""
        texts = {"messages": dict(log.messages), "finish_reasons": dict(log.finish_reasons)}
        arrays = {name: getattr(log, name) for name in (*ROW_COLUMNS, *_CHUNK_COLUMNS)}
        arrays = {name: np.ascontiguousarray(column) for name, column in arrays.items() if column is not None}
        arrays["texts"] = np.frombuffer(json.dumps(texts).encode(), np.uint8)
        self.post(
            log={
                "unsent": log.unsent,
                "window": attrs.asdict(log.window),
                "health": attrs.asdict(log.health),
                "stopped": log.stopped,
                "concurrency": log.concurrency,
            },
            arrays=[[name, column.dtype.str, len(column)] for name, column in arrays.items()],
        )
        for column in arrays.values():
            data = memoryview(column).cast("B") if len(column) else memoryview(b"")
            for first in range(0, len(data), _PIECE_BYTES):
                self.writer.write(data[first : first + _PIECE_BYTES])
                await self.writer.drain()

    async def receive_log(self, *, silence_s: float) -> RequestLog:
        """The log that the other side sends.

        Raises:
            ChannelError: It sends none, or not whole, or nothing for `silence_s` seconds.
        """
        try:
            async with asyncio.timeout(silence_s):
                message = await self.receive()
            fields: Mapping[str, Any] = message["log"]
            arrays: dict[str, Any] = {
                name: await self._array(np.dtype(kind), int(length), silence_s)
                for name, kind, length in message["arrays"]
                if name in _COLUMNS
            }
            texts = json.loads(arrays.pop("texts").tobytes())
            health = {**fields["health"], "stamps": StampSource(fields["health"]["stamps"])}
            columns: dict[str, Any] = {**dict.fromkeys(_CHUNK_COLUMNS), **arrays}
            return RequestLog(
                **columns,
                messages={int(row): text for row, text in texts["messages"].items()},
                finish_reasons=texts["finish_reasons"],
                unsent=fields["unsent"],
                window=Window(**fields["window"]),
                health=ClientHealth(**health),
                stopped=fields["stopped"],
                concurrency=fields["concurrency"],
            )
        except (KeyError, TypeError, ValueError, OSError, asyncio.IncompleteReadError) as error:
            raise ChannelError(f"its record came damaged: {str(error) or type(error).__name__}") from error

    async def _array(self, kind: np.dtype[Any], length: int, silence_s: float) -> NDArray[Any]:
        spill, missing = Spill(), length * kind.itemsize
        while missing:
            async with asyncio.timeout(silence_s):
                piece = await self.reader.read(min(_PIECE_BYTES, missing))
            if not piece:
                raise asyncio.IncompleteReadError(b"", missing)
            spill.append(piece)
            missing -= len(piece)
        return np.frombuffer(spill.contents(), kind)

    async def close(self) -> None:
        """Close it; what was posted is sent first, as far as the other side takes it."""
        self.writer.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self.writer.wait_closed()
        except OSError:  # a TimeoutError too
            self.writer.transport.abort()
