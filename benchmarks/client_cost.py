"""What the streaming client costs and how late its times are, beside a client in C (the floor) and what other tools are made of.

    python benchmarks/client_cost.py [--streams 64 256 1024] [--tokens 200] [--gap-ms 20] [--aligned] [--repeats 3]
    python benchmarks/client_cost.py --limit            the most tokens/s that each client holds at a lag p99 of 1 ms

All clients get the same answers from the same server in C, one after the other, interleaved and repeated; medians are printed, and
ratios to the client in C. Needs a C compiler and two cores that do nothing else: the server takes one, each client the other.

Lag is the recorded arrival minus the instant at which the server wrote the token. The error of TTFT is the client's minus the server's own, and
that of the gaps likewise, pooled over all tokens. tgibench is run twice: with the kernel's receive stamps (its default on Linux without TLS),
and with the time taken when the bytes leave the socket (as under TLS or elsewhere), where lag says how promptly it reads.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
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
from tgibench.connections import KernelClock

IDS = re.compile(rb'"id":(\d+)')
RECEIVED = re.compile(rb"x-received-ns: (\d+)")
BODY = json.dumps({"inputs": "Hello", "parameters": {"max_new_tokens": 1, "details": True}}).encode()
FIRST_MS = 200.0
LAG_LIMIT_MS = 1.0


@attrs.define
class Stream:
    """One answer: instants in seconds of the loop's clock, the server's in nanoseconds of the same."""

    sent_s: float = 0.0
    received_ns: int = 0
    arrived_s: list = attrs.field(factory=list)
    written_ns: list = attrs.field(factory=list)


@attrs.frozen
class IdProtocol:
    """TGI's protocol; keeps beside it what the server says of its own times."""

    stream: Stream
    inner: tb.TgiProtocol = attrs.field(factory=tb.TgiProtocol)
    name = "tgi"
    tokens_per_chunk_known = True

    def encode(self, request):
        return self.inner.encode(request)

    def decoder(self, head):
        decoder, stream = self.inner.decoder(head), self.stream
        stream.received_ns = int(head.headers["x-received-ns"])

        class Decoder:
            def feed(self, data):
                stream.written_ns.extend(IDS.findall(data))
                return decoder.feed(data)

            def close(self, *, clean=True):
                return decoder.close(clean=clean)

        return Decoder()


async def with_tgibench(url, streams):
    """The client under test: transport, decoder and record."""
    request, timeouts, seen = tb.GenerationRequest(prompt="Hello"), tb.Timeouts(), []

    async def one(transport):
        stream = Stream()
        exchange = await HttpClient(transport, IdProtocol(stream)).generate(request, timeouts)
        assert exchange.failure is None, exchange.failure
        stream.sent_s = exchange.sent_s
        stream.arrived_s = np.repeat(exchange.chunk_times_s, exchange.chunk_tokens)
        seen.append(stream)

    async with tb.HttpEndpoint(url).connect() as client, asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(one(client.transport))
    return seen, client.stamps.value


async def with_socket_stamps(url, streams):
    """The same without the kernel's stamps."""
    KernelClock.available = classmethod(lambda _, __: False)
    return await with_tgibench(url, streams)


async def with_protocol(url, streams):
    """A bare asyncio.Protocol that stamps and keeps the bytes: about what Python can do."""
    loop = asyncio.get_running_loop()
    port = int(url.rpartition(":")[2])
    request = b"POST /generate_stream HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)

    class Bare(asyncio.Protocol):
        def connection_made(self, transport):
            transport.max_size = 32768
            self.transport, self.done, self.reads = transport, loop.create_future(), []
            self.sent_s = loop.time()
            transport.write(request)

        def data_received(self, data):
            self.reads.append((loop.time(), data))
            if data.endswith(b"\r\n0\r\n\r\n"):
                self.done.set_result(None)

    connected = [await loop.create_connection(Bare, "127.0.0.1", port) for _ in range(streams)]
    seen = []
    for transport, protocol in connected:
        await protocol.done
        transport.close()
    for _, protocol in connected:
        stream = Stream(protocol.sent_s, int(RECEIVED.search(b"".join(data for _, data in protocol.reads[:2]))[1]))
        for instant, data in protocol.reads:
            ids = IDS.findall(data)
            stream.written_ns.extend(ids)
            stream.arrived_s.extend([instant] * len(ids))
        seen.append(stream)
    return seen, "socket_read"


async def with_lines(url, streams):
    """What most tools do: aiohttp, line by line, a JSON parse for each token before the next read."""
    loop, seen = asyncio.get_running_loop(), []

    async def one(session):
        stream = Stream(loop.time())
        async with session.post(f"{url}/generate_stream", data=BODY) as response:
            stream.received_ns = int(response.headers["x-received-ns"])
            async for line in response.content:
                instant = loop.time()
                if line.startswith(b"data:"):
                    stream.written_ns.append(json.loads(line[5:])["token"]["id"])
                    stream.arrived_s.append(instant)
        seen.append(stream)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(one(session))
    return seen, "stream_read"


CLIENTS = {
    "C": None,
    "bare Protocol": with_protocol,
    "tgibench": with_tgibench,
    "tgibench, socket stamps": with_socket_stamps,
    "aiohttp lines + JSON": with_lines,
}
FIGURES = {
    "cpu_us": "CPU us/token",
    "lag_p50_ms": "lag p50 ms",
    "lag_p99_ms": "p99 ms",
    "ttft_error_ms": "TTFT error ms",
    "ttft_error_p99_ms": "p99 ms",
    "gap_error_percent": "gap error %",
}


def child(name, url, streams, tokens):
    """Run one client in this process and print its figures."""
    gc.collect()
    gc.freeze()
    cpu_s = time.process_time()
    seen, stamps = asyncio.run(CLIENTS[name](url, streams))
    cpu_s = time.process_time() - cpu_s
    arrived_s = np.array([stream.arrived_s for stream in seen], dtype=float)
    written_s = np.array([[int(each) for each in stream.written_ns] for stream in seen]) / 1e9
    assert arrived_s.shape == written_s.shape == (streams, tokens), (arrived_s.shape, written_s.shape)
    lag_s = arrived_s - written_s
    sent_s, received_s = np.array([(stream.sent_s, stream.received_ns / 1e9) for stream in seen]).T
    ttft_error_s = (arrived_s[:, 0] - sent_s) - (written_s[:, 0] - received_s)
    gaps_s, true_gaps_s = np.diff(arrived_s).mean(), np.diff(written_s).mean()
    figures = {
        "cpu_us": cpu_s / lag_s.size * 1e6,
        "lag_p50_ms": float(np.quantile(lag_s, 0.5)) * 1e3,
        "lag_p99_ms": float(np.quantile(lag_s, 0.99)) * 1e3,
        "ttft_error_ms": float(ttft_error_s.mean()) * 1e3,
        "ttft_error_p99_ms": float(np.quantile(ttft_error_s, 0.99)) * 1e3,
        "gap_error_percent": float(abs(gaps_s / true_gaps_s - 1)) * 100,
        "stamps": stamps,
    }
    print(json.dumps(figures))


def measure(folder, name, streams, arguments):
    """Run one client in a fresh process against a fresh server."""
    server = [f"{folder}/token_server", str(arguments.tokens), str(FIRST_MS), str(arguments.gap_ms), str(int(arguments.aligned))]
    with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        port = process.stdout.readline().strip()
        if CLIENTS[name] is None:
            command = [f"{folder}/token_client", port, str(streams), str(arguments.tokens)]
        else:
            own = ["--child", name, f"http://127.0.0.1:{port}", str(streams), str(arguments.tokens)]
            command = [sys.executable, __file__, *own]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        process.stdin.close()
        process.wait(10)
    if done.returncode:
        raise SystemExit(f"{name} with {streams} streams failed:\n{done.stderr}")
    return json.loads(done.stdout)


def compare(folder, arguments):
    """Every client at each number of streams."""
    for streams in arguments.streams:
        runs = {name: [] for name in CLIENTS}
        for _ in range(arguments.repeats):
            for name, results in runs.items():
                results.append(measure(folder, name, streams, arguments))
        report(streams, arguments, runs)


def report(streams, arguments, runs):
    """Medians of one number of streams."""
    how = "on aligned ticks" if arguments.aligned else "each on its own schedule"
    print(f"\n{streams} streams {how}, {arguments.tokens} tokens each, one every {arguments.gap_ms:g} ms; medians of {arguments.repeats}")
    print(f"{'client':24}{'x C':>6}" + "".join(f"{heading:>15}" for heading in FIGURES.values()) + "  stamps")
    floor = statistics.median(result["cpu_us"] for result in runs["C"])
    for name, results in runs.items():
        figures = {key: statistics.median(result.get(key, np.nan) for result in results) for key in FIGURES}
        columns = "".join(f"{value:15.3f}" for value in figures.values())
        print(f"{name:24}{figures['cpu_us'] / floor:6.2f}{columns}  {results[0].get('stamps', 'socket_read')}")


def find_limit(folder, arguments):
    """The most streams, doubled and then bisected, at which the lag's p99 keeps to the limit; in turns, so that all see the same machine."""
    print(f"\nmost tokens/s at a lag p99 of {LAG_LIMIT_MS:g} ms, one core, {1e3 / arguments.gap_ms:g} tokens/s a stream; best of {arguments.repeats}")
    rate = 1e3 / arguments.gap_ms
    for name in CLIENTS:
        held = 0
        for streams in (64, 128, 256, 384, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304):
            lags = [measure(folder, name, streams, arguments)["lag_p99_ms"] for _ in range(arguments.repeats)]
            if min(lags) > LAG_LIMIT_MS:
                break
            held = streams
        print(f"{name:24}{held * rate:9.0f} tokens/s ({held} streams)", flush=True)


def main():
    """Build server and client, run all clients."""
    if sys.argv[1:2] == ["--child"]:
        return child(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--gap-ms", type=float, default=20.0)
    parser.add_argument("--aligned", action="store_true")
    parser.add_argument("--limit", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}, aiohttp {aiohttp.__version__}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        for program in ("token_server", "token_client"):
            source = Path(__file__).with_name(f"{program}.c")
            subprocess.run(["cc", "-O2", "-o", f"{folder}/{program}", source], check=True)
        find_limit(folder, arguments) if arguments.limit else compare(folder, arguments)
    return None


if __name__ == "__main__":
    main()
