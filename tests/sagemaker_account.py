"""A fake account for tests: an environment in which boto3 finds it and nothing else, and an endpoint that serves."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager

from tgibench.backends.emulator.step_time import FixedTimes
from tgibench.backends.sagemaker.aws import Aws
from tgibench.testing.fake_sagemaker import fake_sagemaker

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:2.0.1-tgi1.0.3-gpu-py39-cu118-ubuntu20.04"
NEWER = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:2.7.0-tgi3.3.6-gpu-py311-cu124-ubuntu22.04"
FAST = FixedTimes(prefill=0.004, decode=0.001)


def clean_environment(monkeypatch, tmp_path, variables):
    """Only these variables are about AWS; no file of the user's is read, no state of theirs touched."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("TGIBENCH_STATE_DIR", str(tmp_path / "state"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@asynccontextmanager
async def account(monkeypatch, tmp_path, **options):
    """A fake account, quick, that boto3 finds."""
    async with fake_sagemaker(**{"speed": 1000.0, "step_times": FAST, **options}) as fake:
        clean_environment(monkeypatch, tmp_path, fake.environment)
        yield fake


async def serving(fake, name="ep", image=IMAGE, **environment):
    """Create an endpoint with boto3 and wait until it serves."""
    client = Aws().client("sagemaker")

    def create():
        container = {"Image": image, "Environment": {"HF_MODEL_ID": "meta-llama/Llama-2-7b-hf", **environment}}
        client.create_model(ModelName=name, ExecutionRoleArn=fake.role_arn, PrimaryContainer=container)
        variant = {
            "VariantName": "AllTraffic",
            "ModelName": name,
            "InitialInstanceCount": 1,
            "InstanceType": "ml.g5.2xlarge",
        }
        client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
        client.create_endpoint(EndpointName=name, EndpointConfigName=name)
        return client

    await asyncio.to_thread(create)
    while fake.account.endpoints[name].status(fake.account.clock()) != "InService":  # noqa: ASYNC110 - the fake's clock runs
        await asyncio.sleep(0.02)
    return client
