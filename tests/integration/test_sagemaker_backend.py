"""The SageMaker backend against a fake account: what it creates, refuses to create, hands out, and deletes."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime, timedelta

import attrs
import pytest

import tgibench as tb
from sagemaker_account import STUDY, account, backend, journals, serving, until
from tgibench.backends.sagemaker import leftovers
from tgibench.testing.fake_sagemaker import Trouble


async def test_a_sweep_deploys_measures_and_leaves_nothing(monkeypatch, tmp_path):
    """Two deployments one after the other under a quota of 1; each cell says EMULATED, what it ran on and what starting it cost."""
    async with account(monkeypatch, tmp_path, quotas={"ml.g5.2xlarge": 1}) as fake:
        study = await tb.sweep(
            [STUDY, attrs.evolve(STUDY, quantization="gptq")],
            [tb.ClosedLoop(2, requests=6)],
            backend=backend(fake),
            prompts=tb.SyntheticPrompts(input_tokens=20, max_new_tokens=5),
        )
        assert (len(study), study.failures) == (2, ())
        for cell in study:
            assert (cell.source, cell.metrics.counts["succeeded"]) == (tb.Source.EMULATED, 6)
            facts = cell.provenance.facts
            assert facts["image"].endswith("2.0.1-tgi1.0.3-gpu-py39-cu118-ubuntu20.04")
            assert facts["host_image"] == "default of ml.g5.2xlarge"
            assert facts["usd_per_hour"] == "1.5"
            provenance = cell.provenance
            assert 0 < provenance.first_token_after_ready_s < provenance.ready_after_s
            assert provenance.startup_usd == pytest.approx(1.5 * provenance.ready_after_s / 3600)
            assert provenance.startup_price == "1.5 USD per hour, says nobody"
        assert fake.account.alive() == []
        assert fake.account.calls["CreateEndpoint"] == fake.account.calls["CreateModel"] == 2
        assert [line["event"] for line in journals()].count("gone") == 2


async def test_deployments_run_in_parallel_where_the_quota_allows(monkeypatch, tmp_path):
    """Several contexts at once, each with names of its own."""
    async with account(monkeypatch, tmp_path, quotas={"ml.g5.2xlarge": 3}) as fake:
        together = asyncio.Barrier(3)

        async def deploy():
            async with backend(fake).deploy(STUDY) as endpoint:
                await together.wait()
                return endpoint.protocol.endpoint_name

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(deploy()) for _ in range(3)]
        assert len({task.result() for task in tasks}) == 3
        assert fake.account.alive() == []


async def test_what_is_created_is_what_the_deployment_says(monkeypatch, tmp_path):
    """Environment, image, machine, host image, tags on all three; one name."""
    deployment = attrs.evolve(STUDY, quantization="gptq", environment=(("HF_TOKEN", "hf_SECRET"), ("DTYPE", "float16")))
    async with account(monkeypatch, tmp_path) as fake:
        async with backend(fake, inference_ami="al2-ami-sagemaker-inference-gpu-2").deploy(deployment) as endpoint:
            name = endpoint.protocol.endpoint_name
            model, config = fake.account.models[name], fake.account.configs[name]
            assert model.request["PrimaryContainer"]["Environment"] == {
                "HF_MODEL_ID": "meta-llama/Llama-2-7b-hf", "SM_NUM_GPUS": "1", "HF_MODEL_QUANTIZE": "gptq",
                "MAX_INPUT_LENGTH": "1024", "MAX_TOTAL_TOKENS": "2048", "HF_TOKEN": "hf_SECRET",
                "HUGGING_FACE_HUB_TOKEN": "hf_SECRET", "DTYPE": "float16",
            }  # fmt: skip
            variant = config.request["ProductionVariants"][0]
            assert (variant["InstanceType"], variant["InitialInstanceCount"]) == ("ml.g5.2xlarge", 1)
            assert variant["InferenceAmiVersion"] == "al2-ami-sagemaker-inference-gpu-2"
            tags = fake.account.endpoints[name].tags
            assert tags == model.tags == config.tags
            assert tags["tgibench:run"] in name
            assert datetime.fromisoformat(tags["tgibench:expires"]) > datetime.now(UTC)
        assert fake.account.alive() == []


@pytest.mark.parametrize(
    ("change", "options", "code", "words"),
    [
        ({"model_id": "meta-llama/Llama-2-70b-hf"}, {}, "memory", "does not fit"),
        ({"server_version": "1.0.4"}, {}, "image", "1.0.3"),
        ({"image": "763104351884.dkr.ecr.eu-west-1.amazonaws.com/x:tgi1.0.3"}, {}, "image", "eu-west-1"),
        ({"environment": (("HF_TOKEN", '"hf_x"'),)}, {}, "environment", "quotes"),
        ({"environment": (("A", "x" * 1025),)}, {}, "environment", "1024"),
        ({"environment": tuple((f"V{n}", "") for n in range(101))}, {}, "environment", "100"),
        ({"environment": (("A B", ""),)}, {}, "environment", "no name"),
        ({"environment": tuple((f"V{n}", "x" * 1000) for n in range(40))}, {}, "environment", "32768"),
        ({"replicas": 5}, {}, "quota", "L-9614C779"),
        ({"server": "ollama"}, {}, "environment", "vllm"),
        ({"server": "vllm", "server_version": "99"}, {}, "image", "sagemaker-sdk"),
        ({}, {"role_arn": None}, "role", "role_arn"),
        ({}, {"role_arn": "arn:aws:iam::123456789012:role/nobody"}, "role", "nobody"),
        ({}, {"role_arn": "arn:aws:iam::123456789012:role/other/tgibench-fake"}, "role", "other"),
        ({}, {"role_arn": "arn:aws:iam::123456789012:role/tgibench-fake-scheduler"}, "role", "does not trust sagemaker.amazonaws.com"),
        ({"instance_type": "ml.nothing.large"}, {"prices": None}, "price", "ml.nothing.large"),
        ({"instance_type": "ml.g5.48xlarge"}, {}, "price", "ml.g5.48xlarge"),
    ],
)  # fmt: skip
async def test_what_cannot_work_is_refused_before_anything_is_created(
    monkeypatch, tmp_path, change, options, code, words
):
    """With a stable code and a sentence, the same in the plan."""
    async with account(monkeypatch, tmp_path) as fake:
        deployment = attrs.evolve(STUDY, **change)
        with pytest.raises(tb.PreflightError) as refused:
            async with backend(fake, **options).deploy(deployment):
                pass
        assert {problem for problem, sentence in refused.value.problems if words in sentence} == {code}
        plan = await backend(fake, **options).plan(deployment)
        assert plan.problems == refused.value.problems
        assert words in str(plan)
        assert not any(operation.startswith("Create") for operation in fake.account.calls)
        assert journals() == []


async def test_no_credentials_and_credentials_that_end_too_soon_are_refused(monkeypatch, tmp_path):
    """Those of the environment cannot be refreshed; the tags' life is what they must outlast."""
    async with account(monkeypatch, tmp_path) as fake:
        monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", (datetime.now(UTC) + timedelta(hours=1)).isoformat())
        assert [code for code, _ in (await backend(fake).plan(STUDY)).problems] == ["lifetime"]
        assert (await backend(fake, lifetime_s=1800).plan(STUDY)).problems == ()
        fake.identity.secret_key = "another"
        assert [code for code, _ in (await backend(fake, lifetime_s=1800).plan(STUDY)).problems] == ["credentials"]
        for name in ("AWS_CREDENTIAL_EXPIRATION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        assert [code for code, _ in (await backend(fake).plan(STUDY)).problems] == ["credentials"]


async def test_temporary_keys_of_the_credentials_file_tell_their_end(monkeypatch, tmp_path):
    """As tools write it there, though botocore does not read it."""
    async with account(monkeypatch, tmp_path) as fake:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        keys = f"aws_access_key_id={fake.identity.access_key}\naws_secret_access_key={fake.identity.secret_key}"
        (tmp_path / "credentials").write_text(f"[default]\n{keys}\nx_security_token_expires={ends}\n")
        assert [code for code, _ in (await backend(fake).plan(STUDY)).problems] == ["lifetime"]


async def test_the_plan_says_what_it_would_cost_and_creates_nothing(monkeypatch, tmp_path):
    """At most: until it is given up, and deleted."""
    async with account(monkeypatch, tmp_path) as fake:
        assert (await backend(fake, prices=None).plan(STUDY)).usd_per_hour == 1.515  # the built-in table's
        plan = await backend(fake).plan(attrs.evolve(STUDY, replicas=2))
        assert (plan.usd_per_hour, plan.problems, plan.region) == (3.0, (), "us-east-1")
        assert plan.startup_usd_at_most == pytest.approx(3.0 * (plan.ready_timeout_s + 600) / 3600)
        assert "3 USD per hour" in str(plan)
        assert fake.account.alive() == []


async def test_an_endpoint_that_fails_is_deleted_and_its_reason_told(monkeypatch, tmp_path):
    """Capacity, say; the sweep notes it and goes on."""
    reason = "Unable to provision requested ML compute capacity due to InsufficientInstanceCapacity error."
    async with account(monkeypatch, tmp_path, fails=lambda model, kind: reason) as fake:
        study = await tb.sweep(
            [STUDY], [tb.ClosedLoop(1, requests=1)], backend=backend(fake), prompts=tb.SyntheticPrompts()
        )
        assert reason in study.failures[0].message
        assert fake.account.alive() == []
        assert await leftovers.find(everything=True) == []


async def test_an_endpoint_that_never_settles_is_given_up_and_deleted_once_it_can_be(monkeypatch, tmp_path):
    """Deleting is refused while it is being created; it is asked for again until it works."""
    async with account(monkeypatch, tmp_path, speed=1.0, creating_s=1.0, deleting_s=0.1) as fake:
        with pytest.raises(tb.DeployError, match=r"still Creating after 0\.3 s"):
            async with backend(fake, ready_timeout_s=0.3).deploy(STUDY):
                pass
        assert fake.account.alive() == []
        assert fake.account.calls["DeleteEndpoint"] > 1
        assert any(line["event"] == "not deleted" for line in journals())


@pytest.mark.parametrize(
    "troubles",
    [
        [Trouble("*", times=12)],
        [Trouble("CreateEndpoint", code="InternalFailure", status=500, times=2, after=True)],
        [Trouble("CreateModel", code="ServiceUnavailable", status=503, times=2)],
        [Trouble("DescribeEndpoint", times=5), Trouble("DeleteEndpoint", code="InternalFailure", status=500, times=6)],
        [Trouble("DeleteModel", code="InternalFailure", status=500, after=True)],
    ],
    ids=["throttled", "answer lost", "unavailable", "5xx on delete", "deleted all the same"],
)
async def test_storms_are_borne_with(monkeypatch, tmp_path, troubles):
    """Calls whose answer was an error though they were carried out are not carried out twice."""
    async with account(monkeypatch, tmp_path, troubles=deque()) as fake:
        await serving(fake)
        others = fake.account.alive()
        monkeypatch.setattr("tgibench.backends.sagemaker.control._BACKOFF_S", 0.01)
        plan = await backend(fake).plan(STUDY)
        assert plan.problems == ()
        monkeypatch.setattr("tgibench.backends.sagemaker.preflight._quota", lambda *_: asyncio.sleep(0))
        fake.account.troubles += troubles
        async with backend(fake).deploy(STUDY):
            assert len(fake.account.endpoints) == 2
        assert fake.account.alive() == others
        assert all(trouble.times == 0 for trouble in troubles)


async def test_late_reads_are_borne_with(monkeypatch, tmp_path):
    """What was created a moment ago is not found yet: neither an error, nor gone."""
    async with account(monkeypatch, tmp_path, speed=1.0, creating_s=0.1, deleting_s=0.1, lag_s=0.3) as fake:
        monkeypatch.setattr("tgibench.backends.sagemaker.control._BACKOFF_S", 0.05)
        async with backend(fake, consistent_after_s=0.5).deploy(STUDY):
            pass
        assert fake.account.alive() == []
        task = asyncio.get_running_loop().create_task(backend(fake, consistent_after_s=0.5).deploy(STUDY).__aenter__())
        await until(lambda: fake.account.endpoints)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert fake.account.alive() == []


async def test_what_cannot_be_deleted_is_told_with_the_command_that_removes_it(monkeypatch, tmp_path):
    """And is found, and removed, later."""
    async with account(monkeypatch, tmp_path) as fake:
        trouble = Trouble("DeleteEndpoint", code="InternalFailure", status=500, times=10**6)
        with pytest.raises(tb.TeardownError, match="tgibench cleanup --yes") as told:
            async with backend(fake, teardown_timeout_s=0.5).deploy(STUDY) as endpoint:
                fake.account.troubles.append(trouble)
        assert f"endpoint, endpoint configuration, model {endpoint.protocol.endpoint_name}" in str(told.value)
        trouble.times = 0
        found = await leftovers.find()
        assert {leftover.kind for leftover in found} == {"endpoint", "endpoint configuration", "model"}
        assert any("1.5 USD per hour" in leftover.note for leftover in found)
        await leftovers.remove(found, poll_s=0.02)
        assert (fake.account.alive(), await leftovers.find()) == ([], [])


@pytest.mark.parametrize("moment", ["model", "config", "creating", "serving", "deleting"])
async def test_a_run_cancelled_at_any_moment_leaves_nothing(monkeypatch, tmp_path, moment):
    """Cancelled twice, even while it is being deleted."""
    async with account(monkeypatch, tmp_path, speed=1.0, creating_s=0.5, deleting_s=0.3) as fake:
        served = asyncio.Event()

        async def run():
            async with backend(fake).deploy(STUDY):
                served.set()
                await asyncio.Event().wait()

        reached = {
            "model": lambda: fake.account.models,
            "config": lambda: fake.account.configs,
            "creating": lambda: fake.account.endpoints,
            "serving": served.is_set,
            "deleting": served.is_set,
        }[moment]
        task = asyncio.get_running_loop().create_task(run())
        await until(reached)
        task.cancel()
        if moment == "deleting":
            await until(lambda: any(endpoint.gone for endpoint in fake.account.endpoints.values()))
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert fake.account.alive() == []


async def test_attaching_creates_and_deletes_nothing(monkeypatch, tmp_path):
    """To an endpoint in service; one that is not there is an error."""
    async with account(monkeypatch, tmp_path) as fake:
        await serving(fake)
        calls = dict(fake.account.calls)
        async with backend(fake, endpoint_name="ep", prices=None).deploy(STUDY) as endpoint:
            log = await tb.run_load(endpoint, tb.ClosedLoop(1, requests=2), tb.SyntheticPrompts(input_tokens=9))
            assert log.failures == {}
        assert {k: n for k, n in fake.account.calls.items() if k[:4] != "Desc"} == {
            k: n for k, n in calls.items() if k[:4] != "Desc"
        }
        async with backend(fake, endpoint_name="ep", inference_component="ic").deploy(STUDY) as endpoint:
            headers = endpoint.protocol.encode(tb.GenerationRequest(prompt="x")).headers
            assert ("X-Amzn-SageMaker-Inference-Component", "ic") in headers
        with pytest.raises(tb.DeployError, match="no endpoint other"):
            async with backend(fake, endpoint_name="other").deploy(STUDY):
                pass


async def test_others_resources_are_never_touched(monkeypatch, tmp_path):
    """Neither by name alone, nor by tag alone, nor a colleague's; a colleague's that has expired is found, and everything on request."""
    async with account(monkeypatch, tmp_path) as fake:
        async with backend(fake).deploy(STUDY) as endpoint:
            name = endpoint.protocol.endpoint_name
            mine = fake.account.models[name]
            copies = {
                "tgib-00000000-11111111": {},
                "somebody": mine.tags,
                "tgib-22222222-33333333": {**mine.tags, "tgibench:run": "99999999"},
                "tgib-aaaaaaaa-00000000": {**mine.tags, "tgibench:run": "aaaaaaaa", "tgibench:owner": "colleague"},
                "tgib-bbbbbbbb-00000000": {
                    "tgibench:run": "bbbbbbbb",
                    "tgibench:owner": "colleague",
                    "tgibench:expires": "2020-01-01T00:00:00+00:00",
                },
            }
            for copy, tags in copies.items():
                arn = mine.arn.replace(name, copy)
                fake.account.models[copy] = attrs.evolve(mine, arn=arn, tags=dict(tags))
            assert [found.name for found in await leftovers.find()] == ["us-east-1:tgib-bbbbbbbb-00000000"]
            everything = {found.name for found in await leftovers.find(everything=True)}
            assert everything == {f"us-east-1:{n}" for n in (name, "tgib-aaaaaaaa-00000000", "tgib-bbbbbbbb-00000000")}
        await leftovers.remove(await leftovers.find(), poll_s=0.02)
        assert fake.account.alive() == [f"model/{copy}" for copy in copies if "bbbb" not in copy]
