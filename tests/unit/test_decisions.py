"""Comparisons, choices and plans from measurements whose every figure is known."""

from __future__ import annotations

import json

import attrs
import numpy as np
import pytest

import tgibench as tb
from cells import measurement, metrics
from logs import log_of, plain
from tgibench.comparisons import Verdict
from tgibench.serialization import measurement_from_json, measurement_to_json
from tgibench.stats import Distribution, Estimate, distribution

PRICES = tb.PriceTable.builtin(as_of="2023-09")
COSTS = tb.InstanceHours(PRICES)
SMALL, LARGE, HUGE = "ml.g5.2xlarge", "ml.g5.12xlarge", "ml.p4d.24xlarge"


def cell(tps, latency_s=0.02, *, machine=SMALL, spread=0.02, users=5, source=tb.Source.MEASURED, **figures):
    """A cell of a throughput and a median latency per token, each with an interval of `spread` on either side."""

    def around(value):
        return None if spread is None else (value * (1 - spread), value * (1 + spread))

    made = metrics(
        output_throughput_tps=Estimate(tps, around(tps), 30),
        normalized_latency_s=Distribution(count=400, p50=latency_s, intervals={"p50": around(latency_s)}),
        **figures,
    )
    made_by = measurement(made, source=source, instance_type=machine)
    return attrs.evolve(made_by, load=tb.ClosedLoop(users, duration_s=90))


def published(ms_per_token, machine):
    """A published cell: figures without any interval."""
    figures = metrics(
        server_time_per_token_s=Distribution(count=400, p50=ms_per_token / 1e3),
        littles_law_throughput_tps=1e3 / ms_per_token,
    )
    return measurement(figures, source=tb.Source.PUBLISHED, instance_type=machine)


THIRTEEN_B = [published(21.00, LARGE), published(21.61, "ml.g5.48xlarge"), published(21.63, HUGE)]


def test_of_published_figures_nothing_can_be_told():
    """21.00 against 21.61 ms: a ratio, and no word on whether it is chance."""
    told = tb.compare(*THIRTEEN_B[:2], of="server_time_per_token_s", quantile=0.5)
    assert told.ratio == pytest.approx(21.00 / 21.61)
    assert (told.verdict, told.interval) == (Verdict.CANNOT_TELL, None)
    assert "cannot tell" in told.sentence


def test_known_noise_makes_the_studys_13b_latencies_a_tie():
    """With 1.25 % of noise from run to run, 21.00, 21.61 and 21.63 ms are one figure."""
    choice = tb.fastest(THIRTEEN_B, COSTS, noise_ratio=0.0125)
    assert choice.winner == THIRTEEN_B[0]
    assert choice.of == "server_time_per_token_s p50"
    assert choice.tied == tuple(THIRTEEN_B[1:])
    assert choice.comparison.verdict is Verdict.TIE
    assert choice.margin_ratio == pytest.approx(21.61 / 21.00 - 1)
    assert "server_time_per_token_s" in choice.sentence
    assert "tie" in choice.sentence
    assert "published measurements have no normalized_latency_s" in choice.warnings[0]


def test_noise_alone_has_a_known_reach():
    """Two runs of 1 % noise each: the ratio is known to exp(±1.96 · √2 · 0.01)."""
    told = tb.compare(*THIRTEEN_B[:2], of="server_time_per_token_s", quantile=0.5, noise_ratio=0.01)
    reach = np.exp(1.96 * np.sqrt(2) * 0.01)
    assert told.interval == pytest.approx((told.ratio / reach, told.ratio * reach))
    assert told.verdict is Verdict.LOWER


def test_intervals_are_used_where_there_are_no_batches():
    """Far apart is higher, near is a tie."""
    assert tb.compare(cell(120), cell(100)).verdict is Verdict.HIGHER
    assert tb.compare(cell(100), cell(120)).verdict is Verdict.LOWER
    assert tb.compare(cell(101), cell(100)).verdict is Verdict.TIE


def test_what_cannot_be_compared_is_said_in_one_error():
    """An unknown figure, a quantile that is not stored, negative noise."""
    with pytest.raises(tb.InvalidValueError, match="no figure 'speed'"):
        tb.compare(cell(1), cell(2), of="speed")
    with pytest.raises(tb.InvalidValueError, match=r"not 0\.97"):
        tb.compare(cell(1), cell(2), of="normalized_latency_s", quantile=0.97)
    with pytest.raises(tb.InvalidValueError, match="has no quantile"):
        tb.compare(cell(1), cell(2), quantile=0.5)
    with pytest.raises(tb.InvalidValueError, match=r"noise_ratio .* -0\.1"):
        tb.compare(cell(1), cell(2), noise_ratio=-0.1)


def test_a_missing_figure_cannot_be_told():
    """None, not an exception and not a tie."""
    told = tb.compare(cell(100), cell(100), of="ttft_s", quantile=0.5)
    assert (told.a, told.ratio, told.verdict) == (None, None, Verdict.CANNOT_TELL)


def test_logs_are_compared_by_any_quantile_and_any_function():
    """Request latencies 10 % apart are found at the 80th percentile, which no measurement holds; a function gives rows of its own."""

    def run(scale, seed):
        ttfts = scale * np.random.default_rng(seed).uniform(0.09, 0.11, size=200)
        rows = [plain(0.04 * number, tokens=3, ttft_s=ttft) for number, ttft in enumerate(ttfts)]
        return log_of(*rows)

    slow, fast = run(1.1, 1), run(1.0, 2)
    assert tb.compare(slow, fast, of="ttft_s", quantile=0.8).verdict is Verdict.HIGHER
    assert tb.compare(slow, fast, of=lambda log: log.first_token_s - log.sent_s).verdict is Verdict.HIGHER
    assert tb.compare(run(1.0, 3), fast, of="ttft_s").verdict is Verdict.TIE
    with pytest.raises(tb.InvalidValueError, match="two request logs"):
        tb.compare(cell(1), cell(2), of=lambda log: log.sent_s)


def test_the_cheapest_the_fastest_and_the_highest():
    """Each goal finds its own, names the best of another deployment, and says it is more than chance."""
    study = [cell(100, 0.03), cell(150, 0.04, users=20), cell(300, 0.02, machine=LARGE), cell(200, 0.01, machine=HUGE)]
    cheap = tb.cheapest(study, COSTS)
    assert (cheap.winner, cheap.runner_up) == (study[1], study[2])
    assert cheap.value.value == pytest.approx(1.515 / 3600 / 150 * 1e6)
    assert cheap.cost == COSTS.cost(study[1])
    assert cheap.comparison.verdict is Verdict.LOWER
    fast, high = tb.fastest(study, COSTS), tb.highest_throughput(study, COSTS)
    assert (fast.winner, fast.runner_up, fast.margin_ratio) == (study[3], study[2], pytest.approx(1.0))
    assert (high.winner, high.runner_up, high.margin_ratio) == (study[2], study[3], pytest.approx(1 / 3))
    for choice in (cheap, fast, high):
        assert choice.tied == ()
        assert choice.winner.deployment.label in choice.sentence
        assert "more than chance" in choice.sentence
        assert choice.sentence.count(". ") == 0


def test_a_single_deployment_has_no_rival():
    """Another load of the winner is no alternative to it."""
    choice = tb.highest_throughput([cell(100), cell(150, users=20)], COSTS)
    assert (choice.runner_up, choice.comparison, choice.tied) == (None, None, ())
    assert "no other deployment" in choice.sentence


def test_nothing_met_the_requirements():
    """Each requirement is named with its nearest miss and by how much; what is missing fails in its own words."""
    slow = Distribution(count=100, p95=0.6)
    slower = Distribution(count=100, p95=0.8)
    study = [cell(100, ttft_s=slower), cell(90, ttft_s=slow, machine=LARGE), cell(80, machine=HUGE)]
    choice = tb.cheapest(study, COSTS, tb.ttft_at_most(0.5, quantile=0.95), tb.throughput_at_least(95))
    assert choice.winner is None
    first, second = choice.shortfalls
    assert (first.value, first.by_ratio, first.measurement) == (0.6, pytest.approx(0.2), study[1])
    assert (second.value, second.measurement) == (90, study[1])
    assert "ttft_s p95 at most 0.5 s: is 0.6 s, 20 % too high" in choice.sentence
    alone = tb.cheapest(study[2:], COSTS, tb.ttft_at_most(0.5), tb.failures_at_most(0.01))
    assert [miss.reason for miss in alone.shortfalls] == ["the figure is missing"] * 2


def test_requirements_choose():
    """Concurrency, cost, failures, latency and conditions of one's own each keep what they should."""
    counts = {"issued": 100, "succeeded": 98, "failed": 2, "unsent": 0}
    quick = Distribution(count=100, p95=1.0, p50=0.5)
    study = [cell(100), cell(300, machine=LARGE, users=20)]
    failing = attrs.evolve(study[0], metrics=attrs.evolve(study[0].metrics, counts=counts, latency_s=quick))
    cost = COSTS.cost(failing)
    assert tb.failures_at_most(0.02)(failing, cost) is None
    assert tb.failures_at_most(0)(failing, cost).value == 0.02
    assert tb.latency_at_most(1.0)(failing, cost) is None
    assert tb.latency_at_most(0.4, quantile=0.5)(failing, cost).by_ratio == pytest.approx(0.25)
    assert tb.cost_at_most(4.21)(failing, cost) is None
    assert tb.cost_at_most(4.2)(failing, cost).value == pytest.approx(4.2083, abs=1e-4)
    assert tb.highest_throughput(study, COSTS, tb.concurrency(5)).winner == study[0]
    no_large = tb.require("no g5.12xlarge", lambda m, _: m.deployment.instance_type != LARGE)
    assert tb.highest_throughput(study, COSTS, no_large).winner == study[0]
    missing = tb.require("quick", lambda m, _: m.metrics.ttft_s and m.metrics.ttft_s.p50 < 1)
    assert tb.highest_throughput(study, COSTS, missing).winner is None
    with pytest.raises(tb.InvalidValueError, match="wrap a plain condition"):
        tb.cheapest(study, COSTS, lambda m, _: m.deployment.instance_type == LARGE)


def test_mixed_sources_warn():
    """EMULATED beside MEASURED is never compared in silence."""
    study = [cell(100), cell(300, machine=LARGE, source=tb.Source.EMULATED)]
    assert "different kinds" in tb.highest_throughput(study, COSTS).warnings[0]
    assert tb.highest_throughput(study[:1], COSTS).warnings == ()


def test_the_pareto_front_holds_what_nothing_beats():
    """Slower, dearer and lower in throughput at once is out; equals stay both."""
    best, beaten = cell(100, 0.02), cell(90, 0.03)
    other, twin = cell(300, 0.01, machine=LARGE), cell(100, 0.02, users=6)
    assert tb.pareto_front([beaten, other, best, twin], COSTS) == (best, twin, other)
    assert tb.pareto_front([beaten, other, best], COSTS, over=("throughput_tps",)) == (other,)
    assert tb.pareto_front([], COSTS) == ()


def test_a_plan_counts_copies_and_dollars():
    """8 requests/s of 2 a copy, a fifth kept free: 5 copies at 1.515 USD, 730 hours; the dear and the unfit follow with a reason."""
    rate = {"request_throughput_rps": Estimate(2.0, (1.8, 2.2), 30)}
    fit, dear = cell(100, **rate), cell(100, machine=HUGE, **rate)
    unfit = cell(10, machine=LARGE, **rate)
    plan = tb.plan_capacity([dear, unfit, fit], COSTS, tb.throughput_at_least(50), traffic_rps=8, headroom_ratio=0.2)
    first, second, third = plan.options
    assert (first.deployment, first.replicas, first.replicas_interval) == (fit.deployment, 5, (5, 6))
    assert first.usd_per_month == pytest.approx(5 * 1.515 * 730)
    assert first.busy_ratio == pytest.approx(0.8)
    assert (second.deployment, second.replicas) == (dear.deployment, 5)
    assert third.usd_per_month is None
    assert "throughput_tps at least 50 tokens/s: is 10 tokens/s, 80 % too low" in third.reason
    assert plan.best == first
    with pytest.raises(tb.InvalidValueError, match="headroom_ratio"):
        tb.plan_capacity([fit], COSTS, traffic_rps=8, headroom_ratio=1)


def test_a_plan_of_an_api_pays_for_the_traffic_only():
    """Tokens are billed, not copies: 3 requests/s of 100 tokens at 10 USD a million are 3·100·3600·730/1e6·10 USD a month."""
    tokens = Distribution(count=100, mean=100.0, intervals={"mean": (100.0, 100.0)})
    api = cell(200, output_tokens=tokens, request_throughput_rps=Estimate(2.0))
    plan = tb.plan_capacity([api], tb.PerToken(0, 10.0), traffic_rps=3)
    assert plan.best.usd_per_month == pytest.approx(3 * 100 * 3600 * 730 / 1e6 * 10)


def test_an_slo_is_required_of_the_tail():
    """Its limits are kept at the 95th percentile or the deployment will not do."""
    rate = {"request_throughput_rps": Estimate(2.0), "ttft_s": Distribution(count=100, p50=0.1, p95=0.7)}
    plan = tb.plan_capacity([cell(100, **rate)], COSTS, traffic_rps=1, slo=tb.SLO(ttft_s=0.5))
    assert plan.best is None
    assert "ttft_s p95" in plan.sentence
    assert tb.plan_capacity([cell(100, **rate)], COSTS, traffic_rps=1, slo=tb.SLO(ttft_s=0.5), slo_quantile=0.5).best


def test_batch_means_are_kept_with_the_results(tmp_path):
    """What a store holds is compared exactly as what was measured; to the bit."""
    values = np.random.default_rng(1).exponential(size=(2, 300))
    cells = [measurement(metrics(latency_s=distribution(row)), seed=seed) for seed, row in enumerate(values)]
    with_batches = tb.compare(*cells, of="latency_s")
    store = tb.StudyStore(tmp_path)
    for one in cells:
        store.add(one, None)
    assert tb.compare(*tb.read_study(tmp_path).measurements, of="latency_s") == with_batches
    assert "20 and 20 batches" in with_batches.basis


def test_results_from_before_batch_means_are_read():
    """They are compared by their intervals."""
    values = np.random.default_rng(1).exponential(size=(2, 300))
    old = []
    for row in values:
        record = measurement_to_json(measurement(metrics(latency_s=distribution(row))))
        del record["metrics"]["latency_s"]["distribution"]["batch_means"]
        old.append(measurement_from_json(json.loads(json.dumps(record))))
    told = tb.compare(*old, of="latency_s")
    assert told.basis == "the intervals of both"
    assert told.interval is not None
