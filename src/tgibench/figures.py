"""One figure of a run by its name, as comparing and choosing need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench.errors import InvalidValueError
from tgibench.metrics import Metrics, latency_s, tpot_s, ttft_s
from tgibench.stats import Distribution, Estimate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from tgibench.measurements import Measurement
    from tgibench.records import RequestLog

    Rows = Callable[[RequestLog], ArrayLike]

__all__ = ["Figure", "figure_name", "figure_of", "rows_function", "rows_inside"]

_STORED = {0.5: "p50", 0.9: "p90", 0.95: "p95", 0.99: "p99"}
_FIGURES = frozenset(field.name for field in attrs.fields(Metrics)) - {
    "counts",
    "failures",
    "window",
    "tokens_from",
    "extra",
    "timeline",
}


@attrs.frozen
class Figure:
    """A figure of a run.

    Args:
        estimate: None where the run has none.
        batch_size: How many values made a batch where their dependence was judged; None for rates in stretches of time.
        batch_means: Means of those batches, of a quantile too.
    """

    estimate: Estimate | None
    batch_size: int | None = None
    batch_means: tuple[float, ...] = ()


def figure_name(of: str | Rows, quantile: float | None = None) -> str:
    """What to call a figure: ``"latency_s p95"``."""
    name = of if isinstance(of, str) else getattr(of, "__name__", "figure")
    return name if quantile is None else f"{name} p{100 * quantile:g}"


def figure_of(run: Measurement | Metrics, of: str, quantile: float | None = None) -> Figure:
    """A run's figure by name, with its interval.

    Args:
        run: A measurement or its metrics.
        of: A field of `Metrics`, a name in its ``extra``, or ``"throughput_tps"`` (see `Measurement.throughput_tps`).
        quantile: Of a distribution: 0.5, 0.9, 0.95 or 0.99; None for the mean. Of anything else it must be None.

    Raises:
        InvalidValueError: There is no such figure or stored quantile.
    """
    metrics = run if isinstance(run, Metrics) else run.metrics
    value: Distribution | Estimate | float | None
    if of == "throughput_tps":
        value = metrics.output_throughput_tps if isinstance(run, Metrics) else run.throughput_tps
    elif of in _FIGURES:
        value = getattr(metrics, of)
    elif of in metrics.extra:
        value = metrics.extra[of]
    else:
        known = ", ".join(sorted({"throughput_tps", *_FIGURES, *metrics.extra}))
        raise InvalidValueError(f"there is no figure {of!r}; there are {known}")
    if isinstance(value, Distribution):
        return _of_distribution(value, quantile)
    if value is not None and quantile is not None:
        raise InvalidValueError(f"{of} is one number a run: it has no quantile {quantile!r}")
    return Figure(Estimate(value) if isinstance(value, float | int) else value)


def _of_distribution(values: Distribution, quantile: float | None) -> Figure:
    if quantile is not None and quantile not in _STORED:
        raise InvalidValueError(
            f"measurements hold the quantiles {sorted(_STORED)} and the mean (None), not {quantile!r}"
        )
    name = "mean" if quantile is None else _STORED[quantile]
    value, interval = getattr(values, name), values.intervals.get(name)
    if value is None:
        return Figure(None)
    batch_size = values.count // len(values.batch_means) if values.batch_means else None
    return Figure(
        Estimate(value, interval, values.count, () if quantile else values.batch_means), batch_size, values.batch_means
    )


def _normalized_latency_s(log: RequestLog) -> NDArray[np.float64]:
    tokens = np.where(log.output_tokens > 0, log.output_tokens, np.nan)
    values_s: NDArray[np.float64] = latency_s(log) / tokens
    return values_s


_ROWS: dict[str, Rows] = {
    "latency_s": latency_s,
    "ttft_s": ttft_s,
    "tpot_s": tpot_s,
    "normalized_latency_s": _normalized_latency_s,
}


def rows_function(of: str | Rows) -> Rows | None:
    """The function that gives a figure's value for each row of a log; None for figures of whole runs."""
    return _ROWS.get(of) if isinstance(of, str) else of


def rows_inside(log: RequestLog, rows: Rows) -> NDArray[np.float64]:
    """What a function gives for the successes planned inside the window, in the order of their planned start, NaN left out.

    Raises:
        InvalidValueError: It does not give one number a row.
    """
    values = np.asarray(rows(log), dtype=np.float64)
    if values.shape != (len(log),):
        raise InvalidValueError(
            f"a function of a log must give one number for each of its {len(log)} rows, got {values.shape}"
        )
    wanted = log.succeeded & (log.planned_s >= log.window.start_s) & (log.planned_s <= log.window.stop_s)
    inside: NDArray[np.float64] = values[wanted & ~np.isnan(values)]
    return inside
