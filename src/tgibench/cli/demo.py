"""`tgibench demo`: the library's main job on the embedded default."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

import tgibench as tb
from tgibench.cli.display import SweepDisplay, leave, print_study
from tgibench.reports.answers import choices
from tgibench.reports.files import write_report
from tgibench.reports.page import html_page

if TYPE_CHECKING:
    from tgibench.backends import Backend
    from tgibench.costs import CostModel

__all__ = ["demo"]

_DEPLOYMENTS = [
    tb.Deployment(f"meta-llama/Llama-2-{size}-hf", instance_type, tensor_parallel=shards, server_version="1.0.3")
    for size in ("7b", "13b")
    for instance_type, shards in (("ml.g5.12xlarge", 4), ("ml.p4d.24xlarge", 8))
]
_LOADS = [tb.ClosedLoop(users, duration_s=90) for users in (1, 5, 10, 20)]
_REAL_TIME_LOAD = tb.ClosedLoop(5, duration_s=8)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("tgibench-demo"), show_default=True)
def demo(out: Path) -> None:
    """Measure Llama 2 on emulated machines: the whole way from deployments to a report, in under a minute."""
    leave(_measured(out))


def _measured(out: Path) -> tb.Study:
    """Sweep the emulator in virtual time, one cell again over HTTP in real time; print, store and report everything."""
    click.echo("16 cells in virtual time, then one over real HTTP in real time; every number is EMULATED.", err=True)
    with SweepDisplay() as display:
        virtual = tb.virtual_time.run(_sweep(_DEPLOYMENTS, _LOADS, tb.Emulator(), out, display))
        real = tb.Study(())
        if not virtual.interrupted:
            server = tb.ProcessBackend(_emulator_command(), ready_timeout_s=30, stop_timeout_s=5)
            real = asyncio.run(_sweep(_DEPLOYMENTS[:1], [_REAL_TIME_LOAD], server, out, display))
    study = tb.Study(
        virtual.measurements + real.measurements,
        virtual.failures + real.failures,
        interrupted=virtual.interrupted or real.interrupted,
    )
    costs = tb.InstanceHours(tb.PriceTable.builtin())
    print_study(study, costs)
    if len(real):
        click.echo("The last row came over HTTP in real time.")
    for choice in choices(study.measurements, costs):
        click.echo(choice.sentence)
    click.echo(f"Results are in {out}; see them again: tgibench show {out}")
    _write_page(study, costs, out / "report.html")
    return study


def _write_page(study: tb.Study, costs: CostModel, path: Path) -> None:
    try:
        page = html_page(study, costs)
    except tb.MissingExtraError as error:
        click.echo(f"No page: {error}", err=True)
        return
    write_report(path, page)
    click.echo(f"The page to look at and pass on: {path}")


async def _sweep(
    deployments: list[tb.Deployment], loads: list[tb.ClosedLoop], backend: Backend, out: Path, display: SweepDisplay
) -> tb.Study:
    return await tb.sweep(
        deployments,
        loads,
        backend=backend,
        prompts=tb.study_prompts(),
        store=out,
        on_measurement=display.measured,
        on_progress=display.moved,
    )


def _emulator_command() -> tuple[str, ...]:
    options = ("--port", "{port}", "--model-id", "{model_id}", "--instance-type", "{instance_type}")
    shards = ("--tensor-parallel", "{tensor_parallel}", "--tgi-version", "{server_version}")
    return (sys.executable, "-m", "tgibench", "emulate", *options, *shards)
