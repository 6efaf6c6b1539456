"""Costs of measurements whose every figure is known by hand."""

from __future__ import annotations

import datetime as dt

import attrs
import pytest

import tgibench as tb
from cells import measurement, metrics
from tgibench.records import Window

PRICES = tb.PriceTable(()).with_price("acme.xl", 3.6)  # a thousandth of a dollar a second
BEGAN = dt.datetime(2026, 9, 20, 12, 0, tzinfo=dt.UTC)


def spread(mean, interval=None, count=100, **figures):
    """A distribution of which the mean is known."""
    return tb.Distribution(count=count, mean=mean, intervals={"mean": interval}, **figures)


def cell(replicas=1, ready_after_s=None, ended_at=None, began_at=None, **figures):
    """100 output tokens a second in requests of 300 prompt and 50 output tokens, unless told otherwise."""
    usual = {
        "output_throughput_tps": tb.Estimate(100.0, (80.0, 125.0), 30),
        "request_throughput_rps": tb.Estimate(2.0, (1.6, 2.5), 30),
        "input_tokens": spread(300.0, (280.0, 320.0)),
        "output_tokens": spread(50.0, (40.0, 60.0)),
        "counts": {"issued": 200, "succeeded": 180, "failed": 10, "unsent": 10},
    }
    return measurement(
        metrics(**{**usual, **figures}),
        instance_type="acme.xl",
        replicas=replicas,
        ready_after_s=ready_after_s,
        began_at=began_at,
        ended_at=ended_at,
    )


def test_instance_hours_by_hand():
    """3.6 dollars an hour at 100 tokens and 2 requests a second; the most tokens per second cost least."""
    cost = tb.InstanceHours(PRICES).cost(cell())
    assert cost.usd_per_hour == tb.Estimate(3.6, (3.6, 3.6))
    million = cost.usd_per_million_output_tokens
    assert (million.value, million.interval, million.count) == (pytest.approx(10.0), pytest.approx((8.0, 12.5)), 30)
    thousand = cost.usd_per_thousand_requests
    assert (thousand.value, thousand.interval) == (pytest.approx(0.5), pytest.approx((0.4, 0.625)))
    minutes = cost.minutes_to_million_output_tokens
    assert (minutes.value, minutes.interval) == (pytest.approx(1e4 / 60), pytest.approx((8e3 / 60, 1.25e4 / 60)))


def test_total_tokens_count_prompts_too():
    """100 output and 2 x 300 prompt tokens a second: 700; at the ends 80 + 1.6 x 280 and 125 + 2.5 x 320."""
    total = tb.InstanceHours(PRICES).cost(cell()).usd_per_million_total_tokens
    assert total.value == pytest.approx(1000 / 700)
    assert total.interval == pytest.approx((1000 / 925, 1000 / 528))


def test_replicas_discount_and_utilisation():
    """Two machines at half the price that work a quarter of the time: the tokens cost four times as much."""
    model = tb.InstanceHours(PRICES, discount_ratio=0.5, utilisation=0.25)
    plain, cost = tb.InstanceHours(PRICES).cost(cell()), model.cost(cell(replicas=2))
    assert cost.usd_per_hour.value == pytest.approx(3.6)
    for figure in ("usd_per_million_output_tokens", "usd_per_million_total_tokens", "usd_per_thousand_requests"):
        assert getattr(cost, figure).value == pytest.approx(4 * getattr(plain, figure).value)
        assert getattr(cost, figure).interval == pytest.approx([4 * end for end in getattr(plain, figure).interval])
    assert cost.minutes_to_million_output_tokens == plain.minutes_to_million_output_tokens
    for words in ("2 machines", "0.5 of the price off", "working 0.25 of the time"):
        assert words in cost.basis


def test_a_start_up_can_be_paid_for_by_the_hours_it_serves():
    """900 s of start-up for each 2 hours of service: an eighth more. Of unknown length, no figure per token is known."""
    model = tb.InstanceHours(PRICES, hours_per_start=2.0)
    assert model.cost(cell(ready_after_s=900.0)).usd_per_million_output_tokens.value == pytest.approx(10.0 * 9 / 8)
    unknown = model.cost(cell())
    assert (unknown.usd_per_million_output_tokens, unknown.usd_per_thousand_requests) == (None, None)
    assert unknown.usd_per_hour.value == 3.6


def test_the_basis_says_which_price_of_which_day_and_how_many_tokens():
    """And who says so, and how the tokens were come by."""
    cost = tb.InstanceHours(tb.PriceTable.builtin(as_of="2023-09")).cost(
        measurement(metrics(littles_law_throughput_tps=131.29), source=tb.Source.PUBLISHED)
    )
    assert cost.basis == (
        "ml.g5.2xlarge at 1.515 USD per hour (sagemaker us-east-1 hosting, 2023-09-21: "
        "cost tables of the 2023 study, which state them for us-west-2); "
        "131.3 output tokens per second (PUBLISHED, derived by Little's law)"
    )
    assert [price.usd_per_hour for price in cost.prices] == [1.515]
    own = tb.InstanceHours(PRICES).cost(cell())
    assert own.basis.startswith("acme.xl at 3.6 USD per hour (own anywhere hosting, undated: given by the caller)")
    assert own.basis.endswith("; 100 output tokens per second (MEASURED)")


def test_the_basis_says_when_the_run_was_elsewhere():
    """A run in one region priced by another's table is what one may want, but not unknowingly."""
    here = measurement(metrics(), instance_type="ml.g5.2xlarge", facts={"region": "us-east-1"})
    assert "run in us-east-1" not in tb.InstanceHours(tb.PriceTable.builtin()).cost(here).basis
    assert "run in us-east-1" in tb.InstanceHours(tb.PriceTable.builtin("us-west-2")).cost(here).basis


def test_an_unknown_machine_is_an_error():
    """It is not free."""
    with pytest.raises(tb.UnknownPrice, match=r"no price of 'acme.xl'"):
        tb.InstanceHours(tb.PriceTable.builtin()).cost(cell())


@pytest.mark.parametrize(
    ("lacking", "unknown"),
    [
        (
            {"output_throughput_tps": None},
            ("usd_per_million_output_tokens", "usd_per_million_total_tokens", "minutes_to_million_output_tokens"),
        ),
        ({"request_throughput_rps": None}, ("usd_per_million_total_tokens", "usd_per_thousand_requests")),
        ({"input_tokens": None}, ("usd_per_million_total_tokens",)),
        ({"input_tokens": tb.Distribution(count=3)}, ("usd_per_million_total_tokens",)),
        (
            {"output_throughput_tps": tb.Estimate(0.0, None, 10), "request_throughput_rps": tb.Estimate(0.0, None, 10)},
            (
                "usd_per_million_output_tokens",
                "usd_per_million_total_tokens",
                "minutes_to_million_output_tokens",
                "usd_per_thousand_requests",
            ),
        ),
    ],
)
def test_what_the_measurement_does_not_tell_is_none(lacking, unknown):
    """The other figures are there; nothing made is no price of a million, not an infinite or a free one."""
    cost = tb.InstanceHours(PRICES).cost(cell(**lacking))
    figures = {
        "usd_per_million_output_tokens", "usd_per_million_total_tokens", "usd_per_thousand_requests",
        "minutes_to_million_output_tokens",
    }  # fmt: skip
    assert {figure for figure in figures if getattr(cost, figure) is None} == set(unknown)
    assert cost.usd_per_hour.value == 3.6


@pytest.mark.parametrize("interval", [None, (0.0, 250.0), (-5.0, 250.0)])
def test_without_a_bound_on_the_tokens_there_is_none_on_the_cost(interval):
    """No interval, or one that reaches down to nothing: the cost has a value and no interval."""
    cost = tb.InstanceHours(PRICES).cost(cell(output_throughput_tps=tb.Estimate(100.0, interval, 10)))
    assert cost.usd_per_million_output_tokens == tb.Estimate(pytest.approx(10.0), None, 10)


def test_the_run_itself_costs_between_two_bounds():
    """From the first request until the load was let go; with 300 s of start-up and all that wall time saw."""
    figures = {"window": Window(10.0, 90.0), "latency_s": spread(1.0, max=3.0)}
    run = tb.InstanceHours(PRICES).cost(
        cell(ready_after_s=300.0, began_at=BEGAN, ended_at=BEGAN + dt.timedelta(seconds=95), **figures)
    )
    assert run.run_usd == pytest.approx((0.090, 0.395))


def test_the_run_of_a_server_that_already_ran_has_no_start_up():
    """Its last answers are in the upper bound: up to the longest latency after the load was let go."""
    figures = {"window": Window(10.0, 90.0), "latency_s": spread(1.0, max=3.0)}
    assert tb.InstanceHours(PRICES).cost(cell(**figures)).run_usd == pytest.approx((0.090, 0.093))


def test_wall_time_alone_will_do():
    """Without a window the wall tells."""
    run = tb.InstanceHours(PRICES).cost(cell(began_at=BEGAN, ended_at=BEGAN + dt.timedelta(seconds=50)))
    assert run.run_usd == pytest.approx((0.050, 0.050))


def test_virtual_time_costs_what_the_run_would_have():
    """90 s on the run's clock, next to nothing on the wall's."""
    run = tb.InstanceHours(PRICES).cost(
        cell(window=Window(0.0, 90.0), began_at=BEGAN, ended_at=BEGAN + dt.timedelta(seconds=0.2))
    )
    assert run.run_usd == pytest.approx((0.090, 0.090))


def test_a_published_cell_has_no_run_cost():
    """Nobody says how long it ran."""
    assert tb.InstanceHours(PRICES).cost(cell()).run_usd is None


def test_an_api_bills_prompts_and_answers_apart():
    """1 and 4 dollars a million; 300 prompt and 50 output tokens a request: 500 micro-dollars each."""
    cost = tb.PerToken(1.0, 4.0).cost(cell())
    assert cost.usd_per_thousand_requests.value == pytest.approx(0.5)
    assert cost.usd_per_thousand_requests.interval == pytest.approx((0.44, 0.56))
    assert cost.usd_per_million_output_tokens.value == pytest.approx(10.0)
    assert cost.usd_per_million_output_tokens.interval == pytest.approx((4 + 280 / 60, 4 + 320 / 40))
    assert cost.usd_per_million_total_tokens.value == pytest.approx(500 / 350)
    assert cost.usd_per_hour.value == pytest.approx(10.0 / 1e6 * 100 * 3600)
    assert cost.minutes_to_million_output_tokens.value == pytest.approx(1e4 / 60)
    assert cost.run_usd == pytest.approx((180 * 5e-4, 190 * 5e-4))
    assert cost.prices == ()


def test_an_api_without_known_tokens_has_no_cost():
    """Unless prompts are free: then a million output tokens cost their price, exactly."""
    unknown = tb.PerToken(1.0, 4.0).cost(cell(input_tokens=None, output_tokens=None))
    assert attrs.asdict(unknown, filter=lambda field, value: field.name.startswith("usd") and value is not None) == {}
    assert unknown.run_usd is None
    free = tb.PerToken(0.0, 4.0).cost(cell(input_tokens=None))
    assert free.usd_per_million_output_tokens == tb.Estimate(4.0, (4.0, 4.0))
    assert free.usd_per_thousand_requests.value == pytest.approx(0.2)
    assert free.usd_per_million_total_tokens is None


def test_the_basis_of_an_api_names_its_day():
    """And who says so."""
    model = tb.PerToken(0.5, 1.5, effective_date=dt.date(2026, 9, 1), source="acme.example/pricing")
    assert model.cost(cell()).basis.startswith(
        "0.5 USD per million input tokens and 1.5 USD per million output tokens (2026-09-01: acme.example/pricing); "
    )


def test_models_add_up():
    """3.6 dollars of machine, 0.36 of balancer and an API for every token: each figure is the parts' sum, at both ends."""
    parts = (tb.InstanceHours(PRICES), tb.FixedCost(0.36, name="balancer"), tb.PerToken(1.0, 4.0))
    one = cell(window=Window(0.0, 90.0))
    total, costs = (parts[0] + parts[1] + parts[2]).cost(one), [part.cost(one) for part in parts]
    for figure in (
        "usd_per_hour", "usd_per_million_output_tokens", "usd_per_million_total_tokens", "usd_per_thousand_requests",
    ):  # fmt: skip
        added = [getattr(cost, figure) for cost in costs]
        assert getattr(total, figure).value == pytest.approx(sum(each.value for each in added))
        assert getattr(total, figure).interval[1] == pytest.approx(sum(each.interval[1] for each in added))
    assert total.minutes_to_million_output_tokens == costs[0].minutes_to_million_output_tokens
    assert total.run_usd == pytest.approx((0.090 + 0.009 + 0.090, 0.090 + 0.009 + 0.095))
    assert total.prices == (PRICES.price("acme.xl"),)
    assert total.basis.count("output tokens per second") == 1
    assert "acme.xl at 3.6" in total.basis
    assert "0.36 USD per hour (balancer)" in total.basis


def test_an_idle_machines_fixed_costs_idle_with_it():
    """What stands beside machines that work half the time is paid for the other half too, unless it says otherwise."""
    half = tb.InstanceHours(PRICES, utilisation=0.5)
    alone = tb.FixedCost(3.6).cost(cell()).usd_per_million_output_tokens.value
    for model in (half + tb.FixedCost(3.6), tb.FixedCost(3.6) + half, half + (tb.FixedCost(1.8) + tb.FixedCost(1.8))):
        assert model.cost(cell()).usd_per_million_output_tokens.value == pytest.approx(4 * alone)
    named = half + tb.FixedCost(3.6, utilisation=1.0)
    assert named.cost(cell()).usd_per_million_output_tokens.value == pytest.approx(3 * alone)
    with pytest.raises(tb.InvalidValueError, match=r"machines with utilisations \[0.5, 1.0\] are added"):
        half + tb.InstanceHours(PRICES) + tb.FixedCost(3.6)


@attrs.frozen
class Power:
    """A cost model of somebody else's: electricity by the token."""

    usd_per_million: float

    def cost(self, measured):
        """Known for output tokens only."""
        del measured
        return tb.Cost(usd_per_million_output_tokens=tb.Estimate(self.usd_per_million), basis="power")


def test_a_cost_model_of_the_callers_own_adds_up_from_either_side():
    """Figures that it does not give are None in the sum; one without an interval leaves the sum without."""
    for model in (tb.InstanceHours(PRICES) + Power(2.0), Power(2.0) + tb.InstanceHours(PRICES)):
        cost = model.cost(cell())
        assert cost.usd_per_million_output_tokens.value == pytest.approx(12.0)
        assert cost.usd_per_million_output_tokens.interval is None
        assert (cost.usd_per_hour, cost.usd_per_thousand_requests, cost.run_usd) == (None, None, None)
        assert "power" in cost.basis


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tb.InstanceHours(PRICES, utilisation=0), "utilisation must be above 0 and at most 1, got 0"),
        (lambda: tb.InstanceHours(PRICES, utilisation=1.1), "utilisation must be above 0 and at most 1, got 1.1"),
        (lambda: tb.InstanceHours(PRICES, discount_ratio=1.0), "discount_ratio must be at least 0 and below 1, got 1.0"),
        (lambda: tb.InstanceHours(PRICES, discount_ratio=-0.1), "discount_ratio must be at least 0"),
        (lambda: tb.InstanceHours(PRICES, discount_ratio=float("nan")), "discount_ratio must be at least 0"),
        (lambda: tb.InstanceHours(PRICES, hours_per_start=0), "hours_per_start must be a number above 0"),
        (lambda: tb.FixedCost(-1.0), "usd_per_hour must be a number of at least 0, got -1.0"),
        (lambda: tb.FixedCost(float("nan")), "usd_per_hour must be a number of at least 0, got nan"),
        (lambda: tb.FixedCost(1.0, utilisation=2), "utilisation must be above 0 and at most 1"),
        (lambda: tb.PerToken(-1.0, 1.0), "usd_per_million_input_tokens must be a number of at least 0"),
        (lambda: tb.PerToken(1.0, 0.0), "usd_per_million_output_tokens must be a number above 0"),
        (lambda: tb.PerToken(1.0, float("inf")), "usd_per_million_output_tokens must be a number above 0"),
        (lambda: tb.PerToken(1.0, 1.0, effective_date="2026"), "effective_date must be a datetime.date or None"),
        (lambda: tb.CostSum(()), "at least one cost model"),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(make, words):
    """With the field's name and the value."""
    with pytest.raises(tb.InvalidValueError, match=words):
        make()


def test_a_stored_study_is_priced_again_without_a_run(tmp_path):
    """Read back from disk, the same cells cost what other prices say: nothing is deployed or changed."""
    emulated = tb.virtual_time.run(
        tb.sweep(
            [tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.12xlarge", tensor_parallel=4)],
            [tb.ClosedLoop(users, duration_s=20) for users in (1, 5)],
            backend=tb.Emulator(),
            prompts=tb.SyntheticPrompts(),
            store=tmp_path,
        )
    )
    before = (tmp_path / "study.jsonl").read_bytes()
    then = tb.InstanceHours(tb.PriceTable.builtin(as_of="2023-09"))
    now = tb.InstanceHours(tb.PriceTable.builtin().with_price("ml.g5.12xlarge", 3.545))
    for stored, fresh in zip(tb.read_study(tmp_path), emulated, strict=True):
        assert then.cost(stored) == then.cost(fresh)
        old, new = then.cost(stored).usd_per_million_output_tokens, now.cost(stored).usd_per_million_output_tokens
        assert old.interval[0] < old.value < old.interval[1]
        assert new.value == pytest.approx(old.value / 2)
        assert new.interval == pytest.approx([end / 2 for end in old.interval])
    assert (tmp_path / "study.jsonl").read_bytes() == before
