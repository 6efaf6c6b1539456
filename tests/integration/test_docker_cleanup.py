"""What is left when the benchmark itself is killed, and `tgibench cleanup`: on a real engine, with real signals."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import tgibench as tb
from tgibench.backends.docker.ownership import labels_of, owner_state

pytestmark = pytest.mark.docker

SWEEP = """
import asyncio, os, sys
import tgibench as tb

model, wanted, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
reached = False

def at(step):
    global reached
    if step.startswith(wanted) and not reached:
        reached = True
        print("reached", step, flush=True)
        os.kill(os.getpid(), number)

def moved(progress):
    if progress.run is not None and progress.run.finished > 3:
        at("measuring")

deployment = tb.Deployment(model, "this machine", server_version="3.3.7", environment=(("EMULATE_START_S", "1"),))
study = asyncio.run(
    tb.sweep(
        [deployment],
        [tb.ClosedLoop(3, requests=30)],
        backend=tb.DockerBackend(on_progress=at),
        prompts=tb.SyntheticPrompts(max_new_tokens=10),
        on_progress=moved,
    )
)
print("interrupted", study.interrupted, flush=True)
"""
STEPS = ("created", "started", "loading", "ready", "measuring", "stopping")


def killed(model, step, number):
    """A sweep that sends itself a signal at a step."""
    command = [sys.executable, "-c", SWEEP, model, step, str(int(number))]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def held(docker, model):
    """Containers and volumes that tgibench made for the model."""
    label = f"label=tgibench.model={model}"
    containers = docker("ps", "--all", "--quiet", "--filter", label).split()
    return containers + docker("volume", "ls", "--quiet", "--filter", label).split()


def cleanup(*options):
    """The command, as a user calls it."""
    command = [sys.executable, "-m", "tgibench", "cleanup", "--backend", "docker", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(autouse=True)
def _alone():
    """One test of this file at a time: cleaning up would take from another what that one still counts."""
    with (Path(tempfile.gettempdir()) / "tgibench-cleanup-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def others(docker, request):
    """A container and a volume that are not ours; they must outlive everything."""
    name = f"somebody-else-{abs(hash(request.node.name))}"
    docker("volume", "create", name)
    image = "ghcr.io/huggingface/text-generation-inference:3.3.7"
    docker("run", "--detach", "--name", name, "--label", "com.example=tgibench", "--env", "EMULATE_START_S=600", image)
    yield name
    docker("rm", "--force", name)
    docker("volume", "rm", name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("step", STEPS)
def test_whatever_kills_a_run_at_any_step_nothing_is_left_after_cleanup(docker, step, number):
    """Ctrl-C leaves nothing by itself; after the other signals `tgibench cleanup --yes` finds and removes all of it."""
    model = f"killed/{step}-{number.name}"
    done = killed(model, step, number)
    assert done.stdout.startswith("reached"), done.stderr
    if number is signal.SIGINT:
        assert held(docker, model) == []
    else:
        assert done.returncode == -number
        assert len(held(docker, model)) == 2, "a container and its volume"
    cleaned = cleanup("--yes")
    assert cleaned.returncode == 0, cleaned.stderr
    assert held(docker, model) == []


async def test_cleanup_shows_first_and_touches_nothing_else(docker, others):
    """A dry run changes nothing; what others run and what a living benchmark runs stay, the dead run's things go."""
    model = "killed/shown"
    killed(model, "loading", signal.SIGKILL)
    dead = held(docker, model)
    assert len(dead) == 2
    async with tb.DockerBackend().deploy(
        tb.Deployment("living/model", "this machine", server_version="3.3.7")
    ) as endpoint:
        shown = cleanup()
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.count(f"for {model}, started ") == 2
        assert "its process is gone" in shown.stdout
        assert "remove with `tgibench cleanup --yes`" in shown.stdout
        assert "living/model" not in shown.stdout
        assert held(docker, model) == dead
        removed = cleanup("--yes")
        assert removed.returncode == 0, removed.stderr
        assert "docker: removed " in removed.stdout
        assert held(docker, model) == []
        everything = cleanup("--all").stdout
        assert endpoint.container in everything
        assert "its process is alive" in everything
        log = await tb.run_load(endpoint, tb.ClosedLoop(1, requests=2), tb.SyntheticPrompts(max_new_tokens=2))
        assert log.counts["succeeded"] == 2, "it still serves"
    assert docker("ps", "--quiet", "--filter", f"name={others}").strip()
    assert others in docker("volume", "ls", "--quiet").split()


def test_whose_process_ended_is_gone_and_another_machines_is_not_judged():
    """A number that was given to another process does not count as the owner's."""
    labels = labels_of("x", model_id="m")
    assert owner_state(labels) == "alive"
    assert owner_state({**labels, "tgibench.owner": labels["tgibench.owner"] + "0"}) == "gone"
    host, _, rest = labels["tgibench.owner"].partition("/")
    assert owner_state({"tgibench.owner": f"{host}/4194305/77"}) == "gone"
    assert owner_state({"tgibench.owner": f"other-{host}/{rest}"}) == "elsewhere"
    assert owner_state({}) == "elsewhere"


def test_without_an_engine_cleanup_says_so_and_fails(monkeypatch, tmp_path):
    """It must not be taken for a clean machine."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    done = cleanup("--yes")
    assert done.returncode == 2
    assert (
        done.stderr
        == f"docker: no Docker engine answers at unix://{tmp_path}/none.sock: start it, or set DOCKER_HOST to the one that runs\n"
    )
