"""A load shared by several workers: split, started together, led over a control channel and merged into one log.

Any `concurrent.futures.Executor` gives the workers. Each opens a connection back to the process that leads the run: the executor only
starts them, so that a worker's end, however sudden, takes along nothing but its own part.
"""

from __future__ import annotations

from tgibench.sharding._leading import run_sharded
from tgibench.sharding._workers import Workers

__all__ = ["Workers", "run_sharded"]
