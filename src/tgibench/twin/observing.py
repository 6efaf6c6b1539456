"""What measurements say that a closed form can be held against: a time per token and a throughput, and what each is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench.errors import InvalidValueError
from tgibench.provenance import Source
from tgibench.stats import Distribution
from tgibench.twin.asking import PromptTable, Question, busy_replicas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from tgibench.measurements import Measurement
    from tgibench.requests import PromptSource
    from tgibench.twin.closed_form import Cells, Forecast

    Numbers = NDArray[np.float64]

__all__ = ["FIGURES", "Observations", "observations"]

FIGURES = ("time per token", "throughput", "long latency")
"""What of a measurement a fit looks at: a median, a rate and a 90th percentile."""

_TAIL = 2
_CROWDED_TAIL, _FEWEST_TOGETHER = 0.35, 1.5

_TIMES = ("server_time_per_token_s", "tpot_s", "normalized_latency_s")


def _time_per_token_s(row: Measurement) -> tuple[str, float] | None:
    """The first known above 0 of the server's time per token, the time per token after the first, and latency per token: its median."""
    for name in _TIMES:
        figure = getattr(row.metrics, name)
        if figure is not None and figure.p50 is not None and figure.p50 > 0:
            return name, figure.p50
    return None


def _throughput_tps(row: Measurement) -> tuple[str, float] | None:
    """Counted tokens per second of a replica; of a published row that has none, those computed as the 2023 study did."""
    metrics, replicas = row.metrics, busy_replicas(row.load, row.deployment)
    if metrics.output_throughput_tps is not None and metrics.output_throughput_tps.value > 0:
        return "output_throughput_tps", metrics.output_throughput_tps.value / replicas
    if metrics.littles_law_throughput_tps is not None and row.source in {Source.PUBLISHED, Source.PREDICTED}:
        return "littles_law_throughput_tps", metrics.littles_law_throughput_tps / replicas
    return None


def _long_latency_s(row: Measurement) -> tuple[str, float] | None:
    """The 90th percentile of latency, the client's or, of a published row, the server's own."""
    latency, served = row.metrics.latency_s, row.metrics.extra.get("server_total_s")
    if latency is not None and latency.p90 is not None:
        return "latency_s", latency.p90
    if isinstance(served, Distribution) and served.p90 is not None:
        return "server_total_s", served.p90
    return None


_OBSERVED = (_time_per_token_s, _throughput_tps, _long_latency_s)


@attrs.frozen(kw_only=True, eq=False)
class Observations:
    """Measurements as arrays: a row for each of `FIGURES`, a column for each measurement.

    Args:
        questions: What was measured, as the closed form is asked for it.
        figures: In seconds, and tokens per second of a replica; NaN where there is none.
        names: Which figure of `Metrics` each is; None where there is none.
    """

    questions: tuple[Question, ...]
    figures: Numbers
    names: tuple[tuple[str | None, ...], ...]

    def weights(self, cells: Cells) -> Numbers:
        """Of the figures' errors; 0 where there is no figure.

        With one user nothing waits, and a tail is as sure as a median: it tells what a prompt's length costs. With several it hangs on who
        came together with whom. Of a server that tunes its kernels on line it tells how many stalls there were, and little else.
        """
        weights = np.ones(self.figures.shape)
        weights[_TAIL] = np.where(cells.users < _FEWEST_TOGETHER, 1.0, _CROWDED_TAIL)
        weights[_TAIL] *= cells.tuned * cells.tuning_s == 0
        return np.where(np.isfinite(self.figures), weights, 0.0)

    def residuals(self, answer: Forecast, cells: Cells) -> Numbers:
        """log(predicted / measured), in the shape of `figures` behind the answer's own axes; NaN where nothing was measured."""
        predicted = {name: figure(answer, cells) for name, figure in _PREDICTED.items()}
        shape = np.shape(answer.latency_s)
        found = np.full((*shape[:-1], *self.figures.shape), np.nan)
        for place, names in enumerate(self.names):
            for name in set(names) - {None}:
                chosen = np.array([each == name for each in names])
                found[..., place, chosen] = np.broadcast_to(predicted[str(name)], shape)[..., chosen]
        return np.asarray(np.log(found) - np.log(self.figures))

    def errors_of(self, predicted: Sequence[Measurement]) -> Numbers:
        """The same of other measurements of the same cells, such as simulated ones."""
        found = np.full(self.figures.shape, np.nan)
        for column, (row, question) in enumerate(zip(predicted, self.questions, strict=True)):
            for place, names in enumerate(self.names):
                if names[column] is not None:
                    found[place, column] = _figure_of(row, str(names[column]), question)
        return np.asarray(np.log(found) - np.log(self.figures))


def _figure_of(row: Measurement, name: str, question: Question) -> float:
    """A figure of a prediction, which knows all of them."""
    metrics = row.metrics
    if name == "server_total_s":
        return float(metrics.latency_s.p90) - question.round_trip_s  # type: ignore[union-attr, arg-type]
    figure = getattr(metrics, name)
    if name.endswith("_tps"):
        return float(getattr(figure, "value", figure)) / question.busy_replicas
    return float(figure.p90 if name == "latency_s" else figure.p50)


_PREDICTED: dict[str, Callable[[Forecast, Cells], Numbers]] = {
    "server_time_per_token_s": lambda answer, _: answer.time_per_token_s,
    "tpot_s": lambda answer, _: answer.tpot_s,
    "normalized_latency_s": lambda answer, cells: (
        (answer.ttft_s + answer.tpot_s * (cells.longest_output - 1)) / cells.longest_output
    ),
    "output_throughput_tps": lambda answer, cells: (
        cells.users * cells.output_tokens / (answer.latency_s + cells.round_trip_s)
    ),
    "littles_law_throughput_tps": lambda answer, cells: cells.users * cells.longest_output / answer.latency_s,
    "latency_s": lambda answer, cells: answer.long_latency_s + cells.round_trip_s,
    "server_total_s": lambda answer, _: answer.long_latency_s,
}


def observations(
    measurements: Iterable[Measurement],
    prompts: PromptSource | Mapping[str, PromptSource],
    *,
    round_trip_s: float,
    early_stop_ratio: float,
    cold: bool,
) -> Observations:
    """Measurements as arrays.

    Args:
        measurements: Rows of any source; a row that has neither a time per token nor a throughput is an error.
        prompts: What their requests said, by the measurements' `prompts`, or one source for all.
        round_trip_s: Network time of a request.
        early_stop_ratio: Share of answers that end before their limit.
        cold: Whether the servers were fresh.

    Raises:
        InvalidValueError: There is no row, a row says nothing, or its prompts are not given.
    """
    rows = tuple(measurements)
    if not rows:
        raise InvalidValueError("measurements must hold at least one row, got none")
    tables: dict[tuple[str, int], PromptTable] = {}
    questions = []
    for row in rows:
        key = (row.prompts, row.provenance.seed or 0)
        if key not in tables:
            source = _source(prompts, row.prompts)
            tables[key] = PromptTable.of(source, seed=key[1], early_stop_ratio=early_stop_ratio)
        if _time_per_token_s(row) is None and _throughput_tps(row) is None:
            raise InvalidValueError(
                f"{row.deployment.label}, {row.load.label}: the row has neither a time per token nor a throughput to fit to"
            )
        questions.append(
            Question(
                deployment=row.deployment, load=row.load, prompts=tables[key], round_trip_s=round_trip_s, cold=cold
            )
        )
    found = [[observe(row) for row in rows] for observe in _OBSERVED]
    return Observations(
        questions=tuple(questions),
        figures=np.array([[each[1] if each else np.nan for each in one] for one in found]),
        names=tuple(tuple(each[0] if each else None for each in one) for one in found),
    )


def _source(prompts: PromptSource | Mapping[str, PromptSource], identity: str) -> PromptSource:
    if not isinstance(prompts, Mapping):
        return prompts
    if identity not in prompts:
        raise InvalidValueError(
            f"prompts must hold the source of {identity!r}, got those of {', '.join(map(repr, prompts)) or 'nothing'}"
        )
    return prompts[identity]
