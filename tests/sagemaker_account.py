"""A fake account for tests: an environment in which boto3 finds it and nothing else, and an endpoint that serves."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager

import tgibench as tb
from tgibench.backends.emulator.step_time import FixedTimes
from tgibench.backends.sagemaker.aws import Aws
from tgibench.backends.sagemaker.journal import state_folder
from tgibench.testing.fake_sagemaker import fake_sagemaker

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:2.0.1-tgi1.0.3-gpu-py39-cu118-ubuntu20.04"
NEWER = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-tgi-inference:2.7.0-tgi3.3.6-gpu-py311-cu124-ubuntu22.04"
FAST = FixedTimes(prefill=0.004, decode=0.001)
STUDY = tb.Deployment(
    "meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge", server_version="1.0.3", max_input_tokens=1024, max_total_tokens=2048
)
PROGRAM = """
import asyncio, json, sys
import tgibench as tb

class Price:
    usd_per_hour = 1.5
    def price(self, instance_type):
        return self

async def main():
    study = await tb.sweep(
        [tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge", server_version="1.0.3")],
        [tb.ClosedLoop(2, duration_s=60)],
        backend=tb.SageMakerBackend(prices=Price(), poll_s=0.05, consistent_after_s=0.3, **json.loads(sys.argv[1])),
        prompts=tb.SyntheticPrompts(input_tokens=9, max_new_tokens=5),
    )
    print("interrupted" if study.interrupted else "whole", flush=True)

asyncio.run(main())
"""


class FixedPrice:
    """The same for every machine but the unknown one."""

    usd_per_hour = 1.5

    def __str__(self):
        """Its source."""
        return "1.5 USD per hour, says nobody"

    def price(self, instance_type):
        """As `PriceTable`."""
        if instance_type == "ml.g5.48xlarge":
            raise LookupError("no price of 'ml.g5.48xlarge'")
        return self


def backend(fake, **options):
    """Quick and priced."""
    quick = {"poll_s": 0.02, "consistent_after_s": 0.05, "teardown_timeout_s": 20, "prices": FixedPrice()}
    return tb.SageMakerBackend(**{"role_arn": fake.role_arn, **quick, **options})


def journals():
    """The lines of every journal."""
    return [
        json.loads(line) for path in sorted(state_folder().glob("*.jsonl")) for line in path.read_text().splitlines()
    ]


async def until(condition):
    """Wait for something that another task brings about."""
    while not condition():  # noqa: ASYNC110 - it is the fake's clock that runs
        await asyncio.sleep(0.01)


@asynccontextmanager
async def measuring(fake, **options):
    """Another process that measures on the fake; killed on leaving if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, json.dumps({"role_arn": fake.role_arn, **options}),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def reach(process, reached):
    """Wait until the fake sees the step; a process that ends before it fails the test with its words."""
    while not reached():
        assert process.returncode is None, (await process.stderr.read()).decode()
        await asyncio.sleep(0.01)


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
    """A fake account, quick, that boto3 finds; four hours of its own take minutes, so that nothing expires in a test by itself."""
    quick = {"speed": 100.0, "creating_s": 30.0, "deleting_s": 6.0}
    async with fake_sagemaker(**{**quick, "step_times": FAST, **options}) as fake:
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
