"""Amazon's frames mean the same however they are cut; what is corrupt, cut off or too large is found; botocore's parser agrees."""

from __future__ import annotations

import itertools
import struct
from zlib import crc32

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer, ParserError
from hypothesis import given, settings
from hypothesis import strategies as st

import tgibench as tb
from tgibench.protocols._event_stream import FrameStream, encode_frame

EVENT = {":message-type": "event", ":event-type": "PayloadPart", ":content-type": "application/octet-stream"}
BROKEN = {":message-type": "exception", ":exception-type": "ModelStreamError", ":content-type": "application/json"}
PAYLOADS = st.lists(st.binary(max_size=40), max_size=8)
HEADERS = st.dictionaries(
    st.text(st.characters(codec="ascii", exclude_characters=":"), min_size=1, max_size=9), st.text(max_size=9), max_size=3
)  # fmt: skip


def frames(payloads, headers=EVENT):
    """A stream of these payloads."""
    return b"".join(encode_frame(headers, payload) for payload in payloads)


def taken(pieces):
    """Payloads and failure of a stream in these pieces."""
    stream = FrameStream()
    payloads = [payload for piece in pieces for payload in stream.feed(piece)]
    return payloads, stream.close()


def cut(data, places):
    """The data cut at these places."""
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


@settings(deadline=None)
@given(payloads=PAYLOADS, further=HEADERS, places=st.lists(st.integers(0, 10_000), max_size=20))
def test_payloads_are_the_same_however_the_stream_is_cut(payloads, further, places):
    """Whatever else the headers say."""
    data = frames(payloads, {**further, **EVENT})
    assert taken(cut(data, places)) == (payloads, None)


def test_every_single_cut_gives_every_payload():
    """Cut in two at each byte, and into single bytes."""
    payloads = [b"data:{}\n\n", b"", b"\xc3", b"\xa9" * 300]
    data = frames(payloads)
    assert all(taken([data[:place], data[place:]]) == (payloads, None) for place in range(len(data) + 1))
    assert taken([bytes([byte]) for byte in data]) == (payloads, None)


def test_a_stream_that_ends_inside_a_frame_is_truncated_wherever_it_ends():
    """And whole wherever it ends between two frames; what came before the cut frame is kept."""
    payloads = [b"one", b"two", b"three"]
    data = frames(payloads)
    edges = [len(frames(payloads[:number])) for number in range(4)]
    for length in range(len(data) + 1):
        got, failure = taken([data[:length]])
        assert got == payloads[: sum(edge <= length for edge in edges) - 1]
        assert (failure is None) == (length in edges)
        assert failure is None or failure.kind is tb.FailureKind.TRUNCATED


def test_every_flipped_bit_is_found():
    """In lengths, headers, payload or checksums: nothing of the frame is handed out, what came before it is."""
    good, bad = frames([b"good"]), frames([b'data: {"token":1}\n\n'])
    for place, bit in itertools.product(range(len(bad)), range(8)):
        corrupt = bad[:place] + bytes([bad[place] ^ 1 << bit]) + bad[place + 1 :]
        got, failure = taken([good + corrupt])
        assert got == [b"good"]
        assert failure.kind is tb.FailureKind.UNDECODABLE
        assert "checksum" in failure.message


@pytest.mark.parametrize(
    ("total", "headers_bytes"),
    [(2**32 - 1, 100), (25 * 1024 * 1024, 100), (200_000, 150_000), (15, 0), (40, 30), (0, 0)],
)
def test_a_frame_larger_than_the_format_allows_is_refused_before_it_is_waited_for(total, headers_bytes):
    """Its lengths' checksum is right; so is one smaller than its parts."""
    lengths = struct.pack(">II", total, headers_bytes)
    stream = FrameStream()
    assert stream.feed(lengths + struct.pack(">I", crc32(lengths))) == []
    assert stream.failure.kind is tb.FailureKind.UNDECODABLE
    assert str(total) in stream.failure.message


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=200), payloads=PAYLOADS, places=st.lists(st.integers(0, 300), max_size=5))
def test_no_bytes_make_it_raise(data, payloads, places):
    """Whatever comes, before frames or after them."""
    taken(cut(data + frames(payloads), places))
    got, failure = taken(cut(frames(payloads) + data, places))
    assert got[: len(payloads)] == payloads
    assert failure is not None or not data


@settings(deadline=None, max_examples=300)
@given(
    block=st.one_of(st.binary(max_size=30), st.just(frames([b""])[12:-4]).flatmap(
        lambda block: st.tuples(st.integers(0, len(block) - 1), st.integers(0, 255)).map(
            lambda change: block[: change[0]] + bytes([change[1]]) + block[change[0] + 1 :]))),
    payload=st.binary(max_size=20),
)  # fmt: skip
def test_any_headers_with_right_checksums_are_understood_or_refused(block, payload):
    """Fuzzed inside a frame whose checksums fit: an event, an exception, nothing to say, or undecodable."""
    lengths = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    frame = lengths + struct.pack(">I", crc32(lengths)) + block + payload
    got, failure = taken([frame + struct.pack(">I", crc32(frame))])
    assert got in ([], [payload])
    assert failure is None or failure.kind in {tb.FailureKind.UNDECODABLE, tb.FailureKind.GENERATION}


@settings(deadline=None)
@given(payloads=PAYLOADS, further=HEADERS, places=st.lists(st.integers(0, 10_000), max_size=10))
def test_botocore_reads_the_same_payloads(payloads, further, places):
    """From frames that our own encoder wrote."""
    buffer = EventStreamBuffer()
    theirs = []
    for piece in cut(frames(payloads, {**further, **EVENT}), places):
        buffer.add_data(piece)
        theirs += list(buffer)
    assert [event.payload for event in theirs] == payloads
    assert all({**further, **EVENT} == event.headers for event in theirs)


@settings(deadline=None, max_examples=200)
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_botocore_refuses_what_we_refuse(place, byte):
    """A frame with one byte changed: both take it or neither."""
    data = bytearray(frames([b"data: {}\n\n"]))
    data[place % len(data)] = byte
    buffer = EventStreamBuffer()
    buffer.add_data(bytes(data))
    try:
        theirs = [event.payload for event in buffer]
    except (ChecksumMismatch, ParserError):
        theirs = []
    assert taken([bytes(data)])[0] == theirs


@pytest.mark.parametrize(
    ("payload", "code", "message"),
    [
        (b'{"Message":"too long","ErrorCode":"ModelInvocationTimeExceeded"}', "ModelInvocationTimeExceeded", "too long"),
        (b'{"message":"gone"}', None, "gone"),
        (b"not json", None, "not json"),
        (b"", None, "no message"),
    ],
)  # fmt: skip
def test_an_exception_inside_the_stream_keeps_its_type_code_and_words(payload, code, message):
    """What came before is handed out; what comes after it is not."""
    stream = FrameStream()
    got = stream.feed(frames([b"a"]) + frames([payload], BROKEN) + frames([b"b"]))
    assert got + stream.feed(frames([b"c"])) == [b"a"]
    assert (stream.error.name, stream.error.code, stream.error.message) == ("ModelStreamError", code, message)
    failure = stream.close()
    assert failure.kind is tb.FailureKind.GENERATION
    assert message in failure.message
    assert code is None or code in failure.message


def test_an_error_frame_and_events_of_another_kind():
    """An unmodelled error has its words in headers; events that carry no payload part are passed over, twice as well as once."""
    other = frames([b"{}", b"{}"], {":message-type": "event", ":event-type": "initial-response"})
    error = {":message-type": "error", ":error-code": "InternalStreamFailure", ":error-message": "try later"}
    got, failure = taken([other + frames([b"a"]) + frames([b""], error)])
    assert got == [b"a"]
    assert failure.message == "InternalStreamFailure: try later"


def test_headers_of_every_type_are_passed_over():
    """True, false, byte, short, int, long, bytes, time and UUID beside the texts that count."""
    block = b"".join(
        bytes((2,)) + f"h{kind}".encode() + bytes((kind,)) + value
        for kind, value in (
            (0, b""), (1, b""), (2, b"x"), (3, b"xx"), (4, b"x" * 4), (5, b"x" * 8), (6, b"\0\3abc"),
            (8, b"x" * 8), (9, b"x" * 16),
        )
    )  # fmt: skip
    block += frames([b""])[12:-4]
    lengths = struct.pack(">II", 16 + len(block) + 1, len(block))
    frame = lengths + struct.pack(">I", crc32(lengths)) + block + b"p"
    assert taken([frame + struct.pack(">I", crc32(frame))]) == ([b"p"], None)
