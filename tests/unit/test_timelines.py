"""How a run went over time."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

import tgibench as tb
from logs import Row, log_of, plain
from tgibench.serialization import measurement_from_json, measurement_to_json


def timeline(*rows, **options):
    """The timeline of a run of these requests."""
    return tb.Metrics.of(log_of(*rows, **options)).timeline


def test_requests_in_flight_are_averaged_over_each_stretch():
    """One request fills the first half of the run, two the first quarter, and a stretch half filled counts as half."""
    found = timeline(
        Row(planned_s=0.0, chunks=((15.0, 1), (30.0, 1))), Row(planned_s=0.0, chunks=((15.5, 1),)), window=(0.0, 60.0)
    )
    assert found.step_s == 1.0
    assert found.in_flight == (2.0,) * 15 + (1.5,) + (1.0,) * 14 + (0.0,) * 30


def test_every_success_and_failure_is_in_the_stretch_in_which_it_ended():
    """The last answer of all belongs to the last stretch."""
    failure = tb.Failure(tb.FailureKind.OVERLOADED, "busy", 429)
    found = timeline(
        Row(chunks=((0.5, 1),)),
        Row(chunks=(), ended_s=2.5, failure=failure),
        Row(chunks=((60.0, 1),)),
        window=(0.0, 60.0),
    )
    assert found.succeeded == (1,) + (0,) * 58 + (1,)
    assert found.failed == (0, 0, 1) + (0,) * 57


def test_tokens_are_counted_where_they_arrived_and_those_of_failures_are_not():
    """All tokens of the successes over all stretches, whatever the window."""
    failure = tb.Failure(tb.FailureKind.TRUNCATED, "cut", 200)
    found = timeline(Row(chunks=((0.5, 3), (1.5, 5))), Row(chunks=((0.5, 100),), failure=failure), window=(40.0, 60.0))
    assert found.output_tps == (3.0, 5.0) + (0.0,) * 58


def test_the_timeline_holds_the_whole_run():
    """Requests and their time add up, warm-up and drain included."""
    rows = [plain(0.7 * number, tokens=9, tpot_s=0.31) for number in range(40)]
    found, log = timeline(*rows, window=(5.0, 20.0)), log_of(*rows)
    assert sum(found.succeeded) == 40
    assert found.step_s * len(found.failed) == pytest.approx(log.ended_s.max())
    assert sum(found.in_flight) * found.step_s == pytest.approx((log.ended_s - log.sent_s).sum(), rel=1e-3)
    assert sum(found.output_tps) * found.step_s == pytest.approx(9 * 40, rel=1e-3)


def test_without_chunk_times_there_are_no_token_rates():
    """None, not 0; the rest is there."""
    found = timeline(plain(0.0), keep_chunks=False)
    assert found.output_tps is None
    assert sum(found.succeeded) == 1


def test_a_run_that_sent_nothing_has_no_timeline():
    """None."""
    assert timeline(window=(0.0, 5.0)) is None


def test_a_timeline_survives_the_store_and_results_without_one_are_read():
    """A younger figure is None in older results."""
    measurement = tb.Measurement(
        deployment=tb.Deployment("m", "box"),
        load=tb.ClosedLoop(1, requests=3),
        prompts="p",
        metrics=tb.Metrics.of(log_of(*(plain(number) for number in np.arange(3.0)))),
        source=tb.Source.MEASURED,
        provenance=tb.Provenance(backend="fake"),
    )
    stored = measurement_to_json(measurement)
    assert measurement_from_json(stored) == measurement
    del stored["metrics"]["timeline"]
    older = measurement_from_json(stored)
    assert older.metrics == attrs.evolve(measurement.metrics, timeline=None)
