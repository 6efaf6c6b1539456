"""A server that repeats what it was sent: no key is in what is recorded of the failure."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from aiohttp import web

import tgibench as tb
from sagemaker_account import clean_environment
from scripted_server import ABORT, HEAD, chunk, response, serving

DEPLOYMENT = tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge")
ASK = tb.GenerationRequest(prompt="x", max_new_tokens=2)
KEY = "sk-verysecret-0123456789"
ECHO = b'{"error":{"message":"Invalid token: Authorization: Bearer %s"}}' % KEY.encode()
ECHOES = {
    "an error's body": ([response(401, ECHO)], "http_error"),
    "an error's text": ([response(401, KEY.encode(), "text/plain")], "http_error"),
    "an error's body, cut off": ([response(401, ECHO)[:-9], 0.05, ABORT], "http_error"),
    "an event": ([HEAD, chunk(b"data: " + ECHO + b"\n\n"), b"0\r\n\r\n"], "validation"),
    "no JSON": ([HEAD, chunk(b"data: " + ECHO[:-9] + b"\n\n"), b"0\r\n\r\n"], "undecodable"),
    "no JSON, quoted in part": (
        [HEAD, chunk(b"data: " + b"x" * 64 + KEY.encode() + b"\n\n"), b"0\r\n\r\n"],
        "undecodable",
    ),
    "no HTTP": ([b"Authorization: Bearer " + KEY.encode() + b"\r\n\r\n", ABORT], "undecodable"),
    "no chunk": ([HEAD, b"Authorization: Bearer %s\r\n" % KEY.encode() * 2, ABORT], "undecodable"),
}
SENT = {
    "api_key": {"api_key": KEY},
    "Authorization": {"headers": (("Authorization", f"Bearer {KEY}"),)},
    "X-Api-Key": {"headers": (("X-Api-Key", KEY),)},
    "Cookie": {"headers": (("Cookie", f"theme=dark; session={KEY}"),)},
}


@asynccontextmanager
async def repeating():
    """Serve 401 for every request, and all of its headers in the error; yields the URL."""

    async def handle(request):
        if request.method == "GET":
            return web.json_response({}, status=404)
        told = ", ".join(f"{name}={value}" for name, value in request.headers.items())
        return web.json_response({"error": f"refused with {told}"}, status=401)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("sent", SENT)
async def test_no_key_is_in_a_failures_message(sent, echo):
    """However it was given, and wherever the server repeats it; the rest of its words is kept."""
    script, kind = ECHOES[echo]
    async with (
        serving(lambda number: script) as url,
        tb.HttpEndpoint(url, tb.OpenAIChatProtocol(), **SENT[sent]).connect() as client,
    ):
        exchange = await client.generate(ASK, tb.Timeouts())
    assert exchange.failure.kind == kind
    assert KEY[:6] not in exchange.failure.message
    assert "***" in exchange.failure.message


async def test_no_key_is_in_the_error_of_a_server_that_does_not_become_ready():
    """The last reason is in its own words, but for the key."""
    script, _ = ECHOES["no HTTP"]
    async with serving(lambda number: script) as url:
        with pytest.raises(tb.DeployError, match=r"Bearer \*\*\*") as caught:
            async with tb.HttpBackend(url, api_key=KEY, ready_timeout_s=0.5).deploy(DEPLOYMENT):
                pass
    assert KEY[:6] not in str(caught.value)


async def test_no_key_is_in_a_study_or_its_store(tmp_path):
    """Nor in what is returned, warned of, or written down."""
    async with repeating() as url:
        study = await tb.sweep(
            [DEPLOYMENT],
            [tb.ClosedLoop(1, requests=3)],
            backend=tb.HttpBackend(url, api_key=KEY),
            prompts=tb.SyntheticPrompts(max_new_tokens=2),
            store=tmp_path,
        )
        log = await tb.run_load(tb.HttpEndpoint(url, api_key=KEY), tb.ClosedLoop(1, requests=3), tb.SyntheticPrompts())
    written = [path.read_bytes().decode("utf-8", "replace") for path in tmp_path.rglob("*") if path.is_file()]
    told = [*written, repr(study), *log.messages.values(), *(warning for cell in study for warning in cell.warnings)]
    assert len(written) >= 1
    assert log.counts["failed"] == 3
    assert KEY not in "\n".join(told)
    assert "Authorization=Bearer ***" in log.messages[0]


@pytest.mark.parametrize("openai_path", [False, True])
async def test_neither_signature_nor_token_of_sagemakers_runtime_is_in_a_failures_message(
    monkeypatch, tmp_path, openai_path
):
    """They are made anew for each request."""
    access = {
        "AWS_ACCESS_KEY_ID": "AKIAVERYSECRET",
        "AWS_SECRET_ACCESS_KEY": "KEYSECRET",
        "AWS_SESSION_TOKEN": "SESSIONSECRET",
        "AWS_REGION": "eu-west-1",
    }
    clean_environment(monkeypatch, tmp_path, access)
    inner = tb.OpenAIChatProtocol() if openai_path else tb.TgiCompatProtocol()
    protocol = tb.SageMakerProtocol(endpoint_name="ep", inner=inner, openai_path=openai_path)
    async with repeating() as url, tb.SageMakerEndpoint(protocol, url=url).connect() as client:
        exchange = await client.generate(ASK, tb.Timeouts())
    message = exchange.failure.message
    assert exchange.failure.status == 401
    assert "Authorization=" in message
    for secret in ("AKIAVERYSECRET", "SESSIONSECRET", "Signature=", "sagemaker-api-key-"):
        assert secret not in message
