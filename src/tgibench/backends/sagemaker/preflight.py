"""What is looked at before anything is created, each with a stable code: nothing here costs or changes anything."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.backends.sagemaker.images import ami_for, image_for
from tgibench.backends.sagemaker.plan import shortest_lifetime_s
from tgibench.backends.sagemaker.quotas import QUOTA_CODES
from tgibench.backends.sagemaker.roles import role_of
from tgibench.backends.sagemaker.servers import environment_of
from tgibench.errors import AwsError, DeployError, InvalidValueError
from tgibench.prices import PriceTable
from tgibench.twin.hardware import INSTANCES
from tgibench.twin.policy import settings_for
from tgibench.twin.shapes import find_model
from tgibench.twin.step_time import ModelledTimes

if TYPE_CHECKING:
    from tgibench.backends.sagemaker.aws import Aws
    from tgibench.deployments import Deployment

__all__ = ["Facts", "free_instances", "look"]

_VARIABLE = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,1023}")
_MAX_VARIABLES, _MAX_VALUE_BYTES, _MAX_ALL_BYTES = 100, 1024, 32 * 1024  # the service model's limits
_ECR_REGION = re.compile(r"\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws")
_ASSUMED = re.compile(r"arn:(?P<partition>[\w-]+):sts::\d+:assumed-role/(?P<role>[^/]+)/")


@attrs.define(kw_only=True)
class Facts:
    """What was found out; fields are None where it could not be.

    Args:
        problems: Codes and sentences of what stands in the way.
        notes: What could not be checked, in sentences.
    """

    account: str | None = None
    owner: str | None = None
    role_arn: str | None = None
    image: str | None = None
    ami: str | None = None
    environment: dict[str, str] = attrs.field(factory=dict, repr=False)
    usd_per_hour: float | None = None
    problems: list[tuple[str, str]] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)


async def look(
    aws: Aws,
    deployment: Deployment,
    *,
    role_arn: str | None,
    prices: PriceTable | None,
    ami: str | None,
    lifetime_s: float,
    dead_man_role_arn: str | None,
    ready_timeout_s: float,
) -> Facts:
    """Look at everything, so that one error tells all that is missing."""
    facts = Facts(role_arn=role_arn)
    _image(aws, deployment, ami, facts)
    _environment(deployment, facts)
    _memory(deployment, facts)
    _price(aws, deployment, prices, facts)
    if await _identity(aws, lifetime_s, facts):
        await _role(aws, facts)
        if dead_man_role_arn is not None:
            await _dead_man(aws, dead_man_role_arn, lifetime_s, ready_timeout_s, facts)
        await _quota(aws, deployment, facts)
    return facts


def _image(aws: Aws, deployment: Deployment, ami: str | None, facts: Facts) -> None:
    region = aws.region or ""
    try:
        facts.image = deployment.image or image_for(deployment.server, deployment.server_version, region)
    except InvalidValueError as error:
        facts.problems.append(("image", str(error)))
        return
    facts.ami = ami or ami_for(facts.image)
    elsewhere = _ECR_REGION.search(facts.image)
    if elsewhere and elsewhere[1] != region:
        facts.problems.append(
            ("image", f"the image {facts.image} is in {elsewhere[1]}, and SageMaker in {region} cannot take it")
        )


def _environment(deployment: Deployment, facts: Facts) -> None:
    try:
        facts.environment = environment_of(deployment)
    except InvalidValueError as error:
        facts.problems.append(("environment", str(error)))
        return
    variables = facts.environment
    said = []
    if len(variables) > _MAX_VARIABLES:
        said.append(f"{len(variables)} variables are more than {_MAX_VARIABLES}")
    if sum(len(name.encode()) + len(value.encode()) for name, value in variables.items()) > _MAX_ALL_BYTES:
        said.append(f"all variables together exceed {_MAX_ALL_BYTES} bytes")
    for name, value in variables.items():
        if not _VARIABLE.fullmatch(name):
            said.append(f"{name!r} is no name of a variable")
        elif len(value.encode()) > _MAX_VALUE_BYTES:
            said.append(f"the value of {name} exceeds {_MAX_VALUE_BYTES} bytes")
        elif name.endswith("_TOKEN") and (not value.strip() or value[:1] in "\"'" or value[-1:] in "\"'"):
            said.append(f"the value of {name} is empty or stands in quotes: give the bare token")
    facts.problems += (("environment", sentence) for sentence in said)


def _memory(deployment: Deployment, facts: Facts) -> None:
    known = find_model(deployment.model_id) is not None and deployment.instance_type in INSTANCES
    if not known or (deployment.quantization or "gptq").lower() != "gptq" or deployment.server != "tgi":
        facts.notes.append(f"whether {deployment.model_id} fits {deployment.instance_type} is not known")
        return
    try:
        settings_for(deployment, ModelledTimes.of(deployment).cache_tokens)
    except DeployError as error:
        facts.problems.append(("memory", str(error)))


def _price(aws: Aws, deployment: Deployment, prices: PriceTable | None, facts: Facts) -> None:
    try:
        table = PriceTable.builtin(aws.region or "") if prices is None else prices
        facts.usd_per_hour = deployment.replicas * table.price(deployment.instance_type).usd_per_hour
    except LookupError as error:
        facts.problems.append(("price", str(error)))


async def _identity(aws: Aws, lifetime_s: float, facts: Facts) -> bool:
    """Whether calls can be made at all."""
    try:
        credentials = await asyncio.to_thread(aws.credentials)
        if credentials is None:
            facts.problems.append(("credentials", "there are none: run `aws configure`, or set a profile"))
            return False
        who = await aws.ask("sts", "get_caller_identity")
    except AwsError as error:
        facts.problems.append(("clock" if error.code == "ClockSkew" else "credentials", str(error)))
        return False
    facts.account, facts.owner = str(who["Account"]), str(who["Arn"])
    if not credentials.refreshable and credentials.left_s < lifetime_s:
        sentence = (
            f"the credentials end in {credentials.left_s:.0f} s and cannot be refreshed, the deployment may live {lifetime_s:g} s: "
            "take longer ones, or lower lifetime_s"
        )
        facts.problems.append(("lifetime", sentence))
    return True


async def _role(aws: Aws, facts: Facts) -> None:
    given = facts.role_arn
    assumed = _ASSUMED.match(facts.owner or "")
    if given is None and assumed is None:
        facts.problems.append(
            ("role", "role_arn must name a role that SageMaker may assume, and this is no role's session")
        )
        return
    name = given.rpartition("/")[2] if given is not None else str(assumed and assumed["role"])
    found = await role_of(aws, name, "sagemaker.amazonaws.com")
    if found.trouble is not None and found.unseen and given is not None:
        facts.notes.append(found.trouble)
    elif found.trouble is not None:
        facts.problems.append(("role", found.trouble))
    facts.role_arn = found.arn or given
    if found.arn is not None and given not in {None, found.arn}:
        facts.problems.append(("role", f"role_arn is {given}, the role of this account is {found.arn}"))


async def _dead_man(aws: Aws, role_arn: str, lifetime_s: float, ready_timeout_s: float, facts: Facts) -> None:
    shortest_s = shortest_lifetime_s(ready_timeout_s)
    if lifetime_s < shortest_s:
        sentence = (
            f"lifetime_s is {lifetime_s:g}, but the dead-man switch must not fire while the endpoint may still be being created: "
            f"give at least {shortest_s:g}, or a lower ready_timeout_s"
        )
        facts.problems.append(("dead_man", sentence))
    found = await role_of(aws, role_arn.rpartition("/")[2], "scheduler.amazonaws.com")
    if found.trouble is not None and found.unseen:
        facts.notes.append(found.trouble)
    elif found.trouble is not None:
        facts.problems.append(("dead_man", found.trouble))
    elif found.arn != role_arn:
        facts.problems.append(("dead_man", f"dead_man_role_arn is {role_arn}, the role of this account is {found.arn}"))


async def _quota(aws: Aws, deployment: Deployment, facts: Facts) -> None:
    kind, code = deployment.instance_type, QUOTA_CODES.get(deployment.instance_type)
    if code is None:
        facts.notes.append(f"the quota of {kind} is not checked: its code is not known here")
        return
    try:
        limit = await _limit(aws, code)
        used = await _used(aws, kind)
    except AwsError as error:
        facts.notes.append(f"the quota of {kind} could not be checked: {error}")
        return
    if used + deployment.replicas > limit:
        sentence = (
            f"'{kind} for endpoint usage' ({code}) is {limit:g} in {aws.region}, {used} are in use and {deployment.replicas} more are "
            "wanted: ask for more with Service Quotas, or delete endpoints"
        )
        facts.problems.append(("quota", sentence))


async def free_instances(aws: Aws, instance_type: str) -> int | None:
    """How many instances of a type the quota leaves beside those in use; None where that cannot be found out."""
    code = QUOTA_CODES.get(instance_type)
    if code is None:
        return None
    try:
        return int(await _limit(aws, code)) - await _used(aws, instance_type)
    except AwsError:
        return None


async def _limit(aws: Aws, code: str) -> float:
    wanted = {"ServiceCode": "sagemaker", "QuotaCode": code}
    try:
        answer = await aws.ask("service-quotas", "get_service_quota", **wanted)
    except AwsError as error:
        if error.code != "NoSuchResourceException":
            raise
        answer = await aws.ask("service-quotas", "get_aws_default_service_quota", **wanted)
    return float(answer["Quota"]["Value"])


async def _used(aws: Aws, instance_type: str) -> int:
    """Instances of the type behind the account's endpoints, whoever's they are."""
    client = await asyncio.to_thread(aws.client, "sagemaker")
    used, page = 0, {"MaxResults": 100}
    while True:
        listed = await aws.call(client, "list_endpoints", page)
        for endpoint in listed["Endpoints"]:
            used += await _used_by(aws, client, endpoint["EndpointName"], instance_type)
        if not listed.get("NextToken"):
            return used
        page["NextToken"] = listed["NextToken"]


async def _used_by(aws: Aws, client: Any, name: str, instance_type: str) -> int:
    try:
        endpoint = await aws.call(client, "describe_endpoint", {"EndpointName": name})
        config = await aws.call(
            client, "describe_endpoint_config", {"EndpointConfigName": endpoint["EndpointConfigName"]}
        )
    except AwsError as error:
        if "Could not find" in str(error):  # it was deleted meanwhile, or its configuration was
            return 0
        raise
    running = {
        variant["VariantName"]: variant.get("CurrentInstanceCount")
        for variant in endpoint.get("ProductionVariants", ())
    }
    return sum(
        running.get(variant["VariantName"]) or variant.get("InitialInstanceCount", 0)
        for variant in config["ProductionVariants"]
        if variant.get("InstanceType") == instance_type
    )
