"""Servers that are started, watched and stopped, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tgibench as tb

DEPLOYMENT = tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.12xlarge", tensor_parallel=4, server_version="1.0.3")
EMULATOR = (sys.executable, "-m", "tgibench", "emulate", "--port", "{port}", "--model-id", "{model_id}")


def running(group):
    """How many processes of the group run; one that is dead and not yet reaped by init runs no more."""
    stats = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            stats.append(path.read_text(errors="replace").rpartition(")")[2].split())
    return sum(int(stat[2]) == group and stat[0] not in "ZX" for stat in stats)


def python(code):
    """A command that runs code with the port as its argument."""
    return (sys.executable, "-c", code, "{port}")


async def test_a_server_is_started_measured_and_stopped():
    """The emulator in a process of its own: its cells are EMULATED, its port is closed afterwards."""
    backend = tb.ProcessBackend(EMULATOR, stop_timeout_s=10)
    study = await tb.sweep(
        [DEPLOYMENT], [tb.ClosedLoop(2, requests=6)], backend=backend, prompts=tb.SyntheticPrompts(max_new_tokens=4)
    )
    (cell,) = study
    assert cell.metrics.counts["succeeded"] == 6
    assert cell.source is tb.Source.EMULATED
    assert cell.provenance.facts["model_id"] == DEPLOYMENT.model_id
    assert 0 < cell.provenance.first_token_after_ready_s < cell.provenance.ready_after_s


async def test_an_early_death_is_told_with_exit_code_and_last_lines():
    """What the server printed last becomes the error."""
    backend = tb.ProcessBackend(python("import sys; print('CUDA out of memory'); sys.exit(3)"))
    with pytest.raises(tb.DeployError, match=r"(?s)exit code 3 before it was ready.*CUDA out of memory"):
        async with backend.deploy(DEPLOYMENT):
            pass


async def test_a_server_that_is_never_ready_is_stopped_and_told():
    """With its last lines."""
    backend = tb.ProcessBackend(
        python("import time; print('loading', flush=True); time.sleep(60)"), ready_timeout_s=1, stop_timeout_s=5
    )
    with pytest.raises(tb.DeployError, match=r"(?s)not ready within 1 s.*loading"):
        async with backend.deploy(DEPLOYMENT):
            pass


STUBBORN = """
import http.server, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.parametrize("how", ["leaves", "raises", "is cancelled"])
async def test_a_stubborn_server_and_its_child_are_killed_however_the_user_goes(how):
    """Nothing of its process group is left: on a normal end, an error and a cancellation."""
    groups, before_stop = [], []
    backend = tb.ProcessBackend(python(STUBBORN), stop_timeout_s=0.3)

    async def use():
        before = set(children())
        async with backend.deploy(DEPLOYMENT):
            groups.extend(set(children()) - before)
            before_stop.append(running(groups[0]))
            if how == "raises":
                raise ZeroDivisionError
            if how == "is cancelled":
                await asyncio.sleep(60)

    task = asyncio.get_running_loop().create_task(use())
    while not groups and not task.done():  # noqa: ASYNC110 - the other side is a process
        await asyncio.sleep(0.05)
    if how == "is cancelled":
        task.cancel()
    await asyncio.wait({task})
    assert len(groups) == 1
    assert before_stop == [2], "the server and its child"
    assert running(groups[0]) == 0
    if how == "raises":
        assert isinstance(task.exception(), ZeroDivisionError)
    assert task.cancelled() == (how == "is cancelled")


def children():
    """Process ids of this process's living children."""
    pid = os.getpid()
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:  # noqa: PTH123 - a kernel file
        return [int(word) for word in file.read().split()]


async def test_a_program_that_is_not_there_is_told():
    """One sentence."""
    with pytest.raises(tb.DeployError, match="cannot start no-such-program"):
        async with tb.ProcessBackend(("no-such-program", "{port}")).deploy(DEPLOYMENT):
            pass


def test_a_command_without_a_port_is_refused():
    """It could not be reached."""
    with pytest.raises(tb.InvalidValueError, match=r"command must be a program with a \{port\}"):
        tb.ProcessBackend(("vllm", "serve"))


def test_what_the_environment_holds_is_not_shown():
    """Names only."""
    backend = tb.ProcessBackend(("x", "{port}"), environment={"HF_TOKEN": "hf_verysecret"})
    assert "verysecret" not in repr(backend)


LEAVES_A_CHILD = """
import asyncio, os, sys
import tgibench as tb
server = '''
import http.server, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
'''
async def main():
    backend = tb.ProcessBackend((sys.executable, "-c", server, "{port}"), stop_timeout_s=30)
    async with backend.deploy(tb.Deployment("model", "machine")):
        pass
    print("stopped as process", os.getpid())
asyncio.run(main())
"""


def test_a_dead_child_that_nobody_waits_for_counts_as_gone():
    """As process 1 of a container without an init: no wait, no error."""
    alone = ["unshare", "--pid", "--fork", "--mount-proc"]
    try:
        subprocess.run([*alone, "true"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.CalledProcessError):
        if os.environ.get("CI"):
            raise
        pytest.skip("process namespaces need unshare and the right to use it")
    done = subprocess.run(
        [*alone, sys.executable, "-c", LEAVES_A_CHILD], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "stopped as process 1\n", done.stderr


async def test_a_server_does_not_read_the_callers_input():
    """A script that is piped into a shell is not eaten: the server finds its input at its end."""
    backend = tb.ProcessBackend(python("import sys; print('read', repr(sys.stdin.read())); sys.exit(4)"))
    with pytest.raises(tb.DeployError, match=r"(?s)exit code 4.*read ''"):
        async with backend.deploy(DEPLOYMENT):
            pass


MEASURER = """
import asyncio, sys
import tgibench as tb
async def main():
    backend = tb.ProcessBackend((sys.executable, "-c", sys.argv[1], "{port}"), stop_timeout_s=0.3)
    async with backend.deploy(tb.Deployment("model", "machine")):
        print("ready", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
NEVER_READY = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"


def marked(mark):
    """Process ids of all that runs with a mark in its environment, whoever its parent is by now."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (path / "environ").read_bytes():
                found.add(int(path.name))
    return found


def until(look):
    """Wait until something is true; pytest's time limit says when it never is."""
    while not look():
        time.sleep(0.02)


@pytest.mark.parametrize("when", ["in use", "while it starts"])
def test_a_measuring_process_that_is_killed_leaves_nothing_running(when):
    """SIGKILL runs no `finally`: the server that ignores SIGTERM, its child and the guard are gone all the same."""
    mark = f"TGIBENCH_TEST_MARK={os.getpid()}-{when.replace(' ', '-')}"
    name, _, value = mark.partition("=")
    server = STUBBORN if when == "in use" else NEVER_READY
    measurer = subprocess.Popen(
        [sys.executable, "-c", MEASURER, server], env={**os.environ, name: value}, stdout=subprocess.PIPE, text=True
    )
    if when == "in use":
        assert measurer.stdout.readline() == "ready\n"
        assert len(marked(mark)) == 4, "measurer, server, its child, guard"
    else:
        until(lambda: len(marked(mark)) >= 3)
    measurer.kill()
    measurer.communicate(timeout=30)
    until(lambda: not marked(mark))


async def test_a_program_that_cannot_be_run_is_told(tmp_path):
    """It is there, but no program: its exit code and the system's words."""
    program = tmp_path / "server"
    program.write_bytes(b"\x7fELF and nothing more")
    program.chmod(0o755)
    with pytest.raises(tb.DeployError, match=r"(?s)exit code 127.*cannot start .*server: "):
        async with tb.ProcessBackend((program.as_posix(), "{port}")).deploy(DEPLOYMENT):
            pass


def test_a_server_is_stopped_under_another_event_loop():
    """One that starts processes in its own way."""
    uvloop = pytest.importorskip("uvloop")
    mark = f"{os.getpid()}-uvloop"
    backend = tb.ProcessBackend(python(STUBBORN), stop_timeout_s=0.3, environment={"TGIBENCH_TEST_MARK": mark})

    async def use():
        async with backend.deploy(DEPLOYMENT):
            return len(marked(mark))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(use()) == 3, "server, its child, guard"
    assert marked(mark) == set()
