"""Which headers hold credentials, and texts that must not show them: a server may repeat in its error what it was sent."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING

from tgibench.deployments import sounds_secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["is_secret", "without_secrets"]

_CREDENTIALS = frozenset({"authorization", "proxy-authorization"})
_SHORTEST = 6  # a shorter one is found in harmless words too
_MASK = "***"
_CUTS = ("...", "'", '"')  # what follows where a text was cut to be quoted
_BETWEEN = re.compile(r"[,;]?\s+")


def is_secret(name: str) -> bool:
    """Whether a header of that name is taken to hold a secret."""
    return name.lower() in _CREDENTIALS or name.lower() == "cookie" or sounds_secret(name)


def without_secrets(text: str, headers: Iterable[tuple[str, str]]) -> str:
    """The text, masked where it repeats what a secret header holds, or its beginning where the text was cut.

    Each part of a header with several (a cookie, a signature) counts by itself, and so does the value of a part that has a name.
    What has fewer than 6 characters is left as it is: it could not be told from other words.
    """
    secrets = {part for name, value in headers if is_secret(name) for part in _parts(name, value)}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = _without_cut(text.replace(secret, _MASK), secret)
    return text


def _parts(name: str, value: str) -> Iterator[str]:
    scheme, _, credentials = value.partition(" ")
    if credentials and (name.lower() in _CREDENTIALS or scheme.lower() == "bearer"):
        value = credentials.strip()
    yield value
    for part in _BETWEEN.split(value):
        yield part
        yield part.partition("=")[2]


def _without_cut(text: str, secret: str) -> str:
    at = text.find(secret[:_SHORTEST])
    while at >= 0:
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(text[at:], secret, strict=False))
        rest = text[at + sum(1 for _ in alike) :]
        if not rest or rest.startswith(_CUTS):
            text = text[:at] + _MASK + rest
        at = text.find(secret[:_SHORTEST], at + 1)
    return text
