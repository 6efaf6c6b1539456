"""The page's plots as plotly figures, for notebooks."""

from __future__ import annotations

import sys

import pytest

import tgibench as tb

STUDY = tb.llama2_sagemaker_2023()
COSTS = tb.InstanceHours(tb.PriceTable.builtin(as_of="2023-09"))


def test_a_plot_of_costs_shows_every_cell_at_its_cost():
    """A line a deployment, a point a load; the points are the cost model's own figures."""
    figure = tb.plot(STUDY, "cost", COSTS)
    drawn = sorted(float(usd) for trace in figure.data for usd in trace.y)
    figures = sorted(COSTS.cost(cell).usd_per_million_output_tokens.value for cell in STUDY)
    assert drawn == pytest.approx(figures)
    assert "plotly" in figure._repr_html_()


def test_a_plot_of_throughput_shows_every_cell_at_its_rate():
    """Beside the cells the Pareto front, which takes some of them again."""
    figure = tb.plot(STUDY)
    drawn = {round(float(rate), 6) for trace in figure.data for rate in trace.y}
    assert drawn == {round(cell.throughput_tps.value, 6) for cell in STUDY}


def test_what_cannot_be_plotted_is_one_sentence(monkeypatch):
    """An unknown plot, costs without a cost model, plotly that is not installed."""
    with pytest.raises(tb.InvalidValueError, match='of must be "throughput" or "cost", got \'pie\''):
        tb.plot(STUDY, "pie")
    with pytest.raises(tb.InvalidValueError, match="needs a cost model"):
        tb.plot(STUDY, "cost")
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(tb.MissingExtraError, match=r"tgibench\[report\]"):
        tb.plot(STUDY)
