"""A study in the 34 columns of the 2023 study's own CSV, to lay beside it."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from tgibench.loads import ClosedLoop
from tgibench.stats import Distribution

if TYPE_CHECKING:
    from tgibench.measurements import Measurement, Study
    from tgibench.metrics import Metrics

__all__ = ["study_csv"]

# The headings as published (github.com/philschmid/text-generation-inference-tests, results/sagemaker.csv), misprints included.
_HEADER = (
    "Host", "Model Id", "Instance", "Tensor parallelism degree", "quantization", "generated_tokens per request",
    "Do Sample", "Number of requests", "Virtual Users", "Thorughput (tokens/second)",
    *(f"Latency (ms/token) {figure}" for figure in ("avg", "min", "med", "max", "p(90)", "p(95)")),
    *(f"Latency Request ms {figure}" for figure in ("p(90)", "p(95)", "avg", "min", "med", "max")),
    *(f"Latency Infernece ms {figure}" for figure in ("med", "max", "p(90)", "p(95)", "avg", "min")),
    *(f"Queue time ms {figure}" for figure in ("med", "max", "p(90)", "p(95)", "avg", "min")),
)  # fmt: skip
_FIGURES = {"avg": "mean", "min": "min", "med": "p50", "max": "max", "p(90)": "p90", "p(95)": "p95"}


def study_csv(study: Study) -> str:
    """A study as CSV in the 34 columns of the 2023 study, times in milliseconds; figures that it does not have are empty.

    As in that study, the throughput is the one of Little's law and ms/token is the server's own time per token. Its request latency was
    the server's total: `Metrics.extra`'s ``server_total_s`` where there is one, else the latency from outside, which includes the way
    there and back. Its inference time is the extra ``server_inference_s``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    writer.writerows(_record(measurement) for measurement in study)
    return text.getvalue()


def _record(measurement: Measurement) -> list[Any]:
    deployment, load, metrics = measurement.deployment, measurement.load, measurement.metrics
    return [
        measurement.provenance.backend,
        deployment.model_id,
        deployment.instance_type,
        deployment.tensor_parallel,
        deployment.quantization or "none",
        None if metrics.output_tokens is None else metrics.output_tokens.mean,
        None,
        metrics.counts.get("succeeded"),
        load.concurrency if isinstance(load, ClosedLoop) else None,
        metrics.littles_law_throughput_tps,
        *_ms(metrics.server_time_per_token_s, "avg", "min", "med", "max", "p(90)", "p(95)"),
        *_ms(_extra(metrics, "server_total_s") or metrics.latency_s, "p(90)", "p(95)", "avg", "min", "med", "max"),
        *_ms(_extra(metrics, "server_inference_s"), "med", "max", "p(90)", "p(95)", "avg", "min"),
        *_ms(metrics.queue_s, "med", "max", "p(90)", "p(95)", "avg", "min"),
    ]


def _extra(metrics: Metrics, name: str) -> Distribution | None:
    figure = metrics.extra.get(name)
    return figure if isinstance(figure, Distribution) else None


def _ms(figure: Distribution | None, *names: str) -> list[float | None]:
    values_s = [None if figure is None else getattr(figure, _FIGURES[name]) for name in names]
    return [None if value_s is None else value_s * 1e3 for value_s in values_s]
