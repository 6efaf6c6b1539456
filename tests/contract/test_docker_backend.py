"""Containers pass the contract of every backend, on a real engine."""

from __future__ import annotations

import os

import pytest

import tgibench as tb
from tgibench.testing import BackendContract

MODEL = f"org/contract-{os.getpid()}"  # what another test process runs is not counted
DEPLOYMENT = tb.Deployment(MODEL, "this machine", server_version="3.3.7", environment=(("EMULATE_GATED", "1"),))


@pytest.mark.docker
class TestDockerBackend(BackendContract):
    """The image with the emulator in it; its model is gated, so that there is a secret to keep."""

    backend = tb.DockerBackend(hf_token="hf_verysecret")
    failing = tb.DockerBackend(hf_token="hf_verysecret", ready_timeout_s=0.1)
    deployment = DEPLOYMENT
    secrets = ("verysecret",)

    @pytest.fixture(autouse=True)
    def _engine(self, docker):
        self.docker = docker

    def running(self):
        """Its containers and volumes, by the engine's word."""
        label = f"label=tgibench.model={MODEL}"
        containers = self.docker("ps", "--all", "--quiet", "--filter", label).split()
        return containers + self.docker("volume", "ls", "--quiet", "--filter", label).split()
