"""What the streaming client costs and how late its times are, beside a client in C (the floor) and what other tools are made of.

    python benchmarks/client_cost.py [--streams 64 256 1024] [--tokens 200 400] [--gap-ms 20] [--aligned] [--repeats 3]
    python benchmarks/client_cost.py --limit            the most tokens/s that each client holds at a lag p99 of 1 ms
    python benchmarks/client_cost.py --only C tgibench  some of the clients
    python benchmarks/client_cost.py --tls --gap-ms 100 tgibench over TLS, against a server in Python that sends some 15,000 tokens/s

All clients get the same answers from the same server in C, one after the other, interleaved and repeated; medians are printed, and
ratios to the client in C. Needs a C compiler and two cores that do nothing else: the server takes one, each client the other.

Each client gets answers of two lengths. What a further token costs is the difference of the two CPU times over that of the tokens; what is
left of the shorter run is what a request costs: connection, request, head, and the record of it. A ratio compares like with like: the
first is of further tokens, the second of the shorter run as a whole. All else is of the shorter run.

Lag is the recorded arrival minus the instant at which the server wrote the token. The error of TTFT is the client's minus the server's
own, and that of the gaps likewise, pooled over all tokens. tgibench is run thrice: with the kernel's receive stamps (its default on
Linux); with the time at which a socket was seen to be ready (Linux where the kernel gives none), and with that at which asyncio read it
(elsewhere), where lag says how promptly it reads. CPU is the client's whole process from the first connection to the last decoded answer.
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
from tgibench.client_watch import ClientWatch
from tgibench.receive_stamps import StampedReader

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
    pieces: list = attrs.field(factory=list)

    @property
    def written_ns(self):
        return [int(each) for piece in self.pieces for each in IDS.findall(piece)]


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
                stream.pieces.append(data)
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

    async with tb.HttpEndpoint(url, verify_tls=False).connect() as client, asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(one(client.transport))
    return seen, client.stamps.value


async def with_ready_stamps(url, streams):
    """The same without the kernel's stamps."""
    StampedReader.stamps_come = lambda _: False
    return await with_tgibench(url, streams)


async def with_read_stamps(url, streams):
    """The same, read by asyncio."""
    StampedReader.available = staticmethod(lambda _: False)
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
    for transport, protocol in connected:
        await protocol.done
        transport.close()
    return [protocol for _, protocol in connected], "socket_read"


def seen_by(protocol):
    """What a bare Protocol saw, taken apart when its CPU time has been noted."""
    stream = Stream(protocol.sent_s, int(RECEIVED.search(b"".join(data for _, data in protocol.reads[:2]))[1]))
    for instant, data in protocol.reads:
        stream.pieces.append(data)
        stream.arrived_s.extend([instant] * len(IDS.findall(data)))
    return stream


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
                    assert json.loads(line[5:])["token"]["id"]
                    stream.pieces.append(line)
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
    "tgibench, socket ready": with_ready_stamps,
    "tgibench, socket read": with_read_stamps,
    "aiohttp lines + JSON": with_lines,
}
FIGURES = {
    "token_us": "us/token more",
    "request_us": "us/request",
    "cpu_us": "us/token in all",
    "lag_p50_ms": "lag p50 ms",
    "lag_p99_ms": "p99 ms",
    "ttft_error_ms": "TTFT error ms",
    "ttft_error_p99_ms": "p99 ms",
    "gap_error_percent": "gap error %",
}


async def run(name, url, streams):
    """Run one client with the garbage collector as `run_load` has it; its CPU time and what it saw."""
    with ClientWatch(asyncio.get_running_loop()).collector_at_rest():
        cpu_s = time.process_time()
        seen, stamps = await CLIENTS[name](url, streams)
        return time.process_time() - cpu_s, seen, stamps


def child(name, url, streams, tokens):
    """Run one client in this process and print its figures."""
    cpu_s, seen, stamps = asyncio.run(run(name, url, streams))
    seen = [each if isinstance(each, Stream) else seen_by(each) for each in seen]
    arrived_s = np.array([stream.arrived_s for stream in seen], dtype=float)
    written_s = np.array([stream.written_ns for stream in seen]) / 1e9
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


def measure(folder, name, streams, tokens, arguments):
    """Run one client in a fresh process against a fresh server."""
    server = [
        *(
            [sys.executable, Path(__file__).with_name("tls_token_server.py")]
            if arguments.tls
            else [f"{folder}/token_server"]
        ),
        str(tokens),
        str(FIRST_MS),
        str(arguments.gap_ms),
        str(int(arguments.aligned)),
        *([f"{folder}/certificate.pem", f"{folder}/key.pem"] if arguments.tls else []),
    ]
    with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        port = process.stdout.readline().strip()
        if CLIENTS[name] is None:
            command = [f"{folder}/token_client", port, str(streams), str(tokens)]
        else:
            own = ["--child", name, f"http{'s' if arguments.tls else ''}://127.0.0.1:{port}", str(streams), str(tokens)]
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
        runs = {name: [] for name in arguments.only}
        for _ in range(arguments.repeats):
            for name, results in runs.items():
                results.append(measure_both(folder, name, streams, arguments))
        report(streams, arguments, runs)


def measure_both(folder, name, streams, arguments):
    """One client with answers of both lengths: the figures of the shorter, and what a token and a request cost."""
    short, long = arguments.tokens
    result, further = [measure(folder, name, streams, tokens, arguments) for tokens in (short, long)]
    token_us = (further["cpu_us"] * long - result["cpu_us"] * short) / (long - short)
    return result | {"token_us": token_us, "request_us": (result["cpu_us"] - token_us) * short}


def report(streams, arguments, runs):
    """Medians of one number of streams."""
    how = "on aligned ticks" if arguments.aligned else "each on its own schedule"
    print(
        f"\n{streams} streams {how}, {arguments.tokens[0]} and {arguments.tokens[1]} tokens each, one every {arguments.gap_ms:g} ms; "
        f"medians of {arguments.repeats}"
    )
    print(
        f"{'client':24}{'x C':>7}{'in all':>8}" + "".join(f"{heading:>16}" for heading in FIGURES.values()) + "  stamps"
    )
    for name, results in runs.items():
        figures = {key: statistics.median(result.get(key, np.nan) for result in results) for key in FIGURES}
        ratios = (ratio_to_floor(key, results, runs) for key in ("token_us", "cpu_us"))
        columns = "".join(f"{value:16.3f}" for value in figures.values())
        print(f"{name:24}{next(ratios):7.2f}{next(ratios):8.2f}{columns}  {results[0].get('stamps', 'socket_read')}")


def ratio_to_floor(key, results, runs):
    """Median of the ratios within each repeat; the machine's speed changes between them."""
    floors = runs.get("C")
    return (
        statistics.median(one[key] / floor[key] for one, floor in zip(results, floors, strict=True))
        if floors
        else np.nan
    )


def find_limit(folder, arguments):
    """How many streams each client takes while the lag's p99 keeps to the limit; the best of the repeats at each number."""
    rate = 1e3 / arguments.gap_ms
    print(
        f"\nmost tokens/s at a lag p99 of {LAG_LIMIT_MS:g} ms, {rate:g} tokens/s a stream; best of {arguments.repeats}"
    )
    held, going = dict.fromkeys(arguments.only, 0), list(arguments.only)
    for streams in arguments.streams:
        for name in tuple(going):
            lags = [
                measure(folder, name, streams, arguments.tokens[0], arguments)["lag_p99_ms"]
                for _ in range(arguments.repeats)
            ]
            if min(lags) > LAG_LIMIT_MS:
                going.remove(name)
            else:
                held[name] = streams
    for name, streams in held.items():
        print(f"{name:24}{streams * rate:9.0f} tokens/s ({streams} streams)")


def make_certificate(folder):
    """A certificate of 127.0.0.1, signed by itself."""
    files = ("-out", f"{folder}/certificate.pem", "-keyout", f"{folder}/key.pem")
    kind = ("-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1")
    subprocess.run(["openssl", "req", *kind, *files], check=True, capture_output=True)


def main():
    """Build server and client, run all clients."""
    if sys.argv[1:2] == ["--child"]:
        return child(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=None)
    parser.add_argument("--tokens", type=int, nargs=2, default=[200, 400])
    parser.add_argument("--gap-ms", type=float, default=20.0)
    parser.add_argument("--aligned", action="store_true")
    parser.add_argument("--limit", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--only", nargs="+", choices=CLIENTS, default=list(CLIENTS))
    arguments = parser.parse_args()
    if arguments.tls:
        arguments.only = [name for name in arguments.only if name.startswith("tgibench")]
    if arguments.streams is None:
        arguments.streams = range(256, 2049, 128) if arguments.limit else [64, 256, 1024]
    print(
        f"{platform.platform()}, Python {platform.python_version()}, aiohttp {aiohttp.__version__}, {os.cpu_count()} cores"
    )
    with tempfile.TemporaryDirectory() as folder:
        for program in ("token_server", "token_client"):
            source = Path(__file__).with_name(f"{program}.c")
            subprocess.run(["cc", "-O2", "-o", f"{folder}/{program}", source], check=True)
        if arguments.tls:
            make_certificate(folder)
        find_limit(folder, arguments) if arguments.limit else compare(folder, arguments)
    return None


if __name__ == "__main__":
    main()
