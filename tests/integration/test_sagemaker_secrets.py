"""Tokens, keys and signatures are in no log, journal, representation, error, result or report."""

from __future__ import annotations

import asyncio
import logging

import attrs
import boto3
import pytest

import tgibench as tb
from sagemaker_account import FAST, STUDY, account, backend, journals
from tgibench.backends.sagemaker import leftovers
from tgibench.backends.sagemaker.journal import state_folder
from tgibench.testing.fake_sagemaker import Identity, Trouble

SECRETS = ("SESSIONSECRET", "KEYSECRET", "hf_HUBSECRET", "AWS4-HMAC", "Signature=", "sagemaker-api-key-")
DEPLOYMENT = attrs.evolve(STUDY, environment=(("HF_TOKEN", "hf_HUBSECRET"),))
QUOTED = "1 validation error detected: Value '{HF_TOKEN=hf_HUBSECRET, SM_NUM_GPUS=1}' at 'primaryContainer.environment'"


def logged(caplog):
    """Every record of every logger as it would be written, with the traceback that it carries."""
    formatter = logging.Formatter("%(name)s %(levelname)s %(message)s")
    return [formatter.format(record) for record in caplog.records]


async def deploy_and_run(fake, store):
    """A whole sweep, the plan, a request that is refused; what each of them says of itself."""
    target = backend(fake, dead_man_role_arn=fake.dead_man_role_arn)
    study = await tb.sweep(
        [DEPLOYMENT],
        [tb.ClosedLoop(1, requests=2)],
        backend=target,
        prompts=tb.SyntheticPrompts(input_tokens=9, max_new_tokens=2),
        store=store,
    )
    plan = await target.plan(DEPLOYMENT)
    said = [*from_study(study), repr(target), repr(plan), str(plan)]
    async with target.deploy(DEPLOYMENT) as endpoint, endpoint.connect() as client:
        fake.identity.secret_key = "another"
        failed = await client.generate(tb.GenerationRequest(prompt="x"), tb.Timeouts())
        said += [repr(endpoint), repr(client), repr(client.transport), repr(failed), str(failed.failure)]
        fake.identity.secret_key = "KEYSECRET"
    return said


def from_study(study):
    """A study in every form in which it is handed on."""
    assert (len(study), study.failures) == (1, ())
    costs = tb.InstanceHours(tb.PriceTable.builtin())
    return [repr(study), tb.html_page(study, costs), tb.markdown(study, costs)]


async def refused(fake):
    """A creation that AWS refuses in the container's own variables, and a deletion that it does not allow."""
    fake.account.troubles.append(Trouble("CreateModel", code="ValidationException", message=QUOTED))
    with pytest.raises(tb.AwsError, match=r"HF_TOKEN=\*\*\*, SM_NUM_GPUS=1") as creation:
        async with backend(fake).deploy(DEPLOYMENT):
            pass
    fake.account.troubles.append(Trouble("DeleteModel", code="AccessDeniedException", times=10**6))
    with pytest.raises(tb.TeardownError) as deletion:
        async with backend(fake, teardown_timeout_s=0.3).deploy(DEPLOYMENT):
            pass
    fake.account.troubles.clear()
    found = await leftovers.find()
    await leftovers.remove(found, poll_s=0.02)
    return [repr(creation.value), str(creation.value), repr(deletion.value), *map(repr, found)]


async def test_no_secret_is_in_anything_that_is_written_down(monkeypatch, tmp_path, caplog):
    """All loggers at DEBUG, the event loop's debug mode on: through a run, failures, refusals and a clean-up."""
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 0.0  # so that in debug mode it writes of every callback
    identity = Identity(session_token="SESSIONSECRET", secret_key="KEYSECRET")
    async with account(monkeypatch, tmp_path, identity=identity) as fake:
        loop.set_debug(True)
        said = await deploy_and_run(fake, tmp_path / "store")
        loop.set_debug(False)
        said += await refused(fake)
        assert fake.account.alive() == []
    folders = [tmp_path / "store", state_folder()]
    written = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    said += [path.read_text() for path in written]
    records = logged(caplog)
    assert len(journals()) > 10
    assert len(written) > 3
    loggers = {record.name for record in caplog.records}
    assert {"botocore.hooks", "urllib3.connectionpool", "asyncio"} <= loggers  # the log was on
    everything = "\n".join([*said, *records])
    assert [secret for secret in SECRETS if secret in everything] == []


async def test_bearer_tokens_are_secrets_too(monkeypatch, tmp_path, caplog):
    """On the OpenAI-compatible path."""
    caplog.set_level(logging.DEBUG)
    newer = attrs.evolve(STUDY, server_version="3.3.6")
    async with account(monkeypatch, tmp_path, identity=Identity(secret_key="KEYSECRET"), step_times=FAST) as fake:
        target = backend(fake, openai_path=True, protocol=tb.OpenAIChatProtocol(model="tgi"))
        async with target.deploy(newer) as endpoint, endpoint.connect() as client:
            answered = await client.generate(tb.GenerationRequest(prompt="x", max_new_tokens=2), tb.Timeouts())
            assert answered.failure is None
            said = [repr(client), repr(client.transport), repr(answered), *logged(caplog)]
    assert [secret for secret in SECRETS if secret in "\n".join(said)] == []


async def test_what_the_caller_does_with_boto3_is_logged_as_ever(monkeypatch, tmp_path, caplog):
    """Only our own calls are withheld."""
    caplog.set_level(logging.DEBUG)
    async with account(monkeypatch, tmp_path):
        await leftovers.find()
        assert not any(record.name == "botocore.endpoint" for record in caplog.records)
        await asyncio.to_thread(boto3.client("sagemaker").list_models)
    assert "Making request for OperationModel(name=ListModels)" in caplog.text
