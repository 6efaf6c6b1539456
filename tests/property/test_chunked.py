"""The chunked coding, cut anywhere."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgibench.protocols._chunked import ChunkedFraming

BODIES = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
ENDS = st.sampled_from([b"0\r\n\r\n", b"000\r\n\r\n", b"0;last\r\n\r\n", b"0\r\nx-trailer: 1\r\ny: 2\r\n\r\n"])
SIZES = st.sampled_from(["{:x}", "{:X}", "00{:x}", '{:x};name="value"', "{:x} ; a"])


def framed(parts, sizes, end):
    """Parts of a body as chunks."""
    return (
        b"".join(
            size.format(len(part)).encode() + b"\r\n" + part + b"\r\n" for part, size in zip(parts, sizes, strict=True)
        )
        + end
    )


def cut(data, places):
    """The data in pieces."""
    bounds = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(bounds)]


@given(parts=BODIES, data=st.data(), end=ENDS, places=st.lists(st.integers(0, 1000), max_size=8))
def test_the_body_comes_out_however_it_is_cut(parts, data, end, places):
    """The same bytes, and the end is seen with the last piece."""
    sizes = data.draw(st.lists(SIZES, min_size=len(parts), max_size=len(parts)))
    framing = ChunkedFraming()
    pieces = cut(framed(parts, sizes, end), places)
    assert b"".join(framing.feed(piece) for piece in pieces[:-1] if piece) + framing.feed(pieces[-1]) == b"".join(parts)
    assert framing.ended
    assert framing.excess == b""


@given(parts=BODIES, end=ENDS, more=st.binary(min_size=1, max_size=20))
def test_what_follows_the_end_is_no_part_of_the_body(parts, end, more):
    """It is kept apart, whether it comes with the end or after it."""
    framing = ChunkedFraming()
    assert framing.feed(framed(parts, ["{:x}"] * len(parts), end) + more) + framing.feed(more) == b"".join(parts)
    assert framing.excess == more + more


@given(parts=BODIES, end=ENDS, place=st.integers(0, 1000))
def test_a_body_that_is_cut_short_has_not_ended(parts, end, place):
    """Not before its last byte."""
    whole = framed(parts, ["{:x}"] * len(parts), end)
    framing = ChunkedFraming()
    framing.feed(whole[: place % len(whole)])
    assert not framing.ended


@given(data=st.binary(max_size=60), places=st.lists(st.integers(0, 100), max_size=4))
def test_no_bytes_make_it_fail(data, places):
    """Whatever comes: a body, or what was wrong with it."""
    framing = ChunkedFraming()
    body = b"".join(framing.feed(piece) for piece in cut(data, places))
    assert len(body) <= len(data)
    assert not (framing.ended and framing.malformed)


@pytest.mark.parametrize(
    "data", [b"x\r\n", b"-1\r\na\r\n", b"+5\r\nhello\r\n", b"1_0\r\nhello", b"\r\n", b"2\r\nhello\r\n", b"f" * 9000]
)
def test_what_is_no_chunk_is_refused(data):
    """A size that is none, a chunk longer than its size, a line without end: what came before is kept, nothing more is taken."""
    framing = ChunkedFraming()
    assert framing.feed(b"5\r\nbegin\r\n" + data).startswith(b"begin")
    assert framing.malformed
    assert framing.feed(b"5\r\nhello\r\n") == b""
    assert not framing.ended
