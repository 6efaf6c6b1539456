"""Load profiles: their plans, their limits and their division."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tgibench as tb
from tgibench.loads import ClosedPhase


def arrivals(profile, seed=0):
    """All (number, start) pairs of a profile's one open phase."""
    (phase,) = profile.phases(seed)
    return list(phase.arrivals)


OPEN = [
    tb.ConstantArrivals(7.0, duration_s=30),
    tb.PoissonArrivals(7.0, duration_s=30),
    tb.GammaArrivals(7.0, 0.5, duration_s=30),
    tb.Ramp(2.0, 9.0, duration_s=30),
    tb.ConstantArrivals(7.0, requests=100),
    tb.PoissonArrivals(7.0, requests=100),
    tb.GammaArrivals(7.0, 0.5, requests=100),
    tb.Ramp(2.0, 9.0, requests=100),
    tb.Replay(tuple(float(k * k) for k in range(40))),
]


@pytest.mark.parametrize("profile", OPEN, ids=repr)
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_parts_of_an_open_load_are_exactly_the_whole(profile, n):
    """The arrivals of all parts together are the whole's: same numbers, same instants, to the last bit."""
    parts = [arrival for part in profile.split(n) for arrival in arrivals(part, seed=3)]
    assert sorted(parts) == arrivals(profile, seed=3)


@pytest.mark.parametrize("profile", OPEN, ids=repr)
def test_parts_of_parts_are_exactly_the_whole(profile):
    """Splitting a part again loses and repeats nothing."""
    parts = [arrival for half in profile.split(2) for part in half.split(3) for arrival in arrivals(part, seed=5)]
    assert sorted(parts) == arrivals(profile, seed=5)


@pytest.mark.parametrize("profile", OPEN, ids=repr)
def test_parts_of_a_part_are_exactly_that_part(profile):
    """However often it is split, the parts together are what was split, and no two have an arrival in common."""
    for half in profile.split(2):
        thirds = half.split(3)
        assert sorted(arrival for third in thirds for arrival in arrivals(third, seed=3)) == arrivals(half, seed=3)
        for third in thirds:
            parts = [arrival for part in third.split(2) for arrival in arrivals(part, seed=3)]
            assert sorted(parts) == arrivals(third, seed=3)


@given(st.sampled_from(OPEN), st.lists(st.integers(1, 4), max_size=3), st.integers(0, 2**40), st.data())
def test_any_part_is_exactly_its_parts(profile, splits, seed, data):
    """A part reached by any splits, divided by any number; dividing by one changes nothing."""
    for n in splits:
        profile = data.draw(st.sampled_from(profile.split(n)))
    assert profile.split(1) == (profile,)
    parts = [arrival for part in profile.split(data.draw(st.integers(1, 4))) for arrival in arrivals(part, seed)]
    assert sorted(parts) == arrivals(profile, seed)


def test_parts_of_different_parts_are_drawn_independently():
    """Of the k-th arrivals of two halves, each kept by half of its lots, a quarter is kept of both."""
    halves = tb.Replay(tuple(float(k) for k in range(40_000))).split(2)
    kept = [np.isin(arrivals(half), arrivals(half.split(2)[0]))[:19_000, 0] for half in halves]
    assert np.mean(kept[0] & kept[1]) == pytest.approx(0.25, abs=0.02)


def test_a_part_of_a_part_is_stored_and_read_like_any_load(tmp_path):
    """It comes back equal, so that it can be run again."""
    part = tb.PoissonArrivals(8.0, duration_s=20).split(2)[1].split(3)[2]
    assert part.label == "1.33333 req/s poisson"
    study = tb.virtual_time.run(
        tb.sweep(
            [tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge")],
            [part],
            backend=tb.Emulator(),
            prompts=tb.SyntheticPrompts(max_new_tokens=5),
            store=tmp_path,
        )
    )
    assert tb.read_study(tmp_path).measurements[0].load == part == study.measurements[0].load


@pytest.mark.parametrize("profile", OPEN, ids=repr)
def test_plans_repeat_with_the_seed_and_are_ascending(profile):
    """The same seed gives the same plan; starts ascend and numbers count from 0."""
    plan = arrivals(profile, seed=11)
    assert plan == arrivals(profile, seed=11)
    assert [number for number, _ in plan] == list(range(len(plan)))
    assert all(before <= after for (_, before), (_, after) in itertools.pairwise(plan))


def test_duration_bounds_the_plan_and_requests_number_it():
    """By duration no start lies beyond it; by number there are exactly so many."""
    assert all(start < 30 for profile in OPEN[:4] for _, start in arrivals(profile))
    assert [len(arrivals(profile)) for profile in OPEN[4:8]] == [100] * 4


@pytest.mark.parametrize(
    ("profile", "cv"),
    [
        (tb.ConstantArrivals(50.0, requests=20_000), 0.0),
        (tb.PoissonArrivals(50.0, requests=20_000), 1.0),
        (tb.GammaArrivals(50.0, 4.0, requests=20_000), 0.5),
    ],
)
def test_gaps_have_the_intended_mean_and_spread(profile, cv):
    """The mean gap is 1/rate and its coefficient of variation the process's own."""
    gaps = np.diff([start for _, start in arrivals(profile)])
    assert gaps.mean() == pytest.approx(1 / 50.0, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, abs=0.03)


@pytest.mark.parametrize("n", [1, 2, 8])
def test_each_part_of_a_poisson_process_is_poisson(n):
    """Counts of each part in bins have a variance as large as their mean (dispersion index 0.8 to 1.2)."""
    for part in tb.PoissonArrivals(80.0, duration_s=2000).split(n):
        starts = [start for _, start in arrivals(part)]
        counts, _ = np.histogram(starts, bins=np.arange(0, 2001, 1.0))
        assert 0.8 < counts.var() / counts.mean() < 1.2
        assert counts.mean() == pytest.approx(80 / n, rel=0.05)


def test_a_ramp_reaches_its_rates():
    """The expected count up to t is the integral of the rate."""
    starts = np.array([start for _, start in arrivals(tb.Ramp(10.0, 30.0, duration_s=1000))])
    assert np.count_nonzero(starts < 500) == pytest.approx(10 * 500 + 20 * 500**2 / 2000, rel=0.03)
    assert len(starts) == pytest.approx(20 * 1000, rel=0.03)


def test_closed_loops_divide_users_and_requests():
    """Users and requests of the parts sum to the whole's, and no request number occurs twice."""
    parts = tb.ClosedLoop(10, requests=101).split(3)
    assert [part.concurrency for part in parts] == [4, 3, 3]
    numbers = [number for part in parts for phase in part.phases(0) for number in phase.indices]
    assert len(numbers) == len(set(numbers)) == 101


def test_stages_run_on_with_numbers_of_their_own():
    """No request number of one stage comes again in another, and the kinds keep their order."""
    stages = tb.Stages((tb.ClosedLoop(2, requests=5), tb.PoissonArrivals(5.0, requests=7)))
    closed, opened = stages.phases(0)
    assert isinstance(closed, ClosedPhase)
    numbers = [*closed.indices, *(number for number, _ in opened.arrivals)]
    assert len(set(numbers)) == 12
    assert [len(part.profiles) for part in stages.split(2)] == [2, 2]


def test_stages_of_stages_are_their_stages():
    """However they are nested, each stage has arrivals and request numbers of its own."""
    one, two, three = (tb.PoissonArrivals(2.0, duration_s=each) for each in (3, 5, 5))
    nested = tb.Stages((tb.Stages((one, two)), three))
    assert nested == tb.Stages((one, two, three))
    plans = [list(phase.arrivals) for phase in nested.phases(0)]
    numbers = [number for plan in plans for number, _ in plan]
    assert len(set(numbers)) == len(numbers)
    assert [start_s for _, start_s in plans[1]] != [start_s for _, start_s in plans[2]]


@given(
    st.sampled_from(OPEN) | st.builds(tb.ConstantArrivals, st.floats(0.01, 50), duration_s=st.floats(0.01, 50)),
    st.lists(st.integers(1, 4), max_size=2),
    st.data(),
)
def test_a_phase_that_says_how_many_requests_it_has_is_right(profile, splits, data):
    """A constant rate always knows, parts too; what is given to parts by lot has no number before it is drawn."""
    for n in splits:
        profile = data.draw(st.sampled_from(profile.split(n)))
    for load in (profile, tb.Stages((tb.ClosedLoop(2, requests=3), profile))):
        *_, phase = load.phases(1)
        assert phase.requests in (None, len(list(phase.arrivals)))
        assert phase.requests is not None or not isinstance(profile, tb.ConstantArrivals)


@pytest.mark.parametrize(
    ("load", "requests"),
    [
        (tb.ClosedLoop(3, requests=10**15), [10**15]),
        (tb.ClosedLoop(3, duration_s=10), [None]),
        (tb.PoissonArrivals(5.0, requests=10**15), [10**15]),
        (tb.ConstantArrivals(5.0, duration_s=1e12), [5 * 10**12]),
        (tb.ConstantArrivals(5.0, requests=10**15).split(2)[1], [5 * 10**14]),
        (tb.ConstantArrivals(5.0, duration_s=1e300), [None]),
        (tb.PoissonArrivals(5.0, requests=10**15).split(2)[1], [None]),
        (tb.Stages((tb.ClosedLoop(3, requests=10**9), tb.Replay((0.0, 1.0)))), [10**9, 2]),
    ],
)
def test_large_plans_say_how_many_requests_they_have_without_counting(load, requests):
    """By number and at a constant rate; where only drawing would tell, they do not say."""
    assert [phase.requests for phase in load.phases(0)] == requests


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tb.ClosedLoop(0, requests=1), "concurrency must be a whole number of at least 1, got 0"),
        (lambda: tb.ClosedLoop(1), "either duration_s or requests"),
        (lambda: tb.ClosedLoop(1, requests=1, duration_s=2), "either duration_s or requests"),
        (lambda: tb.ClosedLoop(1, duration_s=5, warm_up_s=5), "warm_up_s must be shorter than duration_s"),
        (lambda: tb.PoissonArrivals(-1.0, duration_s=2), "rate_rps must be a number above 0, got -1.0"),
        (lambda: tb.PoissonArrivals(float("nan"), duration_s=2), "rate_rps must be a number above 0, got nan"),
        (lambda: tb.GammaArrivals(1.0, 0.0, duration_s=2), "burstiness must be a number above 0"),
        (lambda: tb.Ramp(0.0, 0.0, duration_s=2), "a rate above 0 at one end"),
        (lambda: tb.Replay(()), "at least one instant"),
        (lambda: tb.Replay((1.0, 0.5)), "ascending order, got 0.5 after 1.0"),
        (lambda: tb.Stages(()), "at least one profile"),
        (
            lambda: tb.Stages(
                (tb.ClosedLoop(1, duration_s=9, warm_up_s=2), tb.ClosedLoop(5, duration_s=9, warm_up_s=5))
            ),
            r"a run has one window: only the first stage may warm up, but stage 2 \(5 users\) has warm_up_s=5",
        ),
        (lambda: tb.ClosedLoop(2, requests=5).split(3), "cannot be split into 3 parts"),
        (lambda: tb.PoissonArrivals(1.0, duration_s=2, max_in_flight=2).split(3), "cannot be divided among 3 parts"),
    ],
)
def test_wrong_values_are_refused_in_one_sentence(make, words):
    """The error names the field, the value and what it should be."""
    with pytest.raises(tb.InvalidValueError, match=words):
        make()
