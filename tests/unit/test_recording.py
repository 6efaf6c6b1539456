"""What a log keeps, and how much memory that takes."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

import tgibench as tb
from fakes import exchange
from tgibench.client_health import ClientHealth
from tgibench.recording import LogBuilder


def log_of(requests, tokens, **options):
    """A log of requests with so many tokens each."""
    builder = LogBuilder(100.0, **options)
    for index in range(requests):
        started_s = 100.0 + index
        builder.add(
            index, started_s, exchange(started_s, started_s + 1, started_s + np.arange(tokens)), open_loop=False
        )
    health = ClientHealth(stamps=tb.StampSource.VIRTUAL)
    return builder.build(unsent=0, window=tb.Window(0.0, float(requests)), health=health)


def kept_bytes(log):
    """The size of all columns."""
    return sum(
        getattr(log, field.name).nbytes
        for field in attrs.fields(type(log))
        if hasattr(getattr(log, field.name), "nbytes")
    )


def test_at_most_16_bytes_are_kept_for_a_streamed_token():
    """All columns together, for answers of 100 tokens."""
    assert kept_bytes(log_of(200, 100)) / (200 * 100) <= 16


def test_per_token_times_can_be_dropped():
    """During the run or afterwards; what remains does not grow with the tokens."""
    dropped = log_of(200, 100, keep_chunks=False)
    assert kept_bytes(dropped) == kept_bytes(log_of(200, 100).without_chunk_times())
    assert kept_bytes(dropped) == kept_bytes(log_of(200, 5, keep_chunks=False))
    assert dropped.first_token_s[3] == pytest.approx(3.0)


def test_rows_stand_in_the_order_of_their_plan_with_their_own_chunks():
    """Whatever the order in which requests end."""
    builder = LogBuilder(0.0)
    for index in (2, 0, 1):
        builder.add(index, float(index), exchange(float(index), 9.0, [index + 0.5] * (index + 1)), open_loop=True)
    log = builder.build(unsent=1, window=tb.Window(0.0, 3.0), health=ClientHealth(stamps=tb.StampSource.VIRTUAL))
    assert log.index.tolist() == [0, 1, 2]
    assert log.chunk_offsets.tolist() == [0, 1, 3, 6]
    assert log.chunk_times_s.tolist() == [0.5, 1.5, 1.5, 2.5, 2.5, 2.5]
    assert log.counts == {"issued": 4, "succeeded": 3, "failed": 0, "unsent": 1}
