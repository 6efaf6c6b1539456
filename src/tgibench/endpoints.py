"""Where requests go: an `Endpoint` is a value that can be pickled; connecting it gives a `Client` that sends.

An HTTP server is an `HttpEndpoint`; the in-process emulator is one of its own. The runner knows only the two protocols.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

from tgibench.validators import above_zero

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from tgibench.records import Exchange, StampSource
    from tgibench.requests import GenerationRequest

__all__ = ["Client", "Endpoint", "Timeouts"]


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long a request may take, in seconds; each limit fails the request with a kind of its own.

    Args:
        connect_s: Opening a connection.
        first_token_s: From sending to the first token.
        between_tokens_s: From one chunk of output to the next; keep-alives do not count.
        total_s: From taking the request up to its last byte.
    """

    connect_s: float = attrs.field(default=30.0, validator=above_zero)
    first_token_s: float = attrs.field(default=300.0, validator=above_zero)
    between_tokens_s: float = attrs.field(default=120.0, validator=above_zero)
    total_s: float = attrs.field(default=600.0, validator=above_zero)


class Client(Protocol):
    """An open way to a server; serves any number of requests at once."""

    async def generate(self, request: GenerationRequest, timeouts: Timeouts) -> Exchange:
        """Send one request and wait for the end of its answer.

        Returns:
            What became of it. A failure of any kind is in the `Exchange`: nothing is raised but cancellation.
        """

    @property
    def stamps(self) -> StampSource:
        """Where arrival times are taken (the least exact that any request of this client used)."""


class Endpoint(Protocol):
    """Where a server is and how it is spoken to. A value: it holds no socket and can be pickled."""

    def connect(self) -> AbstractAsyncContextManager[Client]:
        """Open a client; leaving the context closes every connection."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What the server said of itself (``server``, ``version``, ``model_id``, …): part of a run's provenance."""
