"""What the 2023 study published, as Measurements; and the readers of its files."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

import tgibench as tb
from shared_data import ORIGINAL, PROMPT_LENGTHS, beside_the_repository, original_rows
from tgibench.reports.console import study_table

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE = REPOSITORY / "src/tgibench/data/llama2_sagemaker_2023.csv"
STATISTICS = ("mean", "min", "p50", "p90", "p95", "max")

# one row of the study's results, in its own words: Llama 2 13B on four A10G under 20 users
ROW = {
    "Host": "sagemaker",
    "Model Id": "meta-llama/Llama-2-13b-hf",
    "Instance": "ml.g5.12xlarge",
    "Tensor parallelism degree": 4,
    "quantization": "none",
    "generated_tokens per request": 50,
    "Do Sample": True,
    "Number of requests": 492,
    "Virtual Users": 20,
    "Thorughput (tokens/second)": 295.63780706725936,
    "Latency (ms/token) avg": 88.36973810772359,
    "Latency (ms/token) min": 35.584401,
    "Latency (ms/token) med": 67.4027465,
    "Latency (ms/token) max": 1417.404136,
    "Latency (ms/token) p(90)": 82.59212939999999,
    "Latency (ms/token) p(95)": 151.43972554999914,
    "Latency Request ms p(90)": 4257.5173152,
    "Latency Request ms p(95)": 4417.600937349999,
    "Latency Request ms avg": 3382.5173103536586,
    "Latency Request ms min": 498.7942,
    "Latency Request ms med": 3471.6094034999996,
    "Latency Request ms max": 6388.645655,
    "Latency Infernece ms med": 3309.5681545,
    "Latency Infernece ms max": 4412.611221,
    "Latency Infernece ms p(90)": 4112.7733686,
    "Latency Infernece ms p(95)": 4129.494034,
    "Latency Infernece ms avg": 3171.521568426829,
    "Latency Infernece ms min": 348.611126,
    "Queue time ms med": 144.06203649999998,
    "Queue time ms max": 2536.945296,
    "Queue time ms p(90)": 159.33530979999998,
    "Queue time ms p(95)": 465.3189811499999,
    "Queue time ms avg": 209.8819643821138,
    "Queue time ms min": 0.060251,
}


def cell_of(study, model, machine, users):
    """The cell of a model whose name ends so, on a machine, with so many users."""
    (cell,) = (
        cell
        for cell in study
        if cell.deployment.model_id.endswith(model)
        and cell.deployment.instance_type == f"ml.{machine}"
        and cell.load.concurrency == users
    )
    return cell


def figures_of(cell):
    """Every published figure of a cell, in seconds, by name."""
    metrics = cell.metrics
    distributions = {
        "server_time_per_token_s": metrics.server_time_per_token_s,
        "queue_s": metrics.queue_s,
        **metrics.extra,
    }
    return {(name, part): getattr(values, part) for name, values in distributions.items() for part in STATISTICS}


def csv_of(*rows):
    """Rows as a CSV text."""
    text = io.StringIO()
    table = csv.DictWriter(text, ROW, extrasaction="ignore")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def write(path, content):
    """A file with that content; its path."""
    path.write_text(content, encoding="utf-8")
    return path


def test_the_study_has_fifteen_deployments_under_four_loads():
    """60 cells, each published, under TGI 1.0.3 with the study's token limits, for 90 s."""
    study = tb.llama2_sagemaker_2023()
    deployments = {cell.deployment for cell in study}
    assert len(study) == 60
    assert len(deployments) == 15
    assert {(cell.deployment, cell.load) for cell in study} == {
        (deployment, tb.ClosedLoop(users, duration_s=90)) for deployment in deployments for users in (1, 5, 10, 20)
    }
    assert {cell.source for cell in study} == {tb.Source.PUBLISHED}
    assert {(d.server, d.server_version, d.max_input_tokens, d.max_total_tokens) for d in deployments} == {
        ("tgi", "1.0.3", 1024, 2048)
    }
    assert {d.quantization for d in deployments if "GPTQ" in d.model_id} == {"gptq"}
    assert {d.quantization for d in deployments if "GPTQ" not in d.model_id} == {None}
    assert len({cell.key for cell in study}) == 60


@pytest.mark.parametrize(
    ("cell", "requests", "tps", "ms_per_token_p50", "total_mean_s", "queue_max_s"),
    [
        (("7b-hf", "g5.2xlarge", 1), 55, 32.38377487, 30.96, 1.54398306549, 7.545e-05),
        (("7B-GPTQ", "g5.2xlarge", 5), 205, 120.0941633, 34.25, 2.08169983508, 4.124),
        (("13b-hf", "g5.12xlarge", 20), 492, 295.6378071, 67.40, 3.38251731035, 2.537),
        (("13b-hf", "p4d.24xlarge", 1), 79, 47.67119330, 21.63, 1.04885144551, 0.0001039),
        (("70b-hf", "p4d.24xlarge", 20), 540, 321.5369158, 59.80, 3.11006279775, 2.146),
        (("70B-GPTQ", "g5.48xlarge", 1), 22, 13.48442836, 56.14, 3.70798069273, 0.0001153),
    ],
)
def test_rows_of_the_study(cell, requests, tps, ms_per_token_p50, total_mean_s, queue_max_s):
    """Rows as the study printed them, in seconds; its tokens/s to ten digits, the other figures to four."""
    metrics = cell_of(tb.llama2_sagemaker_2023(), *cell).metrics
    assert metrics.counts == {"succeeded": requests}
    assert metrics.littles_law_throughput_tps == pytest.approx(tps, rel=5e-10)
    assert metrics.server_time_per_token_s.p50 * 1000 == pytest.approx(ms_per_token_p50, rel=1e-12)
    assert metrics.extra["server_total_s"].mean == pytest.approx(total_mean_s, rel=1e-12)
    assert metrics.queue_s.max == pytest.approx(queue_max_s, rel=1e-12)


def test_what_was_not_published_is_missing():
    """There is no client-side time, no counted throughput and no count of failures; nothing stands in for them."""
    for cell in tb.llama2_sagemaker_2023():
        metrics = cell.metrics
        assert metrics.latency_s is metrics.ttft_s is metrics.tpot_s is metrics.output_throughput_tps is None
        assert metrics.server_time_per_token_s.p99 is None
        assert "failed" not in metrics.counts
        assert any("derived, not counted" in warning for warning in cell.warnings)


def test_warnings_name_the_cells_that_are_known_to_be_wrong():
    """The bad host, the kernels tuned on line, samples too small, and logs that do not hold what the tokens/s claim."""
    study = tb.llama2_sagemaker_2023()

    def warned(text):
        return {(c.deployment, c.load.concurrency) for c in study if any(text in warning for warning in c.warnings)}

    assert {(d.model_id, d.instance_type) for d, _ in warned("bad host")} == {
        ("meta-llama/Llama-2-7b-hf", "ml.p4d.24xlarge")
    }
    assert {d.quantization for d, _ in warned("tuned its GPTQ kernels")} == {"gptq"}
    assert {(d.label, users) for d, users in warned("requests that the server logged come to")} == {
        ("Llama-2-13b-hf @ ml.p4d.24xlarge tp8", 20),
        ("Llama-2-7b-hf @ ml.g5.12xlarge tp4", 20),
        ("Llama-2-70b-hf @ ml.g5.48xlarge tp8", 5),
    }
    small = {(c.deployment, c.load.concurrency) for c in study if c.metrics.counts["succeeded"] < 72}
    assert warned("too few for an interval of p95") == small


def test_the_study_is_kept_and_read_like_any_other(tmp_path):
    """A store gives back what it was given, though most of its figures are missing."""
    study = tb.llama2_sagemaker_2023()
    store = tb.StudyStore(tmp_path / "results")
    for cell in study:
        store.add(cell)
    assert tb.read_study(tmp_path / "results") == study


def test_what_is_not_known_is_no_number_in_the_table_on_the_terminal():
    """The requests that succeeded are a number, those that failed are not."""
    table = study_table([cell_of(tb.llama2_sagemaker_2023(), "7b-hf", "g5.2xlarge", 5)])
    shown = {str(column.header): str(next(iter(column.cells))) for column in table.columns}
    assert (shown["ok"], shown["source"]) == ("214", "PUBLISHED")
    assert not any(character.isdigit() for character in shown["failed"])


@beside_the_repository
def test_every_figure_of_the_table_is_the_originals():
    """All 60 rows: names and counts equal, tokens/s to 1e-11, every other figure within half a unit of its fourth digit."""
    ours = {(cell.deployment, cell.load): cell for cell in tb.llama2_sagemaker_2023()}
    theirs = {(cell.deployment, cell.load): cell for cell in tb.read_sagemaker_results(ORIGINAL)}
    assert ours.keys() == theirs.keys()
    for key, cell in ours.items():
        original = theirs[key]
        assert cell.metrics.counts == original.metrics.counts
        assert cell.metrics.littles_law_throughput_tps == pytest.approx(
            original.metrics.littles_law_throughput_tps, rel=1e-11
        )
        rounded, exact = figures_of(cell), figures_of(original)
        assert rounded == pytest.approx(exact, rel=5.0001e-4, abs=0)
        assert {name: float(f"{value:.4g}") for name, value in rounded.items()} == pytest.approx(
            {name: float(f"{value:.4g}") for name, value in exact.items()}, rel=1e-12, abs=0
        )


@beside_the_repository
def test_the_originals_figures_are_read_in_seconds():
    """Each of the 24 columns of times of each row, divided by 1,000, stands under its own name."""
    words = dict(zip(STATISTICS, ("avg", "min", "med", "p(90)", "p(95)", "max"), strict=True))
    headings = {
        "server_time_per_token_s": "Latency (ms/token)",
        "server_total_s": "Latency Request ms",
        "server_inference_s": "Latency Infernece ms",
        "queue_s": "Queue time ms",
    }
    for cell, row in zip(tb.read_sagemaker_results(ORIGINAL), original_rows(), strict=True):
        assert figures_of(cell) == pytest.approx(
            {
                (figure, name): float(row[f"{heading} {word}"]) / 1000
                for figure, heading in headings.items()
                for name, word in words.items()
            },
            rel=1e-12,
        )


@beside_the_repository
def test_the_table_is_what_its_script_writes():
    """Run on the original, benchmarks/published_table.py writes the package's table to the byte."""
    script = REPOSITORY / "benchmarks/published_table.py"
    done = subprocess.run([sys.executable, script, ORIGINAL], capture_output=True, timeout=60, check=True)
    assert done.stdout == TABLE.read_bytes()


@beside_the_repository
def test_the_prompts_have_the_originals_lengths():
    """In the original's order."""
    with PROMPT_LENGTHS.open(encoding="utf-8", newline="") as table:
        lengths = tuple(int(row["prompt_tokens"]) for row in csv.DictReader(table))
    assert tb.study_prompts().input_tokens == lengths


def test_the_study_sent_a_thousand_prompts():
    """Their lengths: 233 tokens in the mean, at most 1,024, the server's limit."""
    lengths = tb.study_prompts().input_tokens
    assert len(lengths) == 1000
    assert lengths[:4] == (68, 209, 470, 17)
    assert sum(lengths) / 1000 == pytest.approx(233, abs=0.5)
    assert max(lengths) == 1024


def test_a_json_file_a_folder_of_them_and_a_csv_file_give_the_same(tmp_path):
    """Whichever way the study's scripts stored a row, it is read to the same measurement, but for the file's name."""
    folder = tmp_path / "results"
    folder.mkdir()
    one = write(folder / "a.json", json.dumps(ROW))
    write(folder / "b.json", json.dumps({**ROW, "Number of requests": 493}))
    table = write(tmp_path / "all.csv", csv_of(ROW, {**ROW, "Number of requests": 493}))
    metrics = [cell.metrics for cell in tb.read_sagemaker_results(table)]
    assert [cell.metrics for cell in tb.read_sagemaker_results(folder)] == metrics
    (cell,) = tb.read_sagemaker_results(one)
    assert cell.metrics == metrics[0]
    assert cell.metrics.counts == {"succeeded": 492}
    assert cell.metrics.littles_law_throughput_tps == 295.63780706725936
    assert cell.metrics.queue_s.p95 == pytest.approx(0.46531898)
    assert cell.source is tb.Source.PUBLISHED
    assert cell.deployment == cell_of(tb.llama2_sagemaker_2023(), "13b-hf", "g5.12xlarge", 20).deployment


def test_another_version_or_none_can_be_said(tmp_path):
    """The files do not tell it."""
    file = write(tmp_path / "a.json", json.dumps(ROW))
    assert [c.deployment.server_version for c in tb.read_sagemaker_results(file, server_version="1.1.0")] == ["1.1.0"]
    (unknown,) = tb.read_sagemaker_results(file, server_version=None)
    assert unknown.deployment.server_version is None
    assert "version" not in unknown.provenance.facts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Number of requests": "many"}, "'Number of requests' must be a number of at least 0, got 'many'"),
        ({"Number of requests": 0}, "'Number of requests' must be a whole number of at least 1, got '?0'?"),
        ({"Virtual Users": 2.5}, "'Virtual Users' must be a whole number of at least 1, got '?2.5'?"),
        ({"Queue time ms med": -1}, "'Queue time ms med' must be a number of at least 0, got '?-1'?"),
        ({"Queue time ms avg": "nan"}, "'Queue time ms avg' must be a number of at least 0, got 'nan'"),
        ({"Queue time ms avg": "1e999"}, "'Queue time ms avg' must be a number of at least 0, got '1e999'"),
        ({"Queue time ms med": 500}, r"'Queue time ms med' exceeds 'Queue time ms p\(90\)'"),
        ({"Queue time ms avg": 9999}, "'Queue time ms avg' is not between 'Queue time ms min' and 'Queue time ms max'"),
        ({"Thorughput (tokens/second)": 688}, "is 688, which is not users x tokens / mean request time"),
        ({"Model Id": " "}, "model_id must be a non-empty text"),
        ({"Latency Infernece ms min": None}, "'Latency Infernece ms min'"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_malformed_figure_is_an_error_that_names_it(tmp_path, change, message, form):
    """It says where, which column, what stands there and what should."""
    row = {**ROW, **change}
    content = csv_of(ROW, row) if form == "csv" else json.dumps(row)
    file = write(tmp_path / f"results.{form}", content)
    where = "line 3 of .*results.csv" if form == "csv" else ".*results.json"
    with pytest.raises(tb.ResultsError, match=f"{where}.*{message}"):
        tb.read_sagemaker_results(file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "holds no results"),
        ("a.csv", csv_of(), "holds no results"),
        ("a.csv", csv_of(ROW).rstrip() + ",surplus\n", "line 2 of .* has more fields than the first line has names"),
        ("a.csv", csv_of(ROW).rsplit(",", 3)[0] + "\n", r"line 2 of .* has no 'Queue time ms avg'"),
        ("a.csv", "model,users\nllama,5\n", "line 2 of .* has no 'Number of requests'"),
        ("a.csv", 'Host\n"sage\n', "is no CSV"),
        ("a.json", '{"Host": ', "is no JSON"),
        ("a.json", "[1, 2]", "must hold one object of figures by name"),
        (
            "a.json",
            json.dumps({**ROW, "Virtual Users": True}),
            "'Virtual Users' must be a number of at least 0, got True",
        ),
        ("a.json", json.dumps({**ROW, "Virtual Users": [20]}), "'Virtual Users' must be a number of at least 0, got"),
        ("a.json", json.dumps(ROW).replace("492", "1" + "0" * 400), "'Number of requests' must be a number"),
    ],
)
def test_a_malformed_file_is_an_error_that_names_it(tmp_path, name, content, message):
    """One clear error."""
    file = write(tmp_path / name, content)
    with pytest.raises(tb.ResultsError, match=message):
        tb.read_sagemaker_results(file)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    """One that is missing, one that is no text, and a folder without results."""
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing.csv", tmp_path / "binary.csv"):
        with pytest.raises(tb.ResultsError, match=f"cannot read results from .*{path.name}"):
            tb.read_sagemaker_results(path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(tb.ResultsError, match=r"empty.* holds no results"):
        tb.read_sagemaker_results(empty)
