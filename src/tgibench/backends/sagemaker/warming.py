"""The first requests of an endpoint in service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgibench.endpoints import Timeouts
from tgibench.errors import DeployError
from tgibench.requests import GenerationRequest

if TYPE_CHECKING:
    from tgibench.backends.sagemaker.endpoint import SageMakerEndpoint
    from tgibench.records import Exchange

__all__ = ["warm_up"]


async def warm_up(endpoint: SageMakerEndpoint) -> Exchange:
    """Two requests; the first, which is the slowest.

    Raises:
        DeployError: An endpoint in service does not answer them.
    """
    request = GenerationRequest(prompt="Say hello.", max_new_tokens=8)
    async with endpoint.connect() as client:
        first, second = [await client.generate(request, Timeouts()) for _ in range(2)]
    if second.failure is not None:
        raise DeployError(f"{endpoint.protocol.endpoint_name} is in service and fails: {second.failure.message}")
    return first
