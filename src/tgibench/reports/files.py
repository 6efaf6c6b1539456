"""Reports on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgibench.errors import ResultsError
from tgibench.files import write_whole

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_report"]


def write_report(path: str | Path, text: str) -> None:
    """Write a report, whole or not at all: what stood there before stays until the new one is on the disk.

    Raises:
        ResultsError: It cannot be written.
    """
    try:
        write_whole(path, text)
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot write the report to {str(path)!r}: {error}") from error
