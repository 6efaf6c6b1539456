"""What holds of the costs of any measurement."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tgibench as tb
from cells import measurement, metrics

FIGURES = (
    "usd_per_hour",
    "usd_per_million_output_tokens",
    "usd_per_million_total_tokens",
    "usd_per_thousand_requests",
    "minutes_to_million_output_tokens",
)
PRICED = FIGURES[:-1]
USD = st.floats(min_value=1e-3, max_value=1e3)
FACTOR = st.floats(min_value=1e-2, max_value=1e2)


@st.composite
def estimates(draw, low=1e-2, high=1e5):
    """A figure above 0 inside its interval."""
    value = draw(st.floats(min_value=low, max_value=high))
    below, above = draw(st.floats(0.01, 1.0)), draw(st.floats(1.0, 10.0))
    return tb.Estimate(value, (value * below, value * above), 10)


@st.composite
def cells(draw):
    """A measurement that has every figure a cost needs."""
    asked, answered = draw(estimates(1, 1e4)), draw(estimates(1, 1e4))
    return measurement(
        metrics(
            output_throughput_tps=draw(estimates()),
            request_throughput_rps=draw(estimates()),
            input_tokens=tb.Distribution(count=10, mean=asked.value, intervals={"mean": asked.interval}),
            output_tokens=tb.Distribution(count=10, mean=answered.value, intervals={"mean": answered.interval}),
            counts={"issued": 9, "succeeded": 8, "failed": 1, "unsent": 0},
        ),
        instance_type="acme.xl",
        replicas=draw(st.integers(1, 8)),
    )


def hours(usd, **options):
    """Machines at a price."""
    return tb.InstanceHours(tb.PriceTable(()).with_price("acme.xl", usd), **options)


MODELS = st.one_of(
    st.builds(hours, USD, utilisation=st.floats(0.01, 1.0), discount_ratio=st.floats(0.0, 0.99)),
    st.builds(tb.PerToken, st.floats(0.0, 1e3), USD),
    st.builds(tb.FixedCost, USD),
)


@given(MODELS, cells())
def test_an_interval_holds_its_value(model, cell):
    """And is not below 0."""
    cost = model.cost(cell)
    for figure in FIGURES:
        estimate = getattr(cost, figure)
        low, high = estimate.interval
        assert 0 <= low <= estimate.value * (1 + 1e-9)
        assert estimate.value <= high * (1 + 1e-9)


@given(USD, FACTOR, cells())
def test_machine_costs_are_linear_in_the_price(usd, factor, cell):
    """So many times the price, so many times every figure in dollars, ends included."""
    cost, dearer = hours(usd).cost(cell), hours(usd * factor).cost(cell)
    for figure in PRICED:
        one, other = getattr(cost, figure), getattr(dearer, figure)
        assert other.value == pytest.approx(one.value * factor)
        assert other.interval == pytest.approx([end * factor for end in one.interval])


@given(USD, FACTOR, cells())
def test_machine_costs_are_inverse_in_the_throughput(usd, factor, cell):
    """So many times the tokens and requests a second, so many times less for each."""
    faster = measurement(
        metrics(
            output_throughput_tps=scaled(cell.metrics.output_throughput_tps, factor),
            request_throughput_rps=scaled(cell.metrics.request_throughput_rps, factor),
            input_tokens=cell.metrics.input_tokens,
        ),
        instance_type="acme.xl",
        replicas=cell.deployment.replicas,
    )
    cost, cheaper = hours(usd).cost(cell), hours(usd).cost(faster)
    for figure in FIGURES[1:]:
        one, other = getattr(cost, figure), getattr(cheaper, figure)
        assert other.value == pytest.approx(one.value / factor)
        assert other.interval == pytest.approx([end / factor for end in one.interval])
    assert cheaper.usd_per_hour == cost.usd_per_hour


def scaled(estimate, factor):
    """An estimate times a number."""
    low, high = estimate.interval
    return tb.Estimate(estimate.value * factor, (low * factor, high * factor), estimate.count)


@given(MODELS, MODELS, MODELS, cells())
def test_sums_do_not_depend_on_order_or_brackets(one, two, three, cell):
    """Each figure is the sum of its parts'."""
    parts = [model for model in (one, two, three) if not isinstance(model, tb.FixedCost)] or [one]
    total = tb.CostSum(tuple(parts)).cost(cell)
    reverse = tb.CostSum(tuple(reversed(parts))).cost(cell)
    nested = parts[0]
    for part in parts[1:]:
        nested += part
    bracketed = nested.cost(cell)
    for figure in PRICED:
        added = sum(getattr(part.cost(cell), figure).value for part in parts)
        for cost in (total, reverse, bracketed):
            assert getattr(cost, figure).value == pytest.approx(added)


@given(USD, cells())
def test_minutes_times_the_price_of_a_minute_is_the_cost_of_a_million_tokens(usd, cell):
    """The study's own arithmetic."""
    cost = hours(usd).cost(cell)
    minutes, a_minute = cost.minutes_to_million_output_tokens, cost.usd_per_hour.value / 60
    assert cost.usd_per_million_output_tokens.value == pytest.approx(minutes.value * a_minute)
    assert cost.usd_per_million_output_tokens.interval == pytest.approx([end * a_minute for end in minutes.interval])
