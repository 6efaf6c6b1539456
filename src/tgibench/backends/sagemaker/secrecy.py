"""Keeps secrets out of logs and errors: what botocore logs of our calls at DEBUG, and what AWS quotes of them when it refuses them.

Only our own calls are withheld: what the caller does with boto3 in the same process is logged as ever.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from tgibench.deployments import sounds_secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["masked", "withheld"]

# those of botocore's loggers that show headers, bodies, strings to sign or credentials (botocore 1.40 to 1.44); a filter of a logger is
# not asked about the records of the loggers below it, so each is named
_SHOWING = tuple(
    f"botocore.{module}"
    for module in (
        "auth",
        "awsrequest",
        "credentials",
        "crt.auth",
        "endpoint",
        "handlers",
        "httpsession",
        "parsers",
        "signers",
        "tokens",
        "utils",
    )
)
_OURS: ContextVar[bool] = ContextVar("tgibench_withheld", default=False)


class _Withheld(logging.Filter):
    """Drops what is logged at DEBUG during our calls."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it may be logged."""
        return record.levelno > logging.DEBUG or not _OURS.get()


_FILTER = _Withheld()
for _name in _SHOWING:
    logging.getLogger(_name).addFilter(_FILTER)


@contextmanager
def withheld() -> Iterator[None]:
    """For as long as a call of ours runs, in this task or thread and in threads that take over its context."""
    token = _OURS.set(True)
    try:
        yield
    finally:
        _OURS.reset(token)


def masked(text: str, arguments: Mapping[str, Any]) -> str:
    """A text in which no secret of a call's arguments stands: what is named like one, at any depth."""
    for secret in _secrets(arguments):
        text = text.replace(secret, "***")
    return text


def _secrets(arguments: Mapping[str, Any]) -> Iterator[str]:
    for name, value in arguments.items():
        if isinstance(value, dict):
            yield from _secrets(value)
        elif isinstance(value, str) and value and sounds_secret(name):
            yield value
