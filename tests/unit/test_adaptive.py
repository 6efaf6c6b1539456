"""Adaptive sweeps: what is measured, what is left out and why, and that nothing is lost."""

from __future__ import annotations

import asyncio
import functools
import math
from contextlib import asynccontextmanager

import attrs
import pytest

import tgibench as tb
from tgibench import measuring
from tgibench.backends import LongestTimes

LOAD, HIGH = tb.ClosedLoop(1, duration_s=20), tb.ClosedLoop(10, duration_s=20)
PROMPTS = tb.PromptLengths(input_tokens=(100, 300), max_new_tokens=20)
COSTS = tb.InstanceHours(tb.PriceTable.builtin(as_of="2023-09"))
TODAY = tb.InstanceHours(tb.PriceTable.builtin())
SEVEN = [
    tb.Deployment("meta-llama/Llama-2-7b-hf", machine, tensor_parallel=shards, server_version="1.0.3")
    for machine, shards in (("ml.g5.2xlarge", 1), ("ml.g5.12xlarge", 4), ("ml.g5.48xlarge", 8), ("ml.p4d.24xlarge", 8))
]
CHEAPEST = tb.Goal.cheapest(HIGH)
MODEL = tb.PerformanceModel()


@attrs.define(slots=False)
class Machines:
    """The emulator, some minutes after the order; remembers what it started and stopped; `broken` ones cannot be deployed."""

    broken: tuple = ()
    slow: str = ""
    started: list = attrs.field(factory=list)
    stopped: list = attrs.field(factory=list)
    ready_after_s: float = 300
    name = "machines"
    source = tb.Source.EMULATED

    @asynccontextmanager
    async def deploy(self, deployment):
        await asyncio.sleep(self.ready_after_s)
        if deployment.instance_type in self.broken:
            raise tb.DeployError(f"no capacity for {deployment.instance_type}")
        self.started.append(deployment.instance_type)
        try:
            yield tb.Emulator().endpoint(deployment)
        finally:
            self.stopped.append(deployment.instance_type)


def sweep(backend=None, goals=(CHEAPEST,), deployments=SEVEN, loads=(LOAD, HIGH), **options):
    """An adaptive sweep in virtual time."""
    options = {"backend": backend or Machines(), "prompts": PROMPTS, "costs": COSTS, **options}
    return tb.virtual_time.run(tb.adaptive_sweep(deployments, loads, goals, MODEL, **options))


def test_only_what_could_win_is_deployed_and_measured():
    """The cheapest at 10 users is the small machine; the others are left out by the model's margin, and the reasons say so."""
    backend, told = Machines(), []
    found = sweep(backend, on_measurement=told.append)
    assert backend.started == backend.stopped == ["ml.g5.2xlarge"]
    assert tuple(told) == found.study.measurements
    assert [cell.load for cell in found.study] == [HIGH]
    (outcome,) = found.outcomes
    assert outcome.winner.deployment == SEVEN[0]
    assert outcome.decided
    assert outcome.confidence > 0.95
    assert [skipped.deployment for skipped in outcome.skipped] == SEVEN[1:]
    assert all("worse than the winner" in skipped.reason for skipped in outcome.skipped)
    assert "cheapest: Llama-2-7b-hf @ ml.g5.2xlarge under 10 users" in outcome.sentence


def test_dollars_are_those_of_the_time_that_machines_were_held():
    """Five minutes and a run of a g5.2xlarge; the grid's are all four machines' under both loads."""
    found = sweep(deploy_s=300, pause_s=0)
    seconds = 3600 * found.spent_usd / 1.515
    assert 320 < seconds < 325
    assert found.grid_usd == pytest.approx((1.515 + 7.09 + 20.36 + 37.688) * 340 / 3600)
    assert found.saved_usd == found.grid_usd - found.spent_usd


def test_the_winners_are_those_of_the_whole_grid():
    """For three goals the outcome is what measuring everything gives."""
    goals = [CHEAPEST, tb.Goal.fastest(LOAD), tb.Goal.highest_throughput(HIGH)]
    found = sweep(goals=goals, repeats=0)
    grid = tb.virtual_time.run(tb.sweep(SEVEN, [LOAD, HIGH], backend=Machines(), prompts=PROMPTS))
    at = {(cell.deployment, cell.load): cell for cell in grid}
    truth = [
        min(SEVEN, key=lambda d: COSTS.cost(at[d, HIGH]).usd_per_million_output_tokens.value),
        min(SEVEN, key=lambda d: at[d, LOAD].metrics.normalized_latency_s.p50),
        max(SEVEN, key=lambda d: at[d, HIGH].metrics.output_throughput_tps.value),
    ]
    assert [outcome.winner.deployment for outcome in found.outcomes] == truth
    assert len(found.study) < len(grid)


def test_a_deployment_that_the_model_does_not_know_is_measured():
    """Only a measurement can rule it out; one that does not fit its machine becomes a failure."""
    unknown = tb.Deployment("somebody/else-7b", "ml.g5.2xlarge", server_version="1.0.3")
    backend = Machines()

    async def measure(deployment, endpoint, load, *, seed):
        known = attrs.evolve(deployment, model_id=SEVEN[0].model_id)
        cell = await tb.measure(known, tb.Emulator().endpoint(known), load, backend=backend, prompts=PROMPTS, seed=seed)
        return attrs.evolve(cell, deployment=deployment)

    backend.deploy = lambda deployment: Machines.deploy(backend, attrs.evolve(deployment, model_id=SEVEN[0].model_id))
    found = sweep(backend, deployments=[SEVEN[0], unknown], measure=measure, repeats=0)
    assert {cell.deployment for cell in found.study} == {SEVEN[0], unknown}


def test_what_is_left_out_lies_beyond_its_own_interval():
    """A card that the model was not fitted to is predicted slower, with so wide an interval that it may be faster: it is measured."""
    unseen = attrs.evolve(SEVEN[0], instance_type="ml.g6.2xlarge")
    found = sweep(goals=[tb.Goal.fastest(HIGH)], deployments=[SEVEN[0], unseen], repeats=0, costs=TODAY)
    best = found.outcomes[0].value
    low, high = tb.predict(unseen, HIGH, PROMPTS).metrics.normalized_latency_s.intervals["p50"]
    assert low < best < high
    assert {cell.deployment for cell in found.study} == {SEVEN[0], unseen}


def test_first_tokens_are_told_apart_as_roughly_as_they_are_predicted():
    """The reason counts standard deviations of the figure that the goal is about."""
    found = sweep(goals=[tb.Goal.fastest(HIGH, of="ttft_s")])
    (outcome,) = found.outcomes
    for skipped in outcome.skipped:
        figure = tb.predict(skipped.deployment, HIGH, PROMPTS).metrics.ttft_s
        low, high = figure.intervals["p50"]
        away = math.log(figure.p50 / outcome.value) / (math.log(high / low) / (2 * 1.96))
        assert f" {away:.1f} standard deviations" in skipped.reason
    assert outcome.skipped


def test_loads_that_share_a_label_are_different_loads():
    """Ten users for 20 s and ten users for 60 s: each goal is decided by a measurement under its own load, and both are paid for."""
    longer = tb.ClosedLoop(10, duration_s=60, warm_up_s=10)
    assert longer.label == HIGH.label
    goals = [tb.Goal.fastest(HIGH, name="a"), tb.Goal.fastest(longer, name="b")]
    found = sweep(goals=goals, deployments=SEVEN[:1], loads=[HIGH, longer], pause_s=0)
    assert [outcome.winner.load for outcome in found.outcomes] == [HIGH, longer]
    assert all(outcome.decided for outcome in found.outcomes)
    assert 3600 * found.grid_usd / 1.515 == pytest.approx(600 + 20 + 60)


def test_what_is_given_twice_counts_once():
    """The same deployment and the same load again: one start, one measurement, no tie with itself."""
    backend = Machines()
    found = sweep(backend, deployments=[SEVEN[0], SEVEN[0]], loads=[HIGH, HIGH], repeats=0, pause_s=0)
    assert backend.started == ["ml.g5.2xlarge"]
    assert found.outcomes[0].tied == ()
    assert 3600 * found.grid_usd / 1.515 == pytest.approx(600 + 20)


def test_a_tie_is_measured_again_at_once():
    """Two deployments alike: the second is run twice more with other seeds while it stands, and the outcome names the tie."""
    twin = attrs.evolve(SEVEN[0], revision="same")
    backend = Machines()
    found = sweep(backend, deployments=[SEVEN[0], twin], repeats=2, tie_ratio=0.1)
    assert backend.started == ["ml.g5.2xlarge", "ml.g5.2xlarge"]
    assert [cell.provenance.seed for cell in found.study] == [0, 0, 1, 2]
    assert len(found.outcomes[0].tied) == 1
    assert ", tied with " in found.outcomes[0].sentence


def test_a_budget_is_kept():
    """What would exceed it is not started, and the goal says that it is not decided."""
    goal = tb.Goal.highest_throughput(HIGH)
    backend = Machines()
    found = sweep(backend, goals=[goal], budget_usd=2.0)
    assert "ml.p4d.24xlarge" not in backend.started
    assert found.spent_usd <= 2.0
    (outcome,) = found.outcomes
    assert not outcome.decided
    assert "the budget did not reach" in {skipped.reason for skipped in outcome.skipped}


def test_a_tie_is_measured_again_only_as_often_as_the_budget_pays_for():
    """Two alike for ten minutes each and three repeats wanted: the money is for one, and the tie stays one."""
    load = tb.ClosedLoop(1, duration_s=600)
    twin = attrs.evolve(SEVEN[0], revision="same")
    options = {"goals": [tb.Goal.fastest(load)], "deployments": [SEVEN[0], twin], "loads": [load], "repeats": 3}
    found = sweep(budget_usd=1.06, **options)
    assert [cell.provenance.seed for cell in found.study] == [0, 0, 1]
    assert found.spent_usd <= 1.06
    assert found.outcomes[0].decided
    assert len(sweep(**options).study) == 5


OPEN = tb.PoissonArrivals(0.5, duration_s=1800)
COUNTED = tb.ClosedLoop(5, requests=2000)
STAGES = tb.Stages([tb.ClosedLoop(2, duration_s=30), tb.ClosedLoop(5, requests=500)])
PAUSING = tb.ClosedLoop(5, requests=200, think_time_s=20)


@pytest.mark.parametrize("load", [OPEN, COUNTED, STAGES, PAUSING])
def test_the_grid_counts_every_load_for_as_long_as_it_takes(load):
    """Open loads as planned, those of a number of requests as predicted; nothing is saved where everything was measured."""
    found = sweep(goals=[tb.Goal.fastest(load)], deployments=SEVEN[:1], loads=[load], pause_s=0, deploy_s=300)
    assert found.grid_usd == pytest.approx(found.spent_usd, rel=0.1)
    assert found.grid_usd > 1.515 * 400 / 3600


@pytest.mark.parametrize("load", [OPEN, COUNTED, STAGES, PAUSING])
def test_a_budget_is_kept_whatever_limits_the_load(load):
    """What is expected to take longer than the money lasts is left out; what fits beside it is measured."""
    goals = [tb.Goal.fastest(LOAD, name="short"), tb.Goal.fastest(load, name="long")]
    found = sweep(goals=goals, deployments=SEVEN[:1], loads=[LOAD, load], budget_usd=1.515 * 700 / 3600, deploy_s=300)
    assert [cell.load for cell in found.study] == ([LOAD, load] if load is STAGES else [LOAD])
    assert [outcome.decided for outcome in found.outcomes] == [True, load is STAGES]
    assert found.spent_usd <= 1.515 * 700 / 3600


def test_a_load_that_takes_longer_than_the_money_lasts_is_stopped():
    """Nothing predicts how long so many requests of an unknown model take: the budget stops them, and what was measured before stays."""
    unknown = attrs.evolve(SEVEN[0], model_id="somebody/else-7b")
    backend = Machines()

    async def measure(deployment, endpoint, load, *, seed):
        del endpoint, seed
        await asyncio.sleep(20 if load == LOAD else 10_000)
        return tb.measurement_of_row(deployment, load, PROMPTS, server_time_per_token_s=0.02)

    backend.deploy = lambda deployment: Machines.deploy(backend, attrs.evolve(deployment, model_id=SEVEN[0].model_id))
    goals = [tb.Goal.fastest(load, of="server_time_per_token_s") for load in (LOAD, COUNTED)]
    found = sweep(backend, goals=goals, deployments=[unknown], loads=[LOAD, COUNTED], measure=measure, budget_usd=1.0)
    assert [cell.load for cell in found.study] == [LOAD]
    assert 0.95 < found.spent_usd <= 1.0
    assert backend.stopped == backend.started
    assert [outcome.decided for outcome in found.outcomes] == [True, False]
    assert [skipped.reason for skipped in found.outcomes[1].skipped] == ["the budget did not reach"]
    assert "what is left of the budget pays for stopping it" in found.study.failures[0].message


def test_a_start_that_takes_longer_than_the_money_lasts_is_given_up():
    """It becomes a failure, and the goal is not decided."""
    found = sweep(Machines(ready_after_s=6000), deployments=SEVEN[:1], budget_usd=0.3)
    assert found.spent_usd <= 0.3
    assert len(found.study) == 0
    assert "what is left of the budget pays for stopping it" in found.study.failures[0].message
    assert not found.outcomes[0].decided


def test_what_stopping_may_take_is_kept_of_the_budget():
    """A backend that says so gets the time: what is being started must be given up earlier than what serves."""

    class Lingering(Machines):
        def longest_times(self, deployment):
            del deployment
            return LongestTimes(startup_s=9000, teardown_s=60, abandon_s=600)

    a_second = 1.515 / 3600
    options = {"deployments": SEVEN[:1], "deploy_s": 300, "pause_s": 0}
    assert sweep(Lingering(), budget_usd=899 * a_second, **options).deployed == 0
    assert len(sweep(Lingering(), budget_usd=901 * a_second, **options).study) == 1
    late = sweep(Lingering(ready_after_s=6000), budget_usd=1000 * a_second, **options)
    assert late.spent_usd == pytest.approx(400 * a_second)


def test_a_machine_that_costs_nothing_needs_no_budget():
    """A server of one's own: a budget of 0 dollars pays for all of it."""
    found = sweep(goals=[tb.Goal.fastest(HIGH)], budget_usd=0, costs=tb.FixedCost(0), repeats=0)
    assert found.outcomes[0].decided
    assert found.spent_usd == found.grid_usd == 0


def test_a_deployment_that_fails_does_not_lose_the_rest():
    """It becomes a failure and the reason for which the goal did without it; the next best is measured."""
    backend = Machines(broken=("ml.g5.2xlarge",))
    found = sweep(backend)
    assert [failure.message for failure in found.study.failures] == ["no capacity for ml.g5.2xlarge"]
    assert found.outcomes[0].winner.deployment == SEVEN[1]
    assert any("could not be deployed" in skipped.reason for skipped in found.outcomes[0].skipped)
    assert found.spent_usd > 1.515 * 300 / 3600


def test_what_cannot_be_deployed_leaves_no_doubt():
    """The likeliest winner cannot be had: what is left decides the goal, and the confidence is about that."""
    found = sweep(Machines(broken=("ml.g5.2xlarge",)), goals=[tb.Goal.cheapest(HIGH)], k=9)
    (outcome,) = found.outcomes
    assert outcome.decided
    assert outcome.confidence == 1


def test_a_load_that_fails_for_want_of_workers_does_not_lose_the_rest(tmp_path):
    """It becomes a failure with the load's name; as that deployment could still win, the goal is not decided."""

    async def measure(deployment, endpoint, load, *, seed):
        del endpoint, seed
        if deployment == SEVEN[0]:
            raise tb.WorkerError("all 2 workers were lost")
        return tb.measurement_of_row(deployment, load, PROMPTS, server_time_per_token_s=0.02, output_throughput_tps=50)

    backend = Machines()
    found = sweep(backend, measure=measure, deployments=SEVEN[:2], store=tmp_path)
    assert backend.started == backend.stopped == ["ml.g5.2xlarge", "ml.g5.12xlarge"]
    assert [(failure.message, failure.load) for failure in found.study.failures] == [
        ("all 2 workers were lost", "10 users")
    ]
    assert found.study.failures == tb.read_study(tmp_path).failures
    (outcome,) = found.outcomes
    assert outcome.winner.deployment == SEVEN[1]
    assert not outcome.decided
    assert [skipped.reason for skipped in outcome.skipped] == ["could not be measured: all 2 workers were lost"]


def test_a_goal_is_decided_by_its_own_measurements_when_another_is_out_of_money(tmp_path):
    """All that one needs is in the store; for the other there is no money, and it alone is not decided."""
    goals = [tb.Goal.fastest(LOAD, name="low"), tb.Goal.fastest(HIGH, name="high")]
    options = {"deployments": SEVEN[:2], "store": tmp_path, "k": 9}
    assert len(sweep(goals=goals[:1], repeats=0, **options).study) == 2
    low, high = sweep(goals=goals, budget_usd=0, **options).outcomes
    assert low.decided
    assert low.skipped == ()
    assert not high.decided
    assert high.sentence == "high: nothing was measured"
    assert {skipped.reason for skipped in high.skipped} == {"the budget did not reach"}


@pytest.mark.parametrize("of", ["queue_s", "tpot_s", "latency_s", "largest_gap_s"])
def test_figures_that_are_none_or_nothing_end_no_sweep(of):
    """Waits of 0 s, and times between tokens of answers that have one."""
    prompts = tb.PromptLengths(input_tokens=(100, 300), max_new_tokens=1)
    found = sweep(goals=[tb.Goal.fastest(LOAD, of=of)], deployments=SEVEN[:2], prompts=prompts, loads=[LOAD])
    (outcome,) = found.outcomes
    assert len(found.study) + len(outcome.skipped) - len(outcome.without_figure) == 2
    if outcome.winner is None:
        assert outcome.sentence == f"fastest: 2 measured, none with a {of}"
        assert not outcome.decided


def test_nothing_is_better_than_a_wait_of_nothing():
    """The first that has none wins, and the others need not be measured."""
    found = sweep(goals=[tb.Goal.fastest(LOAD, of="queue_s")], deployments=SEVEN[:2])
    (outcome,) = found.outcomes
    assert outcome.value == 0
    assert outcome.decided
    assert outcome.confidence == 1
    assert len(found.study) == 1
    assert [skipped.reason for skipped in outcome.skipped] == ["nothing is better than the winner's queue_s of 0"]


def test_measurements_without_a_figure_are_told_from_none():
    """A server that refuses every request was measured; the outcome says what is wanting, and of how many requests."""
    long = tb.PromptLengths(input_tokens=(1500,), max_new_tokens=50)
    found = sweep(deployments=SEVEN[:2], prompts=long)
    (outcome,) = found.outcomes
    assert len(found.study) == 2
    assert outcome.sentence == "cheapest: 2 measured, none with a usd_per_million_output_tokens"
    assert not outcome.decided
    assert len(outcome.without_figure) == 2
    for skipped in outcome.skipped:
        assert skipped.reason.startswith("measured, but stopped early: 0 of ")


def test_an_open_load_is_measured_where_nothing_predicts_it():
    """The closed form knows none: each deployment that competes is measured, at prices that need no prediction."""
    goal = tb.Goal.fastest(OPEN, among=lambda deployment: deployment in SEVEN[:2])
    found = sweep(goals=[goal], deployments=SEVEN[:3], loads=[OPEN])
    assert {cell.deployment for cell in found.study} == set(SEVEN[:2])
    assert found.outcomes[0].decided
    assert found.outcomes[0].confidence == 1


def test_the_price_of_an_hour_is_a_goal_too():
    """It is known: the first measurement decides."""
    found = sweep(goals=[tb.Goal(name="least an hour", load=LOAD, of="usd_per_hour")])
    (outcome,) = found.outcomes
    assert len(found.study) == 1
    assert outcome.value == 1.515
    assert outcome.confidence == 1
    assert "worse than the winner, by a figure that is known" in outcome.skipped[0].reason


def test_start_ups_that_are_paid_for_are_known_of_each_cell():
    """A cost model that counts them has what it needs, before and after measuring."""
    costs = tb.InstanceHours(tb.PriceTable.builtin(as_of="2023-09"), hours_per_start=1)
    found = sweep(costs=costs, deploy_s=300)
    assert [cell.provenance.ready_after_s for cell in found.study] == [300]
    assert found.outcomes[0].decided
    assert len(found.outcomes[0].skipped) == 3


def test_a_figure_of_ones_own_is_a_goal_where_one_measures_oneself():
    """It stands in the measurements' `extra`; nothing predicts it, so that all are measured."""

    async def measure(deployment, endpoint, load, *, seed):
        del endpoint, seed
        row = tb.measurement_of_row(deployment, load, PROMPTS, server_time_per_token_s=0.02)
        watts = tb.Estimate(math.nan if deployment == SEVEN[3] else 100.0 * deployment.tensor_parallel)
        return attrs.evolve(row, metrics=attrs.evolve(row.metrics, extra={"watts": watts}))

    found = sweep(goals=[tb.Goal(name="least power", load=LOAD, of="watts")], measure=measure)
    (outcome,) = found.outcomes
    assert outcome.value == pytest.approx(100)
    assert len(found.study) == 4
    assert [cell.deployment for cell in outcome.without_figure] == [SEVEN[3]]
    assert [skipped.reason for skipped in outcome.skipped] == ["measured, but without a watts"]


def test_published_rows_are_predicted_as_they_were_published():
    """Their tokens/s are the study's derived ones, and the interval is as wide as that of counted ones."""
    backend = Machines()
    backend.source = tb.Source.PUBLISHED
    predicted = tb.predict(SEVEN[0], HIGH, PROMPTS).metrics

    async def measure(deployment, endpoint, load, *, seed):
        del endpoint, seed
        best = 1.5 * predicted.littles_law_throughput_tps
        return tb.measurement_of_row(deployment, load, PROMPTS, output_throughput_tps=best)

    found = sweep(backend, goals=[tb.Goal.highest_throughput(HIGH)], measure=measure, deployments=SEVEN[:2], repeats=0)
    low, high = predicted.output_throughput_tps.interval
    away = math.log(1.5) / (math.log(high / low) / (2 * 1.96))
    (skipped,) = found.outcomes[0].skipped
    assert skipped.deployment == SEVEN[0]
    assert skipped.reason == f"predicted 50% worse than the winner, {away:.1f} standard deviations of the model's error"


@pytest.mark.parametrize("error", [tb.TeardownError("the endpoint is left"), TimeoutError("of somebody else")])
def test_what_is_no_ordinary_failure_ends_the_sweep(error, tmp_path):
    """What could not be stopped, and a time limit that is not the budget's, pass; finished cells are in the store."""

    class Clinging(Machines):
        @asynccontextmanager
        async def deploy(self, deployment):
            async with super().deploy(deployment) as endpoint:
                yield endpoint
            raise error

    with pytest.raises(type(error), match=str(error)):
        sweep(Clinging(), store=tmp_path, budget_usd=100)
    assert len(tb.read_study(tmp_path)) == 1


def test_a_second_sweep_over_a_store_measures_nothing_again(tmp_path):
    """Finished cells come from the store; the outcome is the same and nothing is spent."""
    goals = [CHEAPEST, tb.Goal.fastest(LOAD)]
    first = sweep(goals=goals, store=tmp_path)
    backend = Machines()
    second = sweep(backend, goals=goals, store=tmp_path)
    assert backend.started == []
    assert second.spent_usd == 0
    assert [o.winner.deployment for o in second.outcomes] == [o.winner.deployment for o in first.outcomes]


def test_rows_from_elsewhere_are_found_again_too(tmp_path):
    """A `measure` of one's own may give rows whose provenance names another backend, prompts and no seed: cells are what was asked for."""
    rows = tb.PromptLengths(input_tokens=(7,), max_new_tokens=3)

    async def measure(deployment, endpoint, load, *, seed):
        del endpoint, seed
        return tb.measurement_of_row(deployment, load, rows, server_time_per_token_s=0.02, output_throughput_tps=50)

    twin = attrs.evolve(SEVEN[0], revision="same")
    first = sweep(deployments=[SEVEN[0], twin], measure=measure, store=tmp_path)
    assert [cell.provenance.seed for cell in first.study] == [0, 0, 1]
    assert {cell.prompts for cell in first.study} == {PROMPTS.identity}
    assert {cell.source for cell in first.study} == {tb.Source.PUBLISHED}
    backend = Machines()
    second = sweep(backend, deployments=[SEVEN[0], twin], measure=measure, store=tmp_path)
    assert backend.started == []
    assert second.study.measurements == first.study.measurements


def test_ctrl_c_returns_what_is_finished_and_stops_what_was_started():
    """Cancelled during the second deployment's load: the first cell is returned, the half-measured one is not."""

    async def cancelled():
        backend = Machines()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(
                tb.adaptive_sweep(
                    SEVEN, [LOAD], [tb.Goal.fastest(LOAD)], MODEL, backend=backend, prompts=PROMPTS, costs=COSTS, k=9
                )
            )
            await asyncio.sleep(300 + 20 + 300 + 8)
            task.cancel()
            return await task, backend

    found, backend = tb.virtual_time.run(cancelled())
    assert found.study.interrupted
    assert len(found.study) == 1
    assert len(backend.started) == 2
    assert backend.started == backend.stopped
    assert not found.outcomes[0].decided


def test_workers_share_each_load(monkeypatch):
    """They come from the executor that is given, as in `tgibench.measure`."""
    asked, whole = [], measuring.measure

    async def measure(*cell, executor, shards, listen, **options):
        asked.append((executor, shards, listen))
        return await whole(*cell, **options)

    monkeypatch.setattr(measuring, "measure", measure)
    sweep(executor="pool", shards=2, listen="10.0.0.4")
    assert set(asked) == {("pool", 2, "10.0.0.4")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": print, "executor": "pool", "shards": 2}, "measure says how a load is measured: give executor"),
        ({"deployments": []}, "at least one deployment, load and goal, got 0, 2 and 1"),
        ({"loads": [LOAD]}, "load '10 users' of goal 'cheapest' is not among the loads"),
        ({"budget_usd": math.nan}, "budget_usd must be a number of at least 0, got nan"),
        ({"budget_usd": -1}, "budget_usd must be a number of at least 0, got -1"),
        ({"k": -1}, "k must be a number of at least 0, got -1"),
        ({"repeats": -1}, "repeats must be a whole number of at least 0, got -1"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"tie_ratio": math.inf}, "tie_ratio must be a number of at least 0, got inf"),
        ({"deploy_s": -1}, "deploy_s must be a number of at least 0, got -1"),
        (
            {"goals": [tb.Goal.fastest(LOAD, of="speed")]},
            "goal 'fastest': there is no figure 'speed'; there are .* and of costs",
        ),
        ({"goals": [tb.Goal.fastest(LOAD, of="window")]}, "goal 'fastest': there is no figure 'window'"),
        (
            {"goals": [tb.Goal(name="g", load=LOAD, of="goodput_rps")]},
            "goal 'g': goodput_rps is counted against an SLO",
        ),
        (
            {"costs": tb.PerToken(0, 2.0), "loads": [OPEN], "goals": [tb.Goal.fastest(OPEN)]},
            "knows no price of an hour",
        ),
        ({"goals": [tb.Goal.cheapest(LOAD, among=lambda _: False)]}, "no deployment competes in goal 'cheapest'"),
    ],
)
def test_what_cannot_be_decided_is_refused(options, message):
    """One clear error, before anything is started."""
    backend = Machines()
    with pytest.raises(tb.InvalidValueError, match=message):
        sweep(backend, **options)
    assert backend.started == []


def test_a_sweep_goes_on_from_its_store_with_a_backend_that_has_an_identity_and_a_measure_of_its_own(tmp_path):
    """Nothing is measured twice, whatever time-outs and SLO the caller's `measure` has."""
    backend = tb.Emulator(ready_after_s=600, jitter_s=0.001)
    slo, timeouts = tb.SLO(latency_s=60.0), tb.Timeouts(total_s=500.0)
    measure = functools.partial(tb.measure, backend=backend, prompts=PROMPTS, slo=slo, timeouts=timeouts)
    goals = [tb.Goal(name="good", load=HIGH, of="goodput_rps")]

    def swept():
        return tb.virtual_time.run(
            tb.adaptive_sweep(
                SEVEN[:2],
                [HIGH],
                goals,
                tb.PerformanceModel(),
                backend=backend,
                prompts=PROMPTS,
                costs=COSTS,
                measure=measure,
                store=tmp_path,
            )
        )

    first, again = swept(), swept()
    assert first.deployed > 0
    assert again.deployed == 0
    assert again.outcomes == first.outcomes


def test_a_load_that_was_given_up_decides_nothing():
    """Its figures are of a part: it neither wins nor is beaten, and the reason says so."""

    async def measure(deployment, endpoint, load, *, seed):
        del endpoint, seed
        row = tb.measurement_of_row(deployment, load, PROMPTS, output_throughput_tps=50.0)
        return attrs.evolve(row, partial=deployment == SEVEN[3])

    goals = [tb.Goal.highest_throughput(HIGH)]
    (alone,) = sweep(Machines(), goals=goals, measure=measure, deployments=SEVEN[3:], repeats=0).outcomes
    assert alone.winner is None
    assert len(alone.without_figure) == 1
    assert [skipped.reason for skipped in alone.skipped] == ["measured, but stopped early"]
    (among,) = sweep(Machines(), goals=goals, measure=measure, deployments=SEVEN, repeats=0).outcomes
    assert among.winner.deployment != SEVEN[3]
    assert not among.decided
    assert among.confidence < 0.5


def test_what_fails_under_load_is_stopped_to_its_end_and_told():
    """The budget's limit is of loads: stopping a machine after a failure takes what it takes."""
    stopped = []

    class Slow(Machines):
        @asynccontextmanager
        async def deploy(self, deployment):
            await asyncio.sleep(300)
            try:
                yield deployment
            finally:
                await asyncio.sleep(60)
                stopped.append(deployment)

        def longest_times(self, deployment):
            del deployment
            return LongestTimes(startup_s=300, teardown_s=90, abandon_s=90)

    async def measure(deployment, endpoint, load, *, seed):
        del deployment, endpoint, load, seed
        await asyncio.sleep(100)
        raise tb.WorkerError("worker lost")

    budget_usd = 520 / 3600 * 1.515
    found = sweep(
        Slow(),
        goals=[tb.Goal.fastest(LOAD)],
        measure=measure,
        deployments=SEVEN[:1],
        budget_usd=budget_usd,
        deploy_s=300,
    )
    assert stopped == SEVEN[:1]
    assert [failure.message for failure in found.study.failures] == ["worker lost"]
