"""What several tests need: a Docker engine with the emulator's image in it, a certificate."""

from __future__ import annotations

import os
import ssl
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


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Certificate and key of 127.0.0.1, signed by themselves."""
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return files


@pytest.fixture(scope="session")
def tls(certificate):
    """A server's side of TLS with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """No test depends on what was calibrated on this machine, or changes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
