"""What killed runs left in the account, and its removal: by the journals of this machine, then by name and tag; never anything else."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.backends.sagemaker.aws import Aws
from tgibench.backends.sagemaker.control import SERVING, ControlPlane, Kind
from tgibench.backends.sagemaker.dead_man import deletes, tags_of
from tgibench.backends.sagemaker.journal import journaled, mark_gone
from tgibench.backends.sagemaker.names import PREFIX, is_ours
from tgibench.errors import AwsError, TeardownError
from tgibench.leftovers import Leftover

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tgibench.backends.sagemaker.journal import Intent

__all__ = ["find", "remove"]

_LISTS = {
    Kind.ENDPOINT: ("list_endpoints", "Endpoints", "Endpoint"),
    Kind.CONFIG: ("list_endpoint_configs", "EndpointConfigs", "EndpointConfig"),
    Kind.MODEL: ("list_models", "Models", "Model"),
}
_SCHEDULE_GROUP = "default"
_TIMEOUT_S = 2 * 3600.0


@attrs.frozen(kw_only=True)
class _Look:
    """What one look at an account needs to know."""

    account: str
    owner: str
    intents: dict[str, Intent]
    living: frozenset[str]
    everything: bool


async def find(*, everything: bool = False) -> list[Leftover]:
    """What runs of ours left in the default region and in those that this machine's journals name.

    Ours is what this identity created, and what has expired, whoever created it. With `everything` also what others of the account
    created and what a living process of this machine may still use.

    Raises:
        AwsError: The account cannot be looked at.
        DeployError: A journal cannot be read.
        MissingExtraError: boto3 is not installed.
    """
    told = list(journaled())
    default = await asyncio.to_thread(lambda: Aws().session().region_name)
    if default is None and not told:
        return []  # no region, nothing ever begun: there is no account to look at
    regions = {default, *(intent.region for intent, _ in told)} - {None}
    aws = Aws(default or told[0][0].region)
    who = await aws.call(await asyncio.to_thread(aws.client, "sts"), "get_caller_identity", {})
    account = str(who["Account"])
    look = _Look(
        account=account,
        owner=str(who["Arn"]),
        intents={intent.name: intent for intent, _ in told if intent.account == account},
        living=frozenset(intent.name for intent, lives in told if lives),
        everything=everything,
    )
    found: list[Leftover] = []
    for region in sorted(regions):
        found += [leftover async for leftover in _in_region(Aws(region), look)]
    return found


async def remove(leftovers: list[Leftover], *, timeout_s: float = _TIMEOUT_S, poll_s: float = 15.0) -> None:
    """Delete what was found, endpoints first, and make sure that it is gone.

    Raises:
        TeardownError: Something is not known to be gone; everything else was removed all the same.
    """
    left: list[str] = []
    by_name: dict[str, list[Kind]] = {}
    for leftover in leftovers:
        by_name.setdefault(leftover.name, []).append(Kind(leftover.kind))
    for place, kinds in by_name.items():
        region, _, name = place.partition(":")
        control = ControlPlane(Aws(region), poll_s=poll_s)
        try:
            await control.remove(name, timeout_s=timeout_s, kinds=tuple(kind for kind in Kind if kind in kinds))
        except TeardownError as error:
            left.append(str(error))
        else:
            mark_gone(name)
    if left:
        raise TeardownError("; ".join(left))


async def _in_region(aws: Aws, look: _Look) -> AsyncIterator[Leftover]:
    control = ControlPlane(aws)
    for kind in SERVING:
        listed = await _listed(control, kind)
        for name in (name for name, intent in look.intents.items() if intent.region == aws.region):
            if name not in listed and (described := await control.describe(kind, name)) is not None:
                listed[name] = described  # lists may lag behind
        for name, resource in listed.items():
            if (leftover := await _leftover(control, kind, name, resource, look)) is not None:
                yield leftover
    for leftover in await _schedules(control, look):
        yield leftover


async def _schedules(control: ControlPlane, look: _Look) -> list[Leftover]:
    """The dead-man switches: none where they may not be looked at, as they cost nothing and remove themselves, and endpoints do not."""
    armed = {name for name, intent in look.intents.items() if intent.dead_man and intent.region == control.aws.region}
    try:
        names = armed | set(await _schedule_names(control))
        told = [(name, await control.describe(Kind.SCHEDULE, name)) for name in sorted(names)]
    except AwsError:
        return []
    return [
        Leftover(
            kind=Kind.SCHEDULE.value,
            name=f"{control.aws.region}:{name}",
            note=f"deletes the endpoint of this name: {schedule['ScheduleExpression']} UTC",
        )
        for name, schedule in told
        if schedule is not None and deletes(schedule, name) and _wanted(name, tags_of(schedule), look)
    ]


async def _schedule_names(control: ControlPlane) -> list[str]:
    names: list[str] = []
    page: dict[str, Any] = {"GroupName": _SCHEDULE_GROUP, "NamePrefix": PREFIX, "MaxResults": 100}
    while True:
        answer = await control.patient_call("list_schedules", page)
        names += [str(each["Name"]) for each in answer["Schedules"]]
        if not answer.get("NextToken"):
            return names
        page["NextToken"] = answer["NextToken"]


def _wanted(name: str, tags: dict[str, str], look: _Look) -> bool:
    """Whether it is ours, and to be shown: this identity's own or expired, and not in use; or everything is asked for."""
    mine = name in look.intents or tags.get("tgibench:owner") == look.owner or _expired(tags)
    return is_ours(name, tags) and (look.everything or (mine and name not in look.living))


async def _listed(control: ControlPlane, kind: Kind) -> dict[str, dict[str, Any]]:
    operation, key, noun = _LISTS[kind]
    found: dict[str, dict[str, Any]] = {}
    page: dict[str, Any] = {"NameContains": PREFIX, "MaxResults": 100}
    while True:
        answer = await control.patient_call(operation, page)
        found |= {each[f"{noun}Name"]: each for each in answer[key] if each[f"{noun}Name"].startswith(PREFIX)}
        if not answer.get("NextToken"):
            return found
        page["NextToken"] = answer["NextToken"]


async def _leftover(
    control: ControlPlane, kind: Kind, name: str, resource: dict[str, Any], look: _Look
) -> Leftover | None:
    try:
        answer = await control.patient_call("list_tags", {"ResourceArn": resource[f"{_LISTS[kind][2]}Arn"]})
    except AwsError as error:
        if "Could not find" in str(error):  # gone meanwhile
            return None
        raise
    tags = {tag["Key"]: tag["Value"] for tag in answer["Tags"]}
    if not _wanted(name, tags, look):
        return None
    notes = [f"created {tags.get('tgibench:created')} by {tags.get('tgibench:owner')}"]
    if kind is Kind.ENDPOINT:
        notes.append(str(resource.get("EndpointStatus")))
        intent = look.intents.get(name)
        notes.append("price unknown" if intent is None else intent.worth)
    return Leftover(kind=kind.value, name=f"{control.aws.region}:{name}", note=", ".join(notes))


def _expired(tags: dict[str, str]) -> bool:
    try:
        return datetime.fromisoformat(tags.get("tgibench:expires", "")) < datetime.now(UTC)
    except (ValueError, TypeError):
        return False
