"""What a deployment would create, how long it may take and what that may cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tgibench.twin.shapes import find_model

if TYPE_CHECKING:
    from tgibench.backends.sagemaker.preflight import Facts
    from tgibench.deployments import Deployment

__all__ = ["DeploymentPlan", "health_timeout_s", "plan_of", "ready_timeout_of", "shortest_lifetime_s"]

_PROVISION_S = 1200  # finding instances and pulling the image
_DELETE_RESERVE_S = 600.0
_SLOWEST_S_PER_GB = 15.0  # to download, load and shard: the study's 70B took below 10
_UNKNOWN_S = 3600.0
_SHORTEST_S, _LONGEST_S = 900.0, 3600.0  # the service's own upper limit


@attrs.frozen(kw_only=True)
class DeploymentPlan:
    """What would be created; nothing is.

    Args:
        deployment: Of what.
        region: Where.
        account: Whose; None where it is not known.
        role_arn: With which role the container runs.
        image: Which container.
        ami: Which host image; None for the instance type's default, which may change under you.
        variables: Names of the container's environment variables; their values are not shown.
        usd_per_hour: Of all instances together; None where it is not known.
        ready_timeout_s: After so long without being in service it is given up and deleted.
        startup_usd_at_most: What it may cost until then, deleting included; None where the price is not known.
        creates: The kinds of resources, in the order in which they are created.
        lifetime_s: After so long it counts as expired; with a dead-man switch the account itself deletes the endpoint then.
        dead_man_role_arn: With which role that is done; None where there is no such switch.
        usd_at_most: What it may cost if nobody but the dead-man switch stops it; None without one, or where the price is not known.
        problems: Codes and sentences of what stands in the way; nothing would be created.
        notes: What could not be checked.
    """

    deployment: Deployment
    region: str
    account: str | None
    role_arn: str | None
    image: str | None
    ami: str | None
    variables: tuple[str, ...]
    usd_per_hour: float | None
    ready_timeout_s: float
    startup_usd_at_most: float | None
    creates: tuple[str, ...]
    lifetime_s: float
    dead_man_role_arn: str | None
    usd_at_most: float | None
    problems: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        deployment = self.deployment
        cost = "an unknown price" if self.usd_per_hour is None else f"{self.usd_per_hour:g} USD per hour"
        lines = [
            f"{deployment.label} in {self.region} (account {self.account or 'unknown'})",
            f"  {deployment.replicas} x {deployment.instance_type} at {cost}",
            f"  creates {', '.join(self.creates)}",
            f"  image {self.image or 'unknown'}, host image {self.ami or 'the default'}, role {self.role_arn or 'unknown'}",
            f"  variables {', '.join(self.variables)}",
            f"  given up after {self.ready_timeout_s:g} s"
            + ("" if self.startup_usd_at_most is None else f", by then at most {self.startup_usd_at_most:.2f} USD"),
            self._end(),
            *(f"  problem {code}: {sentence}" for code, sentence in self.problems),
            *(f"  note: {sentence}" for sentence in self.notes),
        ]
        return "\n".join(lines)

    def _end(self) -> str:
        if self.dead_man_role_arn is None:
            return "  no dead-man switch: what a killed process leaves runs until `tgibench cleanup --yes`"
        cost = "" if self.usd_at_most is None else f", by then at most {self.usd_at_most:.2f} USD"
        return f"  the account itself deletes the endpoint after {self.lifetime_s:g} s{cost} (role {self.dead_man_role_arn})"


def ready_timeout_of(deployment: Deployment) -> float:
    """Longest that a deployment may take until it serves, by the size of its model."""
    return _PROVISION_S + health_timeout_s(deployment)


def shortest_lifetime_s(ready_timeout_s: float) -> float:
    """A dead-man switch must not fire earlier: an endpoint that is being created cannot be deleted."""
    return ready_timeout_s + _DELETE_RESERVE_S


def plan_of(
    deployment: Deployment,
    region: str,
    facts: Facts,
    *,
    ready_timeout_s: float,
    lifetime_s: float,
    dead_man_role_arn: str | None,
) -> DeploymentPlan:
    """What would be created, from what was found out."""

    def usd(seconds: float) -> float | None:
        return None if facts.usd_per_hour is None else facts.usd_per_hour * seconds / 3600

    armed = dead_man_role_arn is not None
    return DeploymentPlan(
        deployment=deployment,
        region=region,
        account=facts.account,
        role_arn=facts.role_arn,
        image=facts.image,
        ami=facts.ami,
        variables=tuple(facts.environment),
        usd_per_hour=facts.usd_per_hour,
        ready_timeout_s=ready_timeout_s,
        startup_usd_at_most=usd(ready_timeout_s + _DELETE_RESERVE_S),
        creates=(*(("schedule",) if armed else ()), "model", "endpoint configuration", "endpoint"),
        lifetime_s=lifetime_s,
        dead_man_role_arn=dead_man_role_arn,
        usd_at_most=usd(lifetime_s + _DELETE_RESERVE_S) if armed else None,
        problems=tuple(facts.problems),
        notes=tuple(facts.notes),
    )


def health_timeout_s(deployment: Deployment) -> int:
    """How long a container may take to pass its health check, by the size of its weights; the longest allowed where that is unknown."""
    model = find_model(deployment.model_id)
    if model is None:
        return int(_UNKNOWN_S)
    weights_gb = model.parameters * 2 / 1e9
    return int(min(_LONGEST_S, max(_SHORTEST_S, 600.0 + _SLOWEST_S_PER_GB * weights_gb)))
