"""Predictions: what the closed form and the simulation give, and what they warn of."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

import tgibench as tb
from tgibench.twin.engines import EAGER
from tgibench.twin.hardware import INSTANCES
from tgibench.twin.step_time import step_costs
from tgibench.twin.tuning import TunedOnLine

SEVEN = tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge", server_version="1.0.3")
THIRTEEN = tb.Deployment("meta-llama/Llama-2-13b-hf", "ml.g5.12xlarge", tensor_parallel=4, server_version="1.0.3")
QWEN_BY_8 = tb.Deployment("Qwen/Qwen2.5-7B", "ml.g5.48xlarge", tensor_parallel=8, server_version="3.3.5")
PROMPTS = tb.study_prompts()


def users(number, **options):
    return tb.ClosedLoop(number, **(options or {"duration_s": 90}))


def both(deployment, load, **options):
    """The same cell by both methods."""
    return [tb.predict(deployment, load, PROMPTS, method=method, **options) for method in ("closed-form", "simulation")]


@pytest.mark.parametrize("deployment", [SEVEN, THIRTEEN], ids=lambda deployment: deployment.label)
@pytest.mark.parametrize("number", [1, 5, 20])
def test_the_closed_form_agrees_with_the_simulation(deployment, number):
    """Of fp16 under TGI 1.0.3, times per token and throughputs are within 8 %."""
    closed, simulated = both(deployment, users(number))
    for figure in ("server_time_per_token_s", "tpot_s"):
        ours, theirs = (getattr(cell.metrics, figure).p50 for cell in (closed, simulated))
        assert ours == pytest.approx(theirs, rel=0.08), figure
    assert closed.metrics.output_throughput_tps.value == pytest.approx(
        simulated.metrics.output_throughput_tps.value, rel=0.08
    )


def test_a_newer_scheduler_is_known_to_both():
    """Of TGI 3, which prefills beside running sequences, they are within 15 %."""
    closed, simulated = both(attrs.evolve(SEVEN, server_version="3.3.5"), users(10))
    assert closed.metrics.output_throughput_tps.value == pytest.approx(
        simulated.metrics.output_throughput_tps.value, rel=0.15
    )


def test_a_fresh_gptq_server_loses_time_to_tuning():
    """Under both methods a cold server serves fewer tokens than a warm one, by a tenth and more."""
    gptq = tb.Deployment("TheBloke/Llama-2-13B-GPTQ", "ml.g5.2xlarge", quantization="gptq", server_version="1.0.3")
    cold, warm = both(gptq, users(5)), both(gptq, users(5), cold=False)
    for ours, theirs in zip(cold, warm, strict=True):
        assert ours.metrics.output_throughput_tps.value < 0.9 * theirs.metrics.output_throughput_tps.value


def test_every_figure_is_predicted_and_has_an_interval_around_it():
    """Source and provenance say how it was come by; each interval holds its figure."""
    for cell in both(SEVEN, users(5)):
        assert cell.source is tb.Source.PREDICTED
        assert cell.provenance.backend == "predicted"
        rate, time = cell.metrics.output_throughput_tps, cell.metrics.server_time_per_token_s
        assert rate.interval[0] < rate.value < rate.interval[1]
        low, high = time.intervals["p50"]
        assert low < time.p50 < high
        assert cell.warnings == ()
    assert [cell.provenance.facts["method"] for cell in both(SEVEN, users(1))] == ["closed-form", "simulation"]


def test_little_s_law_holds_within_a_prediction():
    """Requests in flight are the rate times the latency."""
    metrics = tb.predict(SEVEN, users(10), PROMPTS).metrics
    assert metrics.request_throughput_rps.value * metrics.latency_s.mean == pytest.approx(10)


def test_replicas_share_the_users():
    """Two replicas with twice the users double the throughput and leave the times as they are."""
    one = tb.predict(SEVEN, users(5), PROMPTS).metrics
    two = tb.predict(attrs.evolve(SEVEN, replicas=2), users(10), PROMPTS).metrics
    assert two.output_throughput_tps.value == pytest.approx(2 * one.output_throughput_tps.value)
    assert two.tpot_s.p50 == pytest.approx(one.tpot_s.p50)


@pytest.mark.parametrize("method", ["closed-form", "simulation"])
def test_replicas_without_a_user_add_nothing(method):
    """One user of four replicas gets what one user of one replica gets."""
    one, four = (
        tb.predict(attrs.evolve(SEVEN, replicas=replicas), users(1), PROMPTS, method=method).metrics
        for replicas in (1, 4)
    )
    assert four.output_throughput_tps.value == pytest.approx(one.output_throughput_tps.value, rel=0.02)
    assert four.counts["issued"] == pytest.approx(one.counts["issued"], abs=1)
    assert four.littles_law_throughput_tps == pytest.approx(one.littles_law_throughput_tps, rel=0.02)


@pytest.mark.parametrize("method", ["closed-form", "simulation", "both"])
def test_requests_that_are_all_too_long_are_an_error(method):
    """The lengths and the limits are in the message; a study predicts the rest."""
    prompts = tb.PromptLengths(input_tokens=(1500,), max_new_tokens=50)
    with pytest.raises(tb.DeployError, match=r"at least 1500 tokens, 1550 with .* takes at most 1024 and 2048; raise"):
        tb.predict(SEVEN, users(5), prompts, method=method)
    roomy = attrs.evolve(SEVEN, max_input_tokens=2000, max_total_tokens=2100)
    study = tb.predict_study([SEVEN, roomy], [users(5)], prompts)
    assert [cell.deployment for cell in study] == [roomy]
    assert "refuses every request" in study.failures[0].message


def test_requests_that_the_server_refuses_are_said():
    """Some that are too long, by both methods; users beyond its permits; and in a simulation how many failed."""
    prompts = tb.PromptLengths(input_tokens=(100, 100, 100, 1500), max_new_tokens=50)
    closed, simulated = (
        tb.predict(SEVEN, users(2), prompts, method=method) for method in ("closed-form", "simulation")
    )
    for cell in (closed, simulated):
        assert any(warning.startswith("25.0% of the requests are longer") for warning in cell.warnings)
    assert any("requests failed" in warning for warning in simulated.warnings)
    crowd = tb.predict(SEVEN, users(200), PROMPTS)
    assert any("takes 128 requests at once, 200 users want in" in warning for warning in crowd.warnings)


def test_a_simulation_in_which_nothing_succeeds_has_no_figures():
    """None, not a number that is none; and the warnings say why."""
    few = attrs.evolve(tb.EngineSettings(), max_concurrent_requests=1)
    model = tb.PerformanceModel(settings=few)
    cell = tb.predict(SEVEN, tb.PoissonArrivals(200.0, duration_s=0.2), PROMPTS, model=model, method="simulation")
    crowded = tb.predict(SEVEN, users(300, duration_s=20), PROMPTS, method="simulation")
    for each in (cell, crowded):
        shown = each.metrics.littles_law_throughput_tps
        assert shown is None or np.isfinite(shown)
        assert any("requests failed" in warning for warning in each.warnings)


def test_what_lies_beyond_the_fit_is_said_and_its_interval_is_wider():
    """An accelerator, an engine or a load that no row had."""
    within = tb.predict(SEVEN, users(5), PROMPTS)
    machine = tb.predict(attrs.evolve(SEVEN, instance_type="ml.g6.2xlarge"), users(5), PROMPTS)
    engine = tb.predict(attrs.evolve(SEVEN, server_version="3.3.5"), users(5), PROMPTS)
    load = tb.predict(SEVEN, users(40), PROMPTS)
    assert any("accelerator 'L4'" in warning for warning in machine.warnings)
    assert any("engine 'cuda-graphs'" in warning for warning in engine.warnings)
    assert load.warnings == ("extrapolated: 40 users on a replica, fitted to 1 to 20",)
    for cell in (machine, engine, load):
        low, high = cell.metrics.output_throughput_tps.interval
        ordinary = within.metrics.output_throughput_tps.interval
        assert high / low > ordinary[1] / ordinary[0]


def test_a_full_cache_is_said_and_costs_throughput():
    """Where the keys and values of few requests fit, the others wait."""
    small = tb.ModelShape(
        name="wide-cache", parameters=6.7e9, layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32
    )
    card = tb.Gpu("A10G", 17.8, 600, 70)
    model = tb.PerformanceModel().with_shape(small).with_instance(tb.Instance(name="box", gpu=card, host="g5"))
    deployment = tb.Deployment("wide-cache", "box", server_version="1.0.3")
    prompts = tb.PromptLengths(input_tokens=(900,), max_new_tokens=50)
    cell = tb.predict(deployment, users(20), prompts, model=model)
    few = tb.predict(deployment, users(4), prompts, model=model)
    assert any("the KV cache has room for" in warning for warning in cell.warnings)
    assert cell.metrics.output_throughput_tps.value < 1.3 * few.metrics.output_throughput_tps.value


def test_objects_of_ones_own_need_no_change_to_the_library():
    """A machine, a shape, an engine and a link that nobody ever heard of."""
    engine = attrs.evolve(EAGER, name="mine", launch_s_per_layer=0.1e-3)
    machine = tb.Instance(
        name="garage", gpu=tb.Gpu("X1", 64, 2000, 400), gpus=2, link=tb.Link(10e-6, 40.0, name="wire"), host="mine"
    )
    shape = tb.ModelShape(name="mine", parameters=3e9, layers=24, hidden=3072, intermediate=8192, heads=24, kv_heads=8)
    model = attrs.evolve(tb.PerformanceModel(engine=engine), fitted=tb.PerformanceModel().fitted)
    model = model.with_shape(shape).with_instance(machine)
    deployment = tb.Deployment("mine", "garage", tensor_parallel=2)
    closed, simulated = (
        tb.predict(deployment, users(5), PROMPTS, model=model, method=m) for m in ("closed-form", "simulation")
    )
    assert closed.metrics.tpot_s.p50 == pytest.approx(simulated.metrics.tpot_s.p50, rel=0.08)
    assert any("'X1'" in warning for warning in closed.warnings)


@pytest.mark.parametrize(
    ("deployment", "message"),
    [
        (attrs.evolve(SEVEN, model_id="nobody/knows"), "does not know the model"),
        (attrs.evolve(SEVEN, instance_type="ml.x.large"), "does not know the instance type"),
        (attrs.evolve(THIRTEEN, instance_type="ml.g5.2xlarge", tensor_parallel=1), "does not fit"),
        (attrs.evolve(SEVEN, instance_type="ml.g5.12xlarge", tensor_parallel=3), "cannot split the 32 attention heads"),
        (QWEN_BY_8, "cannot split the 28 attention heads of qwen2.5-7b among 8"),
    ],
)
def test_what_cannot_be_deployed_is_an_error_alone_and_a_failure_in_a_study(deployment, message):
    """As in a sweep: the rest is predicted."""
    with pytest.raises(tb.DeployError, match=message):
        tb.predict(deployment, users(1), PROMPTS)
    study = tb.predict_study([deployment, SEVEN], [users(1), users(5)], PROMPTS)
    assert [cell.deployment for cell in study] == [SEVEN, SEVEN]
    assert message in study.failures[0].message


def grouped(kv_heads, tensor_parallel, heads=32):
    """A prediction for attention heads in groups, on a p4d: the tokens that fit, and the time per token of long contexts."""
    shape = tb.ModelShape(
        name="grouped", parameters=7e9, layers=32, hidden=4096, intermediate=11008, heads=heads, kv_heads=kv_heads
    )
    deployment = attrs.evolve(
        SEVEN, model_id="grouped", instance_type="ml.p4d.24xlarge", tensor_parallel=tensor_parallel
    )
    prompts = tb.PromptLengths(input_tokens=(1000,), max_new_tokens=50)
    cell = tb.predict(deployment, users(40), prompts, model=tb.PerformanceModel().with_shape(shape))
    return int(cell.provenance.facts["cache_tokens"]), cell.metrics.tpot_s.p50


def test_key_value_heads_fewer_than_accelerators_are_held_by_several():
    """Two heads on eight accelerators take the room and the reading of eight; on two, they are split."""
    assert grouped(2, 8) == grouped(8, 8)
    assert grouped(2, 2)[0] == pytest.approx(4 * grouped(8, 2)[0], rel=1e-4)


def test_key_value_heads_that_can_neither_be_split_nor_repeated_are_refused():
    """Six of them on four accelerators."""
    with pytest.raises(tb.DeployError, match="cannot split or repeat the 6 key and value heads of grouped among 4"):
        grouped(6, 4, heads=24)


def test_only_the_simulation_knows_open_loops():
    """The closed form says so, and what to do."""
    load = tb.PoissonArrivals(0.5, duration_s=30)
    with pytest.raises(tb.InvalidValueError, match=r'use method="simulation"'):
        tb.predict(SEVEN, load, PROMPTS)
    simulated = tb.predict(SEVEN, load, PROMPTS, method="simulation")
    assert simulated.metrics.counts["failed"] == 0
    assert simulated.metrics.ttft_s.p50 > 0


def test_the_simulation_knows_users_who_pause():
    """With a second between requests fewer are served than without, and the users are still counted."""
    pausing = tb.predict(SEVEN, users(5, duration_s=60, think_time_s=1.0), PROMPTS, method="simulation")
    busy = tb.predict(SEVEN, users(5, duration_s=60), PROMPTS, method="simulation")
    assert pausing.metrics.counts["issued"] < busy.metrics.counts["issued"]
    assert pausing.warnings == ()
    crowd = tb.predict(SEVEN, users(40, duration_s=20, think_time_s=1.0), PROMPTS, method="simulation")
    assert "extrapolated: 40 users on a replica, fitted to 1 to 20" in crowd.warnings


def test_an_open_loop_beyond_the_fit_and_beyond_the_server_is_said():
    """By the mean number of requests in flight; a load that the server cannot take fails in part."""
    easy = tb.predict(SEVEN, tb.PoissonArrivals(0.5, duration_s=30), PROMPTS, method="simulation")
    assert easy.warnings == ()
    flood = tb.predict(SEVEN, tb.PoissonArrivals(50.0, duration_s=60), PROMPTS, method="simulation")
    assert any(warning.startswith("extrapolated: ") for warning in flood.warnings)
    assert any("requests failed" in warning for warning in flood.warnings)
    assert flood.metrics.output_throughput_tps.interval[1] > 1.5 * flood.metrics.output_throughput_tps.value


@pytest.mark.parametrize("version", ["1.0.3", "3.0.1"])
def test_short_answers_are_beyond_the_closed_form_and_it_says_so(version):
    """Figures that would be off by factors are None; the others have wide intervals; one user alone is predicted as ever."""
    deployment = attrs.evolve(SEVEN, server_version=version)
    few, some = (tb.PromptLengths(input_tokens=(200,), max_new_tokens=tokens) for tokens in (5, 15))
    cell = tb.predict(deployment, users(5), few)
    assert cell.metrics.tpot_s is None
    assert cell.metrics.server_time_per_token_s is None
    for prompts, method in ((few, "closed-form"), (some, "closed-form"), (few, "both"), (some, "both")):
        ours = tb.predict(deployment, users(5), prompts, method=method)
        theirs = tb.predict(deployment, users(5), prompts, method="simulation").metrics.output_throughput_tps.value
        low, high = ours.metrics.output_throughput_tps.interval
        assert low <= theirs <= high
        assert any("closed form is rough for answers of" in warning for warning in ours.warnings)
    alone = tb.predict(deployment, users(1), few)
    assert alone.metrics.tpot_s.p50 > 0
    assert not any("rough" in warning for warning in alone.warnings)


def test_an_answer_of_one_token_has_no_time_per_token_after_the_first():
    """As in a measurement."""
    one = tb.PromptLengths(input_tokens=(200,), max_new_tokens=1)
    for method in ("closed-form", "simulation"):
        assert tb.predict(SEVEN, users(1), one, method=method).metrics.tpot_s is None


@pytest.mark.parametrize("method", ["closed-form", "simulation", "both"])
def test_the_version_of_an_engine_that_is_not_tgi_need_be_no_number(method):
    """Nothing depends on it."""
    deployment = attrs.evolve(SEVEN, server="vllm", server_version="latest")
    assert tb.predict(deployment, users(2, duration_s=20), PROMPTS, method=method).metrics.tpot_s.p50 > 0


def test_a_method_of_no_name_is_refused():
    """The three names are in the message."""
    with pytest.raises(tb.InvalidValueError, match='must be "closed-form", "simulation" or "both", got \'guess\''):
        tb.predict(SEVEN, users(1), PROMPTS, method="guess")


def times_and_throughputs(*cells):
    """Logarithms of each cell's time per token, published and counted throughput."""
    figures = [
        (
            cell.metrics.server_time_per_token_s.p50,
            cell.metrics.littles_law_throughput_tps,
            cell.metrics.output_throughput_tps.value,
        )
        for cell in cells
    ]
    return np.log(figures)


class SamePrompts:
    """The study's prompts, whatever the seed."""

    identity = "same"

    def request(self, index, *, seed):
        del seed
        return PROMPTS.request(index, seed=0)


def test_several_runs_are_averaged():
    """Their geometric mean is predicted; runs have the same prompts, and differ by chance as seeds do."""
    load = users(5, duration_s=20)
    each = [tb.predict(SEVEN, load, SamePrompts(), method="simulation", seed=seed) for seed in (0, 1)]
    alone = times_and_throughputs(*each)
    assert not np.allclose(alone[0], alone[1], rtol=0, atol=1e-3)
    mean = times_and_throughputs(tb.predict(SEVEN, load, PROMPTS, method="simulation", runs=2))[0]
    assert mean[:2] == pytest.approx(alone.mean(axis=0)[:2])
    assert mean[2] - alone[0, 2] == pytest.approx(mean[1] - alone[0, 1])
    with pytest.raises(tb.InvalidValueError, match="runs must be at least 1, got 0"):
        tb.predict(SEVEN, load, PROMPTS, method="simulation", runs=0)


def test_both_forms_are_averaged():
    """The geometric mean of the two forms' time per token and throughput, under the loads that the closed form knows."""
    load = users(5, duration_s=20)
    alone = times_and_throughputs(*both(SEVEN, load))
    mean = tb.predict(SEVEN, load, PROMPTS, method="both")
    assert mean.provenance.facts["method"] == "both"
    assert times_and_throughputs(mean)[0, :2] == pytest.approx(alone.mean(axis=0)[:2])
    assert mean.metrics.server_time_per_token_s.intervals["p50"][0] < mean.metrics.server_time_per_token_s.p50
    with pytest.raises(tb.InvalidValueError, match=r'use method="simulation"'):
        tb.predict(SEVEN, tb.PoissonArrivals(0.5, duration_s=30), PROMPTS, method="both")


async def test_a_simulation_inside_a_loop_says_how_to_run_it():
    """It has a loop of its own."""
    with pytest.raises(tb.RunningLoopError, match=r"asyncio\.to_thread"):
        tb.predict(SEVEN, users(1), PROMPTS, method="simulation")


def test_steps_cost_the_same_alone_and_in_arrays():
    """The emulator's numbers and the closed form's arrays are one formula, GPTQ on both sides of its threshold included."""
    gptq = tb.Deployment("TheBloke/Llama-2-70B-GPTQ", "ml.p4d.24xlarge", tensor_parallel=8, quantization="gptq")
    for deployment in (SEVEN, THIRTEEN, gptq):
        times = tb.PerformanceModel().times(deployment)
        costs = step_costs(
            {name: np.array([value]) for name, value in times.facts.items()},
            {name: np.array([value]) for name, value in times.rates.items()},
        )
        for sequences in (1, 7, 8, 20):
            at_once = costs.decode_s(np.array([float(sequences)]), np.array([4000.0]))[0]
            assert at_once == pytest.approx(times.decode_s(sequences, 4000), rel=1e-12)
        assert costs.prefill_s(np.array([900.0]), np.array([3.0]))[0] == pytest.approx(times.prefill_s(900, 3))


def test_tuning_stalls_once_for_each_class_of_sizes():
    """A class and a specialisation are paid for at their first use only."""

    class Nothing:
        def decode_s(self, sequences, context_tokens):
            return 0.0

        def prefill_s(self, tokens, requests):
            return 0.0

    times = TunedOnLine(Nothing(), tuning_s=1.0, compile_s=10.0)
    assert [times.prefill_s(n, 1) for n in (100, 120, 200, 112)] == [11.0, 0.0, 1.0, 10.0]
    assert [times.decode_s(1, 5), times.decode_s(1, 5), times.decode_s(2, 5)] == [11.0, 0.0, 1.0]


def test_every_value_says_where_it_is_from():
    """Accelerators, links and machines of the built-in tables name a source."""
    for machine in INSTANCES.values():
        assert all(len(each.source) > 10 for each in (machine, machine.gpu, machine.link)), machine.name
