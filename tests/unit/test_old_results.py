"""Results survive: a file that an earlier tgibench wrote is read, and found again by a sweep that measured the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import tgibench as tb

OLD = Path(__file__).parents[1] / "data" / "study_version_1.jsonl"
DEPLOYMENTS = [
    tb.Deployment(
        "meta-llama/Llama-2-7b-hf",
        "ml.g5.2xlarge",
        server_version="1.0.3",
        environment=(("HF_TOKEN", "another by now"), ("A", "b")),
    ),
]
LOADS = [
    tb.ClosedLoop(2, requests=6),
    tb.Stages((tb.PoissonArrivals(2.0, duration_s=3), tb.Ramp(1.0, 3.0, duration_s=3))),
]


def test_a_study_of_format_version_1_is_read():
    """Cells, their figures and the failure."""
    study = tb.read_study(OLD)
    first, second = study.measurements
    assert first.source is second.source is tb.Source.EMULATED
    assert first.metrics.counts == {"issued": 6, "succeeded": 6, "failed": 0, "unsent": 0}
    assert first.metrics.ttft_s.p50 == pytest.approx(0.15851702)
    assert first.metrics.output_throughput_tps.value == pytest.approx(33.9486855)
    assert first.provenance.seed == 7
    assert second.load == LOADS[1]
    assert second.load.label == "2 req/s poisson, then 1\N{RIGHTWARDS ARROW}3 req/s ramp"
    assert [failure.deployment.model_id for failure in study.failures] == ["no/such-model"]


def test_stages_that_are_refused_today_can_still_be_read(tmp_path):
    """A later stage with a warm-up, of which no notice was taken: the result is there, its load cannot be run again."""
    lines = OLD.read_text("utf-8").splitlines(keepends=True)
    record = json.loads(lines[2])
    record["load"]["profiles"][1]["warm_up_s"] = 1.0
    (tmp_path / "study.jsonl").write_text("".join([*lines[:2], json.dumps(record) + "\n", *lines[3:]]), "utf-8")
    _, second = tb.read_study(tmp_path).measurements
    assert second.load.label == LOADS[1].label
    with pytest.raises(tb.InvalidValueError, match="was read from results and cannot be run"):
        second.load.phases(0)


def test_a_sweep_takes_up_where_an_earlier_tgibench_stopped(tmp_path):
    """The keys of its cells are the same: nothing is deployed again."""
    shutil.copy(OLD, tmp_path / "study.jsonl")
    fresh = []
    study = tb.virtual_time.run(
        tb.sweep(
            DEPLOYMENTS,
            LOADS,
            backend=tb.Emulator(),
            prompts=tb.SyntheticPrompts(max_new_tokens=5),
            seed=7,
            store=tmp_path,
            on_measurement=fresh.append,
        )
    )
    assert fresh == []
    assert study.measurements == tb.read_study(OLD).measurements
