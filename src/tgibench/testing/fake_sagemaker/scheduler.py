"""EventBridge Scheduler as a fake account has it: one-time schedules that call SageMaker's DeleteEndpoint."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.testing.fake_sagemaker.resources import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Schedule", "Scheduler"]

_AT = re.compile(r"at\((\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\)")
_NAME = re.compile(r"[0-9a-zA-Z_.-]{1,64}")
_TARGET = "arn:aws:scheduler:::aws-sdk:sagemaker:deleteEndpoint"
_RETRY_S = 60.0
_PAGE = 100


@attrs.define(eq=False, kw_only=True)
class Schedule:
    """A one-time schedule and when it is to call next."""

    request: dict[str, Any]
    due: float
    attempts: int = 0

    @property
    def attempts_left(self) -> bool:
        """Whether a call that was refused is made again."""
        most: int = self.request["Target"].get("RetryPolicy", {}).get("MaximumRetryAttempts", 185)
        return self.attempts <= most


@attrs.define(eq=False, kw_only=True)
class Scheduler:
    """The schedules of an account.

    A refused call is made again after a minute; how the service itself spaces them, and whether it repeats every refusal, is not known.

    Args:
        clock: Seconds of the account's own time.
        region: Where it is.
        number: The account's twelve digits.
        role_arn: The one role that the service may assume.
        delete_endpoint: What a schedule calls.
        schedules: By name.
    """

    clock: Callable[[], float]
    region: str
    number: str
    role_arn: str
    delete_endpoint: Callable[[dict[str, Any]], Any]
    schedules: dict[str, Schedule] = attrs.field(factory=dict)

    def handle(self, method: str, name: str | None, asked: dict[str, Any]) -> dict[str, Any]:
        """Answer a call: CreateSchedule, GetSchedule, DeleteSchedule, or without a name ListSchedules.

        Raises:
            Refused: As the service would.
        """
        self.fire()
        if name is None:
            return self._list(asked)
        if method == "POST":
            return self._create(name, asked)
        found = self.schedules.get(name)
        if found is None:
            raise Refused("ResourceNotFoundException", f"Schedule {name} does not exist.", 404)
        if method == "DELETE":
            del self.schedules[name]
            return {}
        return {**found.request, "Name": name, "Arn": self._arn(name), "GroupName": "default", "State": "ENABLED"}

    def fire(self) -> None:
        """Make every call that is due."""
        now = self.clock()
        for name, schedule in list(self.schedules.items()):
            while now >= schedule.due and name in self.schedules:
                self._call(name, schedule)

    def _call(self, name: str, schedule: Schedule) -> None:
        schedule.attempts += 1
        try:
            self.delete_endpoint(json.loads(schedule.request["Target"]["Input"]))
        except Refused:
            schedule.due += _RETRY_S
            if schedule.attempts_left:
                return
        if schedule.request.get("ActionAfterCompletion") == "DELETE":
            del self.schedules[name]
        else:
            schedule.due = float("inf")

    def _create(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        told, target = _AT.fullmatch(asked.get("ScheduleExpression", "")), asked.get("Target", {})
        if not _NAME.fullmatch(name) or told is None or asked.get("ScheduleExpressionTimezone", "UTC") != "UTC":
            raise Refused("ValidationException", f"Invalid Schedule Expression {asked.get('ScheduleExpression')}.")
        if asked.get("FlexibleTimeWindow") != {"Mode": "OFF"} or len(asked.get("Description", "")) > 512:
            raise Refused("ValidationException", "1 validation error detected")
        if target.get("Arn") != _TARGET:
            raise Refused("ValidationException", f"{target.get('Arn')} is not a supported target")
        if target.get("RoleArn") != self.role_arn:
            raise Refused(
                "ValidationException",
                "The execution role you provide must allow AWS EventBridge Scheduler to assume the role.",
            )
        if name in self.schedules:
            raise Refused("ConflictException", f"Schedule {name} already exists.", 409)
        due = datetime.fromisoformat(told[1]).replace(tzinfo=UTC).timestamp()
        self.schedules[name] = Schedule(request=asked, due=due)
        return {"ScheduleArn": self._arn(name)}

    def _list(self, asked: dict[str, Any]) -> dict[str, Any]:
        names = [name for name in sorted(self.schedules) if name.startswith(asked.get("NamePrefix", ""))]
        begin, size = int(asked.get("NextToken", "0")), int(asked.get("MaxResults", _PAGE))
        shown = [
            {"Name": name, "Arn": self._arn(name), "GroupName": "default", "Target": {"Arn": _TARGET}}
            for name in names[begin : begin + size]
        ]
        return {"Schedules": shown, **({"NextToken": str(begin + size)} if begin + size < len(names) else {})}

    def _arn(self, name: str) -> str:
        return f"arn:aws:scheduler:{self.region}:{self.number}:schedule/default/{name}"
