"""Fetches AWS's public price file of one region: the only place where prices come over the network. No credentials are needed."""

from __future__ import annotations

import re

import aiohttp

from tgibench.errors import DownloadError, InvalidValueError

__all__ = ["AWS_PRICES", "download_offer"]

AWS_PRICES = "https://pricing.us-east-1.amazonaws.com"

_REGION = re.compile(r"[a-z0-9-]+")
_BLOCK = 1 << 20


async def download_offer(
    region: str, *, base_url: str = AWS_PRICES, timeout_s: float = 600.0, largest_bytes: int = 1 << 30
) -> str:
    """The bulk offer file of AmazonSageMaker in one region, as JSON text for `prices_of_offer`.

    Args:
        region: Such as ``"us-east-1"``.
        base_url: Where AWS publishes its prices.
        timeout_s: Seconds for the whole of it.
        largest_bytes: A larger file is refused.

    Raises:
        InvalidValueError: The region is no region's name.
        DownloadError: It could not be fetched whole.
    """
    if not _REGION.fullmatch(region):
        raise InvalidValueError(f"region must be a name such as us-east-1, got {region!r}")
    url = f"{base_url.rstrip('/')}/offers/v1.0/aws/AmazonSageMaker/current/{region}/index.json"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s), trust_env=True) as session,
            session.get(url) as answer,
        ):
            if answer.status != 200:
                raise DownloadError(f"{url} answered {answer.status} {answer.reason}: is {region!r} a region's name?")
            return (await _read(answer, url, largest_bytes)).decode()
    except TimeoutError as error:
        raise DownloadError(f"{url} was not read within {timeout_s:g} s") from error
    except (aiohttp.ClientError, OSError, UnicodeDecodeError) as error:
        raise DownloadError(f"cannot fetch {url}: {error}") from error


async def _read(answer: aiohttp.ClientResponse, url: str, largest_bytes: int) -> bytes:
    content = bytearray()
    async for block in answer.content.iter_chunked(_BLOCK):
        content += block
        if len(content) > largest_bytes:
            raise DownloadError(f"{url} is larger than {largest_bytes} bytes")
    return bytes(content)
