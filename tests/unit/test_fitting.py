"""Fitting and calibrating: parameters come back from rows that were made with them, and unseen deployments are predicted."""

from __future__ import annotations

import functools
import math

import attrs
import numpy as np
import pytest

import tgibench as tb
from tgibench.twin.engines import EAGER

pytest.importorskip("scipy")

LENGTHS = tb.PromptLengths(input_tokens=(40, 300, 120, 700, 90, 210, 33), max_new_tokens=40)
TRUE_ENGINE = attrs.evolve(
    EAGER,
    name="their engine",
    launch_s_per_layer=0.30e-3,
    request_s=0.10e-3,
    step_s=0.8e-3,
    memory_efficiency=0.68,
    compute_efficiency=0.55,
)
WIRE = tb.Link(20e-6, 12.0, name="wire", known=False)
CARDS = {"V": tb.Gpu("V", 32, 900, 125), "W": tb.Gpu("W", 80, 2000, 300)}
SHAPES = [
    tb.ModelShape(name="their-7b", parameters=6.7e9, layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32),
    tb.ModelShape(name="their-13b", parameters=13e9, layers=40, hidden=5120, intermediate=13824, heads=40, kv_heads=40),
]


def laboratory(engine, link=WIRE):
    """A laboratory's machines and models under an engine."""
    machines = [
        tb.Instance(name=f"{name} x {number}", gpu=card, gpus=number, link=link, host="their host")
        for name, card in CARDS.items()
        for number in (1, 2, 4)
    ]
    return tb.PerformanceModel(engine=engine).with_shape(*SHAPES).with_instance(*machines)


DEPLOYMENTS = [
    tb.Deployment(shape.name, f"{card} x {number}", tensor_parallel=number, server="theirs")
    for shape in SHAPES
    for card in CARDS
    for number in (1, 2, 4)
    if (shape.name, card, number) != ("their-13b", "V", 1)
]


@functools.cache
def rows():
    """Plain rows of their measurements: what the emulated engine gives with the true parameters."""
    truth = laboratory(TRUE_ENGINE)
    found = []
    for deployment in DEPLOYMENTS:
        for users in (1, 4, 12):
            load = tb.ClosedLoop(users, duration_s=40)
            metrics = tb.predict(deployment, load, LENGTHS, model=truth, method="simulation").metrics
            found.append(
                tb.measurement_of_row(
                    deployment,
                    load,
                    LENGTHS,
                    tpot_s=metrics.tpot_s.p50,
                    output_throughput_tps=metrics.output_throughput_tps.value,
                    latency_p90_s=metrics.latency_s.p90,
                    requests=metrics.counts["succeeded"],
                )
            )
    return found


def ignorant():
    """What is known before the fit: the machines, but neither their engine nor their link."""
    return laboratory(
        attrs.evolve(EAGER, name="their engine"), attrs.evolve(WIRE, start_up_s=60e-6, bandwidth_gb_per_s=4.0)
    )


@functools.cache
def fitted():
    return tb.fit(rows(), LENGTHS, model=ignorant())


def test_parameters_come_back_from_another_laboratory_s_rows():
    """Of 11 deployments' rows: what the rows tell comes back to 10 %, within three of its own standard deviations or so."""
    model = fitted()
    for name, truth in (("launch_s_per_layer", 0.30e-3), ("memory_efficiency", 0.68), ("compute_efficiency", 0.55)):
        assert getattr(model.engine, name) == pytest.approx(truth, rel=0.10), name
    link = model.instances["W x 4"].link
    assert link.bandwidth_gb_per_s == pytest.approx(12.0, rel=0.2)
    assert model.uncertainty["launch_s_per_layer"] < 0.1
    assert model.uncertainty["step_s"] > model.uncertainty["launch_s_per_layer"]
    assert model.spread.time_per_token < 0.1


def test_a_deployment_that_was_left_out_is_predicted():
    """From the rows of all others, each row of an unseen deployment to 10 %."""
    unseen = DEPLOYMENTS[4]
    model = tb.fit([row for row in rows() if row.deployment != unseen], LENGTHS, model=ignorant())
    for row in rows():
        if row.deployment == unseen:
            guess = tb.predict(unseen, row.load, LENGTHS, model=model).metrics
            assert guess.tpot_s.p50 == pytest.approx(row.metrics.tpot_s.p50, rel=0.1)
            assert guess.output_throughput_tps.value == pytest.approx(row.metrics.output_throughput_tps.value, rel=0.1)


def test_a_fit_knows_its_range():
    """What the rows had is no extrapolation, what they had not is."""
    model = fitted()
    assert model.fitted.rows == 33
    assert tb.predict(DEPLOYMENTS[0], tb.ClosedLoop(6, duration_s=40), LENGTHS, model=model).warnings == ()
    beyond = tb.predict(DEPLOYMENTS[0], tb.ClosedLoop(30, duration_s=40), LENGTHS, model=model)
    assert "fitted to 1 to 12" in beyond.warnings[0]


def test_tails_of_low_loads_tell_what_high_loads_cost():
    """From one and four users, the 90th percentiles bring the link's bandwidth nearer to the truth than medians and rates alone."""
    low = [row for row in rows() if row.load.concurrency < 12]
    without = [attrs.evolve(row, metrics=attrs.evolve(row.metrics, latency_s=None)) for row in low]
    errors = [
        abs(math.log(tb.fit(chosen, LENGTHS, model=ignorant()).instances["W x 4"].link.bandwidth_gb_per_s / 12.0))
        for chosen in (low, without)
    ]
    assert errors[0] < errors[1]


def test_prompts_may_be_given_by_row():
    """A mapping by identity is the same as the one source; a missing one is named."""
    by_row = tb.fit(rows(), {LENGTHS.identity: LENGTHS}, model=ignorant())
    assert by_row.engine == fitted().engine
    with pytest.raises(tb.InvalidValueError, match="prompts must hold the source of 'lengths:"):
        tb.fit(rows(), {"other": LENGTHS}, model=ignorant())


def test_one_wild_row_does_not_carry_the_fit_away():
    """A bad host among the rows moves the launch cost by less than 10 %."""
    wild = [
        attrs.evolve(row, metrics=slower(row.metrics, 3.0)) if index == 5 else row for index, row in enumerate(rows())
    ]
    model = tb.fit(wild, LENGTHS, model=ignorant())
    assert model.engine.launch_s_per_layer == pytest.approx(0.30e-3, rel=0.1)


def slower(metrics, factor):
    """The same, with times multiplied and throughput divided."""
    time = attrs.evolve(metrics.tpot_s, p50=metrics.tpot_s.p50 * factor)
    rate = attrs.evolve(metrics.output_throughput_tps, value=metrics.output_throughput_tps.value / factor)
    return attrs.evolve(metrics, tpot_s=time, output_throughput_tps=rate)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (list, "at least one row, got none"),
        (lambda: rows()[:2], "needs more figures than that, got 4 from 2 measurements"),
        (lambda: [attrs.evolve(rows()[0], load=tb.PoissonArrivals(1.0, duration_s=9))], "closed form knows ClosedLoop"),
    ],
)
def test_rows_that_cannot_carry_a_fit_are_refused(chosen, message):
    """The message says how many there are and what to do."""
    with pytest.raises(tb.InvalidValueError, match=message):
        tb.fit(chosen(), LENGTHS, model=ignorant())


def test_a_row_of_no_figure_is_refused():
    """Neither a time nor a throughput is nothing to fit to."""
    with pytest.raises(tb.InvalidValueError, match="gives no figure"):
        tb.measurement_of_row(DEPLOYMENTS[0], tb.ClosedLoop(1, requests=4), LENGTHS)


FIGURES = ("tpot_s", "server_time_per_token_s", "ttft_s", "output_throughput_tps", "latency_p90_s")


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "36", True])
def test_a_row_s_figures_are_numbers_above_zero(name, value):
    """A fit to logarithms knows no others; the message names the figure, the value and what to do."""
    given = {"output_throughput_tps": 36.0, name: value}
    with pytest.raises(
        tb.InvalidValueError, match=rf"{name} must be a finite number above 0, got {value!r}; leave it out"
    ):
        tb.measurement_of_row(DEPLOYMENTS[0], tb.ClosedLoop(1, requests=4), LENGTHS, **given)


@pytest.mark.parametrize("requests", [0, -3, 2.5, "4", True])
def test_a_row_s_requests_are_counted(requests):
    """A whole number of at least 1, or nothing."""
    with pytest.raises(tb.InvalidValueError, match=rf"requests must be a whole number of at least 1, got {requests!r}"):
        tb.measurement_of_row(DEPLOYMENTS[0], tb.ClosedLoop(1, requests=4), LENGTHS, tpot_s=0.03, requests=requests)


def test_a_row_s_figures_may_be_numpy_s():
    """A data frame's integers and single precision among them."""
    load = tb.ClosedLoop(1, requests=4)
    figures = {"tpot_s": np.float32(0.5), "output_throughput_tps": np.int64(36), "requests": np.int64(4)}
    metrics = tb.measurement_of_row(DEPLOYMENTS[0], load, LENGTHS, **figures).metrics
    assert (metrics.tpot_s.p50, metrics.output_throughput_tps.value, metrics.counts) == (0.5, 36.0, {"succeeded": 4})
    assert (type(metrics.tpot_s.p50), type(metrics.counts["succeeded"])) == (float, int)


def test_cross_validation_needs_a_deployment_beside_the_one_left_out():
    """Rows enough of one deployment can be fitted, but not held against others; the message says what to do."""
    of_one = [row for row in rows() if row.deployment == DEPLOYMENTS[5]] * 10
    assert tb.fit(of_one, LENGTHS, model=ignorant()).uncertainty
    with pytest.raises(tb.InvalidValueError, match="needs rows of at least 2 deployments, got 1: add rows of others"):
        tb.fit(of_one, LENGTHS, model=ignorant(), cross_validate=True)


def test_cross_validation_says_which_deployment_it_cannot_leave_out():
    """Many rows of one and two of another: without the many, too few figures are left."""
    few = [row for row in rows() if row.deployment == DEPLOYMENTS[0]][:2]
    many = [row for row in rows() if row.deployment == DEPLOYMENTS[5]] * 10
    message = rf"cross-validation cannot leave out {DEPLOYMENTS[5].label}: a fit of .* needs more figures"
    with pytest.raises(tb.InvalidValueError, match=message):
        tb.fit([*few, *many], LENGTHS, model=ignorant(), cross_validate=True)


def test_a_measured_figure_of_nothing_is_no_figure():
    """A run in which nothing succeeded has 0 tokens/s: its row says nothing, and the error names it."""
    row = rows()[0]
    nothing = attrs.evolve(
        row.metrics, tpot_s=tb.Distribution(count=1, p50=0.0), output_throughput_tps=tb.Estimate(0.0)
    )
    with pytest.raises(tb.InvalidValueError, match="neither a time per token nor a throughput"):
        tb.fit([*rows(), attrs.evolve(row, metrics=nothing)], LENGTHS, model=ignorant())


def test_two_engines_are_not_fitted_as_one():
    """The rows must be of one generation."""
    model = attrs.evolve(ignorant(), engine=None)
    mixed = [
        attrs.evolve(row, deployment=attrs.evolve(row.deployment, server="tgi", server_version=version))
        for row, version in zip(rows(), ["1.0.3", "3.3.5"] * 20, strict=False)
    ]
    with pytest.raises(tb.InvalidValueError, match="one engine at a time, got cuda-graphs, eager"):
        tb.fit(mixed, LENGTHS, model=model)


def measured(deployment, users, decode=1.0, prefill=1.0):
    """A row of a deployment whose steps take longer than the model's by factors."""
    model = fitted()
    found = tb.calibrate(model, [row for row in rows() if row.deployment == deployment], LENGTHS)
    calibration = attrs.evolve(found.calibration, decode_factor=decode, prefill_factor=prefill)
    load = tb.ClosedLoop(users, duration_s=40)
    metrics = tb.predict(deployment, load, LENGTHS, model=model.with_calibration(deployment, calibration)).metrics
    rate = metrics.output_throughput_tps.value
    return tb.measurement_of_row(deployment, load, LENGTHS, tpot_s=metrics.tpot_s.p50, output_throughput_tps=rate)


def test_calibration_finds_both_factors():
    """From the lowest and the highest load, factors of 1.2 and 0.85 come back to a few percent; a load between is then predicted."""
    deployment = DEPLOYMENTS[5]
    ends = [measured(deployment, users, 1.2, 0.85) for users in (1, 12)]
    found = tb.calibrate(fitted(), ends, LENGTHS, prior_deviation=1.0)
    assert found.calibration.decode_factor == pytest.approx(1.2, rel=0.05)
    assert found.calibration.prefill_factor == pytest.approx(0.85, rel=0.08)
    assert found.warnings == ()
    between = measured(deployment, 4, 1.2, 0.85).metrics.tpot_s.p50
    assert tb.predict(
        deployment, tb.ClosedLoop(4, duration_s=40), LENGTHS, model=found.model
    ).metrics.tpot_s.p50 == pytest.approx(between, rel=0.04)


@pytest.mark.parametrize("method", ["closed-form", "simulation", "both"])
def test_calibrated_predictions_agree_with_what_was_measured(method):
    """Where two factors cannot bend the model to both ends, what they leave is carried over: all there, part of it between."""
    deployment = DEPLOYMENTS[5]
    low, between, high = (row for row in rows() if row.deployment == deployment)
    odd = [attrs.evolve(low, metrics=slower(low.metrics, 1.1)), attrs.evolve(high, metrics=faster_tokens(high.metrics))]
    found = tb.calibrate(fitted(), odd, LENGTHS, method=method)
    bare = attrs.evolve(found.calibration, time_left=(), throughput_left=())
    figures = {}
    for model in (found.model, found.model.with_calibration(deployment, bare)):
        for row in (*odd, between):
            guess = tb.predict(deployment, row.load, LENGTHS, model=model, method=method).metrics
            figures.setdefault(row.load.concurrency, []).append((guess.tpot_s.p50, guess.output_throughput_tps.value))
    for row in odd:
        carried, left = figures[row.load.concurrency]
        assert carried[0] == pytest.approx(row.metrics.tpot_s.p50, rel=0.02)
        assert carried[1] == pytest.approx(row.metrics.output_throughput_tps.value, rel=0.02)
        assert left != pytest.approx(carried, rel=0.02)
    carried, left = figures[4]
    assert 0.001 < abs(math.log(carried[0] / left[0])) < 0.1


def faster_tokens(metrics):
    """Times per token a tenth shorter at the same throughput, which no factors give."""
    return attrs.evolve(metrics, tpot_s=attrs.evolve(metrics.tpot_s, p50=0.9 * metrics.tpot_s.p50))


def test_a_calibration_is_of_that_deployment_alone():
    """Another server, version or revision of the same label is predicted without it; more replicas of the same with it."""
    deployment = DEPLOYMENTS[5]
    model = tb.calibrate(fitted(), [measured(deployment, users, 1.3, 1.1) for users in (1, 12)], LENGTHS).model
    load = tb.ClosedLoop(4, duration_s=40)

    def factor(each):
        return tb.predict(each, load, LENGTHS, model=model).provenance.facts["decode_factor"]

    assert factor(deployment) == factor(attrs.evolve(deployment, replicas=2)) != "1.0000"
    for change in ({"server": "vllm"}, {"server_version": "3.0.1"}, {"revision": "other"}):
        assert factor(attrs.evolve(deployment, **change)) == "1.0000"


def test_a_calibrated_prediction_beyond_every_measured_load_is_as_unsure_as_others():
    """Its interval is that of an extrapolation; between the loads, and up to one that was calibrated, it is not."""
    deployment = DEPLOYMENTS[5]
    model = tb.calibrate(fitted(), [measured(deployment, users) for users in (1, 30)], LENGTHS).model

    def width(users):
        cell = tb.predict(deployment, tb.ClosedLoop(users, duration_s=40), LENGTHS, model=model)
        low, high = cell.metrics.output_throughput_tps.interval
        return math.log(high / low), cell.warnings

    (inside, nothing), (outside, said) = width(20), width(200)
    assert outside > 2 * inside
    assert nothing == ()
    assert "fitted to 1 to 30" in said[0]


def test_a_bad_host_is_flagged():
    """Steps twice as long as the model's are no calibration but a fault."""
    deployment = DEPLOYMENTS[5]
    found = tb.calibrate(fitted(), [measured(deployment, users, 2.0, 2.0) for users in (1, 12)], LENGTHS)
    assert any(warning.startswith("bad host? decodes") for warning in found.warnings)


def test_one_load_says_that_more_is_needed_and_which():
    """With one user alone prefills are hardly known: a high load is to be measured next."""
    found = tb.calibrate(fitted(), [measured(DEPLOYMENTS[5], 1)], LENGTHS)
    assert any("one load only" in warning for warning in found.warnings)
    assert found.measure_next.concurrency >= 10
    assert found.calibration.prefill_deviation > found.calibration.decode_deviation


def test_with_no_load_left_to_measure_none_is_to_be_measured_next():
    """An empty list of candidates is an answer: the factors are those of any, and intervals are as wide as at the measured load."""
    row = measured(DEPLOYMENTS[5], 1)
    found = tb.calibrate(fitted(), [row], LENGTHS, candidates=[])
    assert found.measure_next is None
    assert found.calibration.spread == tb.calibrate(fitted(), [row], LENGTHS, candidates=[row.load]).calibration.spread
    assert found.calibration.decode_factor == tb.calibrate(fitted(), [row], LENGTHS).calibration.decode_factor


def test_calibration_is_of_one_deployment():
    """Two are refused by name."""
    with pytest.raises(tb.InvalidValueError, match="one deployment at a time, got their-13b"):
        tb.calibrate(fitted(), rows(), LENGTHS)


def test_both_methods_predict_the_same_once_calibrated_with_the_simulation():
    """Calibrated by simulation, the simulation meets the measured point to 3 %."""
    row = rows()[7]
    found = tb.calibrate(fitted(), [row], LENGTHS, method="simulation")
    again = tb.predict(row.deployment, row.load, LENGTHS, model=found.model, method="simulation").metrics
    assert math.isclose(again.tpot_s.p50, row.metrics.tpot_s.p50, rel_tol=0.03)
