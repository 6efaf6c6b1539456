"""A SageMaker endpoint as a value: where it is and how it is spoken to, without connection or credential."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs

from tgibench.backends.sagemaker.aws import Aws
from tgibench.backends.sagemaker.signing import SigningTransport
from tgibench.client import HttpClient
from tgibench.endpoints import ServerView
from tgibench.errors import AwsError
from tgibench.transports import open_transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from tgibench.backends.sagemaker.aws import Credentials
    from tgibench.backends.sagemaker.server_log import ServerLog
    from tgibench.endpoints import StartUp
    from tgibench.protocols.sagemaker import SageMakerProtocol
    from tgibench.records import RequestLog

__all__ = ["SageMakerEndpoint"]


@attrs.frozen
class SageMakerEndpoint:
    """An endpoint that is in service. It can be pickled: credentials are resolved where it is connected, and refreshed there.

    Args:
        protocol: The endpoint's name and what its container speaks.
        region: Where; None for what the environment or the profile says.
        profile: Of the shared AWS configuration; None for what the environment says.
        url: The runtime's address; None for the region's own, or what ``AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME`` says.
        expires_at: When the account itself deletes it; None where nothing does.
        facts: What is known of it.
        log: Where its container logs each request, to be read after a run; None where it does not, or it is not wanted.
        start_up: How it was started; None where it already ran.
    """

    protocol: SageMakerProtocol
    region: str | None = attrs.field(default=None, kw_only=True)
    profile: str | None = attrs.field(default=None, kw_only=True)
    url: str | None = attrs.field(default=None, kw_only=True)
    expires_at: datetime | None = attrs.field(default=None, kw_only=True)
    facts: Mapping[str, str] = attrs.field(factory=dict, hash=False, kw_only=True)
    log: ServerLog | None = attrs.field(default=None, kw_only=True)
    start_up: StartUp | None = attrs.field(default=None, kw_only=True)

    async def check_lasts(self, needed_s: float) -> None:
        """Whether it serves for so long: it is not deleted by then, and its credentials have not ended, or can be refreshed.

        Raises:
            AwsError: It does not, or there are no credentials.
            MissingExtraError: boto3 is not installed.
        """
        left_s = float("inf") if self.expires_at is None else (self.expires_at - datetime.now(UTC)).total_seconds()
        if left_s < needed_s:
            raise AwsError(
                f"not run: it may take {needed_s:.0f} s with its last answer, and the dead-man switch deletes "
                f"{self.protocol.endpoint_name} in {left_s:.0f} s: raise lifetime_s, or run less on one endpoint",
                code="lifetime",
            )
        credentials = await asyncio.to_thread(self._credentials, Aws(self.region, self.profile))
        if not credentials.refreshable and credentials.left_s < needed_s:
            raise AwsError(
                f"not run: it may take {needed_s:.0f} s with its last answer, and the credentials end in {credentials.left_s:.0f} s and "
                "cannot be refreshed: take longer ones, or a shorter load",
                code="lifetime",
            )

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

    async def watch_run(self) -> Callable[[RequestLog], Awaitable[ServerView]]:
        """Where the container's log is known: join the times that it logs to the run."""
        return _as_it_is if self.log is None else self.log.watch_run()

    def _resolve(self, aws: Aws) -> tuple[Credentials, str, str]:
        credentials = self._credentials(aws)
        meta = aws.client("sagemaker-runtime").meta
        return credentials, str(meta.region_name), (self.url or str(meta.endpoint_url)).rstrip("/")

    def _credentials(self, aws: Aws) -> Credentials:
        credentials = aws.credentials()
        if credentials is None:
            raise AwsError("there are no AWS credentials: run `aws configure`, or set a profile", code="credentials")
        return credentials


async def _as_it_is(log: RequestLog) -> ServerView:
    return ServerView(log=log)
