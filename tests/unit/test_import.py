"""What importing tgibench loads and offers."""

from __future__ import annotations

import subprocess
import sys

import tgibench as tb


def test_importing_loads_nothing_heavy():
    """A fresh interpreter that imports tgibench has loaded neither aiohttp nor numpy nor boto3."""
    code = "import sys, tgibench; print(*sorted({'aiohttp', 'numpy', 'boto3', 'rich', 'click'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""


def test_the_contracts_need_no_pytest():
    """They are for any runner: importing them loads no test library."""
    code = "import sys, tgibench.testing; print(*sorted({'pytest', '_pytest', 'hypothesis'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""


def test_every_public_name_is_there():
    """What `__all__` promises can be had."""
    assert [name for name in tb.__all__ if not hasattr(tb, name)] == []
    assert dir(tb) == sorted(tb.__all__)


def test_an_unknown_name_is_an_attribute_error():
    """As for any module."""
    assert not hasattr(tb, "nothing_of_this_name")
