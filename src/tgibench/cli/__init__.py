"""The command `tgibench`: a thin shell around the library."""

from __future__ import annotations

import gc
import os
import sys

from tgibench.errors import MissingExtraError, TgibenchError

__all__ = ["main"]


def main() -> None:
    """Run the command; every expected error is one sentence on standard error and exit code 2."""
    # numpy's threads wait for work by spinning, on the cores that a client and its workers need
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(50_000, 20, 20)  # what is imported is not garbage
    try:
        from tgibench.cli.commands import tgibench  # noqa: PLC0415 - click and rich are an extra
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        missing = MissingExtraError(f'the command needs {error.name}: pip install "tgibench[cli]"')
        sys.stderr.write(f"tgibench: {missing}\n")
        sys.exit(2)
    try:
        tgibench(prog_name="tgibench")
    except TgibenchError as error:
        sys.stderr.write(f"tgibench: {error}\n")
        sys.exit(2)
