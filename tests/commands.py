"""The command `tgibench`: as a process of its own, as a user starts it, and in this one, where Python and the imports are there already."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from unittest import mock

from tgibench.cli import main

TGIBENCH = (sys.executable, "-m", "tgibench")


def run_process(*arguments, **options):
    """Run it to its end as a process."""
    command = [*TGIBENCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, **options)


def run_here(*arguments):
    """Run it to its end in this process; an exception other than the one that ends a process comes out."""
    command, said, told, code = ["tgibench", *map(str, arguments)], io.StringIO(), io.StringIO(), 0
    with mock.patch.object(sys, "argv", command), contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    return subprocess.CompletedProcess(command, code, said.getvalue(), told.getvalue())
