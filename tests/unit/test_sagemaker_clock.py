"""AWS's clock beside ours, out of the dates of its answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgibench.backends.sagemaker.clock import ClockOffset

NOW = datetime(2026, 11, 24, 12, 0, 0, 250_000, tzinfo=UTC)
SECONDS = st.floats(min_value=0, max_value=5)


def told(ahead_s, answers, offset=None):
    """What answers tell of a clock so far ahead of ours: each asked for and stamped some seconds after the one before."""
    offset, at = offset or ClockOffset(), NOW
    for until_stamped_s, until_here_s in answers:
        stamped_at = at + timedelta(seconds=until_stamped_s)
        here_at = stamped_at + timedelta(seconds=until_here_s)
        date = format_datetime(stamped_at + timedelta(seconds=ahead_s), usegmt=True)  # whole seconds
        offset = offset.told(date, asked_at=at, answered_at=here_at)
        at = here_at
    return offset


@given(
    ahead_s=st.floats(min_value=-1e5, max_value=1e5),
    answers=st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=9),
)
def test_the_truth_lies_between_the_bounds(ahead_s, answers):
    """However long the ways are; each answer narrows them."""
    bounds = told(ahead_s, answers)
    assert bounds.least_s - 1e-5 <= ahead_s <= bounds.most_s + 1e-5
    before = told(ahead_s, answers[:-1])
    assert before.least_s <= bounds.least_s <= bounds.most_s <= before.most_s


def test_clocks_that_may_agree_are_taken_to_agree():
    """A date is cut to whole seconds, so it can always be half a second off."""
    assert (ClockOffset().best_s, told(0.0, [(0.1, 0.1)]).best_s) == (0.0, 0.0)
    assert told(77.0, [(0.1, 0.1)] * 3).best_s == pytest.approx(77.0, abs=0.7)
    assert told(-77.0, [(0.3, 0.1)] * 9).best_s == pytest.approx(-77.0, abs=0.3)


@pytest.mark.parametrize("date", [None, "", "soon", "Tue, 99 Nov 2026 12:00:00 GMT"])
def test_an_answer_without_a_date_tells_nothing(date):
    """No error."""
    assert ClockOffset().told(date, asked_at=NOW, answered_at=NOW) == ClockOffset()


def test_a_clock_that_was_set_meanwhile_is_told_anew():
    """What it told before is of no use any more."""
    assert told(0.0, [(0.1, 0.1)], offset=told(500.0, [(0.1, 0.1)])).best_s == 0.0


@pytest.mark.parametrize(
    ("ahead_s", "words"), [(600.0, "600 s behind AWS's"), (-600.0, "600 s ahead of AWS's"), (60.0, None)]
)
def test_what_aws_refuses_is_one_sentence_that_says_what_to_do(ahead_s, words):
    """From about five minutes on."""
    refusal = ClockOffset(ahead_s - 0.4, ahead_s + 0.4).refusal
    assert (refusal is None) == (words is None)
    assert words is None or (words in refusal and "set the clock" in refusal)
