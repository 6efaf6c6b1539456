"""Attaches to a server that somebody else runs."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import attrs

from tgibench.backends import one_at_a_time
from tgibench.client import HttpEndpoint
from tgibench.errors import DeployError
from tgibench.identities import changed, identity
from tgibench.protocols.tgi import TgiProtocol
from tgibench.provenance import Source
from tgibench.secret_headers import without_secrets
from tgibench.validators import above_zero

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tgibench.backends import Room
    from tgibench.deployments import Deployment
    from tgibench.protocols import WireProtocol

__all__ = ["HttpBackend", "learn_facts", "wait_until_ready"]

_PROBE_S = 5.0
_POLL_S = 0.2


@attrs.frozen
class HttpBackend:
    """A server that runs already: TGI, vLLM, SGLang, llama.cpp, anything that speaks one of the protocols.

    Args:
        url: Its base address.
        protocol: How it is spoken to.
        api_key: Sent as a bearer token; shown nowhere, and not sent to other workers.
        api_key_env: Name of the environment variable that holds the bearer token instead; each worker looks it up for itself.
        ready_timeout_s: How long it may take to answer its health check.
        verify_tls: Whether a server's certificate must be valid.

    Raises:
        InvalidValueError: The URL is none.
    """

    url: str
    protocol: WireProtocol = attrs.field(factory=TgiProtocol)
    api_key: str | None = attrs.field(default=None, repr=False, kw_only=True)
    api_key_env: str | None = attrs.field(default=None, kw_only=True)
    ready_timeout_s: float = attrs.field(default=60.0, validator=above_zero, kw_only=True)
    verify_tls: bool = attrs.field(default=True, kw_only=True)

    def __attrs_post_init__(self) -> None:
        self._endpoint()

    @property
    def name(self) -> str:
        """Its name."""
        return "http"

    @property
    def identity(self) -> str:
        """Its name, and a digest of the URL and of the protocol where that is not TGI's."""
        return identity(self.name, url=self.url.rstrip("/"), **changed(self, "protocol"))

    @property
    def source(self) -> Source:
        """MEASURED; a server that says it is the emulator makes its cells EMULATED."""
        return Source.MEASURED

    @asynccontextmanager
    async def deploy(self, deployment: Deployment) -> AsyncIterator[HttpEndpoint]:
        """The endpoint, once the server answers. Nothing is started and nothing stopped.

        Raises:
            DeployError: It does not answer in time.
        """
        del deployment  # somebody else's: taken at the caller's word
        endpoint = self._endpoint()
        await wait_until_ready(endpoint, timeout_s=self.ready_timeout_s)
        yield attrs.evolve(endpoint, facts=await learn_facts(endpoint))

    async def rooms(self, deployments: Sequence[Deployment]) -> list[Room | None]:
        """One at a time: it is the same server for all of them."""
        return one_at_a_time(self.url, deployments)

    def _endpoint(self) -> HttpEndpoint:
        return HttpEndpoint(
            self.url, self.protocol, api_key=self.api_key, api_key_env=self.api_key_env, verify_tls=self.verify_tls
        )


async def wait_until_ready(endpoint: HttpEndpoint, *, timeout_s: float, path: str = "/health") -> None:
    """Ask for the path until it is answered by anything but a server's error; a server without that path is ready too.

    Raises:
        DeployError: Not in time, with the last reason; at once where its certificate is not valid.
    """
    reason = "no answer"
    async with _session(endpoint) as session:
        try:
            async with asyncio.timeout(timeout_s):
                while (problem := await _unhealthy(session, endpoint, path)) is not None:
                    reason = problem
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise DeployError(f"{endpoint.url} was not ready within {timeout_s:g} s: {reason}") from None


async def learn_facts(endpoint: HttpEndpoint) -> dict[str, str]:
    """What the server says of itself: TGI at `/info`, others at `/v1/models`; empty where it says nothing."""
    async with _session(endpoint) as session:
        info = await _json(session, f"{endpoint.url.rstrip('/')}/info")
        if "model_id" in info:
            names = ("model_id", "model_sha", "model_dtype", "model_device_type", "version", "sha", "docker_label")
            facts = {name: str(info[name]) for name in names if info.get(name) is not None}
            emulated = "emulat" in str(info.get("docker_label", "")).lower() or info.get("emulated") is True
            return {"server": "tgi", **facts, **({"emulated": "true"} if emulated else {})}
        models = await _json(session, f"{endpoint.url.rstrip('/')}/v1/models")
        listed = models.get("data")
        first = next((model for model in listed if isinstance(model, dict)), {}) if isinstance(listed, list) else {}
        return {name: str(first[key]) for name, key in (("model_id", "id"), ("server", "owned_by")) if first.get(key)}


def _session(endpoint: HttpEndpoint) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=endpoint.verify_tls),
        headers=dict(endpoint.all_headers),
        timeout=aiohttp.ClientTimeout(total=_PROBE_S),
    )


async def _unhealthy(session: aiohttp.ClientSession, endpoint: HttpEndpoint, path: str) -> str | None:
    try:
        async with session.get(f"{endpoint.url.rstrip('/')}{path}") as response:
            return f"{path} answers {response.status}" if response.status >= 500 else None
    except TimeoutError:
        return f"{path} does not answer within {_PROBE_S:g} s"
    except aiohttp.ClientConnectorCertificateError as error:
        raise DeployError(f"{endpoint.url}: {error.certificate_error}; verify_tls=False accepts it unseen") from error
    except (aiohttp.ClientError, OSError) as error:
        return without_secrets(str(error), endpoint.all_headers) or type(error).__name__


async def _json(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    try:
        async with session.get(url) as response:
            value = json.loads(await response.read()) if response.status == 200 else {}
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
