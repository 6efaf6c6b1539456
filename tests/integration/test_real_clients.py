"""Clients that people use work against the emulator as they do against text-generation-inference."""

from __future__ import annotations

import openai
import pytest
from huggingface_hub import AsyncInferenceClient
from huggingface_hub.errors import (
    GenerationError,
    OverloadedError,
    ValidationError,
)

from tgibench.backends.emulator.faults import Faults
from tgibench.backends.emulator.lengths import EarlyStops
from tgibench.backends.emulator.server import emulator_server
from tgibench.backends.emulator.serving import ServerOptions
from tgibench.backends.emulator.step_time import FixedTimes
from tgibench.deployments import Deployment

DEPLOYMENT = Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge")
ALL = ["1.0.3", "1.4.5", "2.4.1", "3.3.7"]
WITH_CHAT = ALL[1:]
MESSAGES = [{"role": "user", "content": "hello"}]


def serving(version, **options):
    times = FixedTimes(prefill=0.005, decode=0.001)
    return emulator_server(DEPLOYMENT, tgi_version=version, step_times=times, options=ServerOptions(**options))


def openai_client(url):
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("version", ALL)
async def test_hub_text_generation(version):
    """An answer with details, and a stream whose tokens make up its text."""
    async with serving(version) as url, AsyncInferenceClient(model=url) as client:
        whole = await client.text_generation("hello", max_new_tokens=5, details=True, return_full_text=False)
        assert (whole.details.generated_tokens, whole.details.finish_reason) == (5, "length")
        assert len(whole.details.tokens) == 5
        assert await client.text_generation("hello", max_new_tokens=5, return_full_text=False) == whole.generated_text
        stream = await client.text_generation(
            "hello", max_new_tokens=5, details=True, return_full_text=False, stream=True
        )
        events = [event async for event in stream]
    assert "".join(event.token.text for event in events) == whole.generated_text == events[-1].generated_text
    assert events[-1].details.generated_tokens == 5


@pytest.mark.parametrize("version", ALL)
async def test_hub_sees_an_early_end(version):
    """An answer that ends by itself says so, and its last token is special."""
    async with serving(version, lengths=EarlyStops(1.0), seed=1) as url, AsyncInferenceClient(model=url) as client:
        whole = await client.text_generation("hello", max_new_tokens=500, details=True)
    assert whole.details.finish_reason == "eos_token"
    assert whole.details.tokens[-1].special
    assert whole.details.generated_tokens == len(whole.details.tokens) < 500


@pytest.mark.parametrize("version", WITH_CHAT)
async def test_hub_chat(version):
    """Chat answers whole and streamed."""
    async with serving(version) as url, AsyncInferenceClient(model=url) as client:
        whole = await client.chat_completion(MESSAGES, max_tokens=4)
        assert whole.usage.completion_tokens == 4
        stream = await client.chat_completion(MESSAGES, max_tokens=4, stream=True)
        text = "".join([chunk.choices[0].delta.content async for chunk in stream if chunk.choices])
    assert text == whole.choices[0].message.content


@pytest.mark.parametrize("version", ALL)
async def test_hub_errors_are_typed(version):
    """Validation, overload and generation errors arrive as the client's own classes, whole and streamed."""
    async with serving(version) as url, AsyncInferenceClient(model=url) as client:
        with pytest.raises(ValidationError, match="`temperature` must be strictly positive"):
            await client.text_generation("hello", temperature=-1.0)
        with pytest.raises(ValidationError, match="`temperature` must be strictly positive"):
            [token async for token in await client.text_generation("hello", temperature=-1.0, stream=True)]
    for fault, error in (("overloaded", OverloadedError), ("error", GenerationError)):
        async with (
            serving(version, faults=Faults.every_nth(1, fault)) as url,
            AsyncInferenceClient(model=url) as client,
        ):
            with pytest.raises(error):
                await client.text_generation("hello", max_new_tokens=5)


@pytest.mark.parametrize("version", WITH_CHAT)
async def test_openai_chat(version):
    """Whole and streamed answers agree, and usage comes from 2.3 on."""
    async with serving(version) as url, openai_client(url) as client:
        whole = await client.chat.completions.create(model="tgi", messages=MESSAGES, max_tokens=4)
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (1, 4)
        assert whole.choices[0].finish_reason == "length"
        text, usages = "", []
        async with await client.chat.completions.create(
            model="tgi", messages=MESSAGES, max_tokens=4, stream=True, stream_options={"include_usage": True}
        ) as stream:
            async for chunk in stream:
                text += chunk.choices[0].delta.content if chunk.choices else ""
                usages += [chunk.usage] if chunk.usage else []
    assert text == whole.choices[0].message.content
    assert [usage.completion_tokens for usage in usages] == ([4] if version >= "2.3" else [])


@pytest.mark.parametrize("version", WITH_CHAT)
async def test_openai_completions(version):
    """Whole and streamed completions agree; a stream of 3.x says why it ended."""
    async with serving(version) as url, openai_client(url) as client:
        whole = await client.completions.create(model="tgi", prompt="hello", max_tokens=4)
        async with await client.completions.create(model="tgi", prompt="hello", max_tokens=4, stream=True) as stream:
            chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == ("length" if version >= "3" else "")
    assert (chunks[-1].usage is not None) is (version >= "3")


async def test_openai_errors():
    """A refusal is status 422 with TGI's body, overload is 429, and a stream's error event is raised."""
    async with serving("3.3.7") as url, openai_client(url) as client:
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            await client.chat.completions.create(model="tgi", messages=MESSAGES, top_p=1.5)
        assert refused.value.response.json()["error_type"] == "validation"
        stream = await client.chat.completions.create(model="tgi", messages=MESSAGES, top_p=1.5, stream=True)
        with pytest.raises(openai.APIError, match="`top_p` must be"):
            [chunk async for chunk in stream]
        assert [model.id async for model in client.models.list()] == [DEPLOYMENT.model_id]
    async with serving("3.3.7", faults=Faults.every_nth(1, "overloaded")) as url, openai_client(url) as client:
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="tgi", messages=MESSAGES)
