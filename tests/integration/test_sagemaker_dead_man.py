"""The dead-man switch: the account deletes the endpoint at its expiry, whatever became of the process that created it."""

from __future__ import annotations

import asyncio
import json
import signal
from datetime import UTC, datetime, timedelta

import attrs
import pytest
from botocore.stub import Stubber

import tgibench as tb
from sagemaker_account import STUDY, account, backend, journals, measuring, reach, until
from tgibench.backends.sagemaker import leftovers
from tgibench.backends.sagemaker.aws import Aws
from tgibench.backends.sagemaker.dead_man import schedule_for
from tgibench.testing.fake_sagemaker import Trouble

TAGS = {
    "tgibench:run": "0123abcd",
    "tgibench:owner": "arn:aws:iam::1:user/x",
    "tgibench:expires": "2026-11-24T20:00:00+00:00",
}
NAME = "tgib-0123abcd-00000000"


def armed(fake, **options):
    """A quick backend with the switch."""
    return backend(fake, **{"dead_man_role_arn": fake.dead_man_role_arn, **options})


def later(fake, *, hours):
    """Put the account's clock so far ahead of ours."""
    ahead = timedelta(hours=hours)
    fake.account.clock = fake.account.scheduler.clock = lambda: datetime.now(UTC).timestamp() + ahead.total_seconds()


def test_the_schedule_is_asked_for_as_the_service_wants_it(monkeypatch):
    """Once, at the expiry and not later, gone afterwards; the endpoint's name is all that it hands on."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    client = Aws("cn-north-1").client("scheduler")
    request = schedule_for(NAME, role_arn="arn:aws-cn:iam::123456789012:role/reaper", tags=TAGS)
    expected = {
        "Name": NAME,
        "ScheduleExpression": "at(2026-11-24T20:00:00)",
        "ScheduleExpressionTimezone": "UTC",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE",
        "Description": json.dumps(TAGS, separators=(",", ":")),
        "Target": {
            "Arn": "arn:aws-cn:scheduler:::aws-sdk:sagemaker:deleteEndpoint",
            "RoleArn": "arn:aws-cn:iam::123456789012:role/reaper",
            "Input": '{"EndpointName": "tgib-0123abcd-00000000"}',
            "RetryPolicy": {"MaximumEventAgeInSeconds": 86400, "MaximumRetryAttempts": 185},
        },
    }
    with Stubber(client) as stubbed:
        stubbed.add_response("create_schedule", {"ScheduleArn": "arn"}, expected)
        client.create_schedule(Name=NAME, **request)


def test_the_longest_tags_fit_into_a_description():
    """Of 512 characters."""
    tags = {
        **TAGS,
        "tgibench:owner": "x" * 256,
        "tgibench:created": TAGS["tgibench:expires"],
        "tgibench:version": "10.10.10.dev1000",
    }
    assert len(schedule_for(NAME, role_arn="arn:aws:iam::1:role/r", tags=tags)["Description"]) <= 512


async def test_it_is_armed_before_anything_is_created_and_disarmed_last(monkeypatch, tmp_path):
    """At the time that the endpoint's tag says; the journal and the plan tell of it."""
    async with account(monkeypatch, tmp_path) as fake:
        plan = await armed(fake).plan(STUDY)
        assert plan.creates == ("schedule", "model", "endpoint configuration", "endpoint")
        assert "deletes the endpoint after 14400 s, by then at most 6.25 USD" in str(plan)
        async with armed(fake).deploy(STUDY) as endpoint:
            name = endpoint.protocol.endpoint_name
            asked = fake.account.scheduler.schedules[name].request
            expires_at = fake.account.endpoints[name].tags["tgibench:expires"]
            assert asked["ScheduleExpression"] == f"at({expires_at.removesuffix('+00:00')})"
            assert endpoint.expires_at == datetime.fromisoformat(expires_at)
        assert fake.account.alive() == []
    told = [(line["event"], line.get("kind")) for line in journals() if line["event"] in {"create", "deleted"}]
    assert (told[0], told[-1]) == (("create", "schedule"), ("deleted", "schedule"))


async def test_without_it_the_scheduler_is_never_asked(monkeypatch, tmp_path):
    """Whoever does not want it needs no permission for it; `cleanup` bears with having none."""
    async with account(monkeypatch, tmp_path) as fake:
        async with backend(fake).deploy(STUDY):
            pass
        assert not any("Schedule" in operation for operation in fake.account.calls)
        assert "no dead-man switch" in str(await backend(fake).plan(STUDY))
        fake.account.troubles.append(Trouble("ListSchedules", code="AccessDeniedException", status=403, times=9))
        assert await leftovers.find() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dead_man_role_arn": "arn:aws:iam::123456789012:role/nobody"}, "nobody"),
        ({"dead_man_role_arn": "arn:aws:iam::123456789012:role/tgibench-fake"}, r"does not trust scheduler\.amazonaws\.com"),
        ({"dead_man_role_arn": "arn:aws:iam::123456789012:role/a/tgibench-fake-scheduler"}, "the role of this account is"),
        ({"lifetime_s": 2000}, "at least 2700"),
    ],
)  # fmt: skip
async def test_a_switch_that_would_not_work_is_refused(monkeypatch, tmp_path, options, words):
    """Before anything is created; so is one that could fire while the endpoint cannot be deleted yet."""
    async with account(monkeypatch, tmp_path) as fake:
        with pytest.raises(tb.PreflightError, match=words) as refused:
            async with armed(fake, **options).deploy(STUDY):
                pass
        assert [code for code, _ in refused.value.problems] == ["dead_man"]
        assert fake.account.alive() == []


async def test_a_schedule_that_is_refused_stops_everything(monkeypatch, tmp_path):
    """Nothing that costs is created without it."""
    async with account(monkeypatch, tmp_path) as fake:
        fake.account.troubles.append(Trouble("CreateSchedule", code="ValidationException"))
        with pytest.raises(tb.AwsError, match="create_schedule"):
            async with armed(fake).deploy(STUDY):
                pass
        assert fake.account.calls["CreateModel"] == 0


async def test_a_lost_answer_and_a_storm_leave_one_schedule_and_then_none(monkeypatch, tmp_path):
    """As with everything else that is created."""
    troubles = [
        Trouble("CreateSchedule", code="InternalServerException", status=500, after=True),
        Trouble("DeleteSchedule", status=429, times=3),
    ]
    async with account(monkeypatch, tmp_path) as fake:
        monkeypatch.setattr("tgibench.backends.sagemaker.control._BACKOFF_S", 0.01)
        fake.account.troubles += troubles
        async with armed(fake).deploy(STUDY):
            assert len(fake.account.scheduler.schedules) == 1
        assert fake.account.alive() == []
        assert all(trouble.times == 0 for trouble in troubles)


async def test_after_a_kill_with_nobody_there_the_account_deletes_the_endpoint(monkeypatch, tmp_path):
    """What is left then costs nothing, and `cleanup` finds it whenever it comes."""
    async with account(monkeypatch, tmp_path, speed=1.0, creating_s=300, deleting_s=1) as fake:
        async with measuring(fake, dead_man_role_arn=fake.dead_man_role_arn, lifetime_s=2700) as process:
            await reach(process, lambda: fake.account.endpoints)
            process.send_signal(signal.SIGKILL)
            await process.wait()
        (name,) = fake.account.endpoints
        assert fake.account.alive() == [f"endpoint/{name}", f"config/{name}", f"model/{name}", f"schedule/{name}"]
        later(fake, hours=1)
        assert f"schedule/{name}" not in fake.account.alive()
        later(fake, hours=2)
        assert fake.account.alive() == [f"config/{name}", f"model/{name}"]
        await leftovers.remove(await leftovers.find(), poll_s=0.02)
        assert fake.account.alive() == []


async def test_a_switch_that_fires_while_the_endpoint_is_being_created_fires_again(monkeypatch, tmp_path):
    """The fake's scheduler repeats a refused call."""
    async with account(monkeypatch, tmp_path, speed=1.0, creating_s=10**6, deleting_s=1) as fake:
        task = asyncio.get_running_loop().create_task(armed(fake).deploy(STUDY).__aenter__())
        await until(lambda: fake.account.endpoints)
        (name,) = fake.account.endpoints
        later(fake, hours=5)
        assert f"schedule/{name}" in fake.account.alive()
        assert fake.account.scheduler.schedules[name].attempts > 2
        fake.account.endpoints[name].settles = 0.0
        later(fake, hours=6)
        assert f"schedule/{name}" not in fake.account.alive()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert fake.account.alive() == []


async def test_cleanup_removes_our_schedules_and_never_anybody_elses(monkeypatch, tmp_path):
    """Ours has the name, the tags in its description and our endpoint as its target; a living run's is left alone."""
    async with account(monkeypatch, tmp_path) as fake:
        schedules = fake.account.scheduler.schedules
        async with armed(fake).deploy(STUDY) as endpoint:
            mine = schedules[endpoint.protocol.endpoint_name]
            assert await leftovers.find() == []

            def copy(name, target=None, **tags):
                told = {
                    "tgibench:run": name[5:13],
                    "tgibench:owner": f"arn:aws:iam::{fake.account.number}:user/fake",
                    **tags,
                }
                request = {**schedule_for(target or name, role_arn=fake.dead_man_role_arn, tags={**TAGS, **told})}
                schedules[name] = attrs.evolve(mine, request=request)

            copy("tgib-aaaaaaaa-00000000")
            copy(
                "tgib-bbbbbbbb-00000000",
                **{"tgibench:owner": "colleague", "tgibench:expires": "2100-01-01T00:00:00+00:00"},
            )
            copy("tgib-cccccccc-00000000", **{"tgibench:run": "99999999"})
            copy("tgib-dddddddd-00000000", target="production")
            copy("tgib-production")
            schedules["tgib-eeeeeeee-00000000"] = attrs.evolve(mine, request={**mine.request, "Description": "nightly"})
            schedules["somebody"] = mine
            found = await leftovers.find()
            assert [leftover.name for leftover in found] == ["us-east-1:tgib-aaaaaaaa-00000000"]
            assert "at(2026-11-24T20:00:00)" in found[0].note
            assert len(await leftovers.find(everything=True)) == 3 + 3
            await leftovers.remove(found, poll_s=0.02)
        left = [f"schedule/{name}" for name in schedules]
        assert (fake.account.alive(), len(left)) == (left, 6)


async def test_a_load_that_would_outlive_the_endpoint_is_refused(monkeypatch, tmp_path):
    """Its length and its last answer's; what was measured before it is kept."""
    async with account(monkeypatch, tmp_path) as fake:
        study = await tb.sweep(
            [STUDY],
            [tb.ClosedLoop(1, requests=2), tb.ClosedLoop(1, duration_s=4 * 3600)],
            backend=armed(fake),
            prompts=tb.SyntheticPrompts(input_tokens=9, max_new_tokens=2),
        )
        assert [cell.metrics.counts["succeeded"] for cell in study] == [2]
        assert "the dead-man switch deletes" in study.failures[0].message
        assert fake.account.alive() == []
