"""What is told apart in a store: a cell stands for what was measured, and for nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import numpy as np
import pytest

import tgibench as tb
from fakes import FakeServer
from tgibench.backends import identity_of
from tgibench.backends.emulator.lengths import EarlyStops
from tgibench.backends.emulator.step_time import FixedTimes
from tgibench.backends.sagemaker.backend import SageMakerBackend
from tgibench.identities import identity
from tgibench.twin.policy import EngineSettings
from tgibench.twin.tuning import TunedOnLine

DEPLOYMENT = tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge")
LOAD = tb.ClosedLoop(2, requests=6)
PROMPTS = tb.SyntheticPrompts(max_new_tokens=5)
URL = "http://127.0.0.1:8080"
SERVE = ("vllm", "serve", "{model_id}", "--port", "{port}")


@attrs.define(slots=False)
class Named:
    """A third party's, without an identity."""

    name = "named"
    source = tb.Source.MEASURED

    @asynccontextmanager
    async def deploy(self, deployment):
        """A fake server."""
        del deployment
        yield FakeServer(0.5)


class Slow:
    """Step times of a plain class, whose repr is an address."""

    def __init__(self, decode):
        self.decode = np.array([decode])

    def decode_s(self, sequences, context_tokens):
        """The same whatever."""
        del sequences, context_tokens
        return float(self.decode[0])

    def prefill_s(self, tokens, requests):
        """The same whatever."""
        del tokens, requests
        return float(self.decode[0])


@attrs.define
class Slotted:
    """A protocol of somebody else's."""

    name: str = "own"
    secret: str = ""


def sweep(store, backend=None, **options):
    """One cell in virtual time; the study, and whether it was measured anew."""
    fresh = []
    study = tb.virtual_time.run(
        tb.sweep(
            [DEPLOYMENT],
            [LOAD],
            backend=backend or tb.Emulator(),
            store=store,
            on_measurement=fresh.append,
            **{"prompts": PROMPTS, **options},
        )
    )
    return study, bool(fresh)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (tb.HttpBackend(URL), tb.HttpBackend(f"{URL}/foo")),
        (tb.HttpBackend(URL), tb.HttpBackend("http://127.0.0.1:9")),
        (tb.HttpBackend(URL), tb.HttpBackend(URL, tb.OpenAIChatProtocol())),
        (tb.HttpBackend(URL, tb.OpenAIChatProtocol()), tb.HttpBackend(URL, tb.OpenAICompletionsProtocol())),
        (tb.HttpBackend(URL, tb.OpenAIChatProtocol()), tb.HttpBackend(URL, tb.OpenAIChatProtocol(model="m"))),
        (tb.HttpBackend(URL, tb.OpenAIChatProtocol()), tb.HttpBackend(URL, tb.OpenAIChatProtocol(path="/chat"))),
        (tb.HttpBackend(URL, Slotted("a")), tb.HttpBackend(URL, Slotted("b"))),
        (tb.Emulator(), tb.Emulator(jitter_s=5.0)),
        (tb.Emulator(), tb.Emulator(seed=1)),
        (tb.Emulator(), tb.Emulator(lengths=EarlyStops(0.5))),
        (tb.Emulator(), tb.Emulator(settings=EngineSettings(max_batch_total_tokens=5000))),
        (
            tb.Emulator(step_times=FixedTimes(prefill=1.0, decode=1.0)),
            tb.Emulator(step_times=FixedTimes(prefill=1.0, decode=2.0)),
        ),
        (tb.Emulator(step_times=Slow(1.0)), tb.Emulator(step_times=Slow(2.0))),
        (tb.ProcessBackend(SERVE), tb.ProcessBackend((*SERVE, "--eager"))),
        (tb.ProcessBackend(SERVE), tb.ProcessBackend(SERVE, tb.OpenAIChatProtocol())),
        (tb.ProcessBackend(SERVE), tb.ProcessBackend(SERVE, environment={"VLLM_USE_V1": "0"})),
        (tb.DockerBackend(), tb.DockerBackend(variant="intel-cpu")),
        (tb.DockerBackend(), tb.DockerBackend(gpus=2)),
        (SageMakerBackend(), SageMakerBackend(endpoint_name="another")),
        (SageMakerBackend(), SageMakerBackend(inference_ami="al2-ami")),
    ],
)
def test_backends_that_measure_something_else_are_told_apart(one, other):
    """Whatever decides what is measured."""
    assert identity_of(one) != identity_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (tb.HttpBackend(URL), tb.HttpBackend(f"{URL}/")),
        (tb.HttpBackend(URL), tb.HttpBackend(URL, api_key="sk-secret", ready_timeout_s=5.0, verify_tls=False)),
        (tb.Emulator(), tb.Emulator(lengths=EarlyStops(0.06), round_trip_s=0.07, jitter_s=0)),
        (tb.Emulator(step_times=Slow(1.0)), tb.Emulator(step_times=Slow(1.0))),
        (tb.Emulator(jitter_s=1), tb.Emulator(jitter_s=1.0)),
        (tb.ProcessBackend(SERVE), tb.ProcessBackend(list(SERVE), stop_timeout_s=1.0)),
        (
            tb.ProcessBackend(SERVE, environment={"HF_TOKEN": "hf-1"}),
            tb.ProcessBackend(SERVE, environment={"HF_TOKEN": "hf-2"}),
        ),
        (tb.DockerBackend(), tb.DockerBackend(port=8123, hf_token="hf-secret", cache="weights")),
        (SageMakerBackend(), SageMakerBackend(role_arn="arn:aws:iam::1:role/r", lifetime_s=60.0, poll_s=1.0)),
    ],
)
def test_what_decides_nothing_of_the_figures_tells_nothing_apart(one, other):
    """Secrets, patience, ports."""
    assert identity_of(one) == identity_of(other)


def test_a_backend_at_its_defaults_or_without_an_identity_is_known_by_its_name():
    """So that the cells of earlier versions are found."""
    backends = (tb.Emulator(), tb.DockerBackend(), SageMakerBackend(), Named())
    assert [identity_of(backend) for backend in backends] == ["emulator", "docker", "sagemaker", "named"]


def test_identities_hold_no_secret():
    """Not those of a command line, of a variable, or of somebody else's protocol."""
    for backend in (
        tb.HttpBackend(URL, Slotted(secret="sk-secret"), api_key="sk-secret"),
        tb.ProcessBackend((*SERVE, "--api-key", "sk-secret"), environment={"WORD": "sk-secret"}),
        tb.DockerBackend(hf_token="sk-secret", gpus=1),
    ):
        assert "sk-secret" not in identity_of(backend)


def test_an_identity_is_the_same_in_every_process():
    """Addresses, hash seeds and the order of sets have no part in it."""
    program = textwrap.dedent(
        """
        import attrs, functools, numpy, tgibench as tb
        from tgibench.backends import identity_of

        class Times:
            def __init__(self):
                self.table, self.names, self.back = numpy.arange(3.0), {"a", "b", "c", "d"}, self.prefill_s
                self.curve = functools.partial(max, 2.0)
            def decode_s(self, sequences, context_tokens): return 1.0
            def prefill_s(self, tokens, requests): return 1.0

        print(identity_of(tb.Emulator(step_times=Times())))
        """
    )
    source = str(Path(tb.__file__).parents[1])
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": source, "PYTHONHASHSEED": number},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for number in ("1", "2")
    }
    assert len(told) == 1
    assert told.pop().startswith("emulator:")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"backend": tb.Emulator(jitter_s=5.0)}),
        ({}, {"timeouts": tb.Timeouts(total_s=0.5)}),
        ({}, {"slo": tb.SLO(latency_s=100)}),
        ({"slo": tb.SLO(latency_s=100)}, {"slo": tb.SLO(latency_s=0.001)}),
        (
            {"prompts": tb.FixedPrompt(prompt="x", input_tokens=10)},
            {"prompts": tb.FixedPrompt(prompt="x", input_tokens=1000)},
        ),
    ],
)
def test_a_cell_does_not_stand_for_another(tmp_path, one, other):
    """What was measured otherwise is measured anew; both are kept, and each is found again."""
    first, _ = sweep(tmp_path, **one)
    second, fresh = sweep(tmp_path, **other)
    assert fresh
    assert first.measurements[0].key != second.measurements[0].key
    assert tb.read_study(tmp_path).measurements == first.measurements + second.measurements
    assert sweep(tmp_path, **one) == (first, False)
    assert sweep(tmp_path, **other) == (second, False)


def test_defaults_that_are_spelled_out_are_defaults(tmp_path):
    """The usual limits, given or not."""
    first, _ = sweep(tmp_path)
    assert sweep(tmp_path, timeouts=tb.Timeouts()) == (first, False)


def test_step_times_that_change_while_they_serve_are_one_cell(tmp_path):
    """What they were when the sweep began is what tells it apart, for the store as for the cell."""

    def tuned():
        return tb.Emulator(step_times=TunedOnLine(FixedTimes(prefill=1.0, decode=1.0), 1.0, 1.0))

    first, _ = sweep(tmp_path, tuned())
    assert sweep(tmp_path, tuned()) == (first, False)


@attrs.frozen
class Signed(tb.OpenAIChatProtocol):
    """A protocol with bytes of its own."""

    key: bytes = attrs.field(default=b"", kw_only=True)


class Counting:
    """Lengths that count what they are asked for; known by a text."""

    def __init__(self, identity):
        self.identity, self.asked = identity, 0

    def tokens(self, prompt, max_new_tokens, *, seed):
        """Always all."""
        del prompt, seed
        self.asked += 1
        return max_new_tokens


class Endless:
    """Holds another of its kind whenever it is looked at."""

    def __reduce_ex__(self, protocol):
        del protocol
        return Endless, (Endless(),)


def test_bytes_tell_apart_and_what_never_ends_has_an_end():
    """Neither recurses."""
    keys = [identity_of(tb.HttpBackend(URL, Signed(key=key))) for key in (b"abc", b"abc", b"abd")]
    assert keys[0] == keys[1] != keys[2]
    assert identity("x", a=Endless()) == identity("x", a=Endless())


def test_an_object_with_an_identity_of_its_own_is_known_by_that():
    """What changes in it while it is used changes nothing."""
    lengths = Counting("all")
    backend = tb.Emulator(lengths=lengths)
    before = identity_of(backend)
    lengths.tokens("x", 3, seed=0)
    assert identity_of(backend) == before == identity_of(tb.Emulator(lengths=Counting("all")))
    assert before != identity_of(tb.Emulator(lengths=Counting("half")))
