"""`tgibench emulate`: an emulated TGI over HTTP."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import click

import tgibench as tb
from tgibench.backends.emulator.server import serve
from tgibench.backends.emulator.serving import ServerOptions

__all__ = ["emulate"]


@click.command()
@click.option("--model-id", default="meta-llama/Llama-2-7b-hf", show_default=True)
@click.option("--instance-type", default="ml.g5.12xlarge", show_default=True, help="The machine that is emulated.")
@click.option("--tensor-parallel", type=int, default=1, show_default=True, help="Accelerators that share the model.")
@click.option("--quantization", help="gptq, or nothing for fp16.")
@click.option("--tgi-version", default="3.3.7", show_default=True, help="Whose wire format and scheduler.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
def emulate(host: str, port: int, tgi_version: str, **deployment: Any) -> None:
    """Serve an emulated TGI over HTTP until stopped."""
    described = tb.Deployment(server_version=tgi_version, **deployment)
    serving = serve(described, _tell_ready, host=host, port=port, options=ServerOptions(log=click.echo))
    asyncio.run(_until_told_to_stop(serving))


def _tell_ready(url: str) -> None:
    click.echo(f"emulated TGI ready at {url} (Ctrl-C stops it)")


async def _until_told_to_stop(serving: Any) -> None:
    """Serve until SIGINT or SIGTERM; both are a regular end."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    stopping = False

    def stop() -> None:
        nonlocal stopping
        stopping = True
        if task is not None:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        await serving
    except asyncio.CancelledError:
        if not stopping:
            raise
