"""What the emulated model says: deterministic words, one a token, and how it counts the tokens of a prompt."""

from __future__ import annotations

import functools
import re
import zlib
from typing import Any

import attrs

__all__ = ["Answer", "Token", "count_tokens", "prompt_pieces"]

_EOS_ID = 2
_FIRST_WORD_ID = 1000
_WORDS = [
    "river",
    "stone",
    "garden",
    "morning",
    "letter",
    "window",
    "silver",
    "music",
    "answer",
    "forest",
    "travel",
    "quiet",
    "bridge",
    "summer",
    "paper",
    "engine",
    "ocean",
    "story",
    "candle",
    "market",
    "winter",
    "signal",
    "meadow",
    "circle",
    "planet",
    "harbor",
    "number",
    "village",
    "mirror",
    "shadow",
    "season",
    "thread",
]


@attrs.frozen
class Token:
    """One token as the wire shows it."""

    id: int
    text: str
    logprob: float | None
    special: bool = False

    @property
    def visible(self) -> str:
        """What it adds to the generated text."""
        return "" if self.special else self.text

    def shown(self) -> dict[str, Any]:
        """As it stands in an event or in details."""
        return {"id": self.id, "text": self.text, "logprob": self.logprob, "special": self.special}


@attrs.frozen(kw_only=True)
class Answer:
    """The deterministic text that answers a prompt: one word a token, and the end-of-sequence token where it ends by itself.

    Args:
        offset: Where in the cycle of words it begins.
        tokens: How many tokens, the end-of-sequence token among them.
        finish_reason: ``"length"``, ``"eos_token"`` or ``"stop_sequence"``.
    """

    offset: int
    tokens: int
    finish_reason: str

    @classmethod
    def to(cls, prompt: str, *, natural_tokens: int, max_new_tokens: int, stop: tuple[str, ...] = ()) -> Answer:
        """The answer that would have `natural_tokens`, cut at `max_new_tokens` or at the first stop sequence."""
        ends_by_itself = natural_tokens < max_new_tokens
        whole = cls(
            offset=zlib.crc32(prompt.encode()) % len(_WORDS),
            tokens=min(natural_tokens, max_new_tokens),
            finish_reason="eos_token" if ends_by_itself else "length",
        )
        if not stop:
            return whole
        text = ""
        for index in range(whole.tokens):
            text += whole.token(index).visible
            if any(end in text[-len(end) - 16 :] for end in stop):
                return attrs.evolve(whole, tokens=index + 1, finish_reason="stop_sequence")
        return whole

    def token(self, index: int) -> Token:
        """The token at `index`, from 0."""
        if self.finish_reason == "eos_token" and index == self.tokens - 1:
            return Token(_EOS_ID, "</s>", -0.05, special=True)
        word = (self.offset + index) % len(_WORDS)
        return Token(_FIRST_WORD_ID + word, ("" if index == 0 else " ") + _WORDS[word], -0.25 - word / 64)

    def top_tokens(self, index: int, count: int) -> list[dict[str, Any]]:
        """The `count` likeliest tokens at a position, the chosen one first."""
        chosen = self.token(index)
        others = [
            Token(_FIRST_WORD_ID + word, " " + _WORDS[word], round(chosen.logprob - 1.0 - rank, 6))
            for rank, word in enumerate((chosen.id + step) % len(_WORDS) for step in range(1, count))
            if chosen.logprob is not None
        ]
        return [token.shown() for token in [chosen, *others]]

    @functools.cached_property
    def text(self) -> str:
        """The whole text, special tokens left out."""
        return "".join(self.token(index).visible for index in range(self.tokens))


def prompt_pieces(prompt: str) -> list[tuple[int, str]]:
    """Where each token of a prompt begins, and its text: words and punctuation marks, blanks with what follows them."""
    return [(match.start(), match.group()) for match in re.finditer(r"\s*(?:\w+|[^\w\s])|\s+$", prompt)]


def count_tokens(prompt: str) -> int:
    """The prompt's length in emulated tokens."""
    return len(prompt_pieces(prompt))
