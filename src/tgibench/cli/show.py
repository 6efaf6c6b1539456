"""`tgibench show`: a stored study."""

from __future__ import annotations

import json
from pathlib import Path

import click

import tgibench as tb
from tgibench.cli.display import print_study
from tgibench.reports.cells import cell

__all__ = ["show"]


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the cells as JSON, and nothing else.")
def show(results: Path, *, as_json: bool) -> None:
    """Print a stored study."""
    study = tb.read_study(results)
    if as_json:
        click.echo(json.dumps([cell(measurement) for measurement in study], allow_nan=False))
    else:
        print_study(study)
