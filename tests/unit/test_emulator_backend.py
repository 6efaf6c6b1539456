"""The emulator as a backend: deployments in, exchanges out, all in virtual time."""

from __future__ import annotations

import asyncio
import pickle

import attrs
import numpy as np
import pytest

import tgibench as tb
from tgibench.backends.emulator import settings_for
from tgibench.backends.emulator.engine import EngineSettings
from tgibench.backends.emulator.lengths import EarlyStops
from tgibench.backends.emulator.step_time import FixedTimes
from tgibench.endpoints import Timeouts
from tgibench.records import ServerTimings
from tgibench.requests import GenerationRequest
from tgibench.twin.shapes import find_model

DEPLOYMENT = tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge", server_version="1.0.3")
FIXED = tb.Emulator(
    step_times=FixedTimes(prefill=10.0, decode=1.0), round_trip_s=0.5, lengths=EarlyStops(0.0), ready_after_s=30.0
)
ASK = GenerationRequest(prompt="Hello", max_new_tokens=3, input_tokens=20)


def ask(emulator, *requests, deployment=DEPLOYMENT, **limits):
    """The exchanges of requests that are sent together once the endpoint is ready, in the order of sending."""

    async def main():
        async with emulator.deploy(deployment) as endpoint, endpoint.connect() as client:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(client.generate(request, Timeouts(**limits))) for request in requests]
            return [task.result() for task in tasks]

    return tb.virtual_time.run(main())


def test_times_of_an_answer_are_exact():
    """A client sees each token half a round trip after it was made, and the server's own times as TGI defines them."""
    [exchange] = ask(FIXED, ASK)
    assert (exchange.started_s, exchange.sent_s) == (30.0, 30.0)
    assert exchange.chunk_times_s.tolist() == [40.5, 41.5, 42.5]
    assert (exchange.ended_s, exchange.output_tokens, exchange.input_tokens) == (42.5, 3, 20)
    assert (exchange.finish_reason, exchange.failure) == ("length", None)
    assert exchange.server == ServerTimings(
        validation_s=0.0, queue_s=0.0, inference_s=12.0, total_s=12.0, time_per_token_s=4.0
    )


def test_an_answer_that_is_not_streamed_is_one_chunk():
    """It arrives as a whole with the last token."""
    [exchange] = ask(FIXED, attrs.evolve(ASK, stream=False))
    assert exchange.chunk_times_s.tolist() == [42.5]
    assert exchange.chunk_tokens.tolist() == [3]
    assert exchange.streamed is False


@pytest.mark.parametrize(
    ("limits", "kind", "ended_s", "tokens"),
    [
        ({"first_token_s": 5.0}, tb.FailureKind.TIMEOUT_FIRST_TOKEN, 35.0, 0),
        ({"between_tokens_s": 0.75}, tb.FailureKind.TIMEOUT_BETWEEN_TOKENS, 41.25, 1),
        ({"total_s": 11.75}, tb.FailureKind.TIMEOUT_TOTAL, 41.75, 2),
    ],
)
def test_each_time_limit_fails_with_its_kind(limits, kind, ended_s, tokens):
    """A limit that is exceeded ends the request at its instant; tokens that had arrived are kept."""
    [exchange] = ask(FIXED, ASK, **limits)
    assert exchange.failure.kind == kind
    assert exchange.ended_s == pytest.approx(ended_s)
    assert exchange.output_tokens == tokens


def test_too_long_a_prompt_is_refused():
    """Beyond the limits TGI answers 422, and nothing is generated."""
    [exchange] = ask(FIXED, attrs.evolve(ASK, input_tokens=1025))
    assert (exchange.failure.kind, exchange.failure.status) == (tb.FailureKind.VALIDATION, 422)
    assert exchange.ended_s == 30.5


def test_overload_is_refused_at_once():
    """Without a permit TGI answers 429."""
    crowded = attrs.evolve(FIXED, settings=EngineSettings(max_concurrent_requests=1))
    served, refused = ask(crowded, ASK, ASK)
    assert served.failure is None
    assert (refused.failure.kind, refused.failure.status) == (tb.FailureKind.OVERLOADED, 429)


def test_cancellation_makes_room():
    """A request whose task is cancelled leaves the engine."""
    crowded = attrs.evolve(FIXED, settings=EngineSettings(max_concurrent_requests=1))

    async def main():
        async with crowded.deploy(DEPLOYMENT) as endpoint, endpoint.connect() as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await client.generate(ASK, Timeouts())
            return await client.generate(ASK, Timeouts())

    assert tb.virtual_time.run(main()).failure is None


def test_replicas_share_the_load():
    """With two replicas two requests are served side by side, each as if alone."""
    exchanges = ask(FIXED, ASK, ASK, deployment=attrs.evolve(DEPLOYMENT, replicas=2))
    assert [exchange.chunk_times_s.tolist() for exchange in exchanges] == [[40.5, 41.5, 42.5]] * 2


def test_a_run_repeats_to_the_bit():
    """The same seed gives the same instants; another seed gives other lengths."""

    async def tokens(seed):
        emulator = tb.Emulator(seed=seed, lengths=EarlyStops(0.5))
        async with emulator.deploy(DEPLOYMENT) as endpoint:
            log = await tb.run_load(endpoint, tb.ClosedLoop(5, duration_s=20), tb.study_prompts())
        return log.chunk_times_s, log.output_tokens

    times_s, made = tb.virtual_time.run(tokens(1))
    again_s, _ = tb.virtual_time.run(tokens(1))
    assert np.array_equal(times_s, again_s)
    assert made.min() < 50
    assert not np.array_equal(tb.virtual_time.run(tokens(2))[1], made)


def test_a_trace_decides_the_length():
    """`output_tokens` of the request is obeyed, up to its limit."""
    short, long = (attrs.evolve(ASK, output_tokens=n) for n in (2, 9))
    first, second = ask(FIXED, short, long)
    assert (first.output_tokens, first.finish_reason) == (2, "eos_token")
    assert (second.output_tokens, second.finish_reason) == (3, "length")


def test_it_says_that_it_is_emulated():
    """Source and facts say so; the endpoint is a value that can be pickled."""
    endpoint = tb.Emulator().endpoint(DEPLOYMENT)
    assert (tb.Emulator().name, tb.Emulator().source) == ("emulator", tb.Source.EMULATED)
    assert endpoint.facts["emulated"] == "true"
    assert endpoint.facts["version"] == "1.0.3"
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint  # noqa: S301 - our own bytes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_id": "meta-llama/Llama-2-8b-hf"},
            r"does not know the model .*nearest known are .*llama-2-7b.*ModelShape",
        ),
        ({"instance_type": "ml.g5.3xlarge"}, r"does not know the instance type .*ml\.g5\..*Instance"),
        ({"tensor_parallel": 4}, r"wants 4 accelerators, ml\.g5\.2xlarge has 1"),
        ({"model_id": "meta-llama/Llama-2-13b-hf"}, r"does not fit .*weights take 26\.0 GB, and 1 x 24 GB"),
        ({"instance_type": "ml.g4dn.xlarge"}, r"less than one request of max_total_tokens=2048"),
        ({"quantization": "awq"}, r"only fp16 and gptq are modelled, not quantization='awq'"),
        ({"server_version": "latest"}, r"server_version must begin with numbers with dots"),
    ],
)
def test_what_cannot_be_emulated_is_a_deploy_error(changes, message):
    """The message names what is unknown or too small and what to do."""
    with pytest.raises(tb.DeployError, match=message):
        tb.Emulator().endpoint(attrs.evolve(DEPLOYMENT, **changes))


@pytest.mark.parametrize(
    ("version", "ratio", "longest", "total", "chunked"),
    [
        ("1.0.3", 1.2, 1024, 2048, False),
        ("2.0.1", 1.2, 4095, 4096, False),
        ("2.4.0", 0.3, 4095, 4096, False),
        ("3.3.5", 0.3, 4095, 4096, True),
    ],
)
def test_the_scheduler_follows_the_version(version, ratio, longest, total, chunked):
    """Defaults are those of the deployment's TGI version."""
    settings = settings_for(attrs.evolve(DEPLOYMENT, server_version=version))
    assert (settings.waiting_served_ratio, settings.chunked_prefill) == (ratio, chunked)
    assert (settings.max_input_tokens, settings.max_total_tokens) == (longest, total)


@pytest.mark.parametrize("version", [None, "0.6.1", "0.6.1.post1"])
@pytest.mark.parametrize("server", ["vllm", "sglang"])
def test_other_engines_are_not_scheduled_as_the_tgi_of_their_number(server, version):
    """They prefill in chunks, and queue what they cannot serve at once."""
    settings = settings_for(attrs.evolve(DEPLOYMENT, server=server, server_version=version))
    assert settings.chunked_prefill
    assert settings.max_input_tokens == 4095
    assert settings.max_concurrent_requests > 10_000


@pytest.mark.parametrize(
    ("model_id", "name"),
    [
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"),
        ("TheBloke/Llama-2-70B-GPTQ", "llama-2-70b"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b"),
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistral-7b"),
    ],
)
def test_models_are_known_by_family_and_size(model_id, name):
    """Owner, case and suffixes do not matter."""
    assert find_model(model_id).name == name


def first_and_second_load(cold):
    """Tokens per second of two loads of one GPTQ deployment, one after the other."""
    gptq = attrs.evolve(DEPLOYMENT, model_id="TheBloke/Llama-2-7B-GPTQ", quantization="gptq")

    async def main():
        async with tb.Emulator(cold=cold).deploy(gptq) as endpoint:
            logs = [await tb.run_load(endpoint, tb.ClosedLoop(2, duration_s=60), tb.study_prompts()) for _ in range(2)]
        return [tb.Metrics.of(log).output_throughput_tps.value for log in logs]

    return tb.virtual_time.run(main())


def test_a_cold_server_tunes_its_kernels_in_its_first_load():
    """That load loses more than a tenth of its tokens, the next none."""
    warm, cold = first_and_second_load(cold=False), first_and_second_load(cold=True)
    assert cold[0] < 0.9 * warm[0]
    assert cold[1] == pytest.approx(warm[1], rel=0.02)


def test_jitter_keeps_users_from_asking_in_one_instant():
    """Without it users whose answers end together are always prefilled together and never wait; with it some do; seeds repeat it."""

    def waits(**given):
        emulator = attrs.evolve(FIXED, **given)
        load = tb.ClosedLoop(4, duration_s=300)
        log = tb.virtual_time.run(
            tb.run_load(emulator.endpoint(DEPLOYMENT), load, tb.PromptLengths(input_tokens=(20,), max_new_tokens=3))
        )
        return log.queue_s[log.succeeded]

    later = waits()[4:]
    assert later.max() == 0.0
    scattered = waits(jitter_s=0.01)
    assert scattered.mean() > 0.1
    assert waits(jitter_s=0.01).tolist() == scattered.tolist()
    assert waits(jitter_s=0.01, seed=5).tolist() != scattered.tolist()
