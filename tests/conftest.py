"""What several tests need: a Docker engine with the emulator's image in it."""

from __future__ import annotations

import os
import subprocess

import pytest

from engine import build_image


def why_no_engine():
    """Why there is none to use; None when there is one."""
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S607
    except FileNotFoundError:
        return "there is no command `docker`"
    return None if done.returncode == 0 else done.stderr.strip() or done.stdout.strip()


@pytest.fixture(scope="session")
def docker():
    """The docker command of an engine that holds the image; what it prints. Without an engine: failure in CI, else skipped."""
    problem = why_no_engine()
    if problem is not None:
        if os.environ.get("CI"):
            pytest.fail(f"no Docker engine in CI: {problem}")
        pytest.skip(f"no Docker engine: {problem}")
    build_image.build()
    return build_image.docker


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """No test depends on what was calibrated on this machine, or changes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
