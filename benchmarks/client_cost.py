"""What the streaming client costs and how late its times are, beside a bare asyncio.Protocol and aiohttp read line by line.

    python benchmarks/client_cost.py [--streams 64 256] [--tokens 100] [--gap-ms 20] [--repeats 3]

All clients get the same answers from the same server in C, one after the other, interleaved and repeated; medians are printed, and
ratios to the bare Protocol. Needs a C compiler. Lag is the recorded arrival minus the instant at which the server wrote the token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import attrs
import numpy as np

import tgibench as tb
from tgibench.client import HttpClient

IDS = re.compile(rb'"id":(\d+)')
BODY = json.dumps({"inputs": "Hello", "parameters": {"max_new_tokens": 1, "details": True}}).encode()
FIRST_MS = 200.0


@attrs.define
class Seen:
    """Instants of all tokens, and when the server wrote them; seconds."""

    arrived: list = attrs.field(factory=list)
    written: list = attrs.field(factory=list)
    ttft: list = attrs.field(factory=list)


@attrs.frozen
class IdProtocol:
    """TGI's protocol; keeps the ids beside."""

    seen: Seen
    inner: tb.TgiProtocol = attrs.field(factory=tb.TgiProtocol)
    name = "tgi"
    tokens_per_chunk_known = True

    def encode(self, request):
        return self.inner.encode(request)

    def decoder(self, head):
        decoder, seen = self.inner.decoder(head), self.seen

        class Decoder:
            def feed(self, data):
                seen.written.extend(IDS.findall(data))
                return decoder.feed(data)

            def close(self, *, clean=True):
                return decoder.close(clean=clean)

        return Decoder()


async def with_tgibench(url, streams, seen):
    """The client under test: transport, decoder and record."""
    request, timeouts = tb.GenerationRequest(prompt="Hello"), tb.Timeouts()

    async def one(transport):
        own = Seen()
        exchange = await HttpClient(transport, IdProtocol(own)).generate(request, timeouts)
        assert exchange.failure is None, exchange.failure
        seen.written.extend(own.written)
        seen.arrived.extend(np.repeat(exchange.chunk_times_s, exchange.chunk_tokens).tolist())
        seen.ttft.append(exchange.chunk_times_s[0] - exchange.sent_s)

    async with tb.HttpEndpoint(url).connect() as client, asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(one(client.transport))


async def with_protocol(url, streams, seen):
    """A bare asyncio.Protocol that stamps and keeps the bytes: about what Python can do."""
    loop = asyncio.get_running_loop()
    port = int(url.rpartition(":")[2])
    request = b"POST /generate_stream HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
    pieces = []

    class Bare(asyncio.Protocol):
        def connection_made(self, transport):
            transport.max_size = 32768
            self.transport, self.done = transport, loop.create_future()
            self.sent_s = loop.time()
            transport.write(request)
            self.reads = []

        def data_received(self, data):
            self.reads.append((loop.time(), data))
            if data.endswith(b"0\r\n\r\n"):
                self.done.set_result(None)

    connected = [await loop.create_connection(Bare, "127.0.0.1", port) for _ in range(streams)]
    for transport, protocol in connected:
        await protocol.done
        transport.close()
        pieces.append(protocol)
    for protocol in pieces:
        first = None
        for instant, data in protocol.reads:
            ids = IDS.findall(data)
            seen.written.extend(ids)
            seen.arrived.extend([instant] * len(ids))
            first = instant if first is None and ids else first
        seen.ttft.append(first - protocol.sent_s)


async def with_lines(url, streams, seen):
    """What most tools do: aiohttp, line by line, a JSON parse for each token before the next read."""
    loop = asyncio.get_running_loop()

    async def one(session):
        sent_s, first = loop.time(), None
        async with session.post(f"{url}/generate_stream", data=BODY) as response:
            async for line in response.content:
                instant = loop.time()
                if line.startswith(b"data:"):
                    seen.written.append(str(json.loads(line[5:])["token"]["id"]).encode())
                    seen.arrived.append(instant)
                    first = instant if first is None else first
        seen.ttft.append(first - sent_s)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(one(session))


CLIENTS = {"tgibench": with_tgibench, "bare Protocol": with_protocol, "aiohttp lines + JSON": with_lines}


def child(name, url, streams, tokens):
    """Run one client in this process and print its figures."""
    seen = Seen()
    cpu_s = time.process_time()
    asyncio.run(CLIENTS[name](url, streams, seen))
    cpu_s = time.process_time() - cpu_s
    lag_s = np.array(seen.arrived) - np.array([int(each) for each in seen.written]) / 1e9
    assert len(lag_s) == streams * tokens
    figures = {
        "cpu_us": cpu_s / len(lag_s) * 1e6,
        "lag_p50_ms": float(np.quantile(lag_s, 0.5)) * 1e3,
        "lag_p99_ms": float(np.quantile(lag_s, 0.99)) * 1e3,
        "ttft_error_ms": (float(np.mean(seen.ttft)) - FIRST_MS / 1e3) * 1e3,
    }
    print(json.dumps(figures))


def measure(server, name, streams, arguments):
    """Run one client in a fresh process against a fresh server."""
    command = [server, str(arguments.tokens), str(FIRST_MS), str(arguments.gap_ms)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        own = [sys.executable, __file__, "--child", name, url, str(streams), str(arguments.tokens)]
        done = subprocess.run(own, capture_output=True, text=True, check=True, timeout=120)
        process.stdin.close()
        process.wait(10)
    return json.loads(done.stdout)


def main():
    """Build the server, run every client, print medians and ratios."""
    if sys.argv[1:2] == ["--child"]:
        return child(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--gap-ms", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(
        f"{platform.platform()}, Python {platform.python_version()}, aiohttp {aiohttp.__version__}, {os.cpu_count()} cores"
    )
    with tempfile.TemporaryDirectory() as folder:
        server = str(Path(folder) / "token_server")
        subprocess.run(["cc", "-O2", "-o", server, Path(__file__).with_name("token_server.c")], check=True)
        for streams in arguments.streams:
            runs = {name: [] for name in CLIENTS}
            for _ in range(arguments.repeats):
                for name, results in runs.items():
                    results.append(measure(server, name, streams, arguments))
            report(streams, arguments, runs)
    return None


def report(streams, arguments, runs):
    """Medians of one number of streams."""
    print(
        f"\n{streams} streams, {arguments.tokens} tokens each, one every {arguments.gap_ms:g} ms; medians of {arguments.repeats}"
    )
    print(
        f"{'client':22} {'CPU us/token':>13} {'vs Protocol':>12} {'lag p50 ms':>11} {'p99 ms':>9} {'TTFT error ms':>14}"
    )
    medians = {
        name: {figure: statistics.median(result[figure] for result in results) for figure in results[0]}
        for name, results in runs.items()
    }
    floor = medians["bare Protocol"]["cpu_us"]
    for name, figures in medians.items():
        print(
            f"{name:22} {figures['cpu_us']:13.1f} {figures['cpu_us'] / floor:12.2f} {figures['lag_p50_ms']:11.3f} "
            f"{figures['lag_p99_ms']:9.3f} {figures['ttft_error_ms']:14.2f}"
        )


if __name__ == "__main__":
    main()
