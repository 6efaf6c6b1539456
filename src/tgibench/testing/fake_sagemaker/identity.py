"""Who may call a fake account: signatures and bearer tokens, checked with botocore as the service would check them."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import attrs

from tgibench.backends.sagemaker.aws import part_of
from tgibench.backends.sagemaker.secrecy import withheld
from tgibench.testing.fake_sagemaker.resources import Refused

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["Identity"]

_SIGNED = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<day>\d{8})/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request, "
    r"SignedHeaders=(?P<headers>[^,]+), Signature=(?P<signature>[0-9a-f]{64})"
)
_TOKEN_PREFIX = "Bearer sagemaker-api-key-"  # noqa: S105 - no password
_SKEW = timedelta(minutes=5)
_STAMP = "%Y%m%dT%H%M%SZ"


@attrs.define(eq=False, kw_only=True)
class Identity:
    """Keys that may call.

    Args:
        access_key: Its name.
        secret_key: What signs.
        session_token: Wanted beside the signature; None for keys without a session.
        expires_at: When they end; None for never.
        clock_ahead: How far the clock by which they are judged is ahead of ours.
    """

    access_key: str = "AKIDFAKE00000000"
    secret_key: str = attrs.field(default="fake-secret-key", repr=False)
    session_token: str | None = attrs.field(default=None, repr=False)
    expires_at: datetime | None = None
    clock_ahead: timedelta = timedelta(0)

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which boto3 finds these keys."""
        token = {} if self.session_token is None else {"AWS_SESSION_TOKEN": self.session_token}
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key, **token}

    def check_signature(self, request: web.Request, body: bytes) -> None:
        """Compute the signature of what came, and compare.

        Raises:
            Refused: It is not the same, or not of these keys, or not of now.
        """
        told = _SIGNED.fullmatch(request.headers.get("Authorization", ""))
        if told is None:
            raise Refused("MissingAuthenticationTokenException", "Missing Authentication Token", 403)
        self._check_key(told["key"], request.headers.get("X-Amz-Security-Token"))
        stamp = request.headers.get("X-Amz-Date", "")
        self._check_time(stamp)
        copy = part_of("botocore.awsrequest").AWSRequest(
            method=request.method,
            url=f"http://{request.host}{request.raw_path}",
            data=body,
            headers={name: request.headers[name] for name in told["headers"].split(";") if name != "host"},
        )
        copy.context["timestamp"] = stamp
        signer = part_of("botocore.auth").SigV4Auth(self._frozen(), told["service"], told["region"])
        with withheld():
            canonical = signer.canonical_request(copy)
            signature = signer.signature(signer.string_to_sign(copy, canonical), copy)
        if signature != told["signature"]:
            raise Refused(
                "InvalidSignatureException",
                "The request signature we calculated does not match the signature you provided.\n\n"
                f"The Canonical String for this request should have been\n'{canonical}'",
                403,
            )

    def check_bearer(self, authorization: str) -> None:
        """Decode the token and compute the signature of the call that it presigns.

        Raises:
            Refused: It is none, or not of these keys.
        """
        try:
            presigned = base64.b64decode(authorization.removeprefix(_TOKEN_PREFIX), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            presigned = ""
        query = {name: values[0] for name, values in parse_qs(urlsplit(f"https://{presigned}").query).items()}
        given, key = query.get("X-Amz-Signature"), query.get("X-Amz-Credential", "").split("/")
        if not authorization.startswith(_TOKEN_PREFIX) or query.get("Version") != "1" or len(key) != 5:
            raise Refused("AccessDeniedException", "Invalid bearer token", 403)
        self._check_key(key[0], query.get("X-Amz-Security-Token"))
        unsigned = presigned.removesuffix("&Version=1").rpartition("&X-Amz-Signature=")[0]
        copy = part_of("botocore.awsrequest").AWSRequest(method="POST", url=f"https://{unsigned}")
        copy.context["timestamp"] = query["X-Amz-Date"]
        signer = part_of("botocore.auth").SigV4QueryAuth(self._frozen(), key[3], key[2])
        canonical = signer.canonical_request(copy)
        if signer.signature(signer.string_to_sign(copy, canonical), copy) != given:
            raise Refused("AccessDeniedException", "Invalid bearer token", 403)

    def _check_key(self, key: str, token: str | None) -> None:
        if key != self.access_key or (self.session_token is not None and token != self.session_token):
            raise Refused("UnrecognizedClientException", "The security token included in the request is invalid.", 403)
        if self.expires_at is not None and datetime.now(UTC) > self.expires_at:
            raise Refused("ExpiredTokenException", "The security token included in the request is expired", 403)

    def _frozen(self) -> object:
        frozen: object = (
            part_of("botocore.credentials")
            .Credentials(self.access_key, self.secret_key, self.session_token)
            .get_frozen_credentials()
        )
        return frozen

    def _check_time(self, stamp: str) -> None:
        try:
            signed_at = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
        except ValueError:
            raise Refused("IncompleteSignatureException", "no X-Amz-Date", 403) from None
        now = datetime.now(UTC) + self.clock_ahead
        if abs(now - signed_at) > _SKEW:
            told = (
                f"Signature expired: {stamp} is now earlier than"
                if now > signed_at
                else f"Signature not yet current: {stamp} is still later than"
            )
            raise Refused(
                "InvalidSignatureException", f"{told} {now - _SKEW if now > signed_at else now + _SKEW:{_STAMP}}", 403
            )
