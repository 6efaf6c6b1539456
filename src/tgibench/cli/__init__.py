"""The command `tgibench`: a thin shell around the library."""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn

from tgibench.errors import MissingExtraError, TgibenchError

__all__ = ["main"]


def main() -> None:
    """Run the command; every expected error is one sentence on standard error and exit code 2."""
    # numpy's threads wait for work by spinning, on the cores that a client and its workers need
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(50_000, 20, 20)  # what is imported is not garbage
    try:
        from tgibench.cli.commands import tgibench  # noqa: PLC0415 - click and rich are an extra

        tgibench(prog_name="tgibench")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in {"click", "rich"}:
            raise
        _leave(MissingExtraError(f'the command needs {package}: pip install "tgibench[cli]"'))
    except TgibenchError as error:
        _leave(error)


def _leave(error: TgibenchError) -> NoReturn:
    sys.stderr.write(f"tgibench: {error}\n")
    sys.exit(2)
