"""A floor of known figures."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs

import tgibench as tb
from tgibench.floor_cache import this_host
from tgibench.stats import distribution


def floor(*, stamps=tb.StampSource.VIRTUAL, **fields):
    """A client that adds 2 ms to TTFT and latency, 0.1 ms to gaps; a token costs 20 us, a request 1 ms."""
    return tb.ClientFloor(
        **{
            "host": this_host(stamps),
            "found_at": datetime(2026, 11, 24, 12, tzinfo=UTC),
            "load": "made up",
            "ttft_error_s": distribution([0.002] * 400),
            "icl_error_s": distribution([0.0001] * 400),
            "tpot_error_s": distribution([0.00001] * 400),
            "latency_error_s": distribution([0.002] * 400),
            "health": tb.ClientHealth(stamps=stamps, cpu_share=0.2, run_delay_share=0.01, samples=50),
            "cpu_per_token_s": tb.Estimate(20e-6, (19e-6, 21e-6), 40),
            "cpu_per_request_s": tb.Estimate(1e-3, (0.9e-3, 1.1e-3), 40),
            **fields,
        }
    )


def on_another_machine(own):
    """The same floor, found elsewhere."""
    return attrs.evolve(own, host=attrs.evolve(own.host, name="elsewhere"))
