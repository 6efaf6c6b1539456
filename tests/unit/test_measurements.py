"""What a `Measurement` says of itself."""

from __future__ import annotations

import attrs
import pytest

import tgibench as tb
from cells import measurement
from logs import log_of, plain


def test_the_throughput_is_the_counted_one():
    """With its interval, whatever Little's law says of a closed loop."""
    metrics = tb.Metrics.of(log_of(plain(1.0), concurrency=2))
    cell = measurement(metrics)
    assert metrics.littles_law_throughput_tps is not None
    assert cell.throughput_tps is metrics.output_throughput_tps


def test_a_published_cell_without_a_count_has_the_throughput_of_littles_law():
    """Without an interval: nobody published one."""
    metrics = attrs.evolve(
        tb.Metrics.of(log_of(plain(1.0))), output_throughput_tps=None, littles_law_throughput_tps=131.29
    )
    assert measurement(metrics, source=tb.Source.PUBLISHED).throughput_tps == tb.Estimate(131.29, None, None)


@pytest.mark.parametrize("source", [tb.Source.MEASURED, tb.Source.EMULATED, tb.Source.PREDICTED])
def test_whoever_could_have_counted_has_no_derived_throughput(source):
    """A run whose chunk times were dropped has none, rather than one that was not counted."""
    metrics = tb.Metrics.of(log_of(plain(1.0), concurrency=2).without_chunk_times())
    assert metrics.littles_law_throughput_tps is not None
    assert measurement(metrics, source=source).throughput_tps is None
