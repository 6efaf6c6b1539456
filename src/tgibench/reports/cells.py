"""Measurements as plain JSON cells: what `tgibench run --json` prints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.metrics import Metrics
from tgibench.reports.columns import COST_FIGURES, rows_of
from tgibench.stats import Distribution, Estimate

if TYPE_CHECKING:
    from tgibench.client_limits import ClientInfluence
    from tgibench.costs import Cost, CostModel
    from tgibench.measurements import Measurement, Study

__all__ = ["cell", "to_json"]

_APART = frozenset({"counts", "failures", "window", "timeline"})


def to_json(study: Study, costs: CostModel | None = None) -> str:
    """A study as a JSON list of its cells.

    Args:
        study: What was measured.
        costs: What it costs; without it the cells have no ``cost``.

    Raises:
        UnknownPrice: The cost model knows no price of one of the measurements.
    """
    return json.dumps([cell(row.measurement, row.cost) for row in rows_of(study, costs)], allow_nan=False)


def cell(measurement: Measurement, cost: Cost | None = None) -> dict[str, Any]:
    """One measurement: ``deployment``, ``load``, ``source``, ``counts``, ``failures``, ``warnings``, ``client``, ``window_s``, ``metrics``.

    ``client`` says whether the run is ``valid``, how many ``workers`` would do when it is not, and the ``shares`` of figures that the
    client may have added. With a cost there is also ``cost``. A distribution is an object of its figures; an estimate is a number, with
    its interval under ``<name>_interval``. What is missing is None.
    """
    metrics = measurement.metrics
    return {
        "deployment": measurement.deployment.label,
        "load": measurement.load.label,
        "source": measurement.source.value,
        "counts": dict(metrics.counts),
        "failures": {str(kind): number for kind, number in metrics.failures.items()},
        "warnings": list(measurement.warnings),
        "client": _client(measurement.client),
        "window_s": None if metrics.window is None else [metrics.window.start_s, metrics.window.stop_s],
        "metrics": _figures(metrics),
        **({} if cost is None else {"cost": _cost(cost)}),
    }


def _client(client: ClientInfluence | None) -> dict[str, Any] | None:
    if client is None:
        return None
    return {
        "valid": client.valid,
        "workers": client.workers,
        "shares": dict(client.shares),
        "calibrated": client.calibrated,
        "health": attrs.asdict(client.health),
    }


def _cost(cost: Cost) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name in COST_FIGURES:
        figure = getattr(cost, name)
        figures[name] = None if figure is None else figure.value
        figures[f"{name}_interval"] = None if figure is None else _pair(figure.interval)
    return {**figures, "run_usd": _pair(cost.run_usd), "basis": cost.basis}


def _figures(metrics: Metrics) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    optional = {field.name for field in attrs.fields(Metrics)} - _APART
    for name in sorted(optional):
        value = getattr(metrics, name)
        figures[name] = _plain(value)
        if isinstance(value, Estimate):
            figures[f"{name}_interval"] = _pair(value.interval)
    return figures


def _plain(value: object) -> Any:
    if isinstance(value, Distribution):
        figures = attrs.asdict(value, filter=lambda field, _: field.name != "batch_means")
        return {**figures, "intervals": {name: _pair(bounds) for name, bounds in value.intervals.items()}}
    if isinstance(value, Estimate):
        return value.value
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    return value


def _pair(bounds: tuple[float, float] | None) -> list[float] | None:
    return None if bounds is None else list(bounds)
