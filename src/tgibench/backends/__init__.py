"""Backends make a `Deployment` run and hand out its `Endpoint`; leaving the context stops what was started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from tgibench.deployments import Deployment
    from tgibench.endpoints import Endpoint
    from tgibench.provenance import Source

__all__ = ["Backend"]


class Backend(Protocol):
    """A way of making a deployment run."""

    @property
    def name(self) -> str:
        """Its name, such as ``"docker"``; part of a stored result's key."""

    @property
    def source(self) -> Source:
        """What its numbers are: MEASURED, or EMULATED."""

    def deploy(self, deployment: Deployment) -> AbstractAsyncContextManager[Endpoint]:
        """Start a server and wait until it is ready.

        Raises:
            DeployError: It could not be started or made ready; whatever had been started is stopped again.
            TeardownError: On leaving: something could not be stopped; the message says what is left.
        """
