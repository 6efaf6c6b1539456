"""The dead-man switch: a schedule in the account that deletes the endpoint at its expiry, whatever became of this process.

EventBridge Scheduler calls SageMaker's DeleteEndpoint once and then removes the schedule: a "universal target"
(docs.aws.amazon.com/scheduler/latest/UserGuide/managing-targets-universal.html). It leaves the endpoint's configuration and the model,
which cost nothing.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["deletes", "schedule_for", "tags_of"]

_TARGET = ":scheduler:::aws-sdk:sagemaker:deleteEndpoint"
_RETRIES = {"MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": 185}  # the most that the service allows


def schedule_for(name: str, *, role_arn: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """What CreateSchedule is asked beside the schedule's name, which is the endpoint's.

    A schedule carries no tags; they stand in its description instead.

    Args:
        name: Of the endpoint.
        role_arn: The role that EventBridge Scheduler takes on to delete it.
        tags: The endpoint's; its expiry is among them.
    """
    expires_at = datetime.fromisoformat(tags["tgibench:expires"]).astimezone(UTC)
    return {
        "ScheduleExpression": f"at({expires_at:%Y-%m-%dT%H:%M:%S})",
        "ScheduleExpressionTimezone": "UTC",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE",
        "Description": json.dumps(dict(tags), separators=(",", ":")),
        "Target": {
            "Arn": f"arn:{role_arn.split(':')[1]}{_TARGET}",
            "RoleArn": role_arn,
            "Input": json.dumps({"EndpointName": name}),
            "RetryPolicy": _RETRIES,
        },
    }


def tags_of(schedule: Mapping[str, Any]) -> dict[str, str]:
    """The tags that a schedule's description holds; none where it holds something else."""
    try:
        told = json.loads(schedule.get("Description", ""))
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in told.items()} if isinstance(told, dict) else {}


def deletes(schedule: Mapping[str, Any], name: str) -> bool:
    """Whether a schedule is one of ours for the endpoint of this name."""
    target = schedule.get("Target", {})
    try:
        asked = json.loads(target.get("Input", ""))
    except ValueError:
        return False
    return str(target.get("Arn")).endswith(_TARGET) and asked == {"EndpointName": name}
