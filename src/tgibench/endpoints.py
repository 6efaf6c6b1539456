"""Where requests go: an `Endpoint` is a value that can be pickled; connecting it gives a `Client` that sends.

An HTTP server is an `HttpEndpoint`; the in-process emulator is one of its own. The runner knows only the two protocols.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import attrs

from tgibench.validators import above_zero

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from tgibench.client_health import StampSource
    from tgibench.records import Exchange, RequestLog
    from tgibench.requests import GenerationRequest

__all__ = [
    "Client",
    "ConnectingClient",
    "Endpoint",
    "MortalEndpoint",
    "ServerView",
    "StartUp",
    "StartedEndpoint",
    "Timeouts",
    "WatchedEndpoint",
]


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

        Raises:
            CancelledError: The caller was cancelled. Its argument may be the `Exchange` of a request that had failed by then: of
                which the server had told an error, but not ended its answer.
        """

    @property
    def stamps(self) -> StampSource:
        """Where arrival times are taken (the least exact that any request of this client used)."""


@runtime_checkable
class ConnectingClient(Protocol):
    """A client that opens a connection for each request in flight: an addition to `Client` that is asked for where it is there."""

    def make_room_for(self, connections: int) -> None:
        """Called before the first request with the most that the load is known to put in flight.

        Raises:
            InvalidValueError: There can be no so many.
        """


class Endpoint(Protocol):
    """Where a server is and how it is spoken to. A value: it holds no socket and can be pickled."""

    def connect(self) -> AbstractAsyncContextManager[Client]:
        """Open a client; leaving the context closes every connection."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What the server said of itself (``server``, ``version``, ``model_id``, …): part of a run's provenance."""


@attrs.frozen(kw_only=True)
class StartUp:
    """What a backend knows of how it started an endpoint.

    Args:
        first_token_s: Seconds from the first request to the ready server to its first token; None where none was sent, or it failed.
        usd_per_hour: US dollars for an hour of all of its machines; None where their price is not known.
        price: Which price of which day and source that is; None without it.
    """

    first_token_s: float | None = None
    usd_per_hour: float | None = None
    price: str | None = None


@runtime_checkable
class StartedEndpoint(Protocol):
    """An endpoint that was started by its backend: an addition to `Endpoint` that is asked for where it is there."""

    @property
    def start_up(self) -> StartUp | None:
        """How it was started; None where it already ran."""


@attrs.frozen(kw_only=True)
class ServerView:
    """What the server's side adds to a run.

    Args:
        log: The run's log, the server's own times filled in where they are known.
        warnings: What a reader must be warned of, in plain sentences.
        facts: What identifies the run further, text by text: how many batches, the longest queue.
    """

    log: RequestLog
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, str] = attrs.field(factory=dict, hash=False)


@runtime_checkable
class WatchedEndpoint(Protocol):
    """An endpoint that also knows its server's side (a log, counters): an addition to `Endpoint` that is asked for where it is there."""

    async def watch_run(self) -> Callable[[RequestLog], Awaitable[ServerView]]:
        """Called just before a run; what it returns is called with the run's log after it.

        Neither raises for a server's side that cannot be read: the view then says so in its warnings.
        """


@runtime_checkable
class MortalEndpoint(Protocol):
    """An endpoint that ends by itself, or whose credentials do: an addition to `Endpoint` that is asked for where it is there."""

    async def check_lasts(self, needed_s: float) -> None:
        """Called before a run that may take so long.

        Raises:
            DeployError: It will not last; the message says until when it does.
        """
