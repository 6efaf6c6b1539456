"""Whose count of the output tokens holds, and how many of them each chunk carried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench.records import TokensFrom

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tgibench.protocols import Completion

__all__ = ["SettledTokens", "settle_tokens"]


@attrs.frozen(kw_only=True, eq=False)
class SettledTokens:
    """The tokens of one answer.

    Args:
        kept: Which of the chunks carried tokens.
        chunk_tokens: How many each of those carried, at least 1.
        known: Whether each chunk's tokens are known; False when the total was spread evenly over them.
        output_tokens: All of them; None when nothing is known.
        tokens_from: Who counted them.
    """

    kept: NDArray[np.bool_]
    chunk_tokens: NDArray[np.uint32]
    known: bool
    output_tokens: int | None
    tokens_from: TokensFrom


def settle_tokens(counts: Sequence[int], completion: Completion, *, known: bool) -> SettledTokens:
    """Settle an answer's tokens.

    The server's total wins. Where the chunks' own counts do not sum to it, it is spread over the chunks so that chunk k
    ends at round(total · k / chunks). A chunk without text is kept only when the server counted more tokens than the chunks
    with text have: it then carried the end-of-sequence token. Where the protocol does not tell each chunk's tokens, it is dropped too
    when the server counted more tokens than there are chunks: they then carried several each, and a finish reason alone carries none.

    Args:
        counts: As `StreamDecoder.feed` gave them.
        completion: What the answer said in all.
        known: Whether the protocol tells each chunk's tokens.
    """
    numbers = np.asarray(counts, dtype=np.int64)
    total = None if completion.failure else completion.output_tokens
    with_text = numbers > 0
    if total is None:
        own = numbers[with_text]
        return SettledTokens(
            kept=with_text,
            chunk_tokens=own.astype(np.uint32),
            known=known,
            output_tokens=int(own.sum()),
            tokens_from=TokensFrom.CHUNKS,
        )
    empty_may_carry = known or total <= len(numbers) or not with_text.any()
    kept = np.ones(len(numbers), dtype=bool) if total > numbers.sum() and empty_may_carry else with_text
    tokens = np.maximum(numbers[kept], 1)
    settled = int(tokens.sum()) == total
    if not settled and len(tokens):
        tokens = np.diff(np.rint(np.linspace(0, max(total, len(tokens)), len(tokens) + 1))).astype(np.int64)
    return SettledTokens(
        kept=kept,
        chunk_tokens=tokens.astype(np.uint32),
        known=settled and (known or bool(np.all(tokens == 1))),
        output_tokens=total,
        tokens_from=TokensFrom.SERVER,
    )
