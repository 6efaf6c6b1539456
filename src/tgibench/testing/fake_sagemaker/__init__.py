"""A fake SageMaker on loopback: the control plane and the runtime of one account, good enough for boto3 and for money's sake.

Everything is at one address, so that ``AWS_ENDPOINT_URL`` alone sends boto3 there: SageMaker itself, its runtime, and the little of
STS, IAM, Service Quotas, EventBridge Scheduler and CloudWatch Logs that a deployer asks for. Containers are the emulator's.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

import attrs
from aiohttp import web

from tgibench.backends.sagemaker.quotas import QUOTA_CODES
from tgibench.errors import DeployError
from tgibench.testing.fake_sagemaker.account import SCHEDULER_ROLE, Account
from tgibench.testing.fake_sagemaker.identity import Identity
from tgibench.testing.fake_sagemaker.logs import Logs
from tgibench.testing.fake_sagemaker.resources import Refused, Trouble
from tgibench.testing.fake_sagemaker.runtime import Runtime, StreamTrouble, deployment_of
from tgibench.twin.policy import settings_for
from tgibench.twin.step_time import ModelledTimes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tgibench.twin.step_time import StepTimes

__all__ = ["FakeSageMaker", "Identity", "StreamTrouble", "Trouble", "fake_sagemaker"]

_JSON = "application/x-amz-json-1.1"
_MAX_BODY_BYTES = 6_291_456
_ROLE = "tgibench-fake"
_IAM_PREFIXES = {"SageMaker": "sagemaker", "ServiceQuotasV20190624": "servicequotas", "Logs": "logs"}
_GPU_QUOTA_NAMES = "for endpoint usage"


@attrs.define(eq=False, kw_only=True)
class FakeSageMaker:
    """A fake account that runs.

    Args:
        url: Its address.
        account: Its state; may be looked into and changed.
        runtime: Its containers; `StreamTrouble`s may be added to its ``troubles``.
        identity: Whose calls it takes.
        logs: What its containers wrote; how late and in which pages it is shown may be changed.
        actions: How often each action was asked for, by the name that an IAM policy allows it with: ``"sagemaker:CreateModel"``, ….
    """

    url: str
    account: Account
    runtime: Runtime
    identity: Identity
    logs: Logs
    actions: Counter[str] = attrs.field(factory=Counter)

    @property
    def role_arn(self) -> str:
        """A role that SageMaker may assume."""
        return f"arn:aws:iam::{self.account.number}:role/{_ROLE}"

    @property
    def dead_man_role_arn(self) -> str:
        """A role that EventBridge Scheduler may assume."""
        return self.account.scheduler.role_arn

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which boto3 (and so tgibench) finds this account instead of a real one."""
        return {
            **self.identity.environment,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": self.account.region,
            "AWS_DEFAULT_REGION": self.account.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@asynccontextmanager
async def fake_sagemaker(
    *,
    speed: float = 1.0,
    identity: Identity | None = None,
    step_times: StepTimes | None = None,
    cut_bytes: int | None = None,
    clock_ahead_s: float = 0.0,
    **account: Any,
) -> AsyncIterator[FakeSageMaker]:
    """Run a fake account on this loop until the context is left.

    Args:
        speed: Seconds of the account's time in a second of ours: deployments become ready so much sooner.
        identity: Whose calls it takes.
        step_times: Of every container; None for those of its model and machine.
        cut_bytes: Frames hold so many bytes of a container's output, wherever that cuts.
        clock_ahead_s: So far its clock is ahead of ours: by it signatures are judged, answers and log lines dated.
        account: Further arguments of `Account`: quotas, ``creating_s``, ``deleting_s``, ``lag_s``, ….
    """
    loop = asyncio.get_running_loop()
    began_s, began_at = loop.time(), datetime.now(UTC).timestamp()

    def wall_clock() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=clock_ahead_s)

    logs = Logs(clock=lambda: wall_clock().timestamp(), speed=speed)
    state = Account(**{"clock": lambda: began_at + (loop.time() - began_s) * speed, "fails": _start_failure, **account})
    runtime = Runtime(state, step_times=step_times, log=logs.write, clock=wall_clock, cut_bytes=cut_bytes)
    who = identity or Identity()
    who.clock_ahead = timedelta(seconds=clock_ahead_s)
    fake = FakeSageMaker(url="", account=state, runtime=runtime, identity=who, logs=logs)
    runner = web.AppRunner(_application(fake), handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield fake
    finally:
        await runner.cleanup()
        await runtime.close()


def _start_failure(model: dict[str, Any], instance_type: str) -> str | None:
    """Why a container would not pass its health check: the model does not fit the machine's memory."""
    try:
        deployment = deployment_of(model, {"InstanceType": instance_type, "InitialInstanceCount": 1})
        settings_for(deployment, ModelledTimes.of(deployment).cache_tokens)
    except (DeployError, Refused) as error:
        return (
            "The primary container for production variant AllTraffic did not pass the ping health check. Please check "
            f"CloudWatch logs for this endpoint. ({error})"
        )
    return None


def _application(fake: FakeSageMaker) -> web.Application:
    application = web.Application(client_max_size=_MAX_BODY_BYTES)

    async def control(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            fake.identity.check_signature(request, body)
            return _control(fake, request, body)
        except Refused as refused:
            return _refusal(request, refused)

    async def scheduler(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            fake.identity.check_signature(request, body)
            return _schedule(fake, request, body)
        except Refused as refused:
            said = {"Message": refused.message}
            return web.json_response(said, status=refused.status, headers={"x-amzn-ErrorType": refused.code})

    async def invoke(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            fake.identity.check_signature(request, body)
            streamed = request.path.endswith("-stream")
            fake.actions[f"sagemaker:InvokeEndpoint{'WithResponseStream' if streamed else ''}"] += 1
            return await fake.runtime.invoke(request, body, streamed=request.path.endswith("-stream"))
        except Refused as refused:
            return _runtime_refusal(refused)

    async def openai(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            fake.identity.check_bearer(request.headers.get("Authorization", ""))
            fake.actions.update(("sagemaker:InvokeEndpoint", "sagemaker:CallWithBearerToken"))
            return await fake.runtime.openai(request, body)
        except Refused as refused:
            return _runtime_refusal(refused)

    application.on_response_prepare.append(_dated(fake))
    application.router.add_post("/", control)
    application.router.add_get("/schedules", scheduler)
    application.router.add_route("*", "/schedules/{schedule}", scheduler)
    for operation in ("invocations", "invocations-response-stream"):
        application.router.add_post(f"/endpoints/{{endpoint}}/{operation}", invoke)
    application.router.add_post("/endpoints/{endpoint}/openai/{rest:.+}", openai)
    return application


def _dated(fake: FakeSageMaker) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def date(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["Date"] = format_datetime(datetime.now(UTC) + fake.identity.clock_ahead, usegmt=True)

    return date


def _control(fake: FakeSageMaker, request: web.Request, body: bytes) -> web.Response:
    service, _, operation = request.headers.get("X-Amz-Target", "").partition(".")
    if not operation:
        return _query(fake, {name: values[0] for name, values in parse_qs(body.decode()).items()})
    asked = json.loads(body or b"{}")
    fake.actions[f"{_IAM_PREFIXES.get(service.partition('_')[0], service.lower())}:{operation}"] += 1
    if service == "SageMaker":
        answer = fake.account.handle(operation, asked)
    elif service.startswith("ServiceQuotas"):
        answer = _quota(fake, asked)
    elif service.startswith("Logs"):
        answer = fake.logs.filter_log_events(asked)
    else:
        raise Refused("UnknownOperationException", f"{service} is not known here")
    return web.Response(body=json.dumps(answer).encode(), content_type=_JSON)


def _schedule(fake: FakeSageMaker, request: web.Request, body: bytes) -> web.Response:
    """EventBridge Scheduler, which speaks REST."""
    name = request.match_info.get("schedule")
    verbs = {"POST": "CreateSchedule", "GET": "GetSchedule", "DELETE": "DeleteSchedule"}
    operation = "ListSchedules" if name is None else verbs.get(request.method, request.method)
    fake.actions[f"scheduler:{operation}"] += 1
    asked = json.loads(body or b"{}") if request.method == "POST" else dict(request.query)
    answer = fake.account.befallen(operation, lambda: fake.account.scheduler.handle(request.method, name, asked))
    return web.json_response(answer)


def _query(fake: FakeSageMaker, asked: dict[str, str]) -> web.Response:
    """STS and IAM, which answer in XML."""
    number, action = fake.account.number, asked.get("Action")
    roles = {_ROLE: "sagemaker.amazonaws.com", SCHEDULER_ROLE: "scheduler.amazonaws.com"}
    fake.actions[f"{'sts' if action == 'GetCallerIdentity' else 'iam'}:{action}"] += 1
    if action == "GetCallerIdentity":
        inside = (
            f"<Arn>arn:aws:iam::{number}:user/fake</Arn><UserId>AIDAFAKE</UserId><Account>{number}</Account>",
            "https://sts.amazonaws.com/doc/2011-06-15/",
        )
    elif action == "GetRole" and asked.get("RoleName") in roles:
        inside = _role(number, asked["RoleName"], roles[asked["RoleName"]]), "https://iam.amazonaws.com/doc/2010-05-08/"
    elif action == "GetRole":
        raise Refused("NoSuchEntity", f"The role with name {asked.get('RoleName')} cannot be found.", 404)
    else:
        raise Refused("InvalidAction", f"{action} is not known here")
    result, namespace = inside
    text = f'<{action}Response xmlns="{namespace}"><{action}Result>{result}</{action}Result></{action}Response>'
    return web.Response(text=text, content_type="text/xml")


def _role(number: str, name: str, trusted: str) -> str:
    """IAM's description of a role that trusts a service."""
    trust = quote(json.dumps({"Statement": [{"Principal": {"Service": trusted}}]}))
    return (
        f"<Role><Path>/</Path><RoleName>{name}</RoleName><RoleId>AROAFAKE</RoleId><Arn>arn:aws:iam::{number}:role/{name}</Arn>"
        f"<CreateDate>2026-01-01T00:00:00Z</CreateDate><AssumeRolePolicyDocument>{trust}</AssumeRolePolicyDocument></Role>"
    )


def _quota(fake: FakeSageMaker, asked: dict[str, Any]) -> dict[str, Any]:
    """Service Quotas' GetServiceQuota: by code, which stands for one instance type."""
    kind = next((kind for kind, code in QUOTA_CODES.items() if code == asked.get("QuotaCode")), None)
    if asked.get("ServiceCode") != "sagemaker" or kind is None:
        raise Refused("NoSuchResourceException", "The request failed because the specified resource does not exist.")
    value = float(fake.account.quotas.get(kind, fake.account.default_quota))
    return {"Quota": {"QuotaCode": asked["QuotaCode"], "QuotaName": f"{kind} {_GPU_QUOTA_NAMES}", "Value": value}}


def _refusal(request: web.Request, refused: Refused) -> web.Response:
    if "X-Amz-Target" not in request.headers:
        text = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{refused.code}</Code><Message>{refused.message}</Message>"
            "</Error></ErrorResponse>"
        )
        return web.Response(text=text, status=refused.status, content_type="text/xml")
    body = json.dumps({"__type": refused.code, "message": refused.message}).encode()
    return web.Response(body=body, status=refused.status, content_type=_JSON)


def _runtime_refusal(refused: Refused) -> web.Response:
    said = {"Message": refused.message}
    return web.json_response(said, status=refused.status, headers={"x-amzn-ErrorType": refused.code})
