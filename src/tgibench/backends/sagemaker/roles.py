"""Roles that a service of AWS takes on: whether there is one, and whether it lets the service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tgibench.errors import AwsError

if TYPE_CHECKING:
    from tgibench.backends.sagemaker.aws import Aws

__all__ = ["Role", "role_of"]

_DENIED = frozenset({"AccessDenied", "AccessDeniedException"})


@attrs.frozen(kw_only=True)
class Role:
    """What was found out about a role.

    Args:
        arn: None where it cannot be had.
        trouble: What stands in the way, in a sentence; None where nothing does.
        unseen: Whether that is only that it may not be looked at.
    """

    arn: str | None = None
    trouble: str | None = None
    unseen: bool = False


async def role_of(aws: Aws, name: str, service: str) -> Role:
    """Look at the role of this name, which the service must be allowed to assume."""
    try:
        found = (await aws.ask("iam", "get_role", RoleName=name))["Role"]
    except AwsError as error:
        if error.code in _DENIED:
            sentence = f"whether the role {name} exists could not be checked: iam:GetRole is not allowed"
            return Role(trouble=sentence, unseen=True)
        return Role(trouble=f"the role {name} cannot be had: {error}")
    trusted = service in str(found.get("AssumeRolePolicyDocument"))
    return Role(arn=str(found["Arn"]), trouble=None if trusted else f"the role {name} does not trust {service}")
