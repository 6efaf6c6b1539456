"""The page's plots as plotly.js figures: plain JSON values, made here so that the browser only draws them.

Shape tells deployments apart, so that a plot can be read without colour. Filled markers and solid lines are MEASURED; hollow markers
and broken lines are not.
"""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.provenance import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tgibench.measurements import Measurement
    from tgibench.reports.columns import Row
    from tgibench.stats import Distribution, Estimate

__all__ = [
    "COLOURS",
    "DASHES",
    "LATENCIES",
    "SPREADS",
    "Figure",
    "Series",
    "cost_plot",
    "distribution_plots",
    "key_to_marks",
    "series_of",
    "throughput_plot",
]

COLOURS = (
    "#3b7fc4",
    "#c8641b",
    "#2a9161",
    "#9467bd",
    "#d1495b",
    "#1a8a99",
    "#a0714f",
    "#c74f96",
    "#7b8794",
    "#85851a",
)
_SHAPES = ("circle", "square", "diamond", "triangle-up", "star", "cross", "triangle-down", "hexagon", "x", "pentagon")
DASHES = {Source.MEASURED: "solid", Source.EMULATED: "dash", Source.PREDICTED: "dot", Source.PUBLISHED: "dashdot"}
_MARKS = {
    Source.MEASURED: "Filled markers, solid lines",
    Source.EMULATED: "Hollow markers, dashed lines",
    Source.PREDICTED: "Hollow markers, dotted lines",
    Source.PUBLISHED: "Hollow markers, dash-dotted lines",
}
_MOST_ERROR_BARS = 40
_WHISKER_RATIO = 0.08
_QUANTILES = {"p50": "circle", "p90": "diamond", "p95": "square", "p99": "triangle-up"}
LATENCIES = {"latency_s": "latency", "server_time_per_token_s": "server time per token"}
SPREADS = {
    "ttft_s": "Time to first token (TTFT)",
    "tpot_s": "Time per output token (TPOT)",
    "icl_s": "Gaps between chunks",
}
"""The figures whose distributions are drawn, and what they are called."""


@attrs.frozen
class Series:
    """The measurements of one deployment by one backend, in the order of the study, and how they are drawn."""

    name: str
    rows: tuple[Row, ...]
    colour: str
    shape: str
    dash: str


@attrs.frozen
class Figure:
    """A figure; where there are several of a kind, a reader chooses among them.

    Args:
        label: What the choice is called.
        data: Traces of plotly.js.
        layout: What its layout adds to the page's own.
        table: Its figures as texts in rows, where the page has a table that follows the choice.
    """

    label: str
    data: list[dict[str, Any]]
    layout: dict[str, Any] = attrs.field(factory=dict)
    table: list[list[str]] = attrs.field(factory=list)


def series_of(rows: Sequence[Row]) -> list[Series]:
    """The rows by deployment, in the order in which they first occur; by backend and source too where a study has several."""
    groups: dict[tuple[str, str, Source], list[Row]] = {}
    for row in rows:
        measurement = row.measurement
        key = (measurement.deployment.label, measurement.provenance.backend, measurement.source)
        groups.setdefault(key, []).append(row)
    several_sources = len({source for _, _, source in groups}) > 1
    several_backends = len({backend for _, backend, _ in groups}) > 1

    def name(label: str, backend: str, source: Source) -> str:
        further = (*((source.value,) if several_sources else ()), *((backend,) if several_backends else ()))
        return f"{label} ({', '.join(further)})" if further else label

    return [
        Series(
            name=name(label, backend, source),
            rows=tuple(group),
            colour=COLOURS[number % len(COLOURS)],
            shape=_SHAPES[(number + number // len(COLOURS)) % len(_SHAPES)] + _fill(source),
            dash=DASHES[source],
        )
        for number, ((label, backend, source), group) in enumerate(groups.items())
    ]


def key_to_marks(rows: Sequence[Row]) -> str:
    """How to read the markers and lines of these rows."""
    sources = [source for source in Source if any(row.measurement.source is source for row in rows)]
    return "Shape: deployment. " + " ".join(f"{_MARKS[source]}: {source}." for source in sources)


def throughput_plot(series: Sequence[Series], latency: str, front: Iterable[Measurement] = ()) -> Figure:
    """Tokens per second against the median of a latency, a line a deployment; those on the Pareto front are ringed."""
    on_front = {id(measurement) for measurement in front}
    lines = [(each, _points(each, lambda row: _median(row, latency), _throughput)) for each in series]
    bars = sum(len(points) for _, points in lines) <= _MOST_ERROR_BARS
    ringed = sorted(
        (x, rate.value) for _, points in lines for row, x, rate in points if id(row.measurement) in on_front
    )
    return Figure(
        "all",
        [*([_front(ringed)] if ringed else []), *(_line(each, points, bars=bars) for each, points in lines)],
        {"xaxis": {"title": {"text": f"median {LATENCIES[latency]} (s)"}, "rangemode": "tozero"},
         "yaxis": {"title": {"text": "output tokens/s"}, "rangemode": "tozero"}},
    )  # fmt: skip


def cost_plot(series: Sequence[Series]) -> Figure:
    """US dollars for a million output tokens under each load, a line a deployment."""
    lines = [(each, _points(each, lambda row: _text(row.measurement.load.label), _usd)) for each in series]
    costs = [usd.value for _, points in lines for _, _, usd in points if usd.value > 0]
    return Figure(
        "all",
        [_line(each, points, bars=True) for each, points in lines],
        {"xaxis": {"title": {"text": "load"}, "type": "category"},
         "yaxis": {"title": {"text": "USD for 1M output tokens"}, **_logarithmic(costs, "$")}},
    )  # fmt: skip


def distribution_plots(rows: Sequence[Row]) -> list[list[Figure]]:
    """For each of `SPREADS` a figure for each load, with the median, p90, p95 and p99 of every deployment."""
    by_load: dict[str, list[Row]] = {}
    for row in rows:
        by_load.setdefault(row.measurement.load.label, []).append(row)
    return [[Figure(load, *_spread(name, of_load)) for load, of_load in by_load.items()] for name in SPREADS]


def _points(
    series: Series, x: Callable[[Row], Any], y: Callable[[Row], Estimate | None]
) -> list[tuple[Row, Any, Estimate]]:
    """The rows of which both figures are known, with them."""
    found = ((row, x(row), y(row)) for row in series.rows)
    return [(row, across, up) for row, across, up in found if across is not None and up is not None]


def _line(series: Series, points: Sequence[tuple[Row, Any, Estimate]], *, bars: bool) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": _text(series.name),
        "x": [across for _, across, _ in points],
        "y": [up.value for _, _, up in points],
        "customdata": [_text(f"{row.measurement.load.label}, {row.measurement.source}") for row, _, _ in points],
        "hovertemplate": "%{customdata}<br>%{x}, %{y:,.4~r}",
        "line": {"color": series.colour, "dash": series.dash, "width": 1.8},
        "marker": {"symbol": series.shape, "size": 10, "color": series.colour, "line": {"width": 2}},
    }
    if bars and any(_is_wide(up) for _, _, up in points):
        spans = [
            (up.value, *(up.interval if up.interval and _is_wide(up) else (up.value, up.value))) for _, _, up in points
        ]
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [high - value for value, _, high in spans],
            "arrayminus": [value - low for value, low, _ in spans],
            "thickness": 1.5,
            "width": 5,
        }
    return trace


def _is_wide(figure: Estimate) -> bool:
    """Whether a whisker would show behind its marker."""
    return figure.interval is not None and figure.interval[1] - figure.interval[0] > _WHISKER_RATIO * figure.value


def _front(points: list[tuple[float, float]]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "Pareto front",
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "hoverinfo": "skip",
        "line": {"width": 7, "shape": "hv", "color": "rgba(128,136,148,0.28)"},
        "marker": {"symbol": "circle", "size": 22, "color": "rgba(128,136,148,0.28)"},
    }


def _spread(name: str, rows: Sequence[Row]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    found = [(row, figure) for row in rows if (figure := getattr(row.measurement.metrics, name)) is not None]
    labels = [_two_lines(row.measurement.deployment.label) for row, _ in found]
    spans = {
        "type": "scatter",
        "mode": "lines",
        "showlegend": False,
        "hoverinfo": "skip",
        "x": [end for _, figure in found for end in (_ms(figure.p50), _ms(figure.p99), None)],
        "y": [text for label in labels for text in (label, label, None)],
        "line": {"width": 1.5, "color": "rgba(128,136,148,0.8)"},
    }
    traces = [_quantile(quantile, found, labels) for quantile in _QUANTILES]
    axis = _logarithmic([value for trace in traces for value in trace["x"] if value])
    return [spans, *traces], {
        "xaxis": {"title": {"text": "ms"}, **axis},
        "yaxis": {"type": "category", "autorange": "reversed"},
    }


def _quantile(quantile: str, found: Sequence[tuple[Row, Distribution]], labels: list[str]) -> dict[str, Any]:
    values = [_ms(getattr(figure, quantile)) for _, figure in found]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": quantile,
        "x": values,
        "y": labels,
        "customdata": [str(row.measurement.source) for row, _ in found],
        "hovertemplate": f"{quantile}: %{{x:,.1f}} ms, %{{customdata}}",
        "marker": {
            "symbol": [_QUANTILES[quantile] + _fill(row.measurement.source) for row, _ in found],
            "size": 10,
            "color": COLOURS[list(_QUANTILES).index(quantile)],
            "line": {"width": 2},
        },
    }


def _logarithmic(values: Sequence[float], prefix: str = "") -> dict[str, Any]:
    """A logarithmic axis over these values, with round numbers along it."""
    if not values:
        return {"type": "log"}
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = 0.05 * (high - low) + 0.03
    steps = (1, 1.5, 2, 3, 4, 5, 7) if high - low < 1 else (1, 2, 5) if high - low < 2.5 else (1,)
    ticks = [step * 10.0**power for power in range(math.floor(low) - 1, math.ceil(high) + 1) for step in steps]
    inside = [tick for tick in ticks if low - margin <= math.log10(tick) <= high + margin]
    return {
        "type": "log",
        "range": [low - margin, high + margin],
        "tickvals": inside,
        "ticktext": [f"{prefix}{tick:,.6g}" for tick in inside],
    }


def _fill(source: Source) -> str:
    return "" if source is Source.MEASURED else "-open"


def _median(row: Row, field: str) -> float | None:
    figure = getattr(row.measurement.metrics, field)
    return None if figure is None else figure.p50


def _throughput(row: Row) -> Estimate | None:
    return row.measurement.throughput_tps


def _usd(row: Row) -> Estimate | None:
    return None if row.cost is None else row.cost.usd_per_million_output_tokens


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else round(value_s * 1e3, 4)


def _text(label: str) -> str:
    """Plotly reads a subset of HTML in every label: a name must be a name."""
    return escape(label, quote=False)


def _two_lines(label: str) -> str:
    return _text(label).replace(" @ ", "<br>@ ")
