"""The backend: model, endpoint configuration and endpoint are created, served from, and deleted again."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs

from tgibench.backends import LongestTimes, Room, one_at_a_time
from tgibench.backends.first_token import first_token_s
from tgibench.backends.sagemaker.alive import tell_expired, watched
from tgibench.backends.sagemaker.aws import Aws
from tgibench.backends.sagemaker.control import SERVING, ControlPlane, Kind
from tgibench.backends.sagemaker.dead_man import schedule_for
from tgibench.backends.sagemaker.endpoint import SageMakerEndpoint
from tgibench.backends.sagemaker.journal import Intent, begin_journal
from tgibench.backends.sagemaker.names import name_for, new_run, tags_for
from tgibench.backends.sagemaker.plan import health_timeout_s, plan_of, ready_timeout_of
from tgibench.backends.sagemaker.preflight import free_instances, look
from tgibench.backends.sagemaker.server_log import ServerLog, log_group
from tgibench.backends.sagemaker.servers import SERVERS, server_of
from tgibench.backends.sagemaker.warming import warm_up
from tgibench.backends.teardown import to_the_end
from tgibench.endpoints import StartUp
from tgibench.errors import AwsError, DeployError, PreflightError
from tgibench.identities import changed, identity
from tgibench.prices import PriceTable
from tgibench.protocols.sagemaker import SageMakerProtocol
from tgibench.provenance import Source
from tgibench.validators import above_zero

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tgibench.backends.sagemaker.journal import Journal
    from tgibench.backends.sagemaker.plan import DeploymentPlan
    from tgibench.backends.sagemaker.preflight import Facts
    from tgibench.deployments import Deployment
    from tgibench.protocols import WireProtocol

__all__ = ["SageMakerBackend"]

_FIRST_CALLS_S = 300.0  # before the creation and after it, the first requests included
_DELETE_S = 900.0
_VARIANT = "AllTraffic"
_LOG_POLL_S = 2.0
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@attrs.frozen(kw_only=True)
class SageMakerBackend:
    """Deploys to Amazon SageMaker with boto3, or attaches to an endpoint that is there, and streams from it.

    What it creates it deletes, whatever happens: it is written to a journal before it is created, its deletion cannot be cancelled
    and goes on until nothing is found any more. What a killed process leaves is found and removed by ``tgibench cleanup``.

    Args:
        role_arn: The role that the container runs with; None for the role whose session this is.
        region: Where; None for what the environment or the profile says.
        profile: Of the shared AWS configuration.
        prices: What machines cost; None for the built-in `tgibench.PriceTable` of the region. Without a price nothing is created.
        protocol: What the container speaks; None for its server's own.
        openai_path: Whether to use SageMaker's OpenAI-compatible path, with a bearer token and without frames.
        endpoint_name: An endpoint that is there, to attach to: nothing is created or deleted.
        inference_component: One of that endpoint's.
        inference_ami: The host image; None for what the container's CUDA needs, else the instance type's default.
        lifetime_s: Longest that a deployment is meant to live: credentials that cannot be refreshed must last so long, and a tag tells
            when it has expired.
        dead_man_role_arn: A role that EventBridge Scheduler may assume and that may delete endpoints: with it, the account itself deletes
            the endpoint when `lifetime_s` is over, whatever became of this machine.
        ready_timeout_s: How long until it must be in service; None to derive it from the model's size.
        teardown_timeout_s: How long deleting may take before it is given up; an endpoint being created must settle first.
        poll_s: Seconds between two looks at the endpoint; no longer than that until the second look at its log.
        consistent_after_s: For so long after a creation "not found" is not believed.
        server_timings: Whether the times that TGI logs of each request are read from CloudWatch after each run; other servers' are not
            known.
        log_patience_s: How long they are waited for, while the endpoint is paid for.

    Raises:
        InvalidValueError: A duration is not above 0.
    """

    role_arn: str | None = None
    region: str | None = None
    profile: str | None = None
    prices: PriceTable | None = None
    protocol: WireProtocol | None = None
    openai_path: bool = False
    endpoint_name: str | None = None
    inference_component: str | None = None
    inference_ami: str | None = None
    lifetime_s: float = attrs.field(default=4 * 3600.0, validator=above_zero)
    dead_man_role_arn: str | None = None
    ready_timeout_s: float | None = attrs.field(default=None, validator=attrs.validators.optional(above_zero))
    teardown_timeout_s: float = attrs.field(default=2 * 3600.0, validator=above_zero)
    poll_s: float = attrs.field(default=15.0, validator=above_zero)
    consistent_after_s: float = attrs.field(default=30.0, validator=above_zero)
    server_timings: bool = True
    log_patience_s: float = attrs.field(default=120.0, validator=above_zero)

    @property
    def name(self) -> str:
        """Its name."""
        return "sagemaker"

    @property
    def identity(self) -> str:
        """Its name, and a digest of what is not the default of where and what the endpoint is and how it is spoken to."""
        return identity(
            self.name,
            **changed(
                self,
                "region",
                "protocol",
                "openai_path",
                "endpoint_name",
                "inference_component",
                "inference_ami",
                "server_timings",
            ),
        )

    @property
    def source(self) -> Source:
        """MEASURED; a SageMaker on this machine's loopback is a fake, and its cells are EMULATED."""
        return Source.MEASURED

    async def plan(self, deployment: Deployment) -> DeploymentPlan:
        """What `deploy` would create, and everything that stands in the way. Nothing is created.

        Raises:
            AwsError: There is no region.
            MissingExtraError: boto3 is not installed.
        """
        return self._plan(deployment, await self._aws(), await self._look(deployment, await self._aws()))

    @asynccontextmanager
    async def deploy(self, deployment: Deployment) -> AsyncIterator[SageMakerEndpoint]:
        """Create it, wait until it serves, warm it up; on leaving, delete it and make sure that it is gone.

        Raises:
            PreflightError: Something that it needs is missing; nothing was created.
            DeployError: It was not created, or did not get into service; what had been created is deleted.
            TeardownError: On leaving: something is not known to be gone; the message says what and how to remove it.
        """
        aws = await self._aws()
        if self.endpoint_name is not None:
            yield await self._attached(aws, deployment, self.endpoint_name)
            return
        facts = await self._look(deployment, aws)
        plan = self._plan(deployment, aws, facts)
        if plan.problems:
            raise PreflightError(plan.problems)
        intent = self._intent(plan, facts)
        with begin_journal(intent) as journal, watched(intent):
            control = self._control(aws, intent, journal)
            kinds = tuple(Kind) if intent.dead_man else SERVING
            try:
                await self._create(control, intent, plan, facts)
                await control.wait_in_service(intent.name, plan.ready_timeout_s)
                yield await self._ready(aws, plan, intent)
            finally:
                await to_the_end(
                    control.remove(intent.name, timeout_s=self.teardown_timeout_s, kinds=kinds, worth=intent.worth)
                )

    def _control(self, aws: Aws, intent: Intent, journal: Journal) -> ControlPlane:
        return ControlPlane(
            aws,
            poll_s=self.poll_s,
            consistent_after_s=self.consistent_after_s,
            note=journal.write,
            warn_expired=lambda: tell_expired(intent, self.teardown_timeout_s),
        )

    async def rooms(self, deployments: Sequence[Deployment]) -> list[Room | None]:
        """Instances of each type that the account's quotas leave; of a type whose quota is not known one deployment at a time."""
        if self.endpoint_name is not None:
            return one_at_a_time(self.endpoint_name, deployments)
        free: dict[str, int | None] = {}
        with contextlib.suppress(AwsError):  # each deployment will tell what is missing
            aws = await self._aws()
            for kind in dict.fromkeys(deployment.instance_type for deployment in deployments):
                free[kind] = await free_instances(aws, kind)
        return [
            Room(pool=each.instance_type, size=max(1, free.get(each.instance_type) or 1), units=each.replicas)
            for each in deployments
        ]

    def longest_times(self, deployment: Deployment) -> LongestTimes:
        """What is in service is deleted within minutes; what is being created must settle first, within `teardown_timeout_s`.

        After each load its lines in the log are waited for.
        """
        log_s = self.log_patience_s if self._logs_requests(deployment) else 0.0
        if self.endpoint_name is not None:  # nothing is created or deleted
            return LongestTimes(startup_s=_FIRST_CALLS_S, teardown_s=1.0, abandon_s=1.0, after_load_s=log_s)
        return LongestTimes(
            startup_s=self._ready_timeout_s(deployment) + _FIRST_CALLS_S,
            teardown_s=min(_DELETE_S, self.teardown_timeout_s),
            abandon_s=self.teardown_timeout_s,
            after_load_s=log_s,
        )

    def _logs_requests(self, deployment: Deployment) -> bool:
        server = SERVERS.get(deployment.server)
        return self.server_timings and server is not None and server.logs_requests

    async def _aws(self) -> Aws:
        """The account with its region settled."""
        aws = Aws(self.region, self.profile)
        if aws.region is None:
            region = (await asyncio.to_thread(aws.session)).region_name
            if region is None:
                raise AwsError("no region: give region=… or set AWS_REGION", code="NoRegionError")
            aws = attrs.evolve(aws, region=region)
        return aws

    async def _look(self, deployment: Deployment, aws: Aws) -> Facts:
        return await look(
            aws,
            deployment,
            role_arn=self.role_arn,
            prices=self.prices,
            ami=self.inference_ami,
            lifetime_s=self.lifetime_s,
            dead_man_role_arn=self.dead_man_role_arn,
            ready_timeout_s=self._ready_timeout_s(deployment),
        )

    def _ready_timeout_s(self, deployment: Deployment) -> float:
        return self.ready_timeout_s or ready_timeout_of(deployment)

    def _plan(self, deployment: Deployment, aws: Aws, facts: Facts) -> DeploymentPlan:
        return plan_of(
            deployment,
            aws.region or "",
            facts,
            ready_timeout_s=self._ready_timeout_s(deployment),
            lifetime_s=self.lifetime_s,
            dead_man_role_arn=self.dead_man_role_arn,
        )

    def _intent(self, plan: DeploymentPlan, facts: Facts) -> Intent:
        run = new_run()
        return Intent(
            name=name_for(plan.deployment, run),
            region=plan.region,
            account=plan.account or "",
            instance_type=plan.deployment.instance_type,
            count=plan.deployment.replicas,
            usd_per_hour=plan.usd_per_hour or 0.0,
            tags=tags_for(run, facts.owner or "", self.lifetime_s),
            dead_man=self.dead_man_role_arn is not None,
        )

    async def _create(self, control: ControlPlane, intent: Intent, plan: DeploymentPlan, facts: Facts) -> None:
        """Each call runs to its end even when cancelled, so that what it created is known to be there before it is deleted."""
        name, tags = intent.name, [{"Key": key, "Value": value} for key, value in intent.tags.items()]
        container = {"Image": plan.image, "Environment": facts.environment}
        variant: dict[str, Any] = {
            "VariantName": _VARIANT,
            "ModelName": name,
            "InitialInstanceCount": intent.count,
            "InstanceType": intent.instance_type,
            "ContainerStartupHealthCheckTimeoutInSeconds": health_timeout_s(plan.deployment),
        }
        if plan.ami is not None:
            variant["InferenceAmiVersion"] = plan.ami
        if plan.dead_man_role_arn is not None:  # first, so that whatever happens from here on it is armed
            schedule = schedule_for(name, role_arn=plan.dead_man_role_arn, tags=intent.tags)
            await to_the_end(control.create(Kind.SCHEDULE, name, **schedule))
        await to_the_end(
            control.create(Kind.MODEL, name, ExecutionRoleArn=plan.role_arn, PrimaryContainer=container, Tags=tags)
        )
        await to_the_end(control.create(Kind.CONFIG, name, ProductionVariants=[variant], Tags=tags))
        await to_the_end(control.create(Kind.ENDPOINT, name, EndpointConfigName=name, Tags=tags))

    async def _ready(self, aws: Aws, plan: DeploymentPlan, intent: Intent) -> SageMakerEndpoint:
        deployment = plan.deployment
        bare = await self._endpoint(aws, deployment, intent.name)
        if intent.dead_man:
            bare = attrs.evolve(bare, expires_at=datetime.fromisoformat(intent.tags["tgibench:expires"]))
        first = await warm_up(bare)
        told = {
            "image": plan.image,
            "host_image": plan.ami or f"default of {intent.instance_type}",
            "usd_per_hour": f"{intent.usd_per_hour:g}",
        }
        facts = {**bare.facts, **{name: text for name, text in told.items() if text is not None}}
        price = (self.prices or PriceTable.builtin(plan.region)).price(deployment.instance_type)
        start_up = StartUp(first_token_s=first_token_s(first), usd_per_hour=plan.usd_per_hour, price=str(price))
        return attrs.evolve(bare, facts=facts, start_up=start_up)

    async def _attached(self, aws: Aws, deployment: Deployment, name: str) -> SageMakerEndpoint:
        described = await ControlPlane(aws, poll_s=self.poll_s).describe(Kind.ENDPOINT, name)
        if described is None:
            raise DeployError(f"there is no endpoint {name} in {aws.region}")
        if described["EndpointStatus"] not in {"InService", "Updating", "SystemUpdating"}:
            raise DeployError(f"endpoint {name} is {described['EndpointStatus']}: it does not serve")
        return await self._endpoint(aws, deployment, name)

    async def _endpoint(self, aws: Aws, deployment: Deployment, name: str) -> SageMakerEndpoint:
        client = await asyncio.to_thread(aws.client, "sagemaker-runtime")
        url = str(client.meta.endpoint_url)
        inner = self.protocol or server_of(deployment).protocol(deployment)
        protocol = SageMakerProtocol(
            endpoint_name=name,
            inner=inner,
            inference_component=self.inference_component,
            openai_path=self.openai_path,
        )
        facts = {
            "server": deployment.server,
            "endpoint": name,
            "region": aws.region or "",
            "model_id": deployment.model_id,
        }
        if deployment.server_version is not None:
            facts["version"] = deployment.server_version
        if urlsplit(url).hostname in _LOOPBACK:
            facts["emulated"] = "true"
        log = None
        if self._logs_requests(deployment):
            log = ServerLog(
                aws=aws,
                group=log_group(name, self.inference_component),
                patience_s=self.log_patience_s,
                poll_s=min(self.poll_s, _LOG_POLL_S),
            )
        return SageMakerEndpoint(protocol, region=aws.region, profile=self.profile, url=url, facts=facts, log=log)
