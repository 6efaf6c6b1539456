"""A token server of known schedule, which says at which instant it wrote each token. It serves calibrations on loopback only.

Run as a script, with ``python -I -S _token_server.py PORT``; the standard library is all it needs. It speaks as much of TGI as our client
asks for. A prompt ``"NUMBER FIRST_MS GAP_MS"`` is answered by `max_new_tokens` tokens, the first FIRST_MS after the request was read,
the others GAP_MS after one another, a write for each; any other prompt is answered at once and not remembered. ``GET /stamps`` hands out,
and forgets, a list of ``[NUMBER, read at, [each token's write]]`` of the answers since: CLOCK_MONOTONIC in nanoseconds, taken just before
the write.
"""

from __future__ import annotations

import heapq
import json
import selectors
import socket
import sys
import time

_READ_BYTES = 1 << 16
_BACKLOG = 1024
_CHECK = b'{"model_id":"token-server","version":"1"}'
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = b'data: {"index":%d,"token":{"id":7,"text":" w","logprob":-0.5,"special":false},"generated_text":null,"details":null}\n\n'
_LAST_EVENT = (
    b'data: {"index":%d,"token":{"id":7,"text":" w","logprob":-0.5,"special":false},"generated_text":"w",'
    b'"details":{"finish_reason":"length","generated_tokens":%d,"seed":null}}\n\n'
)


class _Connection:
    """One client's connection: what it sent that is no whole request yet, and the answer under way."""

    def __init__(self, own: socket.socket) -> None:
        self.socket, self.request = own, b""
        self.stamps_ns: list[int] = []
        self.tokens = 0
        self.gap_ns = 0


class _Server:
    """Connections and what is due on them."""

    def __init__(self, port: int) -> None:
        self._clock = time.monotonic_ns
        self._listener = socket.create_server(("127.0.0.1", port), backlog=_BACKLOG)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._due: list[tuple[int, int, _Connection]] = []
        self._answers: list[tuple[int, int, list[int]]] = []
        self._turn = 0  # no two entries of the heap are equal

    def serve(self) -> None:
        """For ever: whoever started it stops it."""
        due, clock = self._due, self._clock
        while True:
            wait_s = max(0.0, (due[0][0] - clock()) * 1e-9) if due else None
            for key, _ in self._selector.select(wait_s):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data)
            while due and due[0][0] <= clock():
                at_ns, turn, connection = heapq.heappop(due)
                self._write(at_ns, turn, connection)

    def _accept(self) -> None:
        own, _ = self._listener.accept()
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(own, selectors.EVENT_READ, _Connection(own))

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_READ_BYTES)
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        connection.request += data
        head, end, body = connection.request.partition(b"\r\n\r\n")
        if end and len(body) >= _content_length(head):
            connection.request = b""
            self._answer(connection, head, body)

    def _close(self, connection: _Connection) -> None:
        if connection.socket.fileno() >= 0:
            self._selector.unregister(connection.socket)
            connection.socket.close()

    def _answer(self, connection: _Connection, head: bytes, body: bytes) -> None:
        read_ns = self._clock()
        if head.startswith(b"POST "):
            request = json.loads(body)
            words = request["inputs"].split()
            number, first_ms, gap_ms = words if len(words) == 3 else (None, "0", "0")
            connection.tokens, connection.gap_ns = request["parameters"]["max_new_tokens"], int(float(gap_ms) * 1e6)
            connection.stamps_ns = []
            if number is not None:
                self._answers.append((int(number), read_ns, connection.stamps_ns))
            self._send(connection, _HEAD)
            self._plan(read_ns + int(float(first_ms) * 1e6), connection)
            return
        content = _CHECK
        if head.startswith(b"GET /stamps "):
            content = json.dumps(self._answers).encode()
            self._answers.clear()
        self._send(connection, b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(content), content))

    def _plan(self, at_ns: int, connection: _Connection) -> None:
        self._turn += 1
        heapq.heappush(self._due, (at_ns, self._turn, connection))

    def _write(self, at_ns: int, turn: int, connection: _Connection) -> None:
        del turn
        if connection.socket.fileno() < 0:
            return
        number = len(connection.stamps_ns) + 1
        if number < connection.tokens:
            event = _EVENT % number
            piece = b"%x\r\n%s\r\n" % (len(event), event)
            self._plan(at_ns + connection.gap_ns, connection)
        else:
            event = _LAST_EVENT % (number, connection.tokens)
            piece = b"%x\r\n%s\r\n0\r\n\r\n" % (len(event), event)
        connection.stamps_ns.append(self._clock())
        self._send(connection, piece)

    def _send(self, connection: _Connection, data: bytes) -> None:
        try:
            connection.socket.sendall(data)
        except OSError:
            self._close(connection)


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    return 0


if __name__ == "__main__":
    _Server(int(sys.argv[1])).serve()
