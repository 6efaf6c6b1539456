"""The rules of an adaptive sweep: which deployments could still win a goal, and how sure that is."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tgibench as tb
from tgibench.twin.racing import Race

LOAD = tb.ClosedLoop(1, duration_s=20)


def race(*predicted, deviation=0.1, k=2.0):
    """One goal; the first deployment is the cheapest."""
    scores = np.array([predicted])
    return Race(scores, np.full(scores.shape, deviation), range(1, len(predicted) + 1), k)


def sure(one):
    return one.confidence(0, np.full(one.predicted.shape, 0.1))


def test_scores_of_nothing_are_the_best_of_times_and_the_worst_of_rates():
    """And less is better of all scores."""
    fastest, most = tb.Goal.fastest(LOAD), tb.Goal.highest_throughput(LOAD)
    assert fastest.score(0.0) == -math.inf < fastest.score(1e-9) < fastest.score(1.0) == 0
    assert most.score(0.0) == math.inf > most.score(1e-9) > most.score(1.0) == 0


def test_who_lies_within_k_deviations_of_the_best_is_open():
    """Who does not compete (NaN) never is; who is not predicted always is, and comes first."""
    one = race(0.0, 0.19, 0.21, np.nan, -np.inf)
    assert one.next() == (4, [0])
    one.record(0, 4, 5.0)
    assert one.next() == (0, [0])
    one.record(0, 0, 0.0)
    assert one.open(0).tolist() == [False, True, False, False, False]
    assert one.winner(0) == 0


def test_who_has_left_may_still_be_open_and_who_cannot_be_had_is_not():
    """The first is not deployed again, and the goal stays in doubt; the second wins nothing."""
    one = race(0.0, 0.0, 0.0)
    one.record(0, 0, 0.0)
    one.leave(1)
    one.withdraw(2)
    assert one.open(0).tolist() == [False, True, False]
    assert not one.alive(0).any()
    assert one.next() is None
    assert sure(one) == pytest.approx(0.5)


def test_a_measurement_without_a_figure_wins_nothing():
    """It is no winner, not open any more, and others are."""
    one = race(0.0, 0.0)
    one.record(0, 0, math.inf)
    assert one.winner(0) is None
    assert one.best(0) == math.inf
    assert one.open(0).tolist() == [False, True]
    assert sure(one) == 0


def test_nothing_beats_a_score_without_bound():
    """A time of 0 decides."""
    one = race(0.0, -np.inf)
    one.record(0, 0, -math.inf)
    assert one.winner(0) == 0
    assert not one.open(0).any()
    assert sure(one) == 1


def test_one_that_is_not_predicted_leaves_no_confidence():
    """Nothing says that it is not better."""
    one = race(0.0, -np.inf)
    one.record(0, 0, 0.0)
    assert sure(one) == 0
    one.record(0, 1, 1.0)
    assert sure(one) == 1


def test_a_known_figure_leaves_no_doubt():
    """Its deviation is 0."""
    one = race(0.0, 0.5, deviation=0.0)
    one.record(0, 0, 0.0)
    assert not one.open(0).any()
    assert one.confidence(0, np.zeros((1, 2))) == 1
