"""`tgibench predict`: what was not measured, as a table, with what it would cost."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import attrs
import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

import tgibench as tb
from tgibench.errors import InvalidValueError
from tgibench.predictions import Method
from tgibench.reports.cells import cell
from tgibench.reports.page import html_page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tgibench.costs import CostModel

__all__ = ["predict"]

_TABLE_WIDTH = 150


@click.command()
@click.option("--model-id", "model_ids", multiple=True, required=True, help="Model on the hub; may be given again.")
@click.option(
    "--on",
    "machines",
    multiple=True,
    required=True,
    help="Machine and accelerators that share the model, such as ml.g5.12xlarge:4; may be given again.",
)
@click.option("--quantization", help="gptq, or nothing for fp16.")
@click.option("--tgi-version", default="1.0.3", show_default=True, help="Whose engine and scheduler.")
@click.option("--config", type=click.Path(path_type=Path), help="config.json of a model that is not known by name.")
@click.option("--concurrency", default="1,5,10,20", show_default=True, help="Users: one row for each.")
@click.option("--duration", type=float, default=90.0, show_default=True, help="Seconds of each run.")
@click.option("--input-tokens", type=int, help="Length of the prompts; by default those of the 2023 study.")
@click.option("--max-new-tokens", type=int, default=50, show_default=True, help="Most tokens to generate.")
@click.option(
    "--method",
    type=click.Choice(get_args(Method)),
    default="closed-form",
    show_default=True,
    help="An instant closed form, the emulator's engine in virtual time, or the mean of both.",
)
@click.option(
    "--runs", type=int, default=1, show_default=True, help="Simulations of each row: one alone is off by some 3 %."
)
@click.option("--prices-as-of", help="Month of the prices, such as 2023-09; by default the newest.")
@click.option("--html", type=click.Path(path_type=Path), help="File for a page of plots: what is predicted is hollow.")
@click.option("--with", "results", type=click.Path(path_type=Path), help="Stored study that the page shows too.")
@click.option("--json", "as_json", is_flag=True, help="Print the predictions as JSON, and nothing else.")
def predict(**options: Any) -> None:
    """Predict speed and cost of deployments that were not measured."""
    if options["results"] is not None and options["html"] is None:
        raise InvalidValueError("--with is for the page: give --html too")
    if options["method"] == "closed-form" and options["runs"] != 1:
        raise InvalidValueError("--runs is for simulations: give --method simulation or --method both too")
    study = _predicted(options)
    costs = tb.InstanceHours(tb.PriceTable.builtin(as_of=options["prices_as_of"]))
    if options["html"] is not None and len(study):
        _write_page(study, costs, options)
    if options["as_json"]:
        click.echo(json.dumps([cell(measurement) for measurement in study], allow_nan=False))
    elif len(study):
        _print(study.measurements, costs)
    errors = Console(stderr=True, soft_wrap=True)
    for failure in study.failures:
        errors.print(f"tgibench: {failure.deployment.label}: {failure.message}", markup=False, highlight=False)
    if study.failures:
        sys.exit(2)


def _write_page(study: tb.Study, costs: CostModel, options: dict[str, Any]) -> None:
    """Measurements solid, predictions hollow, in one page."""
    measured = () if options["results"] is None else tb.read_study(options["results"]).measurements
    page = html_page(tb.Study((*measured, *study.measurements)), costs)
    path: Path = options["html"]
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise tb.ResultsError(f"cannot write the page {str(path)!r}: {error}") from error
    click.echo(f"page: {path}", err=True)


def _predicted(options: dict[str, Any]) -> tb.Study:
    model = tb.PerformanceModel()
    if options["config"] is not None:
        shape = tb.ModelShape.from_config(options["config"])
        model = model.with_shape(*(attrs.evolve(shape, name=model_id) for model_id in options["model_ids"]))
    limit = options["max_new_tokens"]
    length = options["input_tokens"]
    prompts: tb.PromptSource = (
        tb.study_prompts(max_new_tokens=limit)
        if length is None
        else tb.PromptLengths(input_tokens=(length,), max_new_tokens=limit)
    )
    loads = [tb.ClosedLoop(users, duration_s=options["duration"]) for users in _users(options["concurrency"])]
    deployments = [
        _deployment(model_id, machine, options) for model_id in options["model_ids"] for machine in options["machines"]
    ]
    study = tb.predict_study(deployments, loads, prompts, model=model)
    method, runs = options["method"], options["runs"]
    if method == "closed-form":
        return study
    console = Console(stderr=True)
    predicted = [
        tb.predict(cell.deployment, cell.load, prompts, model=model, method=method, runs=runs)
        for cell in track(study, "simulating", console=console, transient=True, disable=not console.is_terminal)
    ]
    return tb.Study(tuple(predicted), study.failures)


def _deployment(model_id: str, machine: str, options: dict[str, Any]) -> tb.Deployment:
    instance_type, _, shards = machine.partition(":")
    if shards and not shards.isdecimal():
        raise InvalidValueError(f"--on must be a machine and a number, such as ml.g5.12xlarge:4, got {machine!r}")
    return tb.Deployment(
        model_id,
        instance_type,
        tensor_parallel=int(shards or 1),
        quantization=options["quantization"],
        server_version=options["tgi_version"],
    )


def _users(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidValueError(f"--concurrency must be numbers with commas, such as 1,5,10, got {text!r}") from None


def _print(measurements: Sequence[tb.Measurement], costs: CostModel) -> None:
    table = Table(title="PREDICTED, not measured; from and to hold 95 % of measurements", title_justify="left")
    for heading in ("deployment", "load"):
        table.add_column(heading, overflow="fold")
    for heading in ("ms/token", "from", "to", "TTFT ms", "tokens/s", "from", "to", "$/M output tokens"):
        table.add_column(heading, justify="right")
    for measurement in measurements:
        table.add_row(*_row(measurement, costs))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_TABLE_WIDTH)
    console.print(table)
    for warning, labels in _warnings(measurements).items():
        console.print(f"! {warning} [{', '.join(labels)}]", markup=False, highlight=False)


def _row(measurement: tb.Measurement, costs: CostModel) -> list[str]:
    metrics = measurement.metrics
    time, first, rate = metrics.normalized_latency_s, metrics.ttft_s, metrics.output_throughput_tps
    bounds = time.intervals.get("p50") if time else None
    return [
        measurement.deployment.label,
        measurement.load.label,
        _number(time.p50 if time else None, 1e3),
        *(_number(bound, 1e3) for bound in bounds or (None, None)),
        _number(first.p50 if first else None, 1e3),
        _number(rate.value if rate else None),
        *(_number(bound) for bound in (rate.interval if rate else None) or (None, None)),
        _dollars(measurement, costs),
    ]


def _number(value: float | None, times: float = 1.0) -> str:
    return "-" if value is None else f"{value * times:.1f}"


def _dollars(measurement: tb.Measurement, costs: CostModel) -> str:
    """The cost; a dash where the price of the machine is not known: the speed still is."""
    try:
        figure = costs.cost(measurement).usd_per_million_output_tokens
    except tb.UnknownPrice:
        return "no price"
    return "-" if figure is None else f"{figure.value:.2f}"


def _warnings(measurements: Sequence[tb.Measurement]) -> dict[str, list[str]]:
    """Each warning once, with the deployments that it is about."""
    found: dict[str, list[str]] = {}
    for measurement in measurements:
        for warning in measurement.warnings:
            labels = found.setdefault(warning, [])
            if measurement.deployment.label not in labels:
                labels.append(measurement.deployment.label)
    return found
