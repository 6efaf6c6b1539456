"""The page's plots for notebooks: plotly figures, which show themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgibench.errors import InvalidValueError, MissingExtraError
from tgibench.reports.answers import front, latency_field
from tgibench.reports.columns import rows_of
from tgibench.reports.plots import cost_plot, series_of, throughput_plot

if TYPE_CHECKING:
    from tgibench.costs import CostModel
    from tgibench.measurements import Study

__all__ = ["plot"]


def plot(study: Study, of: str = "throughput", costs: CostModel | None = None) -> Any:
    """A plot of a study, as `html_page` draws it.

    Args:
        study: What was measured.
        of: ``"throughput"`` (tokens per second against latency, with the Pareto front) or ``"cost"`` (USD for a
            million output tokens by load).
        costs: What it costs; needed for ``"cost"``.

    Returns:
        A `plotly.graph_objects.Figure`: change it, show it, save it.

    Raises:
        InvalidValueError: There is no such plot, or it needs costs.
        MissingExtraError: plotly is not installed.
        UnknownPrice: The cost model knows no price of one of the measurements.
    """
    if of not in {"throughput", "cost"}:
        raise InvalidValueError(f'of must be "throughput" or "cost", got {of!r}')
    if of == "cost" and costs is None:
        raise InvalidValueError("a plot of costs needs a cost model: costs=InstanceHours(PriceTable.builtin())")
    try:
        from plotly import graph_objects as go  # type: ignore[import-untyped] # noqa: PLC0415 - an extra, and slow to import
    except ModuleNotFoundError as error:
        raise MissingExtraError('plots need plotly: pip install "tgibench[report]"') from error
    series = series_of(rows_of(study, costs))
    figure = (
        cost_plot(series)
        if of == "cost"
        else throughput_plot(series, latency_field(study), front(study.measurements, costs))
    )
    return go.Figure(data=figure.data, layout=figure.layout)
