"""The state of a fake account: models, endpoint configurations and endpoints, and what the real service refuses."""

from __future__ import annotations

import re
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.testing.fake_sagemaker.resources import Endpoint, Refused, Resource
from tgibench.testing.fake_sagemaker.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tgibench.testing.fake_sagemaker.resources import Trouble

__all__ = ["SCHEDULER_ROLE", "Account"]

SCHEDULER_ROLE = "tgibench-fake-scheduler"
"""The role that the account's scheduler may assume."""

_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
_PAGE = 100


@attrs.define(eq=False, kw_only=True)
class Account:
    """A fake account in one region.

    Args:
        clock: Seconds of the account's own time.
        region: Where it is.
        number: Its twelve digits.
        quotas: Instances by type that endpoints may use at once; types that are not named may use `default_quota`.
        default_quota: For types that `quotas` does not name.
        creating_s: From CreateEndpoint until it settles.
        deleting_s: From DeleteEndpoint until it is gone.
        lag_s: So long after its creation a resource is not seen by other calls.
        fails: Called with an endpoint's model and instance type; the reason for which it fails to start, or None.
        troubles: What befalls calls.
    """

    clock: Callable[[], float]
    region: str = "us-east-1"
    number: str = "123456789012"
    quotas: dict[str, int] = attrs.field(factory=dict)
    default_quota: int = 4
    creating_s: float = 300.0
    deleting_s: float = 60.0
    lag_s: float = 0.0
    fails: Callable[[dict[str, Any], str], str | None] = lambda model, instance_type: None  # noqa: ARG005
    troubles: deque[Trouble] = attrs.field(factory=deque)
    models: dict[str, Resource] = attrs.field(factory=dict)
    configs: dict[str, Resource] = attrs.field(factory=dict)
    endpoints: dict[str, Endpoint] = attrs.field(factory=dict)
    calls: Counter[str] = attrs.field(factory=Counter)
    scheduler: Scheduler = attrs.field(init=False)

    @scheduler.default
    def _new_scheduler(self) -> Scheduler:
        return Scheduler(
            clock=self.clock,
            region=self.region,
            number=self.number,
            role_arn=f"arn:aws:iam::{self.number}:role/{SCHEDULER_ROLE}",
            delete_endpoint=self._delete_endpoint,
        )

    def handle(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a call.

        Raises:
            Refused: As the service would.
        """
        handler = getattr(self, f"_{_snake(operation)}", None)
        if handler is None:
            raise Refused("UnknownOperationException", f"{operation} is not known here")
        return self.befallen(operation, lambda: handler(request))

    def befallen(self, operation: str, carry_out: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Carry a call out, or let its trouble befall it.

        Raises:
            Refused: As the service would, or by its trouble.
        """
        self.calls[operation] += 1
        self._settle()
        trouble = next((trouble for trouble in self.troubles if trouble.befalls(operation)), None)
        refusal = trouble and Refused(trouble.code, trouble.message or f"{operation} is in trouble", trouble.status)
        if refusal and trouble and not trouble.after:
            raise refusal
        answer = carry_out()
        if refusal:
            raise refusal
        return answer

    def alive(self) -> list[str]:
        """The names of everything that exists, by kind: ``"endpoint/…"``, ``"config/…"``, ``"model/…"``, ``"schedule/…"``."""
        self._settle()
        kinds: dict[str, Iterable[str]] = {"endpoint": self.endpoints, "config": self.configs, "model": self.models}
        kinds["schedule"] = self.scheduler.schedules
        return [f"{kind}/{name}" for kind, things in kinds.items() for name in things]

    def in_use(self, instance_type: str) -> int:
        """Instances of that type that endpoints use."""
        variants = (endpoint.variant for endpoint in self.endpoints.values())
        return sum(
            variant["InitialInstanceCount"] for variant in variants if variant.get("InstanceType") == instance_type
        )

    def serving(self, name: str) -> Endpoint:
        """An endpoint that is in service.

        Raises:
            Refused: There is none of that name, or it does not serve.
        """
        self._settle()
        endpoint = self.endpoints.get(name)
        if endpoint is None or endpoint.status(self.clock()) != "InService":
            raise Refused("ValidationError", f"Endpoint {name} of account {self.number} not found.")
        return endpoint

    def _settle(self) -> None:
        self.scheduler.fire()
        now = self.clock()
        for name, endpoint in list(self.endpoints.items()):
            if endpoint.gone is not None and now >= endpoint.gone:
                del self.endpoints[name]

    def _create_model(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"ModelArn": self._keep(self.models, "model", request["ModelName"], request)}

    def _create_endpoint_config(self, request: dict[str, Any]) -> dict[str, Any]:
        for variant in request["ProductionVariants"]:
            self._seen(self.models, variant.get("ModelName"), "model")
        arn = self._keep(self.configs, "endpoint-config", request["EndpointConfigName"], request)
        return {"EndpointConfigArn": arn}

    def _create_endpoint(self, request: dict[str, Any]) -> dict[str, Any]:
        name, config = (
            request["EndpointName"],
            self._seen(self.configs, request["EndpointConfigName"], "endpoint configuration"),
        )
        if any(name.lower() == known.lower() for known in self.endpoints):
            raise Refused("ValidationException", f"Cannot create already existing endpoint {name!r}.")
        variant = config.request["ProductionVariants"][0]
        kind, wanted = variant["InstanceType"], variant["InitialInstanceCount"]
        limit, used = self.quotas.get(kind, self.default_quota), self.in_use(kind)
        if used + wanted > limit:
            raise Refused(
                "ResourceLimitExceeded",
                f"The account-level service limit '{kind} for endpoint usage' is {limit} Instances, with current utilization "
                f"of {used} Instances and a request delta of {wanted} Instances. Please use AWS Service Quotas to request an "
                "increase for this quota.",
            )
        now, model = self.clock(), self.models[variant["ModelName"]].request
        self.endpoints[name] = Endpoint(
            arn=self._arn("endpoint", name), created=now, visible=now + self.lag_s, config=config.request, model=model,
            tags=_tags(request), settles=now + self.creating_s, failure=self.fails(model, kind),
        )  # fmt: skip
        return {"EndpointArn": self.endpoints[name].arn}

    def _describe_model(self, request: dict[str, Any]) -> dict[str, Any]:
        found = self._seen(self.models, request["ModelName"], "model")
        return {**found.request, "ModelArn": found.arn, "CreationTime": found.created}

    def _describe_endpoint_config(self, request: dict[str, Any]) -> dict[str, Any]:
        found = self._seen(self.configs, request["EndpointConfigName"], "endpoint configuration")
        return {**found.request, "EndpointConfigArn": found.arn, "CreationTime": found.created}

    def _describe_endpoint(self, request: dict[str, Any]) -> dict[str, Any]:
        name, endpoint, now = request["EndpointName"], self._endpoint(request["EndpointName"]), self.clock()
        status = endpoint.status(now)
        answer = {
            "EndpointName": name, "EndpointArn": endpoint.arn, "EndpointStatus": status,
            "EndpointConfigName": endpoint.config["EndpointConfigName"], "CreationTime": endpoint.created, "LastModifiedTime": now,
        }  # fmt: skip
        if status == "Failed":
            answer["FailureReason"] = endpoint.failure
        if status == "InService":
            count = endpoint.variant["InitialInstanceCount"]
            answer["ProductionVariants"] = [
                {
                    "VariantName": endpoint.variant["VariantName"],
                    "CurrentInstanceCount": count,
                    "DesiredInstanceCount": count,
                }
            ]
        return answer

    def _delete_model(self, request: dict[str, Any]) -> dict[str, Any]:
        self._seen(self.models, request["ModelName"], "model")
        del self.models[request["ModelName"]]
        return {}

    def _delete_endpoint_config(self, request: dict[str, Any]) -> dict[str, Any]:
        self._seen(self.configs, request["EndpointConfigName"], "endpoint configuration")
        del self.configs[request["EndpointConfigName"]]
        return {}

    def _delete_endpoint(self, request: dict[str, Any]) -> dict[str, Any]:
        endpoint, now = self._endpoint(request["EndpointName"]), self.clock()
        if endpoint.status(now) == "Creating":
            raise Refused("ValidationException", f"Cannot update in-progress endpoint {endpoint.arn!r}.")
        if endpoint.gone is None:
            endpoint.gone = now + self.deleting_s
        return {}

    def _list_endpoints(self, request: dict[str, Any]) -> dict[str, Any]:
        now = self.clock()

        def told(name: str, endpoint: Endpoint) -> dict[str, Any]:
            return {
                "EndpointName": name, "EndpointArn": endpoint.arn, "EndpointStatus": endpoint.status(now),
                "CreationTime": endpoint.created, "LastModifiedTime": endpoint.created,
            }  # fmt: skip

        return _page([told(*item) for item in self._named(self.endpoints, request)], "Endpoints", request)

    def _list_endpoint_configs(self, request: dict[str, Any]) -> dict[str, Any]:
        found = [
            {"EndpointConfigName": name, "EndpointConfigArn": config.arn, "CreationTime": config.created}
            for name, config in self._named(self.configs, request)
        ]
        return _page(found, "EndpointConfigs", request)

    def _list_models(self, request: dict[str, Any]) -> dict[str, Any]:
        found = [
            {"ModelName": name, "ModelArn": model.arn, "CreationTime": model.created}
            for name, model in self._named(self.models, request)
        ]
        return _page(found, "Models", request)

    def _list_tags(self, request: dict[str, Any]) -> dict[str, Any]:
        tags = self._by_arn(request["ResourceArn"]).tags
        return {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}

    def _add_tags(self, request: dict[str, Any]) -> dict[str, Any]:
        self._by_arn(request["ResourceArn"]).tags.update(_tags(request))
        return self._list_tags(request)

    def _named(self, things: dict[str, Any], request: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        part, now = request.get("NameContains", "").lower(), self.clock()
        return ((name, thing) for name, thing in things.items() if part in name.lower() and now >= thing.visible)

    def _by_arn(self, arn: str) -> Resource | Endpoint:
        everything: list[Resource | Endpoint] = [
            *self.models.values(),
            *self.configs.values(),
            *self.endpoints.values(),
        ]
        for thing in everything:
            if thing.arn.lower() == arn.lower():
                return thing
        raise Refused("ValidationException", f"Could not find resource {arn!r}.")

    def _keep(self, things: dict[str, Resource], kind: str, name: str, request: dict[str, Any]) -> str:
        if not _NAME.fullmatch(name):
            raise Refused("ValidationException", f"1 validation error detected: Value {name!r} is no valid name")
        if name in things:
            raise Refused("ValidationException", f"Cannot create already existing {kind} {self._arn(kind, name)!r}.")
        now = self.clock()
        things[name] = Resource(
            arn=self._arn(kind, name), created=now, visible=now + self.lag_s, request=request, tags=_tags(request)
        )
        return things[name].arn

    def _seen(self, things: dict[str, Resource], name: Any, kind: str) -> Resource:
        found = things.get(name)
        if found is None or self.clock() < found.visible:
            raise Refused(
                "ValidationException", f"Could not find {kind} {self._arn(kind.replace(' ', '-'), str(name))!r}."
            )
        return found

    def _endpoint(self, name: str) -> Endpoint:
        found = self.endpoints.get(name)
        if found is None or self.clock() < found.visible:
            raise Refused("ValidationException", f"Could not find endpoint {self._arn('endpoint', name)!r}.")
        return found

    def _arn(self, kind: str, name: str) -> str:
        return f"arn:aws:sagemaker:{self.region}:{self.number}:{kind}/{name.lower()}"


def _page(found: list[dict[str, Any]], key: str, request: dict[str, Any]) -> dict[str, Any]:
    size, begin = request.get("MaxResults", _PAGE), int(request.get("NextToken", "0"))
    answer: dict[str, Any] = {key: found[begin : begin + size]}
    return {**answer, "NextToken": str(begin + size)} if begin + size < len(found) else answer


def _tags(request: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in request.get("Tags", ())}


def _snake(operation: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()
