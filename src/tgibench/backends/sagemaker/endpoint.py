"""A SageMaker endpoint as a value: where it is and how it is spoken to, without connection or credential."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs

from tgibench.backends.sagemaker.aws import Aws
from tgibench.backends.sagemaker.signing import SigningTransport
from tgibench.client import HttpClient
from tgibench.errors import AwsError
from tgibench.transports import open_transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from tgibench.backends.sagemaker.aws import Credentials
    from tgibench.endpoints import StartUp
    from tgibench.protocols.sagemaker import SageMakerProtocol

__all__ = ["SageMakerEndpoint"]


@attrs.frozen
class SageMakerEndpoint:
    """An endpoint that is in service. It can be pickled: credentials are resolved where it is connected, and refreshed there.

    Args:
        protocol: The endpoint's name and what its container speaks.
        region: Where; None for what the environment or the profile says.
        profile: Of the shared AWS configuration; None for what the environment says.
        url: The runtime's address; None for the region's own, or what ``AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME`` says.
        facts: What is known of it.
        start_up: How it was started; None where it already ran.
    """

    protocol: SageMakerProtocol
    region: str | None = attrs.field(default=None, kw_only=True)
    profile: str | None = attrs.field(default=None, kw_only=True)
    url: str | None = attrs.field(default=None, kw_only=True)
    facts: Mapping[str, str] = attrs.field(factory=dict, hash=False, kw_only=True)
    start_up: StartUp | None = attrs.field(default=None, kw_only=True)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[HttpClient]:
        """A client with connections of its own, each request signed before it is sent.

        Raises:
            AwsError: There are no credentials or no region.
            MissingExtraError: boto3 is not installed.
        """
        aws = Aws(self.region, self.profile)
        credentials, region, url = await asyncio.to_thread(self._resolve, aws)
        async with open_transport(url) as transport:
            signing = SigningTransport(
                transport, aws, credentials, region=region, url=url, bearer=self.protocol.openai_path
            )
            try:
                yield HttpClient(signing, self.protocol)
            finally:
                await signing.close()

    def _resolve(self, aws: Aws) -> tuple[Credentials, str, str]:
        credentials = aws.credentials()
        if credentials is None:
            raise AwsError("there are no AWS credentials: run `aws configure`, or set a profile", code="credentials")
        meta = aws.client("sagemaker-runtime").meta
        return credentials, str(meta.region_name), (self.url or str(meta.endpoint_url)).rstrip("/")
