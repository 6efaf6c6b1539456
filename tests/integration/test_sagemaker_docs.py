"""What docs/how-to/sagemaker.md says that is needed is what is needed: permissions and pre-flight codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import botocore.session

import tgibench as tb
from sagemaker_account import STUDY, account, backend
from tgibench.backends.sagemaker import leftovers, preflight

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/sagemaker.md").read_text(encoding="utf-8")
POLICIES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
# what no fake can see being used: the service checks them itself, or only falls back to them
UNSEEN = {
    "iam:PassRole",
    "sagemaker:AddTags",
    "sagemaker:DescribeModel",
    "sagemaker:DescribeEndpointConfig",
    "servicequotas:GetAWSDefaultServiceQuota",
}


def allowed(policy):
    """``(action, resource)`` for everything that a policy allows."""
    for statement in policy["Statement"]:
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        for action in statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]:
            yield from ((action, resource) for resource in resources)


async def asked_for(monkeypatch, tmp_path):
    """Every action that a deployment with everything, a run with and without a stream, and a clean-up ask an account for."""
    async with account(monkeypatch, tmp_path) as fake:
        target = backend(fake, dead_man_role_arn=fake.dead_man_role_arn)
        async with target.deploy(STUDY) as endpoint:
            for stream in (True, False):
                prompts = tb.SyntheticPrompts(input_tokens=9, max_new_tokens=2, stream=stream)
                load = tb.ClosedLoop(1, requests=1)
                cell = await tb.measure(STUDY, endpoint, load, backend=target, prompts=prompts)
                assert cell.metrics.counts["succeeded"] == 1
            found = await leftovers.find(everything=True)
        await leftovers.remove(found, poll_s=0.02)
        return {action for action in fake.actions if action != "sts:GetCallerIdentity"}  # which needs no permission


async def test_the_policies_allow_what_is_asked_for_and_nothing_else(monkeypatch, tmp_path):
    """The first without the dead-man switch, the second what that needs beside it."""
    asked = await asked_for(monkeypatch, tmp_path)
    plain, beside = ({action for action, _ in allowed(policy)} for policy in POLICIES[:2])
    assert asked == (plain | beside) - UNSEEN
    assert {action for action in asked if not action.startswith("scheduler:")} <= plain


def test_what_changes_anything_is_allowed_on_our_names_only():
    """Creating, deleting, tagging and calling: never on all resources."""
    for policy in POLICIES:
        for action, resource in allowed(policy):
            if re.match(r"(sagemaker|scheduler):(Create|Delete|Add|Invoke|Update)", action):
                assert "/tgib-*" in resource, action


def test_the_actions_exist():
    """As botocore's service models name them; handing a role on and a bearer token are no operations."""
    session = botocore.session.get_session()
    services = {
        "sagemaker": ("sagemaker", "sagemaker-runtime"), "servicequotas": ("service-quotas",), "iam": ("iam",),
        "scheduler": ("scheduler",), "logs": ("logs",),
    }  # fmt: skip
    known = {
        f"{prefix}:{operation}"
        for prefix, names in services.items()
        for name in names
        for operation in session.get_service_model(name).operation_names
    }
    assert {action for policy in POLICIES for action, _ in allowed(policy)} - known == {"iam:PassRole"}


def test_every_code_is_documented_and_every_documented_code_exists():
    """The table of the page is the list of the pre-flight's codes."""
    documented = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    source = Path(preflight.__file__).read_text(encoding="utf-8")
    assert documented == set(re.findall(r'problems(?:\.append\(| \+= \()\s*\("(\w+)"', source))
