"""How a contract says that it is broken: by a sentence, also under ``python -O`` and without pytest's rewriting."""

from __future__ import annotations

__all__ = ["must"]


def must(holds: object, sentence: str) -> None:
    """Raise `AssertionError` with the sentence unless something holds."""
    if not holds:
        raise AssertionError(sentence)
