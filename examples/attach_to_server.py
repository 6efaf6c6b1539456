"""Attach to a server over HTTP and measure it in real time; the server here is the emulator, yours is at any URL."""

from __future__ import annotations

import asyncio

import tgibench as tb
from tgibench.backends.emulator.server import emulator_server

DEPLOYMENT = tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge")
LOAD = tb.ClosedLoop(2, requests=6)
PROMPTS = tb.SyntheticPrompts(input_tokens=32, max_new_tokens=8)


async def attach_and_measure() -> tb.Study:
    """Serve the emulator in this process, and sweep it as if it stood elsewhere."""
    async with emulator_server(DEPLOYMENT) as url:
        return await tb.sweep([DEPLOYMENT], [LOAD], backend=tb.HttpBackend(url), prompts=PROMPTS)


def main() -> None:
    """Measure and print."""
    for cell in asyncio.run(attach_and_measure()):
        counts = cell.metrics.counts
        print(f"{cell.load.label}: {counts['succeeded']} of {counts['issued']} requests succeeded, {cell.source}")


if __name__ == "__main__":
    main()
