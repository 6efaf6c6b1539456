"""A process that is stopped or killed at any step leaves nothing that `cleanup` does not find, and nobody else's is touched."""

from __future__ import annotations

import asyncio
import signal
import sys

import attrs
import pytest

from sagemaker_account import account, measuring, reach, serving
from tgibench.backends.sagemaker import leftovers
from tgibench.testing.fake_sagemaker import Trouble
from tgibench.testing.fake_sagemaker.scheduler import Schedule

OTHERS = ["endpoint/ep", "config/ep", "model/ep", "schedule/nightly"]


def ours(fake):
    """The endpoint that is not the other's."""
    return [endpoint for name, endpoint in fake.account.endpoints.items() if name != "ep"]


async def others(fake):
    """What was there before, and what no run of ours may touch."""
    await serving(fake)
    fake.account.scheduler.schedules["nightly"] = Schedule(request={"Target": {}}, due=float("inf"))


STEPS = {
    "before create": lambda fake: fake.account.calls["ListEndpoints"],
    "schedule created": lambda fake: len(fake.account.scheduler.schedules) > 1,
    "model created": lambda fake: len(fake.account.models) > 1,
    "creating": ours,
    "in service": lambda fake: any(endpoint.status(fake.account.clock()) == "InService" for endpoint in ours(fake)),
    "mid-load": lambda fake: sum(map(len, fake.logs.lines.values())) > 10,
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("step", [*STEPS, "during deletion"])
async def test_nothing_of_ours_is_left_and_all_of_others_is(monkeypatch, tmp_path, step, number):
    """SIGINT and SIGTERM delete it themselves and keep the results; after SIGKILL, cleanup does."""
    async with account(monkeypatch, tmp_path, speed=1.0, creating_s=0.3, deleting_s=0.5) as fake:
        await others(fake)
        async with measuring(fake, dead_man_role_arn=fake.dead_man_role_arn) as process:
            if step == "during deletion":
                await reach(process, lambda: STEPS["mid-load"](fake))
                process.send_signal(signal.SIGTERM)
                await reach(process, lambda: any(endpoint.gone for endpoint in ours(fake)))
            else:
                await reach(process, lambda: STEPS[step](fake))
            process.send_signal(number)
            said, _ = await process.communicate()
            if number == signal.SIGKILL:
                assert process.returncode == -signal.SIGKILL
            elif step != "before create":  # before it there is nothing to delete, and SIGTERM ends a process at once
                assert (said.decode(), process.returncode, fake.account.alive()) == ("interrupted\n", 0, OTHERS)
            # what was under way when the process was killed may only be seen now
            await asyncio.sleep(0.1)
            await leftovers.remove(await leftovers.find(), poll_s=0.05)
            assert fake.account.alive() == OTHERS  # whose state is as it was, too
            assert fake.account.endpoints["ep"].status(fake.account.clock()) == "InService"
            assert await leftovers.find(everything=True) == []


async def test_the_second_signal_tells_what_is_alive_and_deleting_goes_on(monkeypatch, tmp_path):
    """Its price, and the command that removes it."""
    async with account(monkeypatch, tmp_path, speed=1.0, creating_s=0.2, deleting_s=1.0) as fake:
        async with measuring(fake) as process:
            await reach(process, lambda: STEPS["mid-load"](fake))
            (name,) = fake.account.endpoints
            for _ in range(2):
                process.send_signal(signal.SIGTERM)
                await reach(process, lambda: ours(fake)[0].gone)
            said, told = await process.communicate()
        assert f"{name}: 1 x ml.g5.2xlarge in us-east-1, 1.5 USD per hour" in told.decode()
        assert "tgibench cleanup --yes" in told.decode()
        assert (said, fake.account.alive()) == (b"interrupted\n", [])


async def test_a_living_runs_resources_are_left_alone(monkeypatch, tmp_path):
    """Its journal is locked for as long as it lives; unless everything is asked for."""
    async with account(monkeypatch, tmp_path, speed=1.0, creating_s=0.2, deleting_s=0.2) as fake:
        async with measuring(fake) as process:
            await reach(process, lambda: STEPS["mid-load"](fake))
            assert await leftovers.find() == []
            assert len(await leftovers.find(everything=True)) == 3
            process.kill()
            await process.wait()
            found = await leftovers.find()
        assert len(found) == 3
        await leftovers.remove(found, poll_s=0.05)
        assert fake.account.alive() == []


async def test_the_command_shows_and_only_with_yes_removes(monkeypatch, tmp_path):
    """Exit status 2 where the account cannot be looked at."""

    async def cleanup(*options):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tgibench", "cleanup", *options,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, told = await process.communicate()
        return process.returncode, said.decode() + told.decode()

    async with account(monkeypatch, tmp_path) as fake:
        await serving(fake)
        model, name = fake.account.models["ep"], "tgib-0123abcd-00000000"
        tags = {"tgibench:run": "0123abcd", "tgibench:owner": f"arn:aws:iam::{fake.account.number}:user/fake"}
        fake.account.models[name] = attrs.evolve(model, arn=model.arn.replace("ep", name), tags=tags)
        options = ("--backend", "sagemaker")
        status, said = await cleanup(*options)
        assert (status, name in said, "--yes" in said, len(fake.account.models)) == (0, True, True, 2)
        status, said = await cleanup("--yes", *options)
        assert (status, "removed 1" in said, list(fake.account.models)) == (0, True, ["ep"])
        fake.account.troubles.append(Trouble("ListModels", code="AccessDeniedException"))
        status, said = await cleanup(*options)
        assert (status, "AccessDenied" in said) == (2, True)
