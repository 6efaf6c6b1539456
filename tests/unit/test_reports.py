"""Reports as text and data: what they say is what the study holds."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path

import attrs
import pytest

import tgibench as tb
from cells import measurement, metrics
from studies import cell, costs, nasty_study, study
from tgibench.reports.definitions import FORMULAS

DOCS = Path(__file__).parents[2] / "docs"


def rows_of_markdown(text):
    """The first table of a Markdown text, by heading."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    headings, _, *rows = [[part.strip() for part in line] for line in lines]
    return [dict(zip(headings, row, strict=True)) for row in rows]


def read(text):
    """A CSV text, by heading."""
    return list(csv.DictReader(io.StringIO(text)))


def test_markdown_has_a_row_for_each_measurement():
    """Times in milliseconds, rates, dollars, counts and the source."""
    rows = rows_of_markdown(tb.markdown(study(), costs()))
    assert len(rows) == 4
    for row, each in zip(rows, study(), strict=True):
        cost = costs().cost(each).usd_per_million_output_tokens
        low, high = cost.interval
        assert row["deployment"] == each.deployment.label
        assert row["TTFT p95 (ms)"] == f"{each.metrics.ttft_s.p95 * 1e3:.1f}"
        assert row["USD/1M output tokens"] == f"${cost.value:.2f} ±{(high - low) / 2:.2f}"
        assert row["failed"] == str(each.metrics.counts["failed"])
        assert row["source"] == each.source


def test_markdown_tells_warnings_failures_and_prices():
    """Below the table."""
    text = tb.markdown(study(), costs())
    assert "- model @ ml.huge: no capacity" in text
    assert "3 of 243 requests failed (overloaded 3)" in text
    assert "ml.small at 2 USD per hour (own here hosting, undated: made up)" in text


def test_markdown_without_prices_has_no_dollars():
    """No column and no sentence."""
    assert "USD" not in tb.markdown(study())


def test_names_cannot_break_a_markdown_table():
    """Neither cells nor markup."""
    text = tb.markdown(nasty_study())
    assert len(rows_of_markdown(text)) == 3
    assert "<script" not in text
    assert "<img" not in text


def test_csv_holds_every_figure():
    """In seconds, to nine digits, with intervals; what is missing is empty."""
    for row, each in zip(read(tb.to_csv(study(), costs())), study(), strict=True):
        latency, rate, cost = each.metrics.latency_s, each.metrics.output_throughput_tps, costs().cost(each)
        for name, value in {
            "latency_s_p95": latency.p95,
            "latency_s_mean_low": latency.intervals["mean"][0],
            "output_throughput_tps": rate.value,
            "output_throughput_tps_high": rate.interval[1],
            "usd_per_million_output_tokens": cost.usd_per_million_output_tokens.value,
            "run_usd_low": cost.run_usd[0],
        }.items():
            assert float(row[name]) == pytest.approx(value, rel=1e-8), name
        assert row["queue_s_mean"] == row["goodput_rps"] == row["quantization"] == ""
        assert (row["source"], row["seed"], int(row["failed"])) == (each.source, "7", each.metrics.counts["failed"])


def test_costs_are_reckoned_once_for_each_measurement():
    """However often they are asked for, and equal measurements each by itself."""

    class Counting:
        asked = 0

        def cost(self, cell):
            self.asked += 1
            return costs().cost(cell)

    counting, cells = Counting(), study()
    remembered = tb.RememberedCosts(counting)
    assert tb.cheapest(cells, remembered) == tb.cheapest(cells, costs())
    assert tb.markdown(cells, remembered) == tb.markdown(cells, costs())
    assert counting.asked == len(cells)
    remembered.cost(study().measurements[0])
    assert counting.asked == len(cells) + 1


def test_csv_has_a_column_for_every_metric():
    """A metric that is added to `Metrics` cannot be forgotten."""
    header = read(tb.to_csv(study()))[0].keys()
    apart = {"counts", "failures", "window", "timeline", "extra", "tokens_from"}
    for name in {field.name for field in attrs.fields(tb.Metrics)} - apart:
        assert name in header or f"{name}_p50" in header, name
    assert [name for name in header if "usd" in name] == ["startup_usd"]  # what was paid, not what it costs by a model


def test_csv_holds_metrics_of_the_callers_own():
    """One number a run, or a distribution."""
    own = {"one": tb.Estimate(3.5), "many": tb.Distribution(count=2, mean=1.5)}
    (row,) = read(tb.to_csv(tb.Study((measurement(metrics(extra=own)),))))
    assert (row["extra_one"], row["extra_one_mean"]) == ("3.5", "")
    assert (row["extra_many"], row["extra_many_mean"], row["extra_many_count"]) == ("", "1.5", "2")


def test_the_studys_csv_has_its_columns_in_its_units():
    """34 of them, in milliseconds; what is not known is empty."""
    text = tb.study_csv(tb.Study((cell(users=4),)))
    header, row = list(csv.reader(io.StringIO(text)))
    assert len(header) == len(row) == 34
    found, figures = dict(zip(header, row, strict=True)), cell(users=4).metrics
    assert found["Virtual Users"] == "4"
    assert found["Instance"] == "ml.small"
    assert found["quantization"] == "none"
    assert float(found["Latency Request ms p(95)"]) == pytest.approx(figures.latency_s.p95 * 1e3)
    assert float(found["Thorughput (tokens/second)"]) == figures.littles_law_throughput_tps
    assert found["Do Sample"] == found["Queue time ms avg"] == found["Latency Infernece ms avg"] == ""


def test_the_published_study_is_written_as_it_was_read(tmp_path):
    """Under its own headings and in its own units: what reads the study's file reads ours, and finds the same figures."""
    rows = read(tb.study_csv(tb.llama2_sagemaker_2023()))
    assert len(rows) == 60
    file = tmp_path / "study.csv"
    with file.open("w", newline="") as text:
        writer = csv.DictWriter(text, rows[0])
        writer.writeheader()
        writer.writerows({**row, "generated_tokens per request": "50"} for row in rows)  # the study's constant
    again = read(tb.study_csv(tb.read_sagemaker_results(file)))
    for before, after in zip(rows, again, strict=True):
        assert before.keys() == after.keys()
        for name, text in before.items():
            assert after[name] == text or float(after[name]) == pytest.approx(float(text), rel=1e-9), name


def test_a_page_of_published_figures_shows_what_they_have():
    """Throughput against the server's time per token, no section on waiting, and prices to the digit."""
    html = tb.html_page(tb.llama2_sagemaker_2023(), tb.InstanceHours(tb.PriceTable.builtin(as_of="2023-09")))
    plot = figures_of(html)["throughput"][0]
    assert plot["layout"]["xaxis"]["title"]["text"] == "median server time per token (s)"
    assert sum(len(line["x"]) for line in plot["data"] if line["name"] != "Pareto front") == 60
    assert 'id="distributions"' not in html
    assert "$1.515<" in html


def test_json_is_the_cells_with_their_costs():
    """Numbers by name, intervals beside them."""
    cells = json.loads(tb.to_json(study(), costs()))
    assert [found["counts"]["failed"] for found in cells] == [0, 3, 0, 3]
    cost = costs().cost(study().measurements[0])
    assert cells[0]["cost"]["usd_per_thousand_requests"] == cost.usd_per_thousand_requests.value
    assert cells[0]["cost"]["usd_per_thousand_requests_interval"] == list(cost.usd_per_thousand_requests.interval)
    assert "cost" not in json.loads(tb.to_json(study()))[0]


def test_a_data_frame_is_the_csv():
    """The same columns, a row a measurement, numbers as numbers."""
    pd = pytest.importorskip("pandas")
    frame = tb.to_dataframe(study(), costs())
    same = pd.read_csv(io.StringIO(tb.to_csv(study(), costs())))
    assert list(frame.columns) == list(same.columns)
    assert frame["ttft_s_p50"].tolist() == pytest.approx(same["ttft_s_p50"].tolist(), rel=1e-8)
    assert frame["usd_per_hour"].tolist() == [2.0, 2.0, 8.0, 8.0]
    assert frame["queue_s_p50"].isna().all()


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [("pandas", tb.to_dataframe, "pandas"), ("jinja2", tb.html_page, "report"), ("plotly", tb.html_page, "report")],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, module, make, extra):
    """How to install it is in the message."""
    for loaded in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(tb.MissingExtraError, match=rf'needs {module}: pip install "tgibench\[{extra}\]"'):
        make(study())


@pytest.mark.parametrize("make", [tb.markdown, tb.to_csv, tb.to_json, tb.to_dataframe, tb.html_page])
def test_an_unknown_price_is_an_error_in_every_report(make):
    """Never 0, never left out."""
    with pytest.raises(tb.UnknownPrice, match=r"no price of 'ml\.small'"):
        make(study(), tb.InstanceHours(tb.PriceTable(())))


def test_the_page_says_what_docs_terms_says():
    """Each formula word for word."""
    table = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", (DOCS / "terms.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert {name: table[name] for name in FORMULAS} == FORMULAS


def test_a_study_shows_itself_in_a_notebook():
    """A plain table without any extra, every text escaped; long ones are cut, and say so."""
    html = study()._repr_html_()
    assert html.count("<tr>") == 5
    assert "EMULATED" in html
    assert "<script" not in nasty_study()._repr_html_()
    long = tb.Study(study().measurements * 30)
    assert long._repr_html_().count("<tr>") == 101
    assert "20 more are not shown" in long._repr_html_()


def test_a_choice_shows_itself_in_a_notebook():
    """Its sentence, escaped."""
    choice = tb.cheapest(study(), costs())
    assert choice.goal.capitalize() in choice._repr_html_()
    assert "<script" not in tb.fastest(nasty_study(), _Free())._repr_html_()


class _Free:
    """A cost model of the test's own."""

    def cost(self, cell):
        return tb.Cost(basis="free")


def test_a_report_is_written_whole_or_not_at_all(tmp_path):
    """What stood there stays until the new one is there; nothing else is left behind."""
    file = tmp_path / "report.md"
    tb.write_report(file, "first")
    with pytest.raises(tb.ResultsError, match="cannot write the report"):
        tb.write_report(file, "lone surrogate \ud800 that no file can hold")
    assert file.read_text() == "first"
    tb.write_report(file, "second")
    assert file.read_text() == "second"
    with pytest.raises(tb.ResultsError, match="nowhere"):
        tb.write_report(tmp_path / "nowhere" / "report.md", "x")
    assert [each.name for each in tmp_path.iterdir()] == ["report.md"]


def figures_of(html):
    """What a page draws."""
    return json.loads(re.search(r'id="figures">(.*?)</script>', html, re.DOTALL)[1])


def test_only_what_was_measured_is_drawn_solid():
    """Emulated lines are dashed and their markers hollow, in every plot."""
    figures = figures_of(tb.html_page(study(), costs()))
    lines = [
        trace
        for name in ("throughput", "cost")
        for trace in figures[name][0]["data"]
        if trace["name"] != "Pareto front"
    ]
    assert [(trace["line"]["dash"], trace["marker"]["symbol"].endswith("-open")) for trace in lines] == [
        ("solid", False), ("dash", True),
    ] * 2  # fmt: skip
    quantiles = figures["spread-0"][0]["data"][1:]
    assert [[symbol.endswith("-open") for symbol in trace["marker"]["symbol"]] for trace in quantiles] == [
        [False, True]
    ] * 4
    assert [run["data"][0]["line"]["dash"] for run in figures["timeline"]] == ["solid", "solid", "dash", "dash"]


def test_the_plots_hold_the_studys_figures():
    """Median latency, throughput, dollars with their intervals, and quantiles in milliseconds."""
    figures, cells = figures_of(tb.html_page(study(), costs())), study().measurements
    first = next(trace for trace in figures["throughput"][0]["data"] if "ml.small" in trace["name"])
    assert first["x"] == [each.metrics.latency_s.p50 for each in cells[:2]]
    assert first["y"] == [each.metrics.output_throughput_tps.value for each in cells[:2]]
    cost = [costs().cost(each).usd_per_million_output_tokens for each in cells[2:]]
    assert figures["cost"][0]["data"][1]["y"] == [usd.value for usd in cost]
    p95 = figures["spread-0"][1]["data"][3]
    assert p95["name"] == "p95"
    assert p95["x"] == pytest.approx([each.metrics.ttft_s.p95 * 1e3 for each in cells[1::2]], abs=1e-3)


def test_the_pareto_front_is_the_one_of_the_library():
    """Latency and throughput of what `pareto_front` gives."""
    band = figures_of(tb.html_page(study(), costs()))["throughput"][0]["data"][0]
    front = tb.pareto_front(study(), costs(), over=("latency_s", "throughput_tps"))
    assert band["name"] == "Pareto front"
    assert sorted(zip(band["x"], band["y"], strict=True)) == sorted(
        (each.metrics.latency_s.p50, each.metrics.output_throughput_tps.value) for each in front
    )
