"""Bytes that no server should send: what a decoder is tried with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HOSTILE_BODIES", "mutated"]

HOSTILE_BODIES = (
    b"",
    b"\n\n",
    b"\x00",
    b"\xff\xfe\xfd",
    b"data",
    b"data:\n\n",
    b"data: null\n\n",
    b"data: []\n\n",
    b"data: 1e999\n\n",
    b'data: "text"\n\n',
    b"data: {}\n\ndata: {}\n\n",
    b"data: {\n\n",
    b"data: \xff\n\n",
    b"null",
    b"[]",
    b"[[]]",
    b"{}",
    b"<html><body>502 Bad Gateway</body></html>",
    b"[" * 100_000,
    b"data: " + b'{"a":' * 100_000 + b"\n\n",
)
_SCALAR = re.compile(rb'"(?:[^"\\]|\\.)*"(?!\s*:)|-?\d+(?:\.\d+)?|true|false|null')
_VALUES = (
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"123456789012345678901234567890",
    b'""',
    b'"\\ud83d"',
    b"[]",
    b"[null]",
    b"{}",
)
_RANDOM_CHANGES = 200


def mutated(data: bytes, *, seed: int) -> Iterator[bytes]:
    """An answer with each of its JSON values in turn replaced by odd ones, then with bytes changed, lost, doubled and put in."""
    for scalar in _SCALAR.finditer(data):
        for value in _VALUES:
            yield data[: scalar.start()] + value + data[scalar.end() :]
    random = np.random.default_rng([seed, len(data)])
    for _ in range(_RANDOM_CHANGES):
        begin, end = sorted(int(place) for place in random.integers(0, len(data) + 1, 2))
        byte = bytes([int(random.integers(0, 256))])
        yield data[:begin] + byte + data[begin + 1 :]
        yield data[:begin] + byte + data[begin:]
        yield data[:begin] + data[end:]
        yield data[:end] + data[begin:]
