"""The server's own times of a SageMaker run, read from the container's log in CloudWatch."""

from __future__ import annotations

import asyncio
import pickle
from datetime import UTC, datetime

import attrs
import boto3
import numpy as np
import pytest
from moto import mock_aws

import tgibench as tb
from sagemaker_account import FAST, IMAGE, NEWER, account, clean_environment, serving
from tgibench.backends.emulator.log_lines import LogFormat, success_line
from tgibench.backends.emulator.serving import ServerOptions
from tgibench.backends.emulator.wire import RequestTimes, TgiVersion
from tgibench.backends.sagemaker.aws import Aws
from tgibench.backends.sagemaker.server_log import ServerLog
from tgibench.testing.fake_sagemaker import Trouble

STUDY = tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge", server_version="1.0.3")
GROUP = "/aws/sagemaker/Endpoints/ep"


def attached(**options):
    """The endpoint `ep`, which is there."""
    return tb.SageMakerBackend(**{"endpoint_name": "ep", "poll_s": 0.05, "log_patience_s": 5.0, **options})


async def measured(backend, deployment=STUDY, load=None):
    """A cell of it."""
    prompts = tb.SyntheticPrompts(input_tokens=20, max_new_tokens=5)
    async with backend.deploy(deployment) as endpoint:
        target = pickle.loads(pickle.dumps(endpoint))  # noqa: S301 - our own bytes: as a worker gets it
        assert target == endpoint
        return await tb.measure(
            deployment, target, load or tb.ClosedLoop(3, requests=12), backend=backend, prompts=prompts
        )


def joined(cell):
    """Whether it has the server's own times, and says so."""
    metrics, facts = cell.metrics, cell.provenance.facts
    assert (metrics.queue_s is None) == (metrics.server_time_per_token_s is None) == ("server_times_of" not in facts)
    if metrics.queue_s is None:
        return False
    assert metrics.queue_s.count == metrics.server_time_per_token_s.count == metrics.counts["succeeded"]
    assert 0 < metrics.server_time_per_token_s.p50 < metrics.normalized_latency_s.p50
    assert facts["server_log"] == GROUP
    return True


@pytest.mark.parametrize(
    ("log_format", "image", "version"),
    [(LogFormat.ANSI, IMAGE, "1.0.3"), (LogFormat.PLAIN, NEWER, "3.3.6"), (LogFormat.JSON, NEWER, "3.3.6")],
)
async def test_every_form_of_the_log_is_joined(monkeypatch, tmp_path, log_format, image, version):
    """Of an old and a new version, though lines come late, in pages of which some are empty, and between throttled calls."""
    async with account(monkeypatch, tmp_path, speed=20.0) as fake:
        fake.account.creating_s = 0.1
        fake.runtime.options = ServerOptions(log_format=log_format)
        fake.logs.delay_s, fake.logs.page_events, fake.logs.empty_pages = 6.0, 5, 1  # 0.3 s of ours
        fake.logs.troubles.append(Trouble("FilterLogEvents"))
        monkeypatch.setattr("tgibench.backends.sagemaker.server_log._BACKOFF_S", 0.01)
        await serving(fake, image=image)
        cell = await measured(attached(), attrs.evolve(STUDY, server_version=version))
        assert joined(cell)
        assert cell.provenance.facts["server_times_of"] == "12 of 12"
        assert not any("not joined" in warning for warning in cell.warnings)
        assert fake.logs.calls > 4


async def test_what_is_deployed_is_joined_run_by_run(monkeypatch, tmp_path):
    """Lines of the warm-up and of the load before are passed over; open loops and whole answers too."""
    async with account(monkeypatch, tmp_path) as fake:
        backend = tb.SageMakerBackend(role_arn=fake.role_arn, poll_s=0.05, consistent_after_s=0.1, log_patience_s=3.0)
        loads = [tb.ClosedLoop(2, requests=8), tb.PoissonArrivals(40, requests=10)]
        study = await tb.sweep(
            [STUDY], loads, backend=backend, prompts=tb.SyntheticPrompts(input_tokens=9, max_new_tokens=4)
        )
        assert [cell.provenance.facts.get("server_times_of", cell.warnings) for cell in study] == ["8 of 8", "10 of 10"]
        assert all(cell.metrics.server_time_per_token_s.min > 0 for cell in study)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (Trouble("FilterLogEvents", code="AccessDeniedException", times=99), "AccessDeniedException"),
        (Trouble("FilterLogEvents", times=10**6), "could not be read in time"),
        (None, "logged 0 requests of this run but 12 succeeded"),
    ],
    ids=["denied", "throttled for good", "no log group"],
)
async def test_a_log_that_cannot_be_read_is_a_warning(monkeypatch, tmp_path, trouble, words):
    """The run's own figures are all there."""
    async with account(monkeypatch, tmp_path) as fake:
        await serving(fake)
        monkeypatch.setattr("tgibench.backends.sagemaker.server_log._BACKOFF_S", 0.01)
        if trouble is None:
            fake.logs.delay_s = 1e9
        else:
            fake.logs.troubles.append(trouble)
        cell = await measured(attached(log_patience_s=0.6))
        assert not joined(cell)
        assert (cell.metrics.counts["succeeded"], cell.metrics.ttft_s.count) == (12, 12)
        (warning,) = [warning for warning in cell.warnings if words in warning]
        assert GROUP in warning


async def test_lines_of_another_run_are_not_taken_for_this_one(monkeypatch, tmp_path):
    """Some of this run's lines are lost, and others' are there in their place."""
    async with account(monkeypatch, tmp_path) as fake:
        await serving(fake)
        seen = []

        def write_some(endpoint, line):
            seen.append(line)
            fake.logs.write(endpoint, line if len(seen) % 2 else line.replace(f"{datetime.now(UTC):%Y-%m}", "2023-08"))

        fake.runtime.log = write_some
        cell = await measured(attached(log_patience_s=0.5))
        assert not joined(cell)
        assert any("logged 6 requests of this run but 12 succeeded" in warning for warning in cell.warnings)


@pytest.mark.parametrize(
    ("deployment", "options"),
    [
        (STUDY, {"server_timings": False}),
        (attrs.evolve(STUDY, server="vllm", server_version="0.14.0"), {"protocol": tb.TgiCompatProtocol()}),
    ],
    ids=["not wanted", "not known"],
)
async def test_a_log_that_is_not_wanted_or_not_known_is_not_read(monkeypatch, tmp_path, deployment, options):
    """No call, no warning."""
    async with account(monkeypatch, tmp_path) as fake:
        await serving(fake)
        cell = await measured(attached(**options), deployment)
        assert not joined(cell)
        assert fake.logs.calls == 0
        assert not any("joined" in warning for warning in cell.warnings)


@pytest.mark.parametrize("clock_ahead_s", [100.0, -100.0])
async def test_clocks_apart_are_no_hindrance(monkeypatch, tmp_path, clock_ahead_s):
    """How far they are apart is told by the answers' dates."""
    async with account(monkeypatch, tmp_path, clock_ahead_s=clock_ahead_s) as fake:
        await serving(fake)
        assert joined(await measured(attached()))


async def test_a_run_stopped_while_its_log_is_waited_for_is_kept(monkeypatch, tmp_path):
    """With a warning; the sweep ends there."""
    async with account(monkeypatch, tmp_path) as fake:
        await serving(fake)
        fake.logs.delay_s = 1e9
        loads = [tb.ClosedLoop(1, requests=3), tb.ClosedLoop(2, requests=3)]
        sweep = asyncio.ensure_future(  # noqa: TID251 - cancelled in its middle
            tb.sweep([STUDY], loads, backend=attached(log_patience_s=60.0), prompts=tb.SyntheticPrompts(input_tokens=9))
        )
        while fake.logs.calls < 2:  # noqa: ASYNC110 - it is the fake that is called
            await asyncio.sleep(0.01)
        sweep.cancel()
        study = await sweep
        assert study.interrupted
        (cell,) = study
        assert cell.metrics.counts["succeeded"] == 3
        assert cell.warnings[-1].startswith("the server's side was not read")


def test_an_independent_cloudwatch_is_read_the_same(monkeypatch, tmp_path):
    """Moto's: the lines of a run among others, in several pages."""
    clean_environment(
        monkeypatch, tmp_path, {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_REGION": "us-east-1"}
    )
    with mock_aws():
        logs = boto3.client("logs", region_name="us-east-1")
        logs.create_log_group(logGroupName=GROUP)
        logs.create_log_stream(logGroupName=GROUP, logStreamName="AllTraffic/i-0")

        def write(log):
            """What the server would have logged of it."""
            zero = datetime.now(UTC).timestamp()
            events = [{"timestamp": int(zero * 1000), "message": "Connected"}]
            for row in np.argsort(log.ended_s):
                at = datetime.fromtimestamp(zero + log.ended_s[row], UTC)
                times = RequestTimes(
                    validation_s=0.0, queue_s=log.queue_s[row], inference_s=log.inference_s[row],
                    total_s=log.server_total_s[row], generated_tokens=int(log.output_tokens[row]),
                )  # fmt: skip
                line = success_line(at, TgiVersion.of("1.0.3"), times, span="generate", parameters={}, seed=None)
                events.append({"timestamp": int(at.timestamp() * 1000), "message": line})
            logs.put_log_events(logGroupName=GROUP, logStreamName="AllTraffic/i-0", logEvents=events)

        async def run():
            emulated = tb.Emulator(step_times=FAST).endpoint(STUDY)
            truth = await tb.run_load(emulated, tb.ClosedLoop(2, requests=20), tb.SyntheticPrompts(max_new_tokens=5))
            silent = np.full(len(truth), np.nan)
            columns = ("validation_s", "queue_s", "inference_s", "server_total_s", "server_time_per_token_s")
            return truth, attrs.evolve(truth, **dict.fromkeys(columns, silent))

        truth, silent = tb.virtual_time.run(run())
        silent = attrs.evolve(silent, ended_s=silent.ended_s + 0.001)

        async def view():
            view_of = ServerLog(aws=Aws("us-east-1"), group=GROUP, patience_s=5.0).watch_run()
            write(truth)
            await asyncio.sleep(float(truth.ended_s.max()))
            return await view_of(silent)

        seen = asyncio.run(view())
    assert (seen.warnings, seen.facts["server_times_of"]) == ((), "20 of 20")
    np.testing.assert_allclose(np.sort(seen.log.inference_s), np.sort(truth.inference_s), atol=1e-8)
    np.testing.assert_allclose(np.sort(seen.log.queue_s), np.sort(truth.queue_s), atol=1e-8)
