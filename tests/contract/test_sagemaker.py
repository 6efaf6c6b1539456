"""The SageMaker backend passes the contract of backends, on a fake account."""

from __future__ import annotations

import asyncio
import threading

import pytest

import tgibench as tb
from sagemaker_account import FAST, clean_environment
from tgibench.testing import BackendContract
from tgibench.testing.fake_sagemaker import fake_sagemaker


class Account(threading.Thread):
    """A fake account on a loop of its own, as the contract's tests run one each."""

    def __init__(self):
        super().__init__()
        self.begun = threading.Event()

    def run(self):
        """Serve until told to stop."""
        asyncio.run(self.serve())

    async def serve(self):
        """A quick account."""
        self.loop, self.done = asyncio.get_running_loop(), asyncio.Event()
        async with fake_sagemaker(creating_s=0.3, deleting_s=0.1, step_times=FAST) as self.fake:
            self.begun.set()
            await self.done.wait()

    def stop(self):
        """Stop serving."""
        self.loop.call_soon_threadsafe(self.done.set)
        self.join()


@pytest.fixture(scope="module")
def served():
    """One account for all tests."""
    account = Account()
    account.start()
    assert account.begun.wait(10)
    yield account.fake
    account.stop()


class TestSageMakerBackend(BackendContract):
    """What it creates is asked of the account."""

    deployment = tb.Deployment(
        "meta-llama/Llama-2-7b-hf",
        "ml.g5.2xlarge",
        server_version="1.0.3",
        environment=(("HF_TOKEN", "hf_verysecret"),),
    )
    secrets = ("verysecret",)

    @pytest.fixture(autouse=True)
    def account(self, served, monkeypatch, tmp_path):
        """boto3 finds the fake account and nothing else."""
        clean_environment(monkeypatch, tmp_path, served.environment)
        self.fake = served
        quick = {"role_arn": served.role_arn, "poll_s": 0.05, "consistent_after_s": 0.1}
        self.backend = tb.SageMakerBackend(**quick)
        self.failing = tb.SageMakerBackend(**quick, ready_timeout_s=0.05)

    def running(self):
        """Everything in the account."""
        return self.fake.account.alive()
