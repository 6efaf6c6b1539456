"""What the commands show while they work and when they are done, and with which exit code they leave."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tgibench.reports.console import study_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tgibench.costs import CostModel
    from tgibench.measurements import Measurement, Study
    from tgibench.sweep_results import Progress as SweepProgress

__all__ = ["SweepDisplay", "leave", "print_study"]

_INTERRUPTED = 130
_TABLE_WIDTH = 150
_REDRAWS_PER_S = 8


class SweepDisplay:
    """The table so far and a progress bar, live on standard error; nothing where that is no terminal."""

    def __init__(self) -> None:
        self._measurements: list[Measurement] = []
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._task = self._bar.add_task("waiting for the server", total=None)
        console = Console(stderr=True)
        self._live = Live(
            get_renderable=self._drawn, console=console, transient=True, refresh_per_second=_REDRAWS_PER_S
        )
        self._shown = console.is_terminal

    def __enter__(self) -> Self:
        if self._shown:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def measured(self, measurement: Measurement) -> None:
        """A cell is finished."""
        self._measurements.append(measurement)

    def moved(self, progress: SweepProgress) -> None:
        """The sweep went on."""
        text = f"{progress.deployment}: {progress.load or 'making it ready'}"
        if progress.run is not None:
            text += f" · {progress.run.finished} done, {progress.run.failed} failed, {progress.run.in_flight} in flight"
        self._bar.update(self._task, description=text, completed=progress.cells_done, total=progress.cells_total)

    def _drawn(self) -> Group:
        return Group(study_table(self._measurements), self._bar)


def print_study(measurements: Iterable[Measurement], costs: CostModel | None = None) -> None:
    """The table and its warnings, on standard output."""
    measurements = list(measurements)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_TABLE_WIDTH)
    console.print(study_table(measurements, costs))
    for measurement in measurements:
        for warning in measurement.warnings:
            console.print(
                f"! {measurement.deployment.label}, {measurement.load.label}: {warning}", markup=False, highlight=False
            )


def leave(study: Study) -> None:
    """Exit by what became of the study: 130 when interrupted, 2 when something could not be measured, or not to its end."""
    errors = Console(stderr=True, soft_wrap=True)
    for failure in study.failures:
        errors.print(f"tgibench: {failure.deployment.label}: {failure.message}", markup=False, highlight=False)
    if study.interrupted:
        errors.print("tgibench: interrupted: what was finished is shown", markup=False)
        sys.exit(_INTERRUPTED)
    if study.failures or any(measurement.partial for measurement in study):
        sys.exit(2)
