"""Every script in examples/ runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
EXPECTED = {
    "attach_to_server.py": "6 of 6 requests succeeded, EMULATED",
    "docker_sweep.py": "EMULATED",
    "llama2_adaptive.py": "of the grid's $79.53",
    "llama2_sagemaker.py": "median deviation of ms/token, fp16: ",
    "own_load_profile.py": ", 0 failed",
    "quick_sweep.py": "EMULATED",
}


def test_every_example_has_an_expectation():
    """A new script needs a line here."""
    assert {script.name for script in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", [name for name in EXPECTED if not name.startswith("docker")])
def test_the_example_runs_and_prints_what_it_should(name):
    """It ends well and its output holds what is expected."""
    done = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert EXPECTED[name] in done.stdout


@pytest.mark.docker
def test_the_sweep_over_containers_prints_its_table_and_leaves_nothing(docker):
    """Two deployments under four loads each, on a real engine."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "docker_sweep.py", "org/example"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    table, _, recommendation = done.stdout.partition("Cheapest: ")
    assert table.count(EXPECTED["docker_sweep.py"]) == 8, done.stdout
    assert "@ this machine" in recommendation
    label = "label=tgibench.model=org/example"
    assert not docker("ps", "--all", "--quiet", "--filter", label)
    assert not docker("volume", "ls", "--quiet", "--filter", label)


def test_the_study_runs_on_a_fake_sagemaker_and_leaves_nothing(tmp_path):
    """Its three smallest deployments, one after the other."""
    program = [sys.executable, EXAMPLES / "llama2_sagemaker.py", "--backend", "sagemaker", "--fake"]
    environment = {**os.environ, "TGIBENCH_STATE_DIR": str(tmp_path)}
    done = subprocess.run(
        [*program, "--only", "ml.g5.2xlarge"], capture_output=True, text=True, timeout=110, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "endpoints created and deleted: 3; left: nothing" in done.stdout
    assert done.stdout.count("  20 users") == 3
