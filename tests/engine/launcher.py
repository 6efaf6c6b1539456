"""`text-generation-launcher` as the tests' image has it: TGI's flags, variables and log lines around the emulator.

Variables that TGI does not have choose what happens:

- ``EMULATE_START_S``: how long loading takes; 0.3 s by default.
- ``EMULATE_FAILURE``: how it dies instead of becoming ready (a name of `FAILURES`).
- ``EMULATE_GATED``: the model is gated; with a token of the hub it starts.
- ``EMULATE_INSTANCE``: the machine whose step times are emulated; otherwise they are short and fixed.
- ``EMULATE_JSON``: log lines are JSON.
- ``EMULATE_STUBBORN``: it does not end when it is asked to.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import sys
import time
import urllib.request
from datetime import UTC, datetime

import tgibench as tb
from tgibench.backends.emulator.log_lines import LogFormat
from tgibench.backends.emulator.server import emulator_server
from tgibench.backends.emulator.serving import ServerOptions
from tgibench.backends.emulator.step_time import FixedTimes

TRACEBACK = """Traceback (most recent call last):

  File "/opt/conda/bin/text-generation-server", line 8, in <module>
    sys.exit(app())
"""
FAILURES = {
    "out of memory": (
        "ERROR text_generation_launcher: Shard complete standard error output:\n\n" + TRACEBACK
        + "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 86.00 MiB (GPU 0; 22.20 GiB total capacity)",
        "Error: ShardCannotStart",
    ),
    "gated model": (
        "ERROR text_generation_launcher: Download encountered an error: \n" + TRACEBACK
        + "huggingface_hub.utils._errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-65)\n\n"
        "Cannot access gated repo for url https://huggingface.co/api/models/{model}.",
        "Error: DownloadError",
    ),
    "wrong quantization": (
        "ERROR text_generation_launcher: Shard complete standard error output:\n\n" + TRACEBACK
        + "RuntimeError: Cannot load `gptq` weight, make sure the model is already quantized",
        "Error: ShardCannotStart",
    ),
    "download error": (
        "ERROR text_generation_launcher: Download encountered an error: \n" + TRACEBACK
        + "requests.exceptions.ConnectionError: Max retries exceeded with url: /api/models/{model}",
        "Error: DownloadError",
    ),
    "not enough GPUs": (
        'Error: NotEnoughCUDADevices("`sharded` is true but only found 0 CUDA devices")',
    ),
    "killed by the system": (
        "ERROR text_generation_launcher: Shard process was signaled to shutdown with signal 9 rank=0",
        "Error: ShardCannotStart",
    ),
    "no known reason": ("ERROR text_generation_launcher: a token named {token} did not help", "Error: WebserverFailed"),
}  # fmt: skip
VERSION = os.environ.get("TGI_VERSION", "3.3.7")


def write(line):
    """At once, as a log is read while it is written."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def log(message, *, level="INFO"):
    """A line as tracing writes it, colours and all."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    colour = {"INFO": 32, "WARN": 33, "ERROR": 31}[level]
    source = "\x1b[2mtext_generation_launcher\x1b[0m\x1b[2m:\x1b[0m"
    write(f"\x1b[2m{stamp}\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m {source} {message}")


def settings():
    """The launcher's flags; the flag of the other generation is unknown to this one, as it is to TGI."""
    old = int(VERSION.partition(".")[0]) < 2
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model-id", default="bigscience/bloom-560m")
    parser.add_argument("--revision")
    parser.add_argument("--num-shard", type=int, default=1)
    parser.add_argument("--quantize", choices=("bitsandbytes", "gptq", "awq", "eetq", "fp8"))
    parser.add_argument("--max-input-length" if old else "--max-input-tokens", dest="max_input_tokens", type=int)
    parser.add_argument("--max-total-tokens", type=int)
    parser.add_argument("--max-batch-prefill-tokens", type=int)
    parser.add_argument("--disable-custom-kernels", action="store_true")
    parser.add_argument("--json-output", action="store_true")
    return parser.parse_args()


def die(failure, model):
    """Print what TGI prints, and end as it does."""
    for line in FAILURES[failure]:
        sys.stderr.write(line.format(model=model, token=os.environ.get("HF_TOKEN")) + "\n")
    sys.exit(1)


def load(arguments):
    """What happens before the port is bound."""
    model = arguments.model_id
    log(f'Args {{ model_id: "{model}", num_shard: Some({arguments.num_shard}), quantize: {arguments.quantize} }}')
    log(f"Starting check and download process for {model}")
    time.sleep(float(os.environ.get("EMULATE_START_S", "0.3")))
    failure = os.environ.get("EMULATE_FAILURE")
    if os.environ.get("EMULATE_GATED") and not os.environ.get("HF_TOKEN"):
        failure = "gated model"
    if failure:
        die(failure, model)
    log("Successfully downloaded weights.")
    log("Starting shard rank=0")
    log("Waiting for shard to be ready... rank=0")
    log("Shard ready in 0.3s rank=0")
    log("Starting Webserver")


async def idle(url):
    """Wait until nothing is in flight, as the router does before it ends."""
    pattern = re.compile(r"^tgi_(?:batch_current_size|queue_size) (\d+)$", re.MULTILINE)
    while True:
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(f"{url}/metrics").read().decode())  # noqa: S310
        if not any(map(int, pattern.findall(page))):
            return
        await asyncio.sleep(0.05)


async def serve(arguments):
    """Until SIGTERM or SIGINT; then what is in flight is finished."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    instance = os.environ.get("EMULATE_INSTANCE")
    deployment = tb.Deployment(
        arguments.model_id,
        instance or "container",
        tensor_parallel=arguments.num_shard,
        quantization=arguments.quantize,
        revision=arguments.revision,
        server_version=VERSION,
        max_input_tokens=arguments.max_input_tokens,
        max_total_tokens=arguments.max_total_tokens,
    )
    as_json = arguments.json_output or os.environ.get("EMULATE_JSON")
    options = ServerOptions(log=write, log_format=LogFormat.JSON if as_json else LogFormat.ANSI)
    port = int(os.environ.get("PORT", "3000"))
    times = None if instance else FixedTimes(prefill=0.02, decode=0.005)
    serving = emulator_server(deployment, host="0.0.0.0", port=port, step_times=times, options=options)
    async with serving:
        log("Connected")
        await stop.wait()
        log("signal received, starting graceful shutdown")
        await idle(f"http://127.0.0.1:{port}")


def main():
    # process 1 ignores a signal that it does not handle
    signal.signal(signal.SIGTERM, signal.SIG_IGN if os.environ.get("EMULATE_STUBBORN") else lambda *_: sys.exit(143))
    arguments = settings()
    load(arguments)
    asyncio.run(serve(arguments))
    log("Terminating")


if __name__ == "__main__":
    main()
