"""TLS whose bytes somebody else reads from the socket: they are handed to asyncio's own TLS, which decrypts them at once.

So the time at which a record's last bytes arrived is known, which asyncio does not tell. This stands on parts of asyncio that it does not
promise; where they are missing, asyncio reads by itself.
"""

from __future__ import annotations

import asyncio
from typing import Any

import attrs

__all__ = ["Ciphertext"]

_DECRYPTED_BYTES = 32 * 1024  # asyncio allocates this much for every record it decrypts; its default is 256 KiB


@attrs.frozen(eq=False)
class Ciphertext:
    """What is below a TLS connection.

    Args:
        transport: asyncio's of the socket.
    """

    transport: asyncio.Transport
    _protocol: Any

    @classmethod
    def below(cls, transport: asyncio.BaseTransport) -> Ciphertext | None:
        """That of a transport which speaks TLS; None where asyncio is built otherwise."""
        protocol = getattr(transport, "_ssl_protocol", None)
        raw = getattr(protocol, "_transport", None)
        if not isinstance(protocol, asyncio.BufferedProtocol) or not isinstance(raw, asyncio.Transport):
            return None
        if hasattr(protocol, "max_size"):
            protocol.max_size = _DECRYPTED_BYTES
        return cls(raw, protocol)

    def feed(self, data: bytes) -> None:
        """Decrypt what came; whoever is above has had it when this returns."""
        while data:
            buffer = self._protocol.get_buffer(len(data))
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            self._protocol.buffer_updated(size)
            data = data[size:]
