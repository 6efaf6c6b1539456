"""What the server logged and counted, beside what the client saw."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import numpy as np
import pytest

import tgibench as tb
from logs import Row, log_of
from tgibench.protocols.tgi_logs import LoggedRequest
from tgibench.protocols.tgi_metrics import read_metrics
from tgibench.records import ServerTimings
from tgibench.server_side import count_disagreements, join_server_times, second_zero

BEGAN = datetime(2024, 5, 1, 12, tzinfo=UTC)


async def run(requests=40, **faults):
    """A run of the emulator, whose answers' own server times are the truth."""
    endpoint = tb.Emulator().endpoint(tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge"))
    load = tb.PoissonArrivals(4, requests=requests)
    return await tb.run_load(endpoint, load, tb.SyntheticPrompts(max_new_tokens=20), seed=3)


@pytest.fixture(scope="module")
def truth():
    log = tb.virtual_time.run(run())
    assert not np.isnan(log.queue_s).any()
    return log


def silent(log):
    """The same log as a client of streams records it: without the server's times."""
    columns = ("validation_s", "queue_s", "inference_s", "server_total_s", "server_time_per_token_s")
    return attrs.evolve(log, **{name: np.full(len(log), np.nan) for name in columns})


def lines(log, *, clock_s=0.0, rows=None):
    """What the server logs of it; its clock may be ahead."""
    for row in range(len(log)) if rows is None else rows:
        network_s = (log.ended_s[row] - log.sent_s[row] - log.server_total_s[row]) / 2
        yield LoggedRequest(
            ended_at=BEGAN + timedelta(seconds=float(log.ended_s[row] - network_s + clock_s)),
            span="generate_stream",
            server=ServerTimings(
                queue_s=log.queue_s[row],
                inference_s=log.inference_s[row],
                total_s=log.server_total_s[row],
                time_per_token_s=log.server_time_per_token_s[row],
            ),
        )


@pytest.mark.parametrize("clock_s", [0.0, 0.3, -0.3])
def test_every_request_gets_its_own_times_back(truth, clock_s):
    """Whatever the order of the lines, and with clocks apart."""
    shuffled = list(lines(truth, clock_s=clock_s))
    np.random.default_rng(1).shuffle(shuffled)
    joined = join_server_times(silent(truth), shuffled, began_at=BEGAN)
    assert joined.problem is None
    assert joined.requests == 40
    np.testing.assert_allclose(np.sort(joined.log.queue_s), np.sort(truth.queue_s))
    close = np.isclose(joined.log.inference_s, truth.inference_s)
    assert np.count_nonzero(close) >= 36
    metrics = tb.Metrics.of(joined.log)
    assert metrics.server_time_per_token_s.p50 == tb.Metrics.of(truth).server_time_per_token_s.p50


def test_a_missing_line_means_that_nothing_is_joined(truth):
    """Half of the times would be the quick half."""
    log = silent(truth)
    joined = join_server_times(log, lines(truth, rows=range(39)), began_at=BEGAN)
    assert joined.log is log
    assert joined.problem == "the server logged 39 requests of this run but 40 succeeded: its times are not joined"


def test_lines_of_an_earlier_run_are_passed_over(truth):
    """By their time."""
    both = [*lines(truth, clock_s=-600), *lines(truth)]
    assert join_server_times(silent(truth), both, began_at=BEGAN).requests == 40


def test_lines_of_another_time_are_not_taken_for_this_run(truth):
    """As many as there are requests, but of another load."""
    other = list(lines(truth))
    other = [attrs.evolve(line, ended_at=BEGAN + timedelta(seconds=0.1 * n)) for n, line in enumerate(other, start=9)]
    joined = join_server_times(silent(truth), other, began_at=BEGAN)
    assert joined.requests == 0
    assert "not joined" in joined.problem


def test_times_from_an_answers_headers_are_kept(truth):
    """They belong to the request for certain."""
    wrong = [attrs.evolve(line, server=attrs.evolve(line.server, queue_s=99.0)) for line in lines(truth)]
    joined = join_server_times(truth, wrong, began_at=BEGAN)
    np.testing.assert_array_equal(joined.log.queue_s, truth.queue_s)


def test_a_run_without_success_has_nothing_to_join(truth):
    """And no problem."""
    failed = attrs.evolve(truth, failure_code=np.ones(len(truth), np.uint8))
    assert join_server_times(failed, [], began_at=BEGAN).problem is None


def line(ended_s, total_s):
    """One by hand, in seconds after the start."""
    ended_at = BEGAN + timedelta(seconds=ended_s)
    return LoggedRequest(ended_at=ended_at, span="generate", server=ServerTimings(total_s=total_s, queue_s=total_s))


def test_a_request_takes_another_line_where_the_nearest_is_the_only_one_of_its_neighbour():
    """The second request was shorter than one of the lines: it must have the other, which lies nearest to the first."""
    log = log_of(Row(sent_s=0.0, ended_s=1.0), Row(sent_s=0.02, ended_s=1.01))
    joined = join_server_times(log, [line(1.0, 0.98), line(1.03, 0.999)], began_at=BEGAN)
    assert joined.problem is None
    np.testing.assert_array_equal(joined.log.queue_s, [0.999, 0.98])


@pytest.mark.parametrize("began_s", [0.0, 3.0])
@pytest.mark.parametrize("others", [0, 5])
def test_a_runs_start_is_told_by_its_lines(truth, began_s, others):
    """Though it is only known to lie within a few seconds, and others' lines are among them."""
    earliest, latest = BEGAN - timedelta(seconds=began_s), BEGAN + timedelta(seconds=float(truth.ended_s.max()) + 1)
    foreign = [
        attrs.evolve(line, ended_at=line.ended_at + timedelta(seconds=0.37))
        for line in lines(truth, rows=range(0, 8 * others, 8))
    ]
    found = second_zero(silent(truth), [*foreign, *lines(truth)], earliest=earliest, latest=latest)
    assert abs((found - BEGAN).total_seconds()) < 0.1  # the way back is not known
    joined = join_server_times(silent(truth), [*foreign, *lines(truth)], began_at=found)
    assert joined.requests == 40


@pytest.mark.parametrize("told", [[], [line(0.5, 0.4), line(0.6, 0.4), line(0.7, 0.4)]])
def test_a_run_whose_lines_tell_no_start_began_when_it_could(told):
    """No line, or none that lasted about as long as a request."""
    log = log_of(Row(sent_s=0.0, ended_s=9.0), Row(sent_s=0.1, ended_s=9.5))
    assert second_zero(log, told, earliest=BEGAN, latest=BEGAN + timedelta(seconds=12)) == BEGAN


PAGE = """
# HELP tgi_request_count requests
# TYPE tgi_request_count counter
tgi_request_count {count}
tgi_request_success {success}
tgi_request_failure{{err="overloaded"}} 2
tgi_request_generated_tokens_bucket{{le="+Inf"}} {success}
tgi_request_generated_tokens_sum {tokens}
tgi_request_generated_tokens_count {success}
"""


def page(success, tokens):
    return read_metrics(PAGE.format(count=success + 2, success=success, tokens=tokens))


def test_a_page_of_metrics_is_read_by_name_and_labels():
    """Comments and other lines are no samples."""
    samples = read_metrics("<html>\n" + PAGE.format(count=9, success=7, tokens=70.5) + "tgi_odd nothing\n")
    assert samples["tgi_request_count"] == 9
    assert samples['tgi_request_failure{err="overloaded"}'] == 2
    assert samples["tgi_request_generated_tokens_sum"] == 70.5
    assert "tgi_odd" not in samples


def test_equal_counts_need_no_word(truth):
    """The run's share is what the counters grew by."""
    tokens = int(truth.output_tokens.sum())
    assert count_disagreements(page(7, 70), page(47, 70 + tokens), truth) == ()
    assert count_disagreements({}, page(40, tokens), truth) == ()


def test_other_counts_are_told(truth):
    """Requests first: where they differ, tokens must."""
    tokens = int(truth.output_tokens.sum())
    (sentence,) = count_disagreements(page(0, 0), page(45, tokens + 100), truth)
    assert sentence.startswith("the server counted 45 successful requests, the client 40")
    (sentence,) = count_disagreements(page(0, 0), page(40, tokens + 1), truth)
    assert sentence.startswith(f"the server counted {tokens + 1} generated tokens, the client {tokens}")


def test_what_the_client_gave_up_on_may_have_succeeded_on_the_server(truth):
    """No disagreement."""
    failure_code = truth.failure_code.copy()
    failure_code[:3] = 1
    assert count_disagreements({}, page(40, 1), attrs.evolve(truth, failure_code=failure_code)) == ()


def test_a_server_without_these_counters_says_nothing(truth):
    """Nor does one that was started anew in between."""
    assert count_disagreements({}, {}, truth) == ()
    assert count_disagreements(page(50, 500), page(3, 30), truth) == ()
