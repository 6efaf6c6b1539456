"""The same as token_server.c behind TLS, in Python: some 15,000 tokens/s at most. Certificate and key are files.

    python benchmarks/tls_token_server.py TOKENS FIRST_MS GAP_MS ALIGNED CERTIFICATE KEY

Prints its port; serves POSTs until its standard input closes. A token's id is the time in nanoseconds of CLOCK_MONOTONIC just before it
was encrypted and written.
"""

import asyncio
import heapq
import itertools
import ssl
import sys
import time

HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nx-received-ns: {}\r\n\r\n"
EVENT = 'data: {{"index":{},"token":{{"id":{},"text":" w","logprob":-0.5,"special":false}},"generated_text":{},"details":{}}}\n\n'
END = "0\r\n\r\n"
DETAILS = '{{"finish_reason":"length","generated_tokens":{},"seed":null}}'


class Schedule:
    """What is due, in order of time; one timer for all."""

    def __init__(self, tokens, gap_s):
        self.tokens, self.gap_s = tokens, gap_s
        self.due, self.numbers = [], itertools.count()
        self.loop, self.timer = asyncio.get_running_loop(), None

    def add(self, at_s, transport):
        heapq.heappush(self.due, (at_s, next(self.numbers), 1, transport))
        self.wait()

    def wait(self):
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.loop.call_at(self.due[0][0], self.send) if self.due else None

    def send(self):
        while self.due and self.due[0][0] <= self.loop.time():
            at_s, number, index, transport = heapq.heappop(self.due)
            last = index == self.tokens
            texts = ('"w"', DETAILS.format(self.tokens)) if last else ("null", "null")
            event = EVENT.format(index, time.monotonic_ns(), *texts)
            transport.write(f"{len(event):x}\r\n{event}\r\n{END if last else ''}".encode())
            if not last:
                heapq.heappush(self.due, (at_s + self.gap_s, number, index + 1, transport))
        self.wait()


class Answers(asyncio.Protocol):
    """One connection; a request comes in one read, as those of a benchmark do."""

    def __init__(self, schedule, first_s, *, aligned):
        self.schedule, self.first_s, self.aligned = schedule, first_s, aligned

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, _):
        received_ns = time.monotonic_ns()
        self.transport.write(HEAD.format(received_ns).encode())
        at_s, gap_s = received_ns / 1e9 + self.first_s, self.schedule.gap_s
        self.schedule.add((at_s // gap_s + 1) * gap_s if self.aligned else at_s, self.transport)


async def main():
    """Serve."""
    tokens, first_ms, gap_ms, aligned, *files = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    schedule = Schedule(int(tokens), float(gap_ms) / 1e3)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Answers(schedule, float(first_ms) / 1e3, aligned=aligned == "1"),
        "127.0.0.1",
        0,
        ssl=context,
        backlog=8192,
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
