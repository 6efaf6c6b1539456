"""The fake account against boto3, and our client against the fake: what comes in frames, in every way that a stream can fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
from datetime import UTC, datetime, timedelta

import attrs
import boto3
import pytest
from botocore.exceptions import ClientError, EventStreamError

import tgibench as tb
from sagemaker_account import IMAGE, NEWER, account, serving
from tgibench.backends.emulator.faults import Faults
from tgibench.backends.emulator.serving import ServerOptions
from tgibench.backends.sagemaker.aws import Aws, Credentials, bearer_token
from tgibench.testing.fake_sagemaker import Identity, StreamTrouble, Trouble

REQUEST = tb.GenerationRequest(prompt="What is it that burns?", max_new_tokens=6, input_tokens=8)
BODY = json.dumps({"inputs": "x", "parameters": {"max_new_tokens": 6, "details": True}, "stream": True})


def endpoint(**options):
    """Ours, of the endpoint `ep`."""
    return tb.SageMakerEndpoint(tb.SageMakerProtocol(endpoint_name="ep", **options))


async def exchange(target, request=REQUEST, timeouts=None):
    """One request over a connection of its own."""
    async with target.connect() as client:
        return await client.generate(request, timeouts or tb.Timeouts())


async def refused(client, operation, **arguments):
    """The error with which boto3 refuses a call."""
    with pytest.raises(ClientError) as told:
        await asyncio.to_thread(getattr(client, operation), **arguments)
    return told.value.response["Error"]


async def test_boto3_creates_describes_lists_tags_and_deletes(monkeypatch, tmp_path):
    """The whole life of an endpoint, through boto3's own waiter's calls; deleting while Creating is refused."""
    async with account(monkeypatch, tmp_path, speed=1.0, creating_s=0.3, deleting_s=0.1) as fake:
        client = await serving(fake)
        described = await asyncio.to_thread(client.describe_endpoint, EndpointName="ep")
        assert described["ProductionVariants"][0]["CurrentInstanceCount"] == 1
        tags = [{"Key": "a", "Value": "b"}]
        await asyncio.to_thread(client.add_tags, ResourceArn=described["EndpointArn"], Tags=tags)
        listed = await asyncio.to_thread(client.list_tags, ResourceArn=described["EndpointArn"])
        assert listed["Tags"] == tags
        assert (await asyncio.to_thread(client.list_endpoints, NameContains="EP"))["Endpoints"][0][
            "EndpointName"
        ] == "ep"
        await asyncio.to_thread(client.delete_endpoint, EndpointName="ep")
        await asyncio.to_thread(client.create_endpoint, EndpointName="ep2", EndpointConfigName="ep")
        early = await refused(client, "delete_endpoint", EndpointName="ep2")
        assert "in-progress" in early["Message"]
        await asyncio.sleep(0.4)
        gone = await refused(client, "describe_endpoint", EndpointName="ep")
        assert (gone["Code"], "Could not find endpoint" in gone["Message"]) == ("ValidationException", True)
        assert fake.account.alive() == ["endpoint/ep2", "config/ep", "model/ep"]


async def test_it_refuses_what_the_service_refuses(monkeypatch, tmp_path):
    """Taken names, unknown ones, an exceeded quota; a model too large for its machine fails with a reason."""
    async with account(monkeypatch, tmp_path, quotas={"ml.g5.2xlarge": 1}) as fake:
        client = await serving(fake)
        again = await refused(
            client, "create_model", ModelName="ep", ExecutionRoleArn=fake.role_arn, PrimaryContainer={"Image": IMAGE}
        )
        assert "already existing" in again["Message"]
        unknown = await refused(client, "create_endpoint", EndpointName="e2", EndpointConfigName="none")
        assert "Could not find" in unknown["Message"]
        over = await refused(client, "create_endpoint", EndpointName="e2", EndpointConfigName="ep")
        assert (over["Code"], "is 1 Instances" in over["Message"]) == ("ResourceLimitExceeded", True)
        fake.account.quotas["ml.g5.2xlarge"] = 2
        large = {"Image": IMAGE, "Environment": {"HF_MODEL_ID": "meta-llama/Llama-2-70b-hf"}}
        fake.account.models["ep"].request["PrimaryContainer"] = large
        await asyncio.to_thread(client.create_endpoint, EndpointName="e2", EndpointConfigName="ep")
        await asyncio.sleep(0.5)
        failed = await asyncio.to_thread(client.describe_endpoint, EndpointName="e2")
        assert (failed["EndpointStatus"], "does not fit" in failed["FailureReason"]) == ("Failed", True)


async def test_the_services_around_it_answer_boto3(monkeypatch, tmp_path):
    """Who calls, which role, which quota; and calls that are in trouble."""
    async with account(monkeypatch, tmp_path, quotas={"ml.g5.2xlarge": 3}) as fake:
        who = await asyncio.to_thread(Aws().client("sts").get_caller_identity)
        assert who["Account"] == fake.account.number
        role = await asyncio.to_thread(Aws().client("iam").get_role, RoleName="tgibench-fake")
        assert (
            role["Role"]["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]["Service"]
            == "sagemaker.amazonaws.com"
        )
        quota = await asyncio.to_thread(
            Aws().client("service-quotas").get_service_quota, ServiceCode="sagemaker", QuotaCode="L-9614C779"
        )
        assert quota["Quota"]["Value"] == 3
        fake.account.troubles += [Trouble("ListModels"), Trouble("*", code="InternalFailure", status=500)]
        client = Aws().client("sagemaker")
        assert [(await refused(client, "list_models"))["Code"] for _ in range(2)] == [
            "ThrottlingException",
            "InternalFailure",
        ]
        assert (await asyncio.to_thread(client.list_models))["Models"] == []


async def test_a_wrong_key_a_changed_body_and_ended_credentials_are_refused(monkeypatch, tmp_path):
    """By the signature that botocore computes anew from what came."""
    async with account(monkeypatch, tmp_path) as fake:
        fake.identity.secret_key = "another"
        wrong = await refused(Aws().client("sagemaker"), "list_models")
        assert (wrong["Code"], "Canonical" in wrong["Message"]) == ("InvalidSignatureException", True)
        fake.identity.secret_key = Identity().secret_key
        fake.identity.expires_at = datetime.now(UTC) - timedelta(seconds=1)
        assert (await refused(Aws().client("sagemaker"), "list_models"))["Code"] == "ExpiredTokenException"


async def test_botocore_reads_the_fakes_frames(monkeypatch, tmp_path):
    """Cut at every 7 bytes: its payloads are what the container wrote; an exception inside raises there."""
    async with account(monkeypatch, tmp_path, cut_bytes=7) as fake:
        await serving(fake)
        runtime = boto3.client("sagemaker-runtime")

        def stream():
            answer = runtime.invoke_endpoint_with_response_stream(
                EndpointName="ep", Body=BODY, ContentType="application/json"
            )
            with contextlib.closing(answer["Body"]) as events:
                return b"".join(event["PayloadPart"]["Bytes"] for event in events)

        body = await asyncio.to_thread(stream)
        assert (body.count(b"data:"), body.endswith(b"\n\n")) == (6, True)
        fake.runtime.troubles += [StreamTrouble(kind="StreamBroken")]
        with pytest.raises(EventStreamError, match="ModelStreamError"):
            await asyncio.to_thread(stream)


@pytest.mark.parametrize("cut_bytes", [None, 1, 50])
@pytest.mark.parametrize("stream", [True, False])
async def test_our_client_reads_tgi_through_it(monkeypatch, tmp_path, cut_bytes, stream):
    """Streamed in frames of any size, and whole; each token's time is there for streams."""
    async with account(monkeypatch, tmp_path, cut_bytes=cut_bytes) as fake:
        await serving(fake)
        got = await exchange(endpoint(), attrs.evolve(REQUEST, stream=stream))
        assert got.failure is None
        assert (got.output_tokens, got.tokens_from, got.streamed) == (6, tb.TokensFrom.SERVER, stream)
        assert len(got.chunk_times_s) >= (2 if stream else 1)
        assert got.sent_s >= got.started_s


@pytest.mark.parametrize("openai_path", [False, True])
async def test_our_client_reads_openai_bodies_both_ways(monkeypatch, tmp_path, openai_path):
    """Inside frames with a signature, and as they are with a bearer token that the fake checks."""
    async with account(monkeypatch, tmp_path) as fake:
        await serving(fake, image=NEWER)
        got = await exchange(endpoint(inner=tb.OpenAIChatProtocol(), openai_path=openai_path))
        assert (got.failure, got.output_tokens, got.tokens_from) == (None, 6, tb.TokensFrom.SERVER)


@pytest.mark.parametrize(
    ("kind", "failure", "words"),
    [
        ("ModelInvocationTimeExceeded", tb.FailureKind.GENERATION, "ModelStreamError (ModelInvocationTimeExceeded)"),
        ("StreamBroken", tb.FailureKind.GENERATION, "ModelStreamError (StreamBroken)"),
        ("InternalStreamFailure", tb.FailureKind.GENERATION, "InternalStreamFailure"),
        ("truncate", tb.FailureKind.TRUNCATED, "inside a frame"),
        ("corrupt", tb.FailureKind.UNDECODABLE, "checksum"),
        ("abort", tb.FailureKind.CONNECTION_ABORTED, ""),
    ],
)
async def test_every_way_in_which_a_stream_fails_is_told(monkeypatch, tmp_path, kind, failure, words):
    """And the tokens before it are kept."""
    async with account(monkeypatch, tmp_path) as fake:
        await serving(fake)
        fake.runtime.troubles += [StreamTrouble(kind=kind, after_parts=2)]
        got = await exchange(endpoint())
        assert got.failure.kind is failure
        assert words in got.failure.message
        assert got.output_tokens >= 1


async def test_the_containers_overload_is_overload(monkeypatch, tmp_path):
    """Though it comes as status 424, before a stream; inside a stream it is TGI's own error event."""
    async with account(monkeypatch, tmp_path) as fake:
        fake.runtime.options = ServerOptions(faults=Faults.every_nth(1, "overloaded"))
        await serving(fake)
        whole = await exchange(endpoint(), attrs.evolve(REQUEST, stream=False))
        assert (whole.failure.kind, whole.failure.status) == (tb.FailureKind.OVERLOADED, 424)
        assert (await exchange(endpoint())).failure.kind is tb.FailureKind.OVERLOADED


async def test_an_unknown_endpoint_and_refused_keys_are_failures_of_the_request(monkeypatch, tmp_path):
    """Nothing is raised, and no token is in the words."""
    identity = Identity(session_token="SESSIONSECRET")
    async with account(monkeypatch, tmp_path, identity=identity) as fake:
        unknown = await exchange(endpoint())
        assert (unknown.failure.kind, "not found" in unknown.failure.message) == (tb.FailureKind.VALIDATION, True)
        fake.identity.secret_key = "another"
        refusal = (await exchange(endpoint())).failure
        assert (refusal.kind, refusal.status) == (tb.FailureKind.HTTP_ERROR, 403)
        assert "SESSIONSECRET" not in refusal.message


async def test_an_endpoint_is_a_value_without_secrets(monkeypatch, tmp_path):
    """It pickles, and neither its pickle nor the repr of what it connects shows a key."""
    async with account(monkeypatch, tmp_path) as fake:
        await serving(fake)
        target = pickle.loads(pickle.dumps(endpoint()))  # noqa: S301 - our own bytes
        assert target == endpoint()
        async with target.connect() as client:
            assert fake.identity.secret_key not in repr(client) + pickle.dumps(target).decode("latin-1")
            assert (await client.generate(REQUEST, tb.Timeouts())).failure is None


async def test_without_credentials_connecting_is_refused(monkeypatch, tmp_path):
    """With what to do about it."""
    async with account(monkeypatch, tmp_path):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(tb.AwsError, match="aws configure"):
            await exchange(endpoint())


async def test_credentials_about_to_end_are_refreshed_before_a_request_is_signed(monkeypatch, tmp_path):
    """And where there are no newer ones the request fails instead of being sent."""
    async with account(monkeypatch, tmp_path) as fake:
        await serving(fake)
        looks = []
        real = Aws.credentials

        def soon_ended(self):
            looks.append(1)
            lasts = timedelta(seconds=-1 if len(looks) == 1 else 3600)
            return attrs.evolve(real(self), expires_at=datetime.now(UTC) + lasts, refreshable=True)

        monkeypatch.setattr(Aws, "credentials", soon_ended)
        assert (await exchange(endpoint())).failure is None
        assert len(looks) == 2
        monkeypatch.setattr(
            Aws, "credentials", lambda self: Credentials(real(self).frozen, datetime.now(UTC), refreshable=False)
        )
        failed = await exchange(endpoint())
        assert (failed.sent_s, "expired" in failed.failure.message) == (None, True)


async def test_a_bearer_token_of_other_keys_is_refused(monkeypatch, tmp_path):
    """The presigned call inside it is what counts."""
    async with account(monkeypatch, tmp_path) as fake:
        await serving(fake, image=NEWER)
        token = bearer_token(Aws().credentials(), "us-east-1")
        assert token.startswith("sagemaker-api-key-")
        fake.identity.secret_key = "another"
        got = await exchange(endpoint(inner=tb.OpenAIChatProtocol(), openai_path=True))
        assert (got.failure.kind, got.failure.status) == (tb.FailureKind.HTTP_ERROR, 403)
