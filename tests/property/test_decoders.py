"""Decoders give the same answer however the bytes are cut, whatever the text and whichever way through the code it takes."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tgibench as tb
from tgibench.protocols import Completion, ResponseHead
from tgibench.protocols._sse import EventStream
from tgibench.protocols._tokens import settle_tokens

STREAM = ResponseHead(200, {"content-type": "text/event-stream"})
TRICKY = st.sampled_from(
    ['"', "\\", "\n", "é", "😀", "\x00", '"generated_text":null', "data: x", "[DONE]", " ", "\u2028", "\ud7ff", "</s>"]
)
TEXTS = st.lists(st.one_of(TRICKY, st.text(st.characters(exclude_categories=["Cs"]), max_size=6)), max_size=12)
ENDS = st.sampled_from(["\n\n", "\r\n\r\n", "\r\r"])


def tgi_stream(texts, *, ascii_only, spaced, end, prefix):
    """An answer of these token texts and a last one."""
    separators = (", ", ": ") if spaced else (",", ":")
    events = [
        {"index": n, "token": {"id": n, "text": text, "logprob": -0.25, "special": False},
         "generated_text": None, "details": None}
        for n, text in enumerate(texts, start=1)
    ]  # fmt: skip
    details = {"finish_reason": "length", "generated_tokens": len(texts) + 1, "seed": None, "input_length": 7}
    events.append(
        {"token": {"id": 0, "text": "end", "logprob": None, "special": False},
         "generated_text": "".join(texts) + "end", "details": details}
    )  # fmt: skip
    lines = (json.dumps(event, ensure_ascii=ascii_only, separators=separators) for event in events)
    return "".join(f"{prefix}{line}{end}" for line in lines).encode()


def chat_stream(texts, *, end):
    """A chat answer of these texts, a finish reason, usage, [DONE]."""
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts]
    chunks.append({"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": len(texts) + 1}})
    return "".join(f"data: {json.dumps(chunk)}{end}" for chunk in chunks).encode() + b"data: [DONE]\n\n"


def decoded(protocol, pieces):
    """Counts and completion of an answer in these pieces."""
    decoder = protocol.decoder(STREAM)
    counts = [count for piece in pieces for count in decoder.feed(piece)]
    return counts, decoder.close()


def cut(data, places):
    """The data cut at these places."""
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


@settings(deadline=None)
@given(
    texts=TEXTS,
    ascii_only=st.booleans(),
    spaced=st.booleans(),
    end=ENDS,
    prefix=st.sampled_from(["data:", "data: ", ":\n\ndata:", "id: 1\ndata:"]),
    places=st.lists(st.integers(0, 10_000), max_size=20),
)
def test_a_tgi_stream_means_the_same_however_it_is_written_and_cut(texts, ascii_only, spaced, end, prefix, places):
    """Counts, text, finish reason and tokens are those of the texts."""
    data = tgi_stream(texts, ascii_only=ascii_only, spaced=spaced, end=end, prefix=prefix)
    counts, completion = decoded(tb.TgiProtocol(), cut(data, places))
    assert counts == [1 if text else 0 for text in texts] + [1]
    assert completion.failure is None
    assert completion.text == "".join(texts) + "end"
    assert (completion.finish_reason, completion.output_tokens, completion.input_tokens) == (
        "length",
        len(texts) + 1,
        7,
    )


@settings(deadline=None)
@given(texts=TEXTS, end=ENDS, places=st.lists(st.integers(0, 10_000), max_size=20))
def test_a_chat_stream_means_the_same_however_it_is_cut(texts, end, places):
    """A number for each text, a zero for the finish; the server's total; the text itself."""
    counts, completion = decoded(tb.OpenAIChatProtocol(), cut(chat_stream(texts, end=end), places))
    assert counts == [1 for text in texts if text] + [0]
    assert completion.failure is None
    assert completion.text == "".join(texts)
    assert (completion.finish_reason, completion.output_tokens) == ("stop", len(texts) + 1)


@pytest.mark.parametrize(
    ("protocol", "data"),
    [
        (tb.TgiProtocol(), tgi_stream(["é", "😀"], ascii_only=False, spaced=False, end="\r\n\r\n", prefix="data:")),
        (tb.OpenAIChatProtocol(), chat_stream(["é", '"'], end="\n\n")),
    ],
)
def test_every_single_cut_gives_the_whole_answer(protocol, data):
    """Cut in two at each byte, and into single bytes."""
    whole = decoded(protocol, [data])
    assert all(decoded(protocol, [data[:place], data[place:]]) == whole for place in range(len(data) + 1))
    assert decoded(protocol, [bytes([byte]) for byte in data]) == whole


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r", "\n:\n\n"])
@pytest.mark.parametrize("prefix", ["data:", "data: ", ":\ndata: ", "data: \ndata: "])
@pytest.mark.parametrize(
    ("protocol", "counts"), [(tb.TgiProtocol(), [1, 1, 0, 1, 1]), (tb.OpenAIChatProtocol(), [1, 1, 1, 0])]
)
def test_events_that_come_whole_and_events_that_come_cut_give_the_same_answer(protocol, counts, prefix, end):
    """One event a read, but for one further cut at each byte: what is left of an event never joins the next."""
    texts = ["a", "\u00e9", "", '"']
    if protocol.name == "tgi":
        data = tgi_stream(texts, ascii_only=False, spaced=False, end=end, prefix=prefix)
    else:
        data = chat_stream(texts, end=end).replace(b"data: {", prefix.encode() + b"{")
    ends = [place + len(end) for place in range(len(data)) if data.startswith(end.encode(), place)]
    whole = decoded(protocol, [data])
    assert all(decoded(protocol, cut(data, [*ends, place])) == whole for place in range(len(data)))
    assert whole[0] == counts
    assert whole[1].failure is None


@settings(deadline=None)
@given(
    order=st.lists(st.sampled_from(["text", "error", "odd", "json", "other", "nul"]), max_size=8),
    places=st.lists(st.integers(0, 10_000), max_size=4),
)
@pytest.mark.parametrize("protocol", [tb.TgiProtocol(), tb.OpenAIChatProtocol()])
def test_after_a_failure_nothing_counts_however_the_events_come(protocol, order, places):
    """One event a read, cut further, or byte by byte: the same numbers and the same failure."""
    if protocol.name == "tgi":
        text = b'{"token":{"id":1,"text":"a","logprob":-1.5,"special":false},"generated_text":null,"details":null}'
    else:
        text = b'{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}'
    events = {
        "text": b"data: " + text + b"\n\n",
        "error": b'data: {"error":"Model is overloaded"}\n\n',
        "odd": b"data: " + text.replace(b'"a"', b'"\\x"') + b"\n\n",
        "json": b"data: " + text.replace(b":", b": ") + b"\n\n",
        "other": b"data:" + text.replace(b'"a"', b'"b \\" c"') + b"\r\n\r\n",
        "nul": b"\x00a\x00",
    }
    reads = [events[name] for name in order]
    ends = list(itertools.accumulate(map(len, reads)))
    data = b"".join(reads)
    expected = decoded(protocol, [bytes([byte]) for byte in data])
    assert decoded(protocol, reads) == expected
    assert decoded(protocol, cut(data, [*ends, *places])) == expected
    assert decoded(protocol, [data]) == expected


@settings(deadline=None)
@given(texts=st.lists(st.text(max_size=4), min_size=1, max_size=8), keep=st.integers(0, 10_000))
def test_an_answer_that_ends_anywhere_before_its_last_event_is_truncated_and_nothing_else(texts, keep):
    """No cut makes a success or an undecodable answer of it."""
    data = tgi_stream(texts, ascii_only=True, spaced=False, end="\n\n", prefix="data:")
    last = data.rindex(b"data:")
    _, completion = decoded(tb.TgiProtocol(), [data[: keep % last]])
    assert completion.failure.kind is tb.FailureKind.TRUNCATED


@settings(deadline=None)
@given(data=st.binary(max_size=300), places=st.lists(st.integers(0, 300), max_size=5))
def test_no_bytes_make_a_decoder_raise(data, places):
    """Whatever a server sends, the answer is a completion."""
    for protocol in (tb.TgiProtocol(), tb.OpenAIChatProtocol()):
        for head in (STREAM, ResponseHead(200, {}), ResponseHead(500, {})):
            decoder = protocol.decoder(head)
            for piece in cut(data, places):
                decoder.feed(piece)
            assert decoder.close().failure is not None


@settings(deadline=None)
@given(
    blocks=st.lists(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), min_size=1)),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    places=st.lists(st.integers(0, 10_000), max_size=10),
)
def test_events_are_those_of_the_specification(blocks, end, places):
    """Data lines of one event are joined by a line feed; comments and other fields are no data."""
    text = "".join("".join(f"data: {line}{end}:c{end}event: e{end}" for line in block) + end for block in blocks)
    stream = EventStream()
    events = [event for piece in cut(text.encode(), places) for event in stream.feed(piece)]
    assert events + stream.close() == ["\n".join(block).encode() for block in blocks]


@given(
    counts=st.lists(st.integers(0, 3), max_size=40),
    total=st.one_of(st.none(), st.integers(0, 200)),
    known=st.booleans(),
)
def test_settled_tokens_sum_to_the_total_and_no_chunk_is_empty(counts, total, known):
    """Unless there are more chunks than the server counted tokens, each of which must then hold one."""
    settled = settle_tokens(counts, Completion(output_tokens=total), known=known)
    assert len(settled.chunk_tokens) == settled.kept.sum()
    assert all(settled.chunk_tokens >= 1)
    if total is None:
        assert settled.output_tokens == sum(counts)
        assert settled.tokens_from is tb.TokensFrom.CHUNKS
    elif len(settled.chunk_tokens):
        assert settled.output_tokens == total
        assert settled.chunk_tokens.sum() == max(total, len(settled.chunk_tokens))


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(
            st.sampled_from(
                [
                    *("token", "text", "details", "generated_text", "generated_tokens", "error", "object"),
                    *("choices", "delta", "message", "content", "reasoning", "finish_reason", "usage"),
                    "completion_tokens",
                ]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=4))
def test_no_json_makes_a_decoder_raise_and_counts_are_counts(values):
    """Every key that a decoder looks for, with a value of any type in its place."""
    events = [f"data: {json.dumps(value)}\n\n".encode() for value in values]
    for protocol in (tb.TgiProtocol(), tb.OpenAIChatProtocol()):
        _, completion = decoded(protocol, events)
        body = protocol.decoder(ResponseHead(200, {}))
        body.feed(json.dumps(values[0]).encode())
        for tokens in (completion.output_tokens, body.close().output_tokens):
            assert tokens is None or (isinstance(tokens, int) and tokens >= 0)


TGI_EVENT = {"token": {"id": 1, "text": "", "logprob": -1.5, "special": False}, "generated_text": None, "details": None}
CHAT_CHUNK = {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": None}]}
RAW_TEXTS = st.lists(
    st.one_of(
        st.binary(max_size=4).filter(lambda raw: not set(raw) & set(b'"\\\r\n')),
        st.sampled_from([b'\\"', b"\\\\", b"\\u00e9", b"\\ud83d\\ude00", b"\\ud83d", b"\\x", b"\\u12", b'"', b"\xc3", b"\x01"]),
    ),
    max_size=5,
).map(b"".join)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(raw_texts=st.lists(RAW_TEXTS, max_size=5))
@example(raw_texts=[b"\xc2", b"\x80"])  # halves of a character in two events
@pytest.mark.parametrize(
    ("protocol", "event", "empty"),
    [(tb.TgiProtocol(), TGI_EVENT, b'"text":""'), (tb.OpenAIChatProtocol(), CHAT_CHUNK, b'"content":""')],
)
def test_the_routine_way_and_the_json_parser_agree_on_every_event(protocol, event, empty, raw_texts):
    """A field that no routine event has sends the same events through the parser."""

    def completion(further, *, together=False):
        routine = json.dumps({**event, **further}, separators=(",", ":")).encode()
        first = routine.replace(empty, empty[:-1] + b'a"')
        events = [first, *(routine.replace(empty, empty[:-1] + raw + b'"') for raw in raw_texts)]
        reads = [b"data: " + data + b"\n\n" for data in events]
        return decoded(protocol, [b"".join(reads)] if together else reads)

    slow_counts, slow = completion({"top_tokens": [{"content": "x", "text": "y"}], "usage": {"x": 1}})
    for together in (False, True):  # an event a read, and all events in one
        fast_counts, fast = completion({}, together=together)
        assert fast.failure.kind is slow.failure.kind
        if fast.failure.kind is tb.FailureKind.TRUNCATED:
            assert (fast_counts, fast.text) == (slow_counts, slow.text)


def test_a_chunk_of_several_texts_is_never_taken_for_one_of_a_single():
    """Reasoning that stays the same beside content that changes: both are text, each time."""
    chunks = [
        {"choices": [{"index": 0, "delta": {"reasoning": "r", "content": text}, "finish_reason": None}]}
        for text in ("a", "b", "c")
    ]
    reads = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
    counts, completion = decoded(tb.OpenAIChatProtocol(), reads)
    assert (counts, completion.text) == ([1, 1, 1], "rarbrc")


LINES = ResponseHead(200, {"content-type": "application/jsonlines; charset=utf-8"})


@settings(deadline=None)
@given(
    texts=TEXTS,
    blank=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
    places=st.lists(st.integers(0, 10_000), max_size=20),
)
def test_json_lines_mean_the_same_however_they_are_cut(texts, blank, end, places):
    """As an event stream of the same objects; blank lines, which LMI sends, say nothing."""
    data = tgi_stream(texts, ascii_only=False, spaced=True, end=end + end * blank, prefix="")
    decoder = tb.TgiCompatProtocol().decoder(LINES)
    counts = [count for piece in cut(data, places) for count in decoder.feed(piece)]
    completion = decoder.close()
    assert counts == [1 if text else 0 for text in texts] + [1]
    assert (completion.failure, completion.text) == (None, "".join(texts) + "end")
    assert (completion.finish_reason, completion.output_tokens, completion.input_tokens) == (
        "length",
        len(texts) + 1,
        7,
    )
