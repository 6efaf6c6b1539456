"""Whose count of the tokens holds, and how many each chunk carried."""

from __future__ import annotations

import pytest

import tgibench as tb
from tgibench.protocols import Completion
from tgibench.protocols._tokens import settle_tokens


@pytest.mark.parametrize(
    ("counts", "total", "protocol_knows", "chunk_tokens", "known"),
    [
        ([1, 1, 1], 3, True, [1, 1, 1], True),  # one an event
        ([1, 1, 0], 3, True, [1, 1, 1], True),  # the end-of-sequence token has no text
        ([1, 1, 0], 2, True, [1, 1], True),  # here the server did not count it
        ([1, 1, 1], 3, False, [1, 1, 1], True),  # as many chunks as tokens: each held one
        ([1, 1, 1, 1], 16, False, [4, 4, 4, 4], False),  # four a chunk
        ([1, 1, 1], 10, False, [3, 4, 3], False),  # cumulative rounding: 3.33, 6.67, 10
        ([1, 1, 0], 3, False, [1, 1, 1], True),  # one a chunk: the last is the end-of-sequence token
        ([1, 1, 0], 2, False, [1, 1], True),  # here the server did not count it
        ([1, 1, 1, 1, 0], 64, False, [16, 16, 16, 16], False),  # sixteen a chunk: the finish alone carries none
        ([1, 1, 0], 64, False, [32, 32], False),
        ([4, 4, 0], 9, True, [4, 4, 1], True),  # several a chunk, each told: the end-of-sequence token is apart
        ([0], 5, False, [5], False),  # no text at all: nothing else carried them
        ([1, 1], None, False, [1, 1], False),  # no total
    ],
)
def test_the_servers_total_is_spread_over_the_chunks_that_carried_it(
    counts, total, protocol_knows, chunk_tokens, known
):
    """Where the chunks' own counts sum to it, they stand."""
    settled = settle_tokens(counts, Completion(output_tokens=total), known=protocol_knows)
    assert settled.chunk_tokens.tolist() == chunk_tokens
    assert settled.known is known
    assert settled.output_tokens == sum(chunk_tokens)
    assert settled.tokens_from is (tb.TokensFrom.CHUNKS if total is None else tb.TokensFrom.SERVER)


def test_of_a_failed_request_the_tokens_that_arrived_count():
    """Whatever total the server gave before it failed."""
    failed = Completion(failure=tb.Failure(tb.FailureKind.TRUNCATED, "cut", 200), output_tokens=9)
    settled = settle_tokens([1, 0, 1], failed, known=True)
    assert (settled.output_tokens, settled.tokens_from) == (2, tb.TokensFrom.CHUNKS)
    assert settled.kept.tolist() == [True, False, True]
