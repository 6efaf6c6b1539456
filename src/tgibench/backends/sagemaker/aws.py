"""The one module that knows boto3 and botocore: clients, calls in threads, credentials and signatures.

No call is retried by boto3 itself: what may be repeated is repeated where that is known. Nothing here logs, what botocore would log of
our calls is withheld, and no credential has a repr.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import importlib
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.backends.sagemaker.clock import ClockOffset
from tgibench.backends.sagemaker.secrecy import masked, withheld
from tgibench.errors import AwsError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Aws", "Credentials", "bearer_token", "part_of", "signed_headers"]

_SERVICE = "sagemaker"
_EXPIRED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "InvalidClientTokenId", "UnrecognizedClientException"}
)
_BUSY = frozenset({"Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded"})
_FIXED_SOURCES = frozenset(
    {"env"}
)  # the environment of a process does not change, so reading it again refreshes nothing
_EXPIRY_KEYS = ("aws_credential_expiration", "aws_expiration", "expiration", "x_security_token_expires")
_SIGNATURE_REFUSED = frozenset(
    {
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "RequestTimeTooSkewed",
        "RequestExpired",
        "RequestInTheFuture",
    }
)
_TOKEN_LIFE_S = 3600


def part_of(library: str) -> Any:
    """A module of boto3 or botocore.

    Raises:
        MissingExtraError: They are not installed.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise MissingExtraError('SageMaker needs boto3: pip install "tgibench[sagemaker]"') from error


@functools.cache
def _service_models() -> Any:
    """Botocore's reader of its service models, which remembers them: reading them anew takes 0.1 s of CPU and more for each client."""
    return part_of("botocore.session").Session().get_component("data_loader")


@attrs.frozen(eq=False)
class Credentials:
    """Credentials as they are at this moment.

    Args:
        frozen: What signs.
        expires_at: When they end; None where nobody said, as of keys without a session.
        refreshable: Whether a later look gives later ones.
    """

    frozen: Any = attrs.field(repr=False)
    expires_at: datetime | None
    refreshable: bool

    @property
    def left_s(self) -> float:
        """Seconds until they end; infinite where nobody said."""
        return float("inf") if self.expires_at is None else (self.expires_at - datetime.now(UTC)).total_seconds()


@attrs.frozen
class Aws:
    """An account as this process reaches it. A value: it holds no connection and no credential, and can be pickled.

    Args:
        region: Where; None for what the environment (AWS_REGION, then AWS_DEFAULT_REGION) or the profile says.
        profile: Of the shared configuration; None for what the environment says.
    """

    region: str | None = None
    profile: str | None = None

    def session(self) -> Any:
        """A fresh boto3 session, so that credentials changed meanwhile are seen.

        Raises:
            AwsError: The profile is unknown.
            MissingExtraError: boto3 is not installed.
        """
        exceptions = part_of("botocore.exceptions")
        try:
            with withheld():
                core, loader = part_of("botocore.session").Session(), _service_models()
                core.register_component("data_loader", loader)
                # boto3 itself looks at AWS_DEFAULT_REGION alone; AWS's other tools and its machines set AWS_REGION
                region = self.region or os.environ.get("AWS_REGION") or None
                session = part_of("boto3").session.Session(
                    region_name=region, profile_name=self.profile, botocore_session=core
                )
                loader.search_paths[:] = dict.fromkeys(loader.search_paths)  # each session adds boto3's own once more
                return session
        except exceptions.BotoCoreError as error:
            raise AwsError(str(error), code=type(error).__name__) from error

    def client(self, service: str, session: Any = None) -> Any:
        """A client that makes each call once.

        Raises:
            AwsError: There is no region, say.
        """
        config = part_of("botocore.config").Config(
            retries={"total_max_attempts": 1, "mode": "standard"}, connect_timeout=10, read_timeout=30
        )
        exceptions = part_of("botocore.exceptions")
        try:
            with withheld():
                return (session or self.session()).client(service, config=config)
        except (exceptions.BotoCoreError, ValueError) as error:
            raise AwsError(f"{error} (give region=… or set AWS_REGION)", code=type(error).__name__) from error

    def credentials(self) -> Credentials | None:
        """Those of this moment; None where there are none. May read files or ask a service: call it in a thread.

        Raises:
            AwsError: They cannot be had or refreshed.
        """
        session = self.session()
        exceptions = part_of("botocore.exceptions")
        try:
            with withheld():
                found = session.get_credentials()
                frozen = None if found is None else found.get_frozen_credentials()
        except (exceptions.BotoCoreError, exceptions.ClientError, RuntimeError) as error:
            raise AwsError(f"credentials cannot be had: {error}", code="credentials") from error
        if found is None or not frozen or not frozen.access_key:
            return None
        expires_at = getattr(found, "_expiry_time", None)
        refreshable = expires_at is not None and found.method not in _FIXED_SOURCES
        if expires_at is None:
            expires_at = _told_expiry(session)
        return Credentials(frozen, expires_at, refreshable)

    async def call(self, client: Any, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """One call in a thread.

        Raises:
            AwsError: It was refused, or no answer came. Its code is ``"ClockSkew"`` where this machine's clock is why.
        """
        exceptions = part_of("botocore.exceptions")
        asked_at = datetime.now(UTC)
        try:
            with withheld():  # the thread takes this context over
                answer: dict[str, Any] = await asyncio.to_thread(getattr(client, operation), **arguments)
        except exceptions.ClientError as error:
            said = error.response.get("Error", {})
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            code = str(said.get("Code") or "unknown")
            if code in _SIGNATURE_REFUSED:
                date = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
                clock = ClockOffset().told(date, asked_at=asked_at, answered_at=datetime.now(UTC)).refusal
                if clock is not None:
                    raise AwsError(f"{operation}: {clock}", code="ClockSkew") from None
            message = f"{operation}: {code}: {said.get('Message') or 'no message'}"
            raise AwsError(
                masked(message, arguments),
                code=code,
                busy=code in _BUSY or (status or 0) >= 500,
                expired=code in _EXPIRED,
            ) from None
        except exceptions.BotoCoreError as error:
            # no credentials is told apart from a broken connection, which leaves open whether the call was carried out
            missing = isinstance(error, exceptions.NoCredentialsError | exceptions.CredentialRetrievalError)
            code = "NoCredentials" if missing else type(error).__name__
            broken = isinstance(error, exceptions.HTTPClientError)
            raise AwsError(
                masked(f"{operation}: {error}", arguments), code=code, busy=broken, expired=missing
            ) from None
        return answer

    async def ask(self, service: str, operation: str, **arguments: Any) -> dict[str, Any]:
        """One call over a client of its own.

        Raises:
            AwsError: It was refused, or no answer came.
        """
        return await self.call(await asyncio.to_thread(self.client, service), operation, arguments)


def _told_expiry(session: Any) -> datetime | None:
    """What tools that write temporary keys into the shared credentials file say of their end; botocore does not read it."""
    core = session._session  # noqa: SLF001 - boto3 has no public way to the profile's own keys
    profile = core.full_config.get("profiles", {}).get(core.profile or "default", {})
    for key in _EXPIRY_KEYS:
        if profile.get(key):
            try:
                told = datetime.fromisoformat(str(profile[key]))
            except ValueError:
                continue
            return told if told.tzinfo else told.replace(tzinfo=UTC)
    return None


def signed_headers(
    credentials: Credentials, region: str, url: str, headers: tuple[tuple[str, str], ...], body: bytes
) -> tuple[tuple[str, str], ...]:
    """The headers that sign a POST to SageMaker's runtime (Signature Version 4)."""
    request = part_of("botocore.awsrequest").AWSRequest(method="POST", url=url, data=body, headers=dict(headers))
    with withheld():
        part_of("botocore.auth").SigV4Auth(credentials.frozen, _SERVICE, region).add_auth(request)
    names = ("Authorization", "X-Amz-Date", "X-Amz-Security-Token")
    return tuple((name, request.headers[name]) for name in names if request.headers.get(name))


def bearer_token(credentials: Credentials, region: str) -> str:
    """A bearer token for the OpenAI-compatible path: a presigned call in base64, good for at most an hour.

    Its form is that of the SageMaker SDK's own generator (sagemaker.core.token_generator).
    """
    request = part_of("botocore.awsrequest").AWSRequest(
        method="POST",
        url=f"https://{_SERVICE}.amazonaws.com/",
        headers={"host": f"{_SERVICE}.amazonaws.com"},
        params={"Action": "CallWithBearerToken"},
    )
    auth = part_of("botocore.auth").SigV4QueryAuth(credentials.frozen, _SERVICE, region, expires=_TOKEN_LIFE_S)
    with withheld():
        auth.add_auth(request)
    presigned = request.url.removeprefix("https://") + "&Version=1"
    return "sagemaker-api-key-" + base64.b64encode(presigned.encode()).decode()
