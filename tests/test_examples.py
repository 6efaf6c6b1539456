"""Every script in examples/ runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
EXPECTED = {
    "attach_to_server.py": "6 of 6 requests succeeded, EMULATED",
    "llama2_adaptive.py": "of the grid's $79.53",
    "llama2_sagemaker.py": "median deviation of ms/token, fp16: ",
    "own_load_profile.py": ", 0 failed",
    "quick_sweep.py": "EMULATED",
}


def test_every_example_has_an_expectation():
    """A new script needs a line here."""
    assert {script.name for script in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_example_runs_and_prints_what_it_should(name):
    """It ends well and its output holds what is expected."""
    done = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert EXPECTED[name] in done.stdout
