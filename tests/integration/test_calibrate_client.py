"""The client's own floor, found on loopback by a real run against the token server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import tgibench as tb
from floors import floor
from tgibench.cli.commands import tgibench
from tgibench.floor_cache import floor_from_json, keep_floor


def token_servers():
    """The token servers that this process started and that still run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, parent = (
                (folder / "cmdline").read_bytes(),
                (folder / "stat").read_bytes().rpartition(b")")[2].split()[1],
            )
        except OSError:  # it ended meanwhile
            continue
        if b"_token_server.py" in command and int(parent) == os.getpid():
            found.append(folder.name)
    return found


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_a_floor_is_found_kept_and_shown(cache):
    """One calibration: its figures rest on every request of its load; the command then shows the very same, as table and as JSON."""
    found = tb.calibrate_client_blocking()
    assert token_servers() == []
    assert found.ttft_error_s.count == found.latency_error_s.count == 400
    assert found.icl_error_s.count == 100 * 99
    assert found.tpot_error_s.count == 100
    assert 0 < found.ttft_error_s.p50 <= found.ttft_error_s.p99
    assert found.health.stamps is found.host.stamps
    assert found.health.cpu_share > 0
    assert found.cpu_per_token_s.interval[0] <= found.cpu_per_token_s.value <= found.cpu_per_token_s.interval[1]
    assert found.tokens_per_s > 0
    assert found.check is not None or found.notes
    assert len(list((cache / "tgibench").iterdir())) == 1
    assert floor_from_json(json.loads(CliRunner().invoke(tgibench, ["calibrate", "--json"]).output)) == found
    shown = CliRunner().invoke(tgibench, ["calibrate"]).output
    assert f"{found.tokens_per_s:,.0f} tokens/s" in shown
    assert "Extrapolated to 70% of a core" in shown


async def test_a_cancelled_calibration_leaves_nothing_behind(cache):
    """Neither a server nor a half-found floor."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.8):
            await tb.calibrate_client()
    assert token_servers() == []
    assert list(cache.iterdir()) == []


async def test_a_measurement_is_judged_by_the_remembered_floor(cache):
    """And by its own health alone where there is none; nothing is calibrated on the way."""
    backend = tb.ProcessBackend(
        (sys.executable, "-m", "tgibench", "emulate", "--port", "{port}"), ready_timeout_s=60, stop_timeout_s=5
    )
    deployment, load = tb.Deployment("org/model", "here"), tb.ClosedLoop(2, requests=4)
    prompts = tb.FixedPrompt(prompt="Hello", max_new_tokens=5)
    async with backend.deploy(deployment) as endpoint:
        first = await tb.measure(deployment, endpoint, load, backend=backend, prompts=prompts)
        keep_floor(floor(stamps=first.client.health.stamps))
        second = await tb.measure(deployment, endpoint, load, backend=backend, prompts=prompts)
    assert not first.client.calibrated
    assert second.client.calibrated
    assert second.client.shares["ttft_s_p50"] == pytest.approx(0.002 / second.metrics.ttft_s.p50)
