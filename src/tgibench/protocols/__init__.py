"""Wire protocols without I/O: a request becomes bytes to send, bytes received become tokens. No sockets, no clock.

A `WireProtocol` encodes a `GenerationRequest` and makes a `StreamDecoder` for its answer. The client feeds the decoder
the answer's body in the pieces in which it arrived and knows when each piece came; the decoder knows what was in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tgibench.records import Failure, ServerTimings
    from tgibench.requests import GenerationRequest

__all__ = ["Completion", "HttpRequest", "ResponseHead", "StreamDecoder", "WireProtocol"]


@attrs.frozen(kw_only=True)
class HttpRequest:
    """A request ready to send, but for the server's address and the caller's credentials.

    Args:
        method: Such as ``"POST"``.
        path: Appended to the endpoint's URL; starts with a slash.
        headers: Without authorization.
        body: The bytes to send.
        streamed: Whether the answer is expected as a stream.
    """

    method: str = "POST"
    path: str
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    body: bytes
    streamed: bool


@attrs.frozen
class ResponseHead:
    """Status and headers of an answer.

    Args:
        status: The HTTP status.
        headers: Keys in lower case.
    """

    status: int
    headers: Mapping[str, str]


@attrs.frozen(kw_only=True)
class Completion:
    """What a whole answer said, known when its last byte is in.

    Args:
        failure: None when the answer is whole and the server called it finished.
        finish_reason: As the server named it (``"length"``, ``"eos_token"``, ``"stop"``, …).
        output_tokens: The server's own count; None when it gave none.
        input_tokens: The server's own count of the prompt; None when it gave none.
        server: The server's own timings; None when it gave none.
        text: The generated text as far as it came.
    """

    failure: Failure | None = None
    finish_reason: str | None = None
    output_tokens: int | None = None
    input_tokens: int | None = None
    server: ServerTimings | None = None
    text: str = ""


class StreamDecoder(Protocol):
    """Turns one answer's body, in pieces of any size, into token counts and a `Completion`."""

    def feed(self, data: bytes) -> Sequence[int]:
        """Take the next piece of the body.

        Returns:
            One number for each chunk of output that this piece completed, in order: the tokens it carries; 1 where the protocol
            does not say and the chunk has text; 0 for a chunk without text that may yet carry a token (an end-of-sequence
            token comes so). Chunks that cannot carry a token (a role, a keep-alive, usage alone) have no number.
        """

    def close(self, *, clean: bool = True) -> Completion:
        """Say that no more will come.

        Args:
            clean: False when the connection broke or timed out before the body was whole: what came is then kept, and the
                caller knows the failure better than the decoder, unless the server had told of an error. True: the decoder
                decides between success, truncation, an error event and bytes it cannot understand.
        """


class WireProtocol(Protocol):
    """How one kind of server is spoken to."""

    @property
    def name(self) -> str:
        """Its name on the command line, such as ``"tgi"``."""

    @property
    def tokens_per_chunk_known(self) -> bool:
        """Whether `StreamDecoder.feed` tells the tokens of each chunk exactly (TGI: one an event) or only that there is text."""

    def encode(self, request: GenerationRequest) -> HttpRequest:
        """The request as bytes."""

    def decoder(self, head: ResponseHead) -> StreamDecoder:
        """A decoder for an answer that began with this head, an error's head included."""
