"""What is between client and server: certificates are checked unless told otherwise, and proxies are not used."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest

import tgibench as tb
from scripted_server import END, HEAD, chunk, response, tgi_event
from tgibench.endpoints import Timeouts
from tgibench.requests import GenerationRequest
from tgibench.testing import scripted_server

DEPLOYMENT = tb.Deployment("org/model", "machine")
ASK = GenerationRequest(prompt="Hello", max_new_tokens=3)
EVENTS = b"".join(tgi_event(number, 3) for number in (1, 2, 3))


async def exchange_with(url, **options):
    """What becomes of one request."""
    async with tb.HttpEndpoint(url, **options).connect() as client:
        return await client.generate(ASK, Timeouts()), client.stamps


async def test_a_certificate_that_nobody_signed_is_refused(tls):
    """No byte of the request is sent: the failure says why there is no connection."""
    asked = []

    def script(number):
        asked.append(number)
        return [HEAD, chunk(EVENTS), END]

    async with scripted_server(script, tls=tls) as url:
        exchange, _ = await exchange_with(url)
    assert exchange.failure.kind is tb.FailureKind.CONNECTION_REFUSED
    assert "certificate verify failed" in exchange.failure.message
    assert exchange.sent_s is None
    assert asked == []


async def test_a_stream_over_tls_is_decoded_and_timed_as_over_tcp(tls):
    """With the check put off: events cut anywhere, each read with its own time from the socket."""
    cut = len(EVENTS) // 2

    def script(_):
        return [HEAD, chunk(EVENTS[:cut]), 0.05, chunk(EVENTS[cut:]), END]

    async with scripted_server(script, tls=tls) as url:
        exchange, stamps = await exchange_with(url, verify_tls=False)
    assert exchange.failure is None
    assert (exchange.output_tokens, exchange.finish_reason) == (3, "length")
    assert exchange.chunk_tokens.tolist() == [1, 2]
    assert exchange.chunk_times_s[1] - exchange.chunk_times_s[0] >= 0.04
    assert exchange.connect_s > 0
    assert stamps is (tb.StampSource.KERNEL if sys.platform == "linux" else tb.StampSource.SOCKET_READ)


async def test_attaching_to_a_server_with_such_a_certificate_says_so_at_once(tls):
    """Waiting would not make it valid; the sentence names the way out."""
    async with scripted_server(lambda _: [response(200, b"{}")], tls=tls) as url:
        backend = tb.HttpBackend(url)  # its 60 s of patience would be too many for this test's time limit
        with pytest.raises(tb.DeployError, match=rf"^{url}: .*certificate verify failed.*verify_tls=False"):
            async with asyncio.timeout(30), backend.deploy(DEPLOYMENT):
                pass
        async with tb.HttpBackend(url, verify_tls=False).deploy(DEPLOYMENT) as endpoint:
            assert endpoint.verify_tls is False


async def test_the_command_checks_the_certificate_unless_told_otherwise(tls, certificate):
    """One sentence and exit code 2; with the option, or the authority's certificate trusted, the cell."""

    async def run(url, *options, **variables):
        command = [sys.executable, "-m", "tgibench", "run", "--url", url, "--concurrency", "1", "--requests", "1"]
        return await asyncio.to_thread(
            subprocess.run,
            [*command, "--json", *options],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    async with scripted_server(lambda _: [HEAD, chunk(EVENTS), END], tls=tls) as url:
        refused, accepted = await run(url), await run(url, "--no-verify-tls")
        trusted = await run(url, SSL_CERT_FILE=str(certificate[0]))
        elsewhere = await run(url.replace("127.0.0.1", "localhost"), SSL_CERT_FILE=str(certificate[0]))
    assert (refused.returncode, refused.stdout) == (2, "[]\n")
    assert "certificate verify failed" in refused.stderr
    assert "Traceback" not in refused.stderr
    for done in (accepted, trusted):
        assert json.loads(done.stdout)[0]["counts"]["succeeded"] == 1, done.stderr
    assert (elsewhere.returncode, elsewhere.stdout) == (2, "[]\n"), "trusted, but not for that name"
    assert "localhost" in elsewhere.stderr


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_proxies_of_the_environment_are_not_used(name, monkeypatch):
    """Requests go to the server itself: a proxy would be measured with it."""
    async with (
        scripted_server(lambda _: [HEAD, chunk(EVENTS), END]) as url,
        scripted_server(lambda _: [response(502, b"the proxy")]) as proxy,
    ):
        monkeypatch.setenv(name, proxy)
        exchange, _ = await exchange_with(url)
        async with tb.HttpBackend(url).deploy(DEPLOYMENT):
            pass
    assert exchange.failure is None
