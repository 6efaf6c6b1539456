"""What measurements say that a closed form can be held against: a time per token and a throughput, and what each is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench.errors import InvalidValueError
from tgibench.provenance import Source
from tgibench.twin.asking import PromptTable, Question

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from tgibench.measurements import Measurement
    from tgibench.metrics import Metrics
    from tgibench.requests import PromptSource
    from tgibench.twin.closed_form import Cells, Forecast

    Numbers = NDArray[np.float64]

__all__ = ["Observations", "observations", "throughput_tps", "time_per_token_s"]

_TIMES = ("server_time_per_token_s", "tpot_s", "normalized_latency_s")


def time_per_token_s(metrics: Metrics) -> tuple[str, float] | None:
    """The first known of the server's time per token, the time per token after the first, and latency per token: its median."""
    for name in _TIMES:
        figure = getattr(metrics, name)
        if figure is not None and figure.p50 is not None:
            return name, figure.p50
    return None


def throughput_tps(measurement: Measurement) -> tuple[str, float] | None:
    """Counted tokens per second; of a published row that has none, those computed as the 2023 study did."""
    metrics = measurement.metrics
    if metrics.output_throughput_tps is not None:
        return "output_throughput_tps", metrics.output_throughput_tps.value
    if metrics.littles_law_throughput_tps is not None and measurement.source in {Source.PUBLISHED, Source.PREDICTED}:
        return "littles_law_throughput_tps", metrics.littles_law_throughput_tps
    return None


@attrs.frozen(kw_only=True, eq=False)
class Observations:
    """Measurements as arrays.

    Args:
        questions: What was measured, as the closed form is asked for it.
        times_s: Times per token; NaN where there is none.
        throughputs_tps: Tokens per second of a replica; NaN where there is none.
        time_names: Which time each is; None where there is none.
        throughput_names: Which throughput each is; None where there is none.
    """

    questions: tuple[Question, ...]
    times_s: Numbers
    throughputs_tps: Numbers
    time_names: tuple[str | None, ...]
    throughput_names: tuple[str | None, ...]

    def residuals(self, answer: Forecast, cells: Cells) -> tuple[Numbers, Numbers]:
        """log(predicted / measured) of times and throughputs; NaN where nothing was measured."""
        times = self._chosen(self.time_names, {name: figure(answer, cells) for name, figure in _PREDICTED.items()})
        throughputs = self._chosen(
            self.throughput_names, {name: figure(answer, cells) for name, figure in _PREDICTED.items()}
        )
        with np.errstate(invalid="ignore"):
            return np.log(times) - np.log(self.times_s), np.log(throughputs) - np.log(self.throughputs_tps)

    def figures_of(self, predicted: Sequence[Measurement]) -> tuple[Numbers, Numbers]:
        """The same figures of other measurements of the same cells, such as simulated ones: times, and throughputs of a replica."""
        times, throughputs = np.full(len(predicted), np.nan), np.full(len(predicted), np.nan)
        for place, row in enumerate(predicted):
            time_name, throughput_name = self.time_names[place], self.throughput_names[place]
            if time_name is not None:
                times[place] = getattr(row.metrics, time_name).p50
            if throughput_name is not None:
                figure = getattr(row.metrics, throughput_name)
                throughputs[place] = (figure if isinstance(figure, float) else figure.value) / row.deployment.replicas
        return times, throughputs

    def _chosen(self, names: Sequence[str | None], predicted: dict[str, Numbers]) -> Numbers:
        chosen = np.full(predicted["tpot_s"].shape, np.nan)
        for name, values in predicted.items():
            mask = np.array([each == name for each in names])
            chosen[..., mask] = values[..., mask]
        return chosen


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
    questions, times, throughputs = [], [], []
    for row in rows:
        key = (row.prompts, row.provenance.seed or 0)
        if key not in tables:
            source = _source(prompts, row.prompts)
            tables[key] = PromptTable.of(source, seed=key[1], early_stop_ratio=early_stop_ratio)
        questions.append(
            Question(
                deployment=row.deployment, load=row.load, prompts=tables[key], round_trip_s=round_trip_s, cold=cold
            )
        )
        times.append(time_per_token_s(row.metrics))
        throughputs.append(throughput_tps(row))
        if times[-1] is None and throughputs[-1] is None:
            raise InvalidValueError(
                f"{row.deployment.label}, {row.load.label}: the row has neither a time per token nor a throughput to fit to"
            )
    return Observations(
        questions=tuple(questions),
        times_s=np.array([found[1] if found else np.nan for found in times]),
        throughputs_tps=np.array(
            [
                found[1] / row.deployment.replicas if found else np.nan
                for found, row in zip(throughputs, rows, strict=True)
            ]
        ),
        time_names=tuple(found[0] if found else None for found in times),
        throughput_names=tuple(found[0] if found else None for found in throughputs),
    )


def _source(prompts: PromptSource | Mapping[str, PromptSource], identity: str) -> PromptSource:
    if not isinstance(prompts, Mapping):
        return prompts
    if identity not in prompts:
        raise InvalidValueError(
            f"prompts must hold the source of {identity!r}, got those of {', '.join(map(repr, prompts)) or 'nothing'}"
        )
    return prompts[identity]
