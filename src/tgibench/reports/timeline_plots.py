"""Runs over time, as plotly.js figures."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from tgibench.formatting import MISSING
from tgibench.reports.plots import COLOURS, DASHES, Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tgibench.measurements import Measurement
    from tgibench.reports.columns import Row
    from tgibench.timelines import Timeline

__all__ = ["timeline_plots"]

_MOST_TIMELINES = 200


def timeline_plots(rows: Sequence[Row]) -> list[Figure]:
    """For each run of which a timeline was kept, the first 200 of them: in flight, tokens a second and failures over time."""
    runs = ((row.measurement, row.measurement.metrics.timeline) for row in rows)
    found = ((run, timeline) for run, timeline in runs if timeline is not None)
    return [_timeline(run, timeline) for run, timeline in itertools.islice(found, _MOST_TIMELINES)]


def _timeline(run: Measurement, line: Timeline) -> Figure:
    middles = [round((number + 0.5) * line.step_s, 3) for number in range(len(line.in_flight))]
    rates = [None] * len(middles) if line.output_tps is None else list(line.output_tps)
    dash = DASHES[run.source]
    over_time = {"type": "scatter", "mode": "lines", "x": middles, "hovertemplate": "%{x:.1f} s: %{y:,.4~r}"}
    data = [
        {**over_time, "name": "in flight", "y": list(line.in_flight),
         "line": {"shape": "hvh", "color": COLOURS[0], "dash": dash}},
        {**over_time, "name": "output tokens/s", "y": rates, "yaxis": "y2", "line": {"color": COLOURS[2], "dash": dash}},
        {"type": "bar", "name": "failed", "x": middles, "y": list(line.failed), "yaxis": "y3",
         "hovertemplate": "%{x:.1f} s: %{y} failed",
         "marker": {"color": COLOURS[4], "pattern": {"shape": "/"}}},
    ]  # fmt: skip
    most = max(line.failed, default=0)
    layout = {
        "xaxis": {"title": {"text": "seconds since the run's start"}, "anchor": "y3"},
        "yaxis": {"title": {"text": "in flight"}, "domain": [0.66, 1], "rangemode": "tozero"},
        "yaxis2": {"title": {"text": "tokens/s"}, "domain": [0.27, 0.6], "rangemode": "tozero"},
        "yaxis3": {"title": {"text": "failed"}, "domain": [0, 0.2], "range": [0, max(1, most * 1.1)], "nticks": 3},
        "shapes": _outside_window(run, line.step_s * len(middles)),
        "showlegend": False,
    }
    label = f"{run.deployment.label}, {run.load.label} ({run.source}, {run.provenance.backend})"
    return Figure(label, data, layout, _timeline_table(line))


def _timeline_table(line: Timeline) -> list[list[str]]:
    rates = [MISSING] * len(line.failed) if line.output_tps is None else [f"{rate:,.1f}" for rate in line.output_tps]
    stretches = zip(line.in_flight, rates, line.succeeded, line.failed, strict=True)
    return [
        [f"{number * line.step_s:.1f}", f"{in_flight:.2f}", rate, str(succeeded), str(failed)]
        for number, (in_flight, rate, succeeded, failed) in enumerate(stretches)
    ]


def _outside_window(run: Measurement, end_s: float) -> list[dict[str, Any]]:
    """Shade what the steady-state figures leave out: warm-up and drain."""
    window = run.metrics.window
    if window is None:
        return []
    return [
        {"type": "rect", "xref": "x", "yref": "paper", "x0": x0, "x1": x1, "y0": 0, "y1": 1, "layer": "below",
         "line": {"width": 0}, "fillcolor": "rgba(128,136,148,0.18)"}
        for x0, x1 in ((0, window.start_s), (window.stop_s, end_s))
        if x1 - x0 > 0
    ]  # fmt: skip
