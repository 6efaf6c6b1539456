"""Servers that run already: waiting for them, what they say of themselves, and whose numbers they give."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

import tgibench as tb
from scripted_server import tgi_event
from tgibench.backends.emulator.server import emulator_server

DEPLOYMENT = tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.12xlarge", tensor_parallel=4, server_version="3.3.7")
TGI_INFO = {
    "model_id": "org/model",
    "version": "3.3.7",
    "sha": "abc",
    "docker_label": "sha-abc",
    "max_total_tokens": 4096,
}
PATHS = {"v1_models": "/v1/models"}


@asynccontextmanager
async def answering(answers, *, port=0):
    """Serve `answers(path, request)`, a status and a JSON value or a text; yields the URL."""

    async def handle(request):
        status, body = answers(request.path, request)
        if isinstance(body, str):
            return web.Response(status=status, text=body, content_type="text/event-stream")
        return web.json_response(body, status=status)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def serving(**routes):
    """Answers by path, 404 elsewhere."""
    known = {PATHS.get(name, f"/{name}"): answer for name, answer in routes.items()}
    return lambda path, _: known.get(path, (404, {"error": "no such path"}))


async def facts_of(url, **options):
    """What attaching learns."""
    async with tb.HttpBackend(url, **options).deploy(DEPLOYMENT) as endpoint:
        return dict(endpoint.facts)


def free_port():
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_tgi_tells_its_version_and_model():
    """From `/info`; nothing says that it is emulated."""
    async with answering(serving(health=(200, {}), info=(200, TGI_INFO))) as url:
        facts = await facts_of(url)
    assert facts == {
        "server": "tgi", "model_id": "org/model", "version": "3.3.7", "sha": "abc", "docker_label": "sha-abc",
    }  # fmt: skip


async def test_an_openai_compatible_server_tells_its_model():
    """From `/v1/models`, where there is no `/info`."""
    models = {"object": "list", "data": [{"id": "org/model", "owned_by": "vllm"}]}
    async with answering(serving(health=(200, {}), v1_models=(200, models))) as url:
        assert await facts_of(url) == {"model_id": "org/model", "server": "vllm"}


@pytest.mark.parametrize("odd", [[], {"data": None}, {"data": 5}, {"data": ["x"]}, {"data": [{}]}, "no json"])
async def test_a_server_that_says_nothing_usable_is_attached_to_all_the_same(odd):
    """Without `/health`, with odd answers: no facts, no error."""
    async with answering(serving(info=(200, odd), v1_models=(200, odd))) as url:
        assert await facts_of(url) == {}


async def test_a_url_with_a_slash_at_its_end_is_the_same_server():
    """Paths are not doubled."""
    async with answering(serving(health=(200, {}), info=(200, TGI_INFO))) as url:
        assert (await facts_of(f"{url}/"))["version"] == "3.3.7"


async def test_it_waits_while_health_answers_with_a_server_error():
    """Two answers of 503, then 200."""
    statuses = iter([503, 503, 200])
    asked = []

    def answers(path, _):
        if path != "/health":
            return 404, {}
        asked.append(path)
        return next(statuses), {}

    async with answering(answers) as url:
        await facts_of(url)
    assert len(asked) == 3


async def test_it_waits_while_the_connection_is_refused():
    """TGI opens its port only after the model is loaded."""
    port = free_port()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(facts_of(f"http://127.0.0.1:{port}"))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        async with answering(serving(info=(200, TGI_INFO)), port=port):
            assert (await waiting)["version"] == "3.3.7"


async def test_a_server_that_stays_unhealthy_is_told_with_its_url_and_the_last_reason():
    """One sentence."""
    async with answering(serving(health=(503, {}))) as url:
        with pytest.raises(tb.DeployError, match=rf"^{url} was not ready within 0.5 s: /health answers 503$"):
            await facts_of(url, ready_timeout_s=0.5)


async def test_an_unreachable_server_is_told_with_its_url():
    """One sentence, with what the connection said."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(tb.DeployError, match=rf"^{url} was not ready within 0.5 s: .*[Cc]onnect") as caught:
        await facts_of(url, ready_timeout_s=0.5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://host", "http://", "http://host:99999"])
def test_a_url_that_is_none_is_refused_at_once(url):
    """Before anything is waited for."""
    with pytest.raises(tb.InvalidValueError, match="url must be http"):
        tb.HttpBackend(url)


async def test_the_key_is_sent_and_shown_nowhere():
    """With the health check and the questions; in neither repr nor error."""
    seen = []

    def answers(path, request):
        seen.append(request.headers.get("Authorization"))
        return (503, {}) if path == "/health" else (404, {})

    async with answering(answers) as url:
        backend = tb.HttpBackend(url, api_key="sk-verysecret", ready_timeout_s=0.5)
        with pytest.raises(tb.DeployError) as caught:
            async with backend.deploy(DEPLOYMENT):
                pass
    assert set(seen) == {"Bearer sk-verysecret"}
    assert "verysecret" not in f"{backend!r} {caught.value}"


async def source_at(url):
    """Whose numbers a sweep says that a server's are."""
    prompts = tb.SyntheticPrompts(max_new_tokens=2)
    study = await tb.sweep(
        [DEPLOYMENT], [tb.ClosedLoop(1, requests=2)], backend=tb.HttpBackend(url), prompts=prompts
    )  # fmt: skip
    (cell,) = study
    assert cell.metrics.counts["succeeded"] == 2
    return cell.source


async def test_numbers_of_the_emulator_are_emulated():
    """Though they came over HTTP: the server says what it is."""
    async with emulator_server(DEPLOYMENT, port=0) as url:
        assert await source_at(url) is tb.Source.EMULATED


async def test_numbers_of_a_server_are_measured():
    """One that does not say that it is the emulator."""
    answer = b"".join(tgi_event(number, 2) for number in (1, 2)).decode()
    async with answering(serving(info=(200, TGI_INFO), generate_stream=(200, answer))) as url:
        assert await source_at(url) is tb.Source.MEASURED


@pytest.mark.parametrize(
    ("version", "outcome"),
    [
        ("2.0.4", {"succeeded": 0, "failures": {tb.FailureKind.TRUNCATED: 3}}),
        ("2.2.0", {"succeeded": 3, "failures": {}}),
        ("3.3.7", {"succeeded": 3, "failures": {}}),
    ],
)
async def test_completions_that_say_no_end_count_as_truncated(version, outcome):
    """TGI before 2.2 ends a stream of `/v1/completions` without a finish reason or [DONE]: a cut one looks the same."""
    deployment = tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.12xlarge", tensor_parallel=4, server_version=version)
    async with emulator_server(deployment, port=0) as url:
        endpoint = tb.HttpEndpoint(url, tb.OpenAICompletionsProtocol())
        log = await tb.run_load(endpoint, tb.ClosedLoop(1, requests=3), tb.SyntheticPrompts(max_new_tokens=2))
    assert {"succeeded": log.counts["succeeded"], "failures": log.failures} == outcome
