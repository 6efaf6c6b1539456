"""`tgibench report`, as a user runs it."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

import tgibench as tb
from commands import run_here, run_process
from studies import MACHINES, study

PRICES = [part for machine, usd in MACHINES.items() for part in ("--price", f"{machine}={usd}")]


def everything(folder):
    """What is on the disk: every file with its content and time."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def results(tmp_path):
    """The small study in a store."""
    store = tb.StudyStore(tmp_path / "results")
    for measurement in study():
        store.add(measurement)
    return tmp_path / "results"


def test_the_page_lies_beside_the_results(results):
    """With the prices that were given."""
    done = run_process("report", results, *PRICES)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    page = (results / "report.html").read_text()
    assert "<h1>How to serve model</h1>" in page
    assert "ml.large" in page
    assert sorted(path.name for path in results.iterdir()) == ["report.html", "study.jsonl"]


def test_the_other_formats_go_to_standard_output(results):
    """And nowhere else, unless a file is named."""
    before = everything(results)
    text = run_here("report", results, "--format", "markdown", *PRICES).stdout
    assert text.startswith("| deployment |")
    assert len(list(csv.DictReader(io.StringIO(run_here("report", results, "--format", "csv", *PRICES).stdout)))) == 4
    assert len(run_here("report", results, "--format", "study-csv").stdout.splitlines()) == 5
    cells = json.loads(run_here("report", results, "--format", "json", *PRICES).stdout)
    assert [cell["cost"]["usd_per_hour"] for cell in cells] == [2.0, 2.0, 8.0, 8.0]
    assert everything(results) == before
    file = results.parent / "report.md"
    assert run_here("report", results, "--format", "markdown", "--out", file, *PRICES).stdout == ""
    assert file.read_text() == text


def test_without_a_price_there_are_no_dollars_and_a_sentence_why(results):
    """Nobody asked for prices: the report is written, and says on the page and on standard error what is missing."""
    done = run_here("report", results)
    assert done.returncode == 0
    assert "no dollars: no price of 'ml.small'" in done.stderr
    assert re.search(r'class="note"><p>no dollars: no price of', (results / "report.html").read_text())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--price", "ml.small=2"], "no price of 'ml.large'"),
        (["--region", "us-east-1"], "no price of 'ml.small'"),
        (["--region", "nowhere"], "no built-in prices of region 'nowhere'"),
        (["--price", "ml.small"], "--price must be TYPE=USD, such as ml.g5.2xlarge=1.515, got 'ml.small'"),
        (["--price", "ml.small=-1"], "usd_per_hour must be a number above 0, got -1.0"),
        (["--price", "ml.small=1e999"], "usd_per_hour must be a number above 0, got inf"),
        ([*PRICES, "--out", "nowhere/report.html"], "cannot write the report to 'nowhere/report.html'"),
    ],
)
def test_wrong_input_is_one_sentence_and_changes_nothing(results, arguments, words):
    """Exit code 2, nothing on standard output, every file as it was."""
    before = everything(results.parent)
    done = run_here("report", results, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert everything(results.parent) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"format": "tgibench-study", "version": 99}\n', "has format version 99, this tgibench reads up to"),
        ('{"format": "tgibench-study", "version": 1}\n{"kind": "measurement"}\n', "line 2 of .* is damaged"),
        ('{"format": "tgibench-stu', "is no tgibench study"),
        ("", "is no tgibench study"),
        ("\x00\x01", "is no tgibench study"),
        (None, "cannot read results from"),
    ],
)
def test_results_that_cannot_be_read_are_one_sentence_and_left_alone(tmp_path, content, words):
    """From a newer format, damaged, half-written, empty, foreign or not there: exit code 2, and nothing is written."""
    if content is not None:
        (tmp_path / "study.jsonl").write_text(content)
    before = everything(tmp_path)
    done = run_here("report", tmp_path)
    assert done.returncode == 2
    assert re.search(words, done.stderr), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert everything(tmp_path) == before


def test_a_cell_cut_off_by_a_crash_is_left_out_and_the_store_left_alone(results):
    """The finished cells are reported; the torn line stays for the sweep that goes on."""
    file = results / "study.jsonl"
    file.write_bytes(file.read_bytes()[:-100])
    before = everything(results)
    done = run_here("report", results, "--format", "json", *PRICES)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 3
    assert everything(results) == before
