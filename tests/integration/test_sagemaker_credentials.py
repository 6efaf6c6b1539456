"""Credentials that end: refused before a run that would outlive them, refreshed beside one, missed while deleting."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta

import attrs
import pytest

import tgibench as tb
from sagemaker_account import STUDY, account, backend, journals, serving, until
from tgibench.backends.sagemaker import leftovers

PROMPTS = tb.SyntheticPrompts(input_tokens=9, max_new_tokens=2)


def end_in(monkeypatch, seconds):
    """The keys of the environment end then, and nothing refreshes them."""
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat())


async def test_a_load_that_would_outlive_the_credentials_is_refused(monkeypatch, tmp_path):
    """Its length and its last answer's time-out; those before it are kept, and everything is deleted."""
    async with account(monkeypatch, tmp_path) as fake:
        end_in(monkeypatch, 1500)
        study = await tb.sweep(
            [STUDY],
            [tb.ClosedLoop(1, requests=2), tb.ClosedLoop(1, duration_s=1000)],
            backend=backend(fake, lifetime_s=1200),
            prompts=PROMPTS,
        )
        assert [cell.metrics.counts["succeeded"] for cell in study] == [2]
        assert "may take 1600 s with its last answer, and the credentials end in 1" in study.failures[0].message
        assert fake.account.alive() == []


@pytest.mark.parametrize(
    ("load", "total_s", "lasts"),
    [
        (tb.ClosedLoop(1, requests=1), 60.0, True),
        (tb.ClosedLoop(1, requests=1), 600.0, False),
        (tb.ConstantArrivals(1.0, duration_s=500), 30.0, False),
        (tb.Replay((0.0, 450.0)), 30.0, False),
        (tb.Stages((tb.ClosedLoop(1, duration_s=200), tb.ClosedLoop(2, duration_s=200))), 30.0, False),
    ],
)  # fmt: skip
async def test_a_run_on_an_attached_endpoint_is_refused_too(monkeypatch, tmp_path, load, total_s, lasts):
    """Whatever its load's shape."""
    async with account(monkeypatch, tmp_path) as fake:
        await serving(fake)
        end_in(monkeypatch, 420)
        async with backend(fake, endpoint_name="ep").deploy(STUDY) as endpoint:
            run = tb.run_load(endpoint, load, PROMPTS, timeouts=tb.Timeouts(total_s=total_s))
            if lasts:
                assert (await run).failures == {}
            else:
                with pytest.raises(tb.AwsError, match="cannot be refreshed") as refused:
                    await run
                assert refused.value.code == "lifetime"


async def test_refreshable_credentials_are_renewed_in_the_background(monkeypatch, tmp_path):
    """A request is signed with what there is while newer ones are fetched."""
    async with account(monkeypatch, tmp_path) as fake:
        await serving(fake)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        told = tmp_path / "told.json"
        (tmp_path / "config").write_text(
            f"[default]\ncredential_process = {sys.executable} -S -c 'print(open(\"{told}\").read())'\n"
        )

        def tell(key):
            ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
            keys = {"Version": 1, "AccessKeyId": key, "SecretAccessKey": fake.identity.secret_key, "Expiration": ends}
            told.write_text(json.dumps(keys))

        monkeypatch.setattr("tgibench.backends.sagemaker.signing._REFRESH_S", 0.0)
        tell(fake.identity.access_key)
        request = tb.GenerationRequest(prompt="x", max_new_tokens=2)
        async with backend(fake, endpoint_name="ep").deploy(STUDY) as endpoint, endpoint.connect() as client:
            await endpoint.check_lasts(10**6)
            tell("AKIDRENEWED00000")
            assert (await client.generate(request, tb.Timeouts())).failure is None
            await until(lambda: client.transport._refreshing is None)
            fake.identity.access_key = "AKIDRENEWED00000"
            assert (await client.generate(request, tb.Timeouts())).failure is None


async def test_credentials_that_end_in_a_sweep_cost_nothing_that_was_measured(monkeypatch, tmp_path, capsys):
    """Deleting says what is alive, what it costs and what removes it, and goes on when there are newer ones."""
    async with account(monkeypatch, tmp_path) as fake:
        monkeypatch.setattr("tgibench.backends.sagemaker.control._BACKOFF_S", 0.02)
        cells = []

        def measured(cell):
            cells.append(cell)
            if len(cells) == 2:
                fake.identity.expires_at = datetime.now(UTC)

        sweeping = asyncio.get_running_loop().create_task(
            tb.sweep(
                [STUDY, attrs.evolve(STUDY, quantization="gptq")],
                [tb.ClosedLoop(1, requests=2), tb.ClosedLoop(1, requests=30)],
                backend=backend(fake),
                prompts=PROMPTS,
                on_measurement=measured,
                give_up_after=3,
            )
        )
        await until(lambda: any(line["event"] == "credentials ended" for line in journals()))
        (name,) = fake.account.endpoints
        fake.identity.access_key, fake.identity.expires_at = "AKIDRENEWED00000", None
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDRENEWED00000")
        study = await sweeping
        told = capsys.readouterr().err
        assert f"{name}: 1 x ml.g5.2xlarge in us-east-1, 1.5 USD per hour" in told
        assert "tgibench cleanup --yes" in told
        assert [cell.metrics.counts["succeeded"] for cell in study] == [2, 30, 2, 30]
        assert fake.account.alive() == []


async def test_credentials_that_end_for_good_leave_word_of_what_is_alive(monkeypatch, tmp_path, capsys):
    """In the error too; what was measured is in the store, and whoever has newer ones finds and removes the rest."""
    async with account(monkeypatch, tmp_path) as fake:
        store = tmp_path / "store"

        def measured(_):
            fake.identity.expires_at = datetime.now(UTC)

        with pytest.raises(tb.TeardownError, match=r"1\.5 USD per hour.*tgibench cleanup --yes"):
            await tb.sweep(
                [STUDY],
                [tb.ClosedLoop(1, requests=2)],
                backend=backend(fake, teardown_timeout_s=0.5, dead_man_role_arn=fake.dead_man_role_arn),
                prompts=PROMPTS,
                store=store,
                on_measurement=measured,
            )
        (name,) = fake.account.endpoints
        assert "the account itself deletes the endpoint at" in capsys.readouterr().err
        assert [cell.metrics.counts["succeeded"] for cell in tb.read_study(store)] == [2]
        fake.identity.expires_at = None
        found = await leftovers.find()
        assert {leftover.name for leftover in found} == {f"us-east-1:{name}"}
        await leftovers.remove(found, poll_s=0.02)
        assert fake.account.alive() == []
