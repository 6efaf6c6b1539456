"""An endpoint that knows its server's side adds to each cell what it knows."""

from __future__ import annotations

import attrs
import numpy as np

import tgibench as tb
from fakes import FakeServer
from tgibench.endpoints import ServerView


@attrs.define(slots=False)
class WatchedServer(FakeServer):
    """Says that each request waited a quarter of a second, and has something to warn of."""

    watched: list = attrs.field(factory=list)

    async def watch_run(self):
        self.watched.append("before")

        async def view(log):
            self.watched.append("after")
            queue_s = np.full(len(log), 0.25)
            return ServerView(log=attrs.evolve(log, queue_s=queue_s), warnings=("a mouse",), facts={"batches": "7"})

        return view


def measure(endpoint):
    deployment, load = tb.Deployment("m", "i"), tb.ClosedLoop(2, requests=10)
    return tb.virtual_time.run(
        tb.measure(deployment, endpoint, load, backend=tb.Emulator(), prompts=tb.SyntheticPrompts())
    )


def test_what_the_servers_side_knows_is_in_the_cell():
    """Its times among the metrics, its warning after ours, its facts in the provenance."""
    server = WatchedServer(0.5, facts={"server": "fake"})
    cell = measure(server)
    assert server.watched == ["before", "after"]
    assert cell.metrics.queue_s.p50 == 0.25
    assert cell.warnings[-1] == "a mouse"
    assert cell.provenance.facts["batches"] == "7"
    assert cell.provenance.facts["server"] == "fake"


def test_an_endpoint_without_it_is_measured_as_before():
    """It is an addition."""
    assert measure(FakeServer(0.5)).metrics.queue_s is None
