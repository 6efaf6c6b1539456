"""When the client, not the server, was the limit, and what it may have added."""

from __future__ import annotations

import csv
import io

import attrs
import numpy as np
import pytest

import tgibench as tb
from floors import floor
from logs import Row, log_of, plain
from studies import cell
from tgibench.client_limits import client_influence
from tgibench.merging import worst_health
from tgibench.reports.cells import cell as as_cell
from tgibench.serialization import measurement_from_json, measurement_to_json

KERNEL, SOCKET = tb.StampSource.KERNEL, tb.StampSource.SOCKET_READ
AT_EASE = {
    "cpu_share": 0.12,
    "run_delay_share": 0.015,
    "held_up_share": 0.01,
    "loop_lag_p50_s": 0.0007,
    "loop_lag_p99_s": 0.009,
    "samples": 500,
}


LOG = log_of(*(plain(start) for start in np.linspace(0, 9, 400)))
METRICS = tb.Metrics.of(LOG)
"""400 requests of 64 tokens in ten seconds, TTFT 100 ms, 10 ms a token, latency 730 ms: 2,560 tokens/s."""


def with_health(log, *, stamps=KERNEL, **health):
    """A run whose client fared so; at ease where nothing else is said."""
    return attrs.evolve(log, health=tb.ClientHealth(stamps=stamps, **{**AT_EASE, **health}))


def influence(*, own_floor=None, log=LOG, metrics=METRICS, **health):
    """What the client did to the run."""
    return client_influence(metrics, with_health(log, **health), own_floor)


def warned(*, own_floor=None, **health):
    """All warnings of the run."""
    return "\n".join(tb.warnings_of(METRICS, with_health(LOG, **health), floor=own_floor))


def test_a_client_at_ease_is_valid():
    """It neither waits nor is late; nothing is said of it."""
    assert influence().valid
    assert influence().workers is None
    assert warned() == ""


@pytest.mark.parametrize(
    ("cpu_share", "run_delay_share", "held_up_share"), [(0.037, 0.02, 0.12), (0.07, 0.032, 0.14), (0.3, 0.25, 0.5)]
)
def test_a_client_that_waits_for_a_cpu_is_flagged_whatever_its_load(cpu_share, run_delay_share, held_up_share):
    """These were measured beside a busy program on the same core; it needs a core of its own, not more workers."""
    fared = {"cpu_share": cpu_share, "run_delay_share": run_delay_share, "held_up_share": held_up_share}
    starved = influence(**fared)
    assert not starved.valid
    assert starved.workers == 1
    text = warned(**fared)
    assert text.startswith("not valid: the client, not the server, was the limit: it waited for a CPU in ")
    assert "leave it a core of its own" in text


@pytest.mark.parametrize(("cpu_share", "run_delay_share"), [(0.06, 0.005), (0.17, 0.037), (0.5, 0.134)])
def test_a_client_that_seldom_waits_is_not_flagged(cpu_share, run_delay_share):
    """Measured beside its server alone; what it waits for may hold up a busy one now and then."""
    assert influence(cpu_share=cpu_share, run_delay_share=run_delay_share, held_up_share=0.15).valid


@pytest.mark.parametrize(("cpu_share", "run_delay_share"), [(0.045, 0.0236), (0.0185, 0.0155), (0.035, 0.04)])
def test_a_client_that_hardly_works_and_waits_but_briefly_is_not_flagged(cpu_share, run_delay_share):
    """Five streams of a server that answers all at once: half of the time it waits for the server to write on, and nothing is late."""
    idle = influence(cpu_share=cpu_share, run_delay_share=run_delay_share, held_up_share=0.02)
    assert idle.health.waiting_ratio > 0.25
    assert idle.valid


def test_one_starved_worker_is_enough():
    """Beside three at ease: the largest CPU share and the largest delay of all would hide it."""
    at_ease = tb.ClientHealth(stamps=KERNEL, **AT_EASE | {"cpu_share": 0.6})
    starved = tb.ClientHealth(stamps=KERNEL, **AT_EASE | {"run_delay_share": 0.08, "held_up_share": 0.2})
    workers = tuple(tb.Worker(number=number, health=health) for number, health in enumerate([at_ease] * 3 + [starved]))
    healths = [worker.health for worker in workers]
    log = attrs.evolve(LOG, health=worst_health(healths), workers=workers)
    assert log.health.workers == 4
    judged = client_influence(METRICS, log)
    assert judged.reasons[0].startswith("one of its workers waited for a CPU in 40% of the time")
    assert judged.workers == 4


def test_a_system_that_does_not_tell_run_delay_says_nothing_of_it():
    """Missing is not 0: no ratio, no verdict."""
    unknown = influence(run_delay_share=None, held_up_share=None)
    assert unknown.health.waiting_ratio is None
    assert unknown.valid


@pytest.mark.parametrize(
    ("stamps", "valid"),
    [(KERNEL, True), (tb.StampSource.VIRTUAL, True), (SOCKET, False), (tb.StampSource.STREAM_READ, False)],
)
def test_what_a_late_loop_spoils_depends_on_the_stamps(stamps, valid):
    """20 ms matter where arrival times are taken by the loop, not where they are right anyway and latency is 730 ms."""
    late = influence(stamps=stamps, loop_lag_p99_s=0.02)
    assert late.valid is valid
    if not valid:
        assert late.reasons == ("its event loop ran 20.0 ms late (p99), so its times may be its own",)


def test_a_loop_that_is_late_by_a_tenth_of_the_latency_sends_late():
    """Whatever the stamps; with CPU to spare more workers would not help."""
    late = influence(loop_lag_p99_s=0.08)
    assert late.reasons == ("its event loop ran 80.0 ms late (p99), so requests were sent late",)
    assert late.workers is None
    assert "find what else holds up its event loop" in warned(loop_lag_p99_s=0.08)


def test_a_short_run_is_judged_by_its_median_lag():
    """Of 60 samples the p99 is the largest: the moment at which all users connected."""
    assert influence(samples=60, loop_lag_p99_s=0.2).valid
    assert not influence(samples=60, loop_lag_p50_s=0.2).valid


def test_a_used_up_core_needs_more_workers():
    """At least one more; in a closed loop as many as the load takes that an undelayed client would have made."""
    assert influence(cpu_share=0.97).workers == 2
    assert "2 workers, each with a core of its own, would do" in warned(cpu_share=0.97)
    # 100 users x 64 tokens / 0.73 s = 8,767 tokens/s where 2,560 arrived: 0.97 cores x 3.4 / 0.7
    closed = attrs.evolve(LOG, concurrency=100)
    assert influence(cpu_share=0.97, log=closed, metrics=tb.Metrics.of(closed)).workers == 5
    assert influence(cpu_share=0.97, workers=4).workers == 6


def test_a_load_beyond_the_floor_is_not_valid_when_its_cpu_bears_it_out():
    """2,560 tokens/s need 5 % of a core and 40 requests/s 4 %, at the floor's costs; at tenfold costs 91 %."""
    costly = floor(stamps=KERNEL, cpu_per_token_s=tb.Estimate(2e-4), cpu_per_request_s=tb.Estimate(1e-2))
    assert influence(cpu_share=0.8, own_floor=floor(stamps=KERNEL)).valid
    assert influence(cpu_share=0.5, own_floor=costly).valid
    beyond = influence(cpu_share=0.8, own_floor=costly)
    assert beyond.workers == 2
    (reason,) = beyond.reasons
    assert "tokens/s and" in reason
    assert "2,333 tokens/s or 69 requests/s" in reason
    assert influence(cpu_share=0.8, own_floor=costly, workers=2).valid


def test_the_check_near_the_limit_counts_more_than_a_light_load():
    """10,000 tokens/s and 100 requests/s took 0.2 cores: 10 us a token, and 0.7 / (10 us + 1 ms / 100) = 35,000 tokens/s."""
    light = floor()
    checked = floor(check=tb.LimitCheck(tokens_per_s=10_000, requests_per_s=100, core_share=0.2, loop_lag_p99_s=0.001))
    assert light.tokens_per_s == pytest.approx(0.7 / 30e-6)
    assert checked.tokens_per_s == pytest.approx(35_000)
    assert checked.requests_per_s == light.requests_per_s == pytest.approx(0.7 / 1.02e-3)
    assert checked.cores_for(tokens_per_s=10_000, requests_per_s=100) == pytest.approx(0.2)


def test_shares_come_from_the_floor_where_times_are_right():
    """2 ms of 100 ms TTFT and of 730 ms latency, 0.1 ms of 10 ms gaps; the loop's lag adds nothing."""
    shares = influence(own_floor=floor(stamps=KERNEL), loop_lag_p99_s=0.04).shares
    assert shares["ttft_s_p50"] == pytest.approx(0.02)
    assert shares["latency_s_p99"] == pytest.approx(0.002 / 0.73, rel=1e-3)
    assert shares["icl_s_p50"] == pytest.approx(0.01)
    assert shares["tpot_s_p50"] == pytest.approx(0.001)


def test_without_a_floor_what_is_not_known_is_left_out():
    """Right times say nothing of what else the client adds; late ones may hold all of the lag."""
    assert influence().shares == {}
    assert not influence().calibrated
    shares = influence(stamps=SOCKET).shares
    assert shares["ttft_s_p99"] == pytest.approx(0.09)
    assert shares["icl_s_p50"] == pytest.approx(0.07)
    assert shares["tpot_s_p99"] == pytest.approx(0.009 / 63 / 0.01)


def test_a_late_send_is_part_of_an_open_loops_latency():
    """It counts from the plan, so the lag may be in it even where arrival times are right."""
    rows = [Row(planned_s=at, chunks=((at + 0.1, 1), (at + 0.2, 1)), open_loop=True) for at in np.linspace(0, 9, 400)]
    log = log_of(*rows)
    assert influence(log=log, metrics=tb.Metrics.of(log)).shares == pytest.approx(
        {"latency_s_p50": 0.0007 / 0.2, "latency_s_p99": 0.009 / 0.2}
    )


def test_a_floor_of_other_stamps_does_not_count():
    """What was found with the kernel's stamps says nothing of a run without them."""
    other = influence(stamps=SOCKET, own_floor=floor(stamps=KERNEL))
    assert not other.calibrated
    assert other.shares == influence(stamps=SOCKET).shares


def test_a_floor_of_another_machine_does_not_count():
    """Workers elsewhere have a floor of their own."""
    own = floor()
    log = log_of(plain(0.0), **AT_EASE)
    for host, calibrated in ((own.host.name, True), ("elsewhere", False)):
        shared = attrs.evolve(log, workers=(tb.Worker(number=0, place=f"{host}:17", health=log.health),))
        assert client_influence(tb.Metrics.of(shared), shared, own).calibrated is calibrated


def test_a_large_share_is_told_and_a_small_one_is_not():
    """Above 5 %, with where it is known from."""
    assert "the client may have added up to" not in warned(own_floor=floor(stamps=KERNEL))
    large = floor(stamps=KERNEL, ttft_error_s=tb.Distribution(count=400, p50=0.001, p99=0.02))
    assert "the client may have added up to 20% of ttft_s p99 (by its calibration)" in warned(own_floor=large)
    assert "7% of icl_s p50" in warned(stamps=SOCKET)
    assert "(by its event loop's lag)" in warned(stamps=SOCKET)


def test_what_the_client_did_survives_storage_and_is_in_the_json():
    """Whether the run is valid, the workers, the shares and the health."""
    measured = cell(client=influence(cpu_share=0.97, own_floor=floor(stamps=KERNEL)))
    stored = measurement_from_json(measurement_to_json(measured))
    assert stored.client == measured.client
    shown = as_cell(stored)["client"]
    assert shown["valid"] is False
    assert shown["workers"] == 2
    assert shown["shares"]["ttft_s_p50"] == pytest.approx(0.02)
    assert shown["health"]["run_delay_share"] == 0.015
    table = tb.to_csv(tb.Study((stored, cell(client=None))))
    first, second = csv.DictReader(io.StringIO(table))
    assert (first["client_valid"], second["client_valid"]) == ("False", "")


def test_results_of_before_have_no_word_of_the_client():
    """They are read, and say None."""
    record = measurement_to_json(cell())
    del record["client"]
    assert measurement_from_json(record).client is None
    assert as_cell(measurement_from_json(record))["client"] is None
