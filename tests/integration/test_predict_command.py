"""`tgibench predict` as a user runs it."""

from __future__ import annotations

import json

import pytest

import tgibench as tb
from commands import run_here, run_process

SEVEN = ("--model-id", "meta-llama/Llama-2-7b-hf", "--prices-as-of", "2023-09")
SMALL = ("--on", "ml.g5.2xlarge")


def test_the_table_says_that_it_is_predicted_and_what_it_costs():
    """A row for each deployment and load, with the dollars that the library reckons."""
    done = run_process("predict", *SEVEN, *SMALL, "--on", "ml.g5.12xlarge:4", "--concurrency", "1,10")
    assert done.returncode == 0, done.stderr
    assert "PREDICTED, not measured" in done.stdout
    assert done.stdout.count("10 users") == 2
    deployment = tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge", server_version="1.0.3")
    guess = tb.predict(deployment, tb.ClosedLoop(10, duration_s=90), tb.study_prompts())
    cost = tb.InstanceHours(tb.PriceTable.builtin(as_of="2023-09")).cost(guess)
    assert f"{cost.usd_per_million_output_tokens.value:.2f}" in done.stdout


def test_json_is_the_whole_output():
    """One cell for each load, its source included."""
    done = run_here("predict", *SEVEN, *SMALL, "--concurrency", "1,4", "--duration", "20", "--json")
    cells = json.loads(done.stdout)
    assert [(each["load"], each["source"]) for each in cells] == [("1 user", "PREDICTED"), ("4 users", "PREDICTED")]


@pytest.mark.parametrize("method", ["simulation", "both"])
def test_the_methods_and_runs_are_those_of_the_library(method):
    """The same figures, the runs' mean among them."""
    options = ("--concurrency", "4", "--duration", "20", "--method", method, "--runs", "2")
    (found,) = json.loads(run_here("predict", *SEVEN, *SMALL, *options, "--json").stdout)
    deployment = tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge", server_version="1.0.3")
    own = tb.predict(deployment, tb.ClosedLoop(4, duration_s=20), tb.study_prompts(), method=method, runs=2)
    assert found["metrics"]["tpot_s"]["p50"] == own.metrics.tpot_s.p50
    assert found["metrics"]["output_throughput_tps"] == own.metrics.output_throughput_tps.value


def test_what_extrapolates_is_said_once():
    """An accelerator that no fitted row had, for both loads in one line."""
    done = run_here("predict", *SEVEN, "--on", "ml.g6.2xlarge", "--concurrency", "1,5")
    assert done.stdout.count("accelerator 'L4'") == 1


def test_what_does_not_fit_ends_with_2_and_the_rest_is_predicted():
    """As for a sweep."""
    done = run_here(
        "predict", "--model-id", "meta-llama/Llama-2-13b-hf", *SMALL, "--on", "ml.g5.12xlarge:4", "--concurrency", "1"
    )
    assert done.returncode == 2
    assert "does not fit ml.g5.2xlarge" in done.stderr
    assert "1 user" in done.stdout


def test_a_model_of_ones_own_comes_from_its_config(tmp_path):
    """A name that nobody knows, with its config.json."""
    config = {"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32}
    config |= {"num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 128256}
    tmp_path.joinpath("config.json").write_text(json.dumps(config), encoding="utf-8")
    model = ("--model-id", "us/ours", "--config", str(tmp_path))
    done = run_here("predict", *model, *SMALL, "--concurrency", "2", "--input-tokens", "64")
    assert done.returncode == 0, done.stderr
    assert "ours @ ml.g5.2xlarge" in done.stdout


def test_a_page_shows_predictions_beside_stored_measurements(tmp_path):
    """Both sources are on it."""
    pytest.importorskip("plotly")
    deployment = tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge", server_version="1.0.3")
    load, store = tb.ClosedLoop(1, duration_s=20), tmp_path / "results"
    sweep = tb.sweep([deployment], [load], backend=tb.Emulator(), prompts=tb.study_prompts(), store=store)
    tb.virtual_time.run(sweep)
    page = tmp_path / "page.html"
    done = run_here("predict", *SEVEN, *SMALL, "--concurrency", "5", "--html", str(page), "--with", str(store))
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    assert "PREDICTED" in text
    assert "EMULATED" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--on", "ml.g5.12xlarge:four"), "--on must be a machine and a number"),
        ((*SMALL, "--concurrency", "1,many"), "--concurrency must be numbers with commas"),
        ((*SMALL, "--with", "results"), "--with is for the page: give --html too"),
        ((*SMALL, "--runs", "5"), "--runs is for simulations: give --method simulation"),
        ((*SMALL, "--method", "simulation", "--runs", "0"), "runs must be at least 1, got 0"),
    ],
)
def test_a_wrong_option_is_one_sentence(arguments, words):
    """What was wrong, and no traceback."""
    done = run_here("predict", *SEVEN, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
