"""Which headers are secrets, and what is left of a text that repeats them."""

from __future__ import annotations

import pytest

from tgibench.secret_headers import is_secret, without_secrets


@pytest.mark.parametrize(
    "name", ["Authorization", "proxy-authorization", "Cookie", "X-API-Key", "api-key", "X-Amz-Security-Token"]
)
def test_headers_that_hold_credentials_are_secret(name):
    """By what they are, or by what they are called."""
    assert is_secret(name)


@pytest.mark.parametrize("name", ["Content-Type", "Accept", "User-Agent", "X-Tenant", "X-Amz-Date"])
def test_other_headers_are_not(name):
    """What they say is in harmless texts too."""
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("name", "value", "text", "left"),
    [
        ("Authorization", "Bearer abcdefgh", "Bearer abcdefgh? no, abcdefgh!", "Bearer ***? no, ***!"),
        ("Authorization", "abcdefgh", "abcdefgh", "***"),
        ("Authorization", "Bearer abcdefgh", "a Bearer token is needed", "a Bearer token is needed"),
        ("X-Api-Key", "Bearer abcdefgh", "no Bearer abcdefgh", "no Bearer ***"),
        ("X-Api-Key", "abcdef==", "is 'abcdef=='", "is '***'"),
        ("Cookie", "a=1; session=abcdefgh", "session abcdefgh, a=1", "session ***, a=1"),
        ("X-Api-Key", "abcdefgh", "is 'abcdefg...'", "is '***...'"),
        ("X-Api-Key", "abcdefgh", "is 'abcdefg'", "is '***'"),
        ("X-Api-Key", "abcdefgh", "is abcdefg", "is ***"),
        ("X-Api-Key", "abcdefgh", "abcdefg is another, abcdefgh is", "abcdefg is another, *** is"),
        ("X-Api-Key", "short", "in short", "in short"),
        ("Content-Type", "application/json", "not application/json", "not application/json"),
    ],
)
def test_a_text_that_repeats_a_secret_is_masked(name, value, text, left):
    """Whole or cut off, with its scheme or without; what is too short to be told from other words is left."""
    assert without_secrets(text, [(name, value)]) == left
