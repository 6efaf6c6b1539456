"""The backends that tgibench ships pass the contract that it ships."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tgibench as tb
from tgibench.testing import BackendContract

DEPLOYMENT = tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.12xlarge", tensor_parallel=4, server_version="3.3.7")
EMULATE = (sys.executable, "-m", "tgibench", "emulate", "--model-id", "{model_id}", "--port")


MARK = f"started-by-{os.getpid()}"
ENVIRONMENT = {"HF_TOKEN": "hf_verysecret", "TGIBENCH_TEST_MARK": MARK}


def marked():
    """Process ids of everything that runs with this test's mark in its environment, whoever its parent is by now."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if MARK.encode() in (path / "environ").read_bytes():
                found.add(int(path.name))
    return found


class TestEmulator(BackendContract):
    """In this process and in virtual time."""

    backend = tb.Emulator(ready_after_s=30.0)
    failing = tb.Emulator()
    deployment = DEPLOYMENT
    starts = False
    run = staticmethod(tb.virtual_time.run)

    def test_what_cannot_be_made_ready_is_a_deploy_error(self):
        """A model that does not fit."""
        self.deployment = tb.Deployment("meta-llama/Llama-2-70b-hf", "ml.g5.2xlarge")
        super().test_what_cannot_be_made_ready_is_a_deploy_error()


class TestProcessBackend(BackendContract):
    """The emulator's server as a process."""

    backend = tb.ProcessBackend((*EMULATE, "{port}"), stop_timeout_s=20, environment=ENVIRONMENT)
    failing = tb.ProcessBackend(
        (sys.executable, "-c", "import time; print('loading', flush=True); time.sleep(60)", "{port}"),
        ready_timeout_s=1,
        environment=ENVIRONMENT,
    )
    deployment = DEPLOYMENT
    secrets = ("verysecret",)

    def running(self):
        """Processes with its mark; a dead one has no environment."""
        return marked()


class TestHttpBackend(BackendContract):
    """The emulator's server, run by somebody else."""

    failing = tb.HttpBackend("http://127.0.0.1:9", api_key="sk-verysecret", ready_timeout_s=0.5)
    deployment = DEPLOYMENT
    starts = False
    secrets = ("verysecret",)

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls):
        process = subprocess.Popen([*EMULATE[:5], DEPLOYMENT.model_id, "--port", "0"], stdout=subprocess.PIPE)
        try:
            url = process.stdout.readline().split()[4].decode()
            cls.backend = tb.HttpBackend(url, api_key_env="CONTRACT_KEY")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("CONTRACT_KEY", "sk-verysecret")
                yield
        finally:
            process.terminate()
            process.communicate(timeout=20)
