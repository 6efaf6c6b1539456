"""The command with workers: processes of this machine, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

import pytest

from scripted_server import END, HEAD, chunk, serving, tgi_event
from tgibench.cli.workers import gathered
from tgibench.errors import MissingExtraError

EVENTS = [chunk(tgi_event(number, 2)) for number in (1, 2)]


def script(number):
    """Two tokens in 50 ms."""
    return [HEAD, EVENTS[0], 0.05, EVENTS[1], END]


async def started(url, *options):
    """The command in a session of its own, as from a terminal."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tgibench", "run", "--url", url, *options,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


async def group_ended(group):
    """Wait a little until no process of a group is left: multiprocessing's own tracker ends a moment later than the command."""
    for _ in range(200):
        os.killpg(group, 0)
        await asyncio.sleep(0.02)


async def test_processes_share_each_load():
    """Every cell has all its requests, and the users of all workers together; no sharing is shown as one process."""
    async with serving(script) as url:
        process = await started(url, "--concurrency", "2,4", "--requests", "20", "--workers", "2", "--json")
        output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    cells = json.loads(output)
    assert [cell["load"] for cell in cells] == ["2 users", "4 users"]
    assert all(cell["counts"] == {"issued": 20, "succeeded": 20, "failed": 0, "unsent": 0} for cell in cells)


async def test_ctrl_c_ends_command_and_workers_cleanly():
    """The terminal's signal reaches all of them: exit code 130, no traceback, and nobody is left."""
    begun = asyncio.Event()

    def noting(number):
        if number >= 4:
            begun.set()
        return script(number)

    async with serving(noting) as url:
        process = await started(url, "--concurrency", "4", "--duration", "100", "--workers", "2")
        await asyncio.wait_for(begun.wait(), 60)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 130, errors.decode()
    assert errors.decode() == "tgibench: interrupted: what was finished is shown\n"
    with pytest.raises(ProcessLookupError):
        await group_ended(process.pid)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--workers", "3"), "2 users (20 requests) cannot be split into 3 parts"),
        (("--listen", "10.0.0.1", "--workers", "2"), "--listen is for --dask"),
        (("--dask", "nowhere"), "--dask must be a scheduler's address such as tcp://10.0.0.5:8786, got 'nowhere'"),
    ],
)
async def test_what_cannot_be_is_one_sentence_and_exit_code_2(options, words):
    """No traceback."""
    async with serving(script) as url:
        process = await started(url, "--concurrency", "2", "--requests", "20", *options)
        _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert errors.decode().startswith(f"tgibench: {words}")
    assert errors.decode().count("\n") == 1


def test_a_cluster_needs_the_extra(monkeypatch):
    """The error names what to install."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(MissingExtraError, match=r'pip install "tgibench\[dask\]"'),
        gathered(2, dask="tcp://127.0.0.1:1"),
    ):
        pass
