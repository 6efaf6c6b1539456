"""IAM, STS and SageMaker's tags as somebody else wrote them (moto), beside our own fake."""

from __future__ import annotations

import asyncio
import json

import boto3
from moto import mock_aws

from sagemaker_account import clean_environment
from tgibench.backends.sagemaker.aws import Aws
from tgibench.backends.sagemaker.leftovers import find, remove
from tgibench.backends.sagemaker.names import tags_for
from tgibench.backends.sagemaker.roles import Role, role_of

SERVICE = "sagemaker.amazonaws.com"
ACCESS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_REGION": "us-east-1"}


def trusting(service):
    """A policy by which this service may assume a role."""
    statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def test_roles_are_looked_at(monkeypatch, tmp_path):
    """One that trusts the service, one that trusts another, none."""
    clean_environment(monkeypatch, tmp_path, ACCESS)
    with mock_aws():
        iam = boto3.client("iam", region_name="us-east-1")
        for name, service in (("good", SERVICE), ("other", "ec2.amazonaws.com")):
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=trusting(service))

        async def looked():
            return [await role_of(Aws("us-east-1"), name, SERVICE) for name in ("good", "other", "none")]

        good, other, none = asyncio.run(looked())
    assert good == Role(arn=good.arn)
    assert good.arn.endswith(":role/good")
    assert other.trouble == f"the role other does not trust {SERVICE}"
    assert none.arn is None
    assert none.trouble.startswith("the role none cannot be had: ")


def test_only_what_has_our_name_and_our_tag_is_found_and_removed(monkeypatch, tmp_path):
    """By the identity that STS tells: a model of ours, beside one with the name alone and one with the tag alone."""
    clean_environment(monkeypatch, tmp_path, ACCESS)
    with mock_aws():
        owner = boto3.client("sts", region_name="us-east-1").get_caller_identity()["Arn"]
        sagemaker = boto3.client("sagemaker", region_name="us-east-1")
        run = "0123abcd"
        tags = [{"Key": key, "Value": value} for key, value in tags_for(run, owner, 60.0).items()]
        ours, untagged, another = f"tgib-{run}-00000001", f"tgib-{run}-00000002", "another"
        for name, its_tags in ((ours, tags), (untagged, []), (another, tags)):
            sagemaker.create_model(ModelName=name, ExecutionRoleArn="arn:aws:iam::123456789012:role/x", Tags=its_tags)
        found = asyncio.run(find())
        assert [leftover.name for leftover in found] == [f"us-east-1:{ours}"]
        asyncio.run(remove(found, poll_s=0.05))
        left = {model["ModelName"] for model in sagemaker.list_models()["Models"]}
    assert left == {untagged, another}


def test_the_region_is_the_one_given_then_the_environments_then_boto3s(monkeypatch, tmp_path):
    """boto3 alone would not look at AWS_REGION, by which `cleanup` must find what is there."""
    clean_environment(monkeypatch, tmp_path, ACCESS | {"AWS_DEFAULT_REGION": "eu-west-1"})
    assert Aws("ap-south-1").session().region_name == "ap-south-1"
    assert Aws().session().region_name == "us-east-1"
    monkeypatch.delenv("AWS_REGION")
    assert Aws().session().region_name == "eu-west-1"
