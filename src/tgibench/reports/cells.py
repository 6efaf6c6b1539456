"""Measurements as plain JSON cells: what `tgibench run --json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.metrics import Metrics
from tgibench.stats import Distribution, Estimate

if TYPE_CHECKING:
    from tgibench.measurements import Measurement

__all__ = ["cell"]

_APART = frozenset({"counts", "failures", "window"})


def cell(measurement: Measurement) -> dict[str, Any]:
    """One measurement: ``deployment``, ``load``, ``source``, ``counts``, ``failures``, ``warnings``, ``window_s`` and ``metrics``.

    A distribution is an object of its figures; an estimate is a number, with its interval under ``<name>_interval``. What is missing is
    None.
    """
    metrics = measurement.metrics
    return {
        "deployment": measurement.deployment.label,
        "load": measurement.load.label,
        "source": measurement.source.value,
        "counts": dict(metrics.counts),
        "failures": {str(kind): number for kind, number in metrics.failures.items()},
        "warnings": list(measurement.warnings),
        "window_s": None if metrics.window is None else [metrics.window.start_s, metrics.window.stop_s],
        "metrics": _figures(metrics),
    }


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
