"""The 2023 study's 15 deployments against a fake account: one after the other where quotas are 1, all at once where they allow it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import attrs
import pytest

import tgibench as tb
from sagemaker_account import account
from tgibench.backends import Room

EXAMPLE = Path(__file__).parents[2] / "examples" / "llama2_sagemaker.py"
LOADS = [tb.ClosedLoop(users, requests=users) for users in (1, 2, 3, 4)]


def deployments():
    """Those of the example."""
    specification = importlib.util.spec_from_file_location("llama2_sagemaker", EXAMPLE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.DEPLOYMENTS


async def study_with(monkeypatch, tmp_path, quota, parallel):
    """The study, the account, and how many endpoints of each type it had at most."""
    which = deployments()
    kinds = {deployment.instance_type for deployment in which}
    most = dict.fromkeys(kinds, 0)
    async with account(monkeypatch, tmp_path, quotas=dict.fromkeys(kinds, quota)) as fake:
        create = fake.account._create_endpoint

        def counted(request):
            answer = create(request)
            for kind in kinds:
                most[kind] = max(most[kind], fake.account.in_use(kind))
            return answer

        monkeypatch.setattr(type(fake.account), "_create_endpoint", lambda _, request: counted(request))
        study = await tb.sweep(
            which,
            LOADS,
            backend=tb.SageMakerBackend(role_arn=fake.role_arn, poll_s=0.1, consistent_after_s=0.05),
            prompts=tb.SyntheticPrompts(input_tokens=20, max_new_tokens=3, stream=False),
            parallel=parallel,
            store=tmp_path / "results",
        )
        assert fake.account.alive() == []
        assert fake.account.calls["CreateEndpoint"] == 15
    return study, most


@pytest.mark.parametrize("quota", [1, 15])
@pytest.mark.timeout(300)
async def test_the_study_runs_in_parallel_as_far_as_the_quotas_allow(monkeypatch, tmp_path, quota):
    """15 deployments, four loads each: with quotas of 1 one endpoint of a type at a time, with larger ones several; nothing is left."""
    study, most = await study_with(monkeypatch, tmp_path, quota, parallel=15)
    assert study.failures == ()
    assert [(cell.deployment, cell.load) for cell in study] == [
        (each, load) for each in deployments() for load in LOADS
    ]
    assert all(cell.metrics.counts["succeeded"] == cell.load.concurrency for cell in study)
    assert all(cell.provenance.startup_usd > 0 for cell in study)
    assert (set(most.values()) == {1}) == (quota == 1)
    assert tb.read_study(tmp_path / "results").measurements == study.measurements


async def test_the_backend_knows_its_room_and_its_longest_times(monkeypatch, tmp_path):
    """What the quota leaves; where it is not known, or an endpoint is attached to, one at a time. Creating must settle before deletion."""
    two, other = (
        tb.Deployment("meta-llama/Llama-2-7b-hf", kind, replicas=replicas)
        for kind, replicas in (("ml.g5.2xlarge", 2), ("ml.other.large", 1))
    )
    async with account(monkeypatch, tmp_path, quotas={"ml.g5.2xlarge": 3}) as fake:
        backend = tb.SageMakerBackend(role_arn=fake.role_arn, teardown_timeout_s=5000)
        assert await backend.rooms([two, other, two]) == [
            Room(pool="ml.g5.2xlarge", size=3, units=2),
            Room(pool="ml.other.large", size=1),
            Room(pool="ml.g5.2xlarge", size=3, units=2),
        ]
        attached = tb.SageMakerBackend(endpoint_name="mine")
        assert await attached.rooms([two, other]) == [Room(pool="mine", size=1)] * 2
        longest = backend.longest_times(two)
        assert (longest.teardown_s, longest.abandon_s, longest.after_load_s) == (900, 5000, backend.log_patience_s)
        assert attrs.evolve(backend, server_timings=False).longest_times(two).after_load_s == 0
        assert longest.startup_s > (await backend.plan(two)).ready_timeout_s
