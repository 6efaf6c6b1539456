"""What outgrows memory lies in temporary files without a name, which vanish with the last array that refers to them, or the process."""

from __future__ import annotations

import contextlib
import mmap
import tempfile
import weakref
from collections import deque
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import DTypeLike, NDArray

__all__ = ["MOST_IN_MEMORY", "Spill", "columns_of", "row_blocks"]

MOST_IN_MEMORY = 1 << 20
"""Bytes of one kind of data that stay in memory unless told otherwise."""

_PIECES = 8
_BLOCK_CHUNKS = 1_000_000
_BLOCK_ROWS = 100_000


class Spill:
    """Bytes that are appended; beyond a size, the oldest go to a temporary file, a small piece at a time.

    Args:
        most_in_memory: Bytes that stay in memory; no file is made before there are more.

    Attributes:
        failure: Why the file could not be written, None while it could; from then on nothing more is written and memory keeps it all.
    """

    def __init__(self, most_in_memory: int = MOST_IN_MEMORY) -> None:
        self.failure: OSError | None = None
        self._most = most_in_memory
        self._piece = most_in_memory // _PIECES
        self._pieces: deque[bytearray] = deque([bytearray()])
        self._held = 0  # bytes of all pieces but the last
        self._file: IO[bytes] | None = None
        self._written = 0

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return self._held + len(self._pieces[-1])

    def append(self, data: bytes) -> None:
        """Keep more bytes; never raises for a disk."""
        last = self._pieces[-1]
        last += data
        if len(last) > self._piece:
            self._held += len(last)
            self._pieces.append(bytearray())
            self._drain(self._most)

    def contents(self) -> mmap.mmap | bytes:
        """All of it, and the end: in the file if some of it is there already; in memory where that has no room."""
        if self._file is None or not self._written:
            return b"".join(self._pieces)
        self._held += len(self._pieces[-1])
        self._pieces.append(bytearray())
        self._drain(0)
        with self._file as file:
            if not self._held:
                return mmap.mmap(file.fileno(), self._written, access=mmap.ACCESS_READ)
            file.seek(0)
            return file.read(self._written) + b"".join(self._pieces)

    def _drain(self, most: int) -> None:
        """Write the oldest pieces until no more than `most` bytes are held."""
        while self._held > most and self.failure is None:
            try:
                if self._file is None:
                    self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open as long as something is appended
                    weakref.finalize(self, self._file.close)
                _write(self._file, self._written, self._pieces[0])
            except OSError as error:
                self.failure = error
            else:
                size = len(self._pieces.popleft())
                self._written += size
                self._held -= size


def columns_of(
    kinds: Mapping[str, tuple[DTypeLike, int]],
    blocks: Callable[[], Iterator[Mapping[str, NDArray[Any]]]],
    *,
    most_in_memory: int = MOST_IN_MEMORY,
) -> dict[str, NDArray[Any]]:
    """Arrays that are filled block by block, in memory or, together larger than that, in a temporary file.

    Args:
        kinds: Each array's type and length.
        blocks: Gives the next values of each; called again, for arrays in memory, if the disk is full.
        most_in_memory: Bytes.
    """
    if sum(np.dtype(kind).itemsize * length for kind, length in kinds.values()) > most_in_memory:
        with contextlib.suppress(OSError):
            return _in_file(kinds, blocks())
    return _in_memory(kinds, blocks())


def row_blocks(chunk_offsets: NDArray[np.int64]) -> Iterator[slice]:
    """Successive rows that together have about a million chunks at most, so that a log of any size is gone through in little memory."""
    start, rows = 0, len(chunk_offsets) - 1
    while start < rows:
        full = int(np.searchsorted(chunk_offsets, chunk_offsets[start] + _BLOCK_CHUNKS, side="right")) - 1
        stop = min(max(full, start + 1), start + _BLOCK_ROWS, rows)
        yield slice(start, stop)
        start = stop


def _in_memory(
    kinds: Mapping[str, tuple[DTypeLike, int]], blocks: Iterator[Mapping[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    columns = {name: np.empty(length, kind) for name, (kind, length) in kinds.items()}
    filled = 0
    for block in blocks:
        size = 0
        for name, values in block.items():
            size = len(values)
            columns[name][filled : filled + size] = values
        filled += size
    return columns


def _in_file(
    kinds: Mapping[str, tuple[DTypeLike, int]], blocks: Iterator[Mapping[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    starts, end = {}, 0
    for name, (kind, length) in kinds.items():
        starts[name] = end
        end += -(-length * np.dtype(kind).itemsize // 8) * 8  # each begins at a multiple of the largest type
    with tempfile.TemporaryFile(buffering=0) as file:
        written = dict(starts)
        for block in blocks:
            for name, values in block.items():
                data = values.astype(kinds[name][0], copy=False).tobytes()
                _write(file, written[name], data)
                written[name] += len(data)
        file.truncate(end)
        mapped = mmap.mmap(file.fileno(), end, access=mmap.ACCESS_READ)
    return {
        name: np.frombuffer(mapped, kind, count=length, offset=starts[name]) for name, (kind, length) in kinds.items()
    }


def _write(file: IO[bytes], place: int, data: bytes | bytearray) -> None:
    file.seek(place)
    rest = memoryview(data)
    while rest:  # a disk that becomes full takes a part before it fails
        rest = rest[file.write(rest) :]
