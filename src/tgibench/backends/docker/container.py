"""A container that was started: its port, its log without secrets, its GPUs, and why it ended."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs

from tgibench.errors import DeployError
from tgibench.protocols.start_failures import failure_reason
from tgibench.protocols.tgi_logs import without_colour

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tgibench.backends.docker.engine import Engine
    from tgibench.backends.docker.specification import Specification

__all__ = ["Container", "gpu_facts"]

_LAST_LINES = 20
_GPU_QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")


@attrs.frozen
class Container:
    """A container of ours.

    Args:
        engine: Where it runs.
        name: Its name.
        specification: What it was made from.
    """

    engine: Engine
    name: str
    specification: Specification

    async def published_port(self, port: int) -> int:
        """The port on 127.0.0.1 behind which this one of the container is.

        Raises:
            DeployError: There is none, for it ended already.
        """
        state = await self.engine.state(self.name)
        bound = state["NetworkSettings"]["Ports"].get(f"{port}/tcp")
        if not bound:
            raise await self.early_end()
        return int(bound[0]["HostPort"])

    async def facts(self) -> dict[str, str]:
        """Image, engine and GPUs."""
        listed = await self.engine.output(self.name, _GPU_QUERY) if self.specification.has_gpus else None
        return {"image": self.specification.image, **self.engine.facts, **gpu_facts(listed or "")}

    async def early_end(self) -> DeployError:
        """That it ended, and why."""
        state = (await self.engine.state(self.name))["State"]
        sentence = f"the container of {self.specification.image} ended with exit code {state.get('ExitCode')} before it was ready"
        return await self.failure(
            sentence, *(["OOMKilled: the container exceeded its memory"] if state.get("OOMKilled") else [])
        )

    async def failure(self, sentence: str, *further: str) -> DeployError:
        """The sentence with the reason that the log shows and the lines that decide it; without a known one, with its last lines.

        Args:
            sentence: What happened.
            further: Lines that the log lacks.
        """
        lines = [self.shown(line) for line in (*await self.engine.log(self.name), *further)]
        reason = failure_reason(lines)
        if reason is not None:
            return DeployError(f"{sentence}: {reason.reason}; its log says:{_indented(reason.lines)}")
        last = deque(lines, maxlen=_LAST_LINES)
        return DeployError(
            f"{sentence}; its last lines:{_indented(last)}" if last else f"{sentence}; it printed nothing"
        )

    def shown(self, line: str) -> str:
        """A line of its log without colours and secrets."""
        return self.specification.masked(without_colour(line))


def gpu_facts(listed: str) -> dict[str, str]:
    """Names, number, driver and memory out of what `nvidia-smi` lists: a line ``name, driver, memory`` for each GPU."""
    rows = [[part.strip() for part in line.split(",")] for line in listed.splitlines() if line.count(",") == 2]
    if not rows:
        return {}
    names, drivers, memories = (" + ".join(dict.fromkeys(column)) for column in zip(*rows, strict=True))
    return {"gpu": names, "gpu_count": str(len(rows)), "gpu_driver": drivers, "gpu_memory": memories}


def _indented(lines: Iterable[str]) -> str:
    return "".join(f"\n  {line}" for line in lines)
