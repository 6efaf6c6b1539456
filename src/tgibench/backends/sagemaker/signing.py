"""Signs each request before it is handed to the transport, so that no clock of the request's answer runs meanwhile."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs

from tgibench.backends.sagemaker.aws import Aws, Credentials, bearer_token, signed_headers
from tgibench.backends.sagemaker.clock import ClockOffset
from tgibench.errors import AwsError
from tgibench.records import Failure, FailureKind

if TYPE_CHECKING:
    from tgibench.client_health import StampSource
    from tgibench.protocols import HttpRequest
    from tgibench.transports import Arrivals, Transport

__all__ = ["SigningTransport"]

_FORBIDDEN = 403
_REFRESH_S = 300.0  # look for newer credentials after so long, in a thread beside the requests
_RESERVE_S = 60.0  # never sign with what ends sooner
_TOKEN_S = 600.0  # a bearer token is made anew after so long


@attrs.define(eq=False)
class SigningTransport:
    """A transport that signs what it carries.

    Args:
        inner: Carries the signed request.
        aws: Where newer credentials come from.
        credentials: Those to begin with.
        region: Part of the signature.
        url: The runtime's address; part of the signature.
        bearer: Whether requests carry a bearer token (the OpenAI-compatible path) instead of a signature.
    """

    inner: Transport
    aws: Aws
    _credentials: Credentials = attrs.field(repr=False)
    region: str = attrs.field(kw_only=True)
    url: str = attrs.field(kw_only=True)
    bearer: bool = attrs.field(default=False, kw_only=True)
    _looked_s: float = attrs.field(factory=lambda: asyncio.get_running_loop().time(), init=False)
    _refreshing: asyncio.Future[Credentials | None] | None = attrs.field(default=None, init=False)
    _token: tuple[float, str] | None = attrs.field(default=None, init=False, repr=False)

    @property
    def stamps(self) -> StampSource:
        """The inner transport's."""
        return self.inner.stamps

    async def exchange(self, request: HttpRequest, arrivals: Arrivals, *, connect_timeout_s: float) -> Failure | None:
        """Sign and hand on. Nothing is ever sent a second time."""
        try:
            credentials = await self._current()
        except AwsError as error:
            return Failure(FailureKind.CONNECTION_REFUSED, f"not sent, as it could not be signed: {error}")
        asked_at = datetime.now(UTC)
        signed = attrs.evolve(request, headers=(*request.headers, *self._proof(request, credentials)))
        failure = await self.inner.exchange(signed, arrivals, connect_timeout_s=connect_timeout_s)
        if failure is None and arrivals.head is not None and arrivals.head.status == _FORBIDDEN:
            date = arrivals.head.headers.get("date")
            clock = ClockOffset().told(date, asked_at=asked_at, answered_at=datetime.now(UTC)).refusal
            if clock is not None:
                return Failure(FailureKind.HTTP_ERROR, clock, _FORBIDDEN)
        return failure

    async def close(self) -> None:
        """Wait for a look for newer credentials that is still under way."""
        await self._looked()

    async def _looked(self) -> None:
        looking = self._refreshing
        if looking is not None:
            await asyncio.wait([looking])
            self._take_newer(looking)

    def _proof(self, request: HttpRequest, credentials: Credentials) -> tuple[tuple[str, str], ...]:
        if not self.bearer:
            return signed_headers(credentials, self.region, self.url + request.path, request.headers, request.body)
        now_s = asyncio.get_running_loop().time()
        if self._token is None or now_s - self._token[0] > _TOKEN_S:
            self._token = now_s, bearer_token(credentials, self.region)
        return (("Authorization", f"Bearer {self._token[1]}"),)

    async def _current(self) -> Credentials:
        """Credentials that last; older ones are used while newer ones are looked for.

        Raises:
            AwsError: They have ended, and there are no newer ones.
        """
        loop = asyncio.get_running_loop()
        if self._refreshing is None and self._credentials.refreshable and loop.time() - self._looked_s > _REFRESH_S:
            self._look()
        if self._credentials.left_s < _RESERVE_S:
            if self._refreshing is None:
                self._look()
            await self._looked()
            if self._credentials.left_s <= 0:
                raise AwsError("the credentials have expired", code="credentials", expired=True)
        return self._credentials

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._looked_s = loop.time()
        self._refreshing = loop.run_in_executor(None, self.aws.credentials)
        self._refreshing.add_done_callback(self._take_newer)

    def _take_newer(self, looked: asyncio.Future[Credentials | None]) -> None:
        if self._refreshing is not looked:
            return
        self._refreshing = None
        if not looked.cancelled() and looked.exception() is None:  # else the next look may go better
            newer = looked.result()
            if newer is not None:
                self._credentials, self._token = newer, None
