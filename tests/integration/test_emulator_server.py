"""The emulator over real HTTP on the loopback: routes, streams, refusals and faults."""

from __future__ import annotations

import asyncio
import json
import re

import aiohttp
import aiohttp.web
import pytest

from tgibench.backends.emulator.faults import Faults
from tgibench.backends.emulator.server import emulator_server
from tgibench.backends.emulator.serving import ServerOptions
from tgibench.backends.emulator.step_time import FixedTimes
from tgibench.deployments import Deployment
from tgibench.errors import DeployError
from tgibench.twin.policy import EngineSettings

DEPLOYMENT = Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge")
FAST = FixedTimes(prefill=0.005, decode=0.002)
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 6, "stream": True}
USAGE = {"stream_options": {"include_usage": True}}
STREAM = {"inputs": "hello", "parameters": {"max_new_tokens": 6, "details": True}}


def serving(version="3.3.7", *, faults=None, step_times=FAST, **changes):
    options = ServerOptions(faults=faults or Faults(), **changes)
    return emulator_server(DEPLOYMENT, tgi_version=version, step_times=step_times, options=options)


async def post(url, body, **headers):
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.read(), answer.headers


def events(raw):
    return [json.loads(data) for data in re.findall(rb"data: ?(\{.*\})", raw)]


@pytest.mark.parametrize("version", ["1.0.3", "1.4.5", "2.4.1", "3.3.7"])
async def test_a_stream_has_one_event_a_token_and_ends_with_the_text(version):
    """The words of the events are the text of the last one, on every version."""
    async with serving(version) as url:
        status, raw, headers = await post(f"{url}/generate_stream", STREAM)
    received = events(raw)
    assert (status, headers["content-type"], len(received)) == (200, "text/event-stream", 6)
    assert "".join(event["token"]["text"] for event in received) == received[-1]["generated_text"]
    assert received[-1]["details"]["generated_tokens"] == 6
    assert raw.startswith(b"data: {" if version >= "2.1" else b"data:{")


@pytest.mark.parametrize(
    ("version", "chat", "completions", "models"),
    [("1.0.3", 404, 404, 404), ("1.4.0", 200, 404, 404), ("1.4.5", 200, 200, 404), ("3.3.7", 200, 200, 200)],
)
async def test_routes_by_version(version, chat, completions, models):
    """A version has the routes that it had, and others are 404 with an empty body."""
    async with serving(version) as url, aiohttp.ClientSession() as session:
        answer = await post(f"{url}/v1/chat/completions", CHAT)
        assert answer[0] == chat
        answer = await post(f"{url}/v1/completions", {"prompt": "hi", "max_tokens": 2})
        assert answer[0] == completions
        async with session.get(f"{url}/v1/models") as answer:
            assert answer.status == models
        async with session.get(f"{url}/nowhere") as answer:
            assert (answer.status, await answer.read()) == (404, b"")


@pytest.mark.parametrize(
    ("version", "done", "usages", "empty_choices"),
    [("1.4.5", False, 0, 0), ("2.2.0", True, 0, 0), ("2.4.1", True, 1, 0), ("3.3.7", True, 1, 1)],
)
async def test_usage_and_done_by_version(version, done, usages, empty_choices):
    """[DONE] came with 2.2.0, usage with 2.3.0, and its own chunk with 3.2.0."""
    async with serving(version) as url:
        _, raw, _ = await post(f"{url}/v1/chat/completions", CHAT | USAGE)
    received = events(raw)
    assert (b"[DONE]" in raw) is done
    assert sum(bool(event.get("usage")) for event in received) == usages
    assert sum(event["choices"] == [] for event in received) == empty_choices


async def test_info_and_health_by_version():
    """Keys of /info change, and health is an empty 200."""
    async with aiohttp.ClientSession() as session:
        for version, key in (("1.0.3", "max_input_length"), ("3.3.7", "max_input_tokens")):
            async with serving(version) as url:
                for path in ("/", "/health", "/ping"):
                    async with session.get(url + path) as answer:
                        assert (answer.status, await answer.read()) == (200, b"")
                async with session.get(f"{url}/info") as answer:
                    info = await answer.json()
            assert (info["version"], key in info, "max_batch_total_tokens" in info) == (version, True, version < "2")


async def test_invocations_takes_every_body_from_2_4_on():
    """Native, chat and completion bodies are told apart; another is refused in plain text."""
    async with serving("2.4.1") as url:
        for body, key in (
            (STREAM, "generated_text"),
            (CHAT | {"stream": False}, "choices"),
            ({"prompt": "a"}, "choices"),
        ):
            status, raw, _ = await post(f"{url}/invocations", body)
            answer = json.loads(raw)
            assert (status, key in (answer[0] if isinstance(answer, list) else answer)) == (200, True)
        status, raw, _ = await post(f"{url}/invocations", {"text": "a"})
    assert (status, raw.endswith(b"did not match any variant of untagged enum SagemakerRequest")) == (422, True)


async def test_overload_is_429_or_an_error_event():
    """Beyond max_concurrent_requests an answer is refused at once; a stream says so inside a 200."""
    settings = EngineSettings(max_concurrent_requests=1)
    slow = FixedTimes(prefill=0.5, decode=0.01)
    async with emulator_server(DEPLOYMENT, step_times=slow, settings=settings) as url, asyncio.TaskGroup() as group:
        first = group.create_task(post(f"{url}/generate", STREAM))
        await asyncio.sleep(0.1)
        status, raw, _ = await post(f"{url}/generate", STREAM)
        assert (status, json.loads(raw)) == (429, {"error": "Model is overloaded", "error_type": "overloaded"})
        status, raw, _ = await post(f"{url}/generate_stream", STREAM)
        assert (status, events(raw)) == (200, [{"error": "Model is overloaded", "error_type": "overloaded"}])
        assert (await first)[0] == 200


async def test_errors_inside_openai_streams_by_version():
    """Flat until 2.4.0, an object followed by [DONE] from 2.4.1 on."""
    for version, body in (
        ("2.2.0", rb'^data: \{"error":"Input validation error: .*","error_type":"validation"\}\n\n$'),
        ("2.4.1", rb'^data: \{"error":\{"message":"Input .*","http_status_code":422\}\}\n\ndata: \[DONE\]\n\n$'),
    ):
        async with serving(version) as url:
            status, raw, _ = await post(f"{url}/v1/chat/completions", CHAT | {"top_p": 1.5})
        assert status == 200
        assert re.match(body, raw)


async def test_metrics_count_what_happened():
    """The counters agree with the answers, and a finished request leaves one log line."""
    lines = []
    async with serving(faults=Faults.every_nth(4, "overloaded"), log=lines.append) as url:
        statuses = [(await post(f"{url}/generate", STREAM))[0] for _ in range(8)]
        async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
            page = await answer.text()
    assert statuses.count(429) == 2
    for counted in (
        "tgi_request_count 8",
        "tgi_request_success 6",
        'tgi_request_failure{err="overloaded"} 2',
        "tgi_request_generated_tokens_sum 36",
        "tgi_request_queue_duration_count 6",
        'tgi_batch_inference_count{method="prefill"} 6',
    ):
        assert counted in page
    assert len(lines) == 6
    assert all(each.endswith("Success") for each in lines)


async def test_a_client_that_leaves_is_dropped():
    """A broken-off stream leaves the engine and is counted, without a log line."""
    lines = []
    slow = FixedTimes(prefill=0.01, decode=0.02)
    async with serving(step_times=slow, log=lines.append) as url, aiohttp.ClientSession() as session:
        body = {"inputs": "hello", "parameters": {"max_new_tokens": 500}}
        async with session.post(f"{url}/generate_stream", json=body) as answer:
            await answer.content.readline()
        async with asyncio.timeout(5):
            page = ""
            while 'err="dropped"} 1' not in page:
                page = await _metrics(session, url)
    assert "tgi_request_success 0" in page
    assert lines == []


async def test_a_client_that_left_just_before_the_head_makes_no_noise(monkeypatch, caplog):
    """Its connection is closing, which nobody has been told yet: the server logs nothing and answers the next client."""
    prepare, leaving = aiohttp.web.StreamResponse.prepare, [True]

    async def prepared(response, request):
        if leaving:
            leaving.clear()
            request.transport.close()
        return await prepare(response, request)

    monkeypatch.setattr(aiohttp.web.StreamResponse, "prepare", prepared)
    async with serving() as url:
        with pytest.raises(aiohttp.ClientError):
            await post(f"{url}/generate_stream", STREAM)
        status, raw, _ = await post(f"{url}/generate_stream", STREAM)
    assert (status, len(events(raw))) == (200, 6)
    assert caplog.records == []


async def _metrics(session, url):
    async with session.get(f"{url}/metrics") as answer:
        return await answer.text()


async def test_truncation_ends_cleanly_after_its_tokens():
    """Three tokens come, then a clean end without the last event."""
    async with serving(faults=Faults.every_nth(2, "truncate")) as url:
        counts = [len(events((await post(f"{url}/generate_stream", STREAM))[1])) for _ in range(4)]
    assert counts == [6, 3, 6, 3]


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
async def test_an_abort_breaks_the_connection(path):
    """The client sees the connection close in the middle of the answer."""
    async with serving(faults=Faults.every_nth(1, "abort")) as url:
        with pytest.raises(aiohttp.ClientError):
            await post(url + path, STREAM)


async def test_a_generation_error_is_an_event_or_424():
    """A stream gets an event after some tokens, an answer gets its status."""
    async with serving(faults=Faults.every_nth(1, "error")) as url:
        _, raw, _ = await post(f"{url}/generate_stream", STREAM)
        status, body, _ = await post(f"{url}/generate", STREAM)
    assert [event.get("error_type") for event in events(raw)] == [None, None, None, "generation"]
    assert (status, json.loads(body)["error_type"]) == (424, "generation")


async def test_disguises_of_a_stream():
    """Carriage returns, no space, several tokens a chunk, no usage and no [DONE]."""
    faults = Faults.every_nth(1, "crlf") | Faults.every_nth(1, "no_space") | Faults.every_nth(1, "no_usage")
    faults |= Faults.every_nth(1, "no_done") | Faults.every_nth(1, "several_tokens", tokens=4)
    async with serving(faults=faults) as url:
        _, raw, _ = await post(f"{url}/v1/chat/completions", CHAT | USAGE)
    received = events(raw)
    assert raw.count(b"\r\n\r\n") == len(received) == 2
    assert b"data: " not in raw
    assert b"[DONE]" not in raw
    assert [len(event["choices"][0]["delta"]["content"].split()) for event in received] == [4, 2]
    assert all(event["usage"] is None for event in received)


async def test_coalesced_events_leave_in_one_write():
    """Six tokens in writes of three come as two chunks."""
    async with (
        serving(faults=Faults.every_nth(1, "coalesce", tokens=3)) as url,
        aiohttp.ClientSession() as session,
        session.post(f"{url}/generate_stream", json=STREAM) as answer,
    ):
        chunks = [chunk async for chunk, _ in answer.content.iter_chunks()]
    assert [len(events(chunk)) for chunk in chunks if chunk] == [3, 3]


async def test_a_stall_and_keep_alive_comments():
    """A stall is as long as told; a wait for the first token is bridged by comments."""
    loop = asyncio.get_running_loop()
    async with serving(faults=Faults.every_nth(1, "stall", seconds=0.3)) as url:
        began_s = loop.time()
        await post(f"{url}/generate_stream", STREAM)
        assert loop.time() - began_s >= 0.3
    slow = FixedTimes(prefill=0.3, decode=0.001)
    async with serving(step_times=slow, keep_alive_s=0.1) as url:
        _, raw, _ = await post(f"{url}/generate_stream", STREAM)
    assert raw.startswith(b":\n\n")
    assert len(events(raw)) == 6


async def test_a_server_that_still_loads_drops_connections():
    """Until it is ready there is no answer at all; afterwards it is healthy."""
    async with serving(faults=Faults(starts_after_s=0.3)) as url, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"{url}/health")
        await asyncio.sleep(0.35)
        async with session.get(f"{url}/health") as answer:
            assert answer.status == 200


async def test_a_port_in_use_is_one_sentence():
    """The message names the port and what to do."""
    async with serving() as url:
        port = int(url.rsplit(":", 1)[1])
        with pytest.raises(DeployError, match=f"port {port} of 127.0.0.1 is in use: choose another"):
            async with emulator_server(DEPLOYMENT, step_times=FAST, port=port):
                pass


async def test_an_api_key_guards_what_is_posted():
    """Without the key a POST is 401 with an empty body, and GET stays open."""
    async with serving(api_key="s3cret") as url:
        assert (await post(f"{url}/generate", STREAM))[:2] == (401, b"")
        assert (await post(f"{url}/generate", STREAM, authorization="Bearer s3cret"))[0] == 200


async def test_details_list_the_prompt_when_asked():
    """decoder_input_details gives the prompt's tokens, the first without a logprob."""
    body = {"inputs": "three little words", "parameters": {"max_new_tokens": 2, "decoder_input_details": True}}
    async with serving("1.0.3") as url:
        _, raw, _ = await post(f"{url}/generate", body)
    prefill = json.loads(raw)["details"]["prefill"]
    assert [token["text"] for token in prefill] == ["three", " little", " words"]
    assert [token["logprob"] is None for token in prefill] == [True, False, False]
