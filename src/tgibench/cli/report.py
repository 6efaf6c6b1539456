"""`tgibench report`: stored results as a page, a table or data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import tgibench as tb
from tgibench.errors import InvalidValueError, UnknownPrice
from tgibench.reports.cells import to_json
from tgibench.reports.files import write_report
from tgibench.reports.markdown import markdown
from tgibench.reports.page import html_page
from tgibench.reports.study_csv import study_csv
from tgibench.reports.tables import to_csv

if TYPE_CHECKING:
    from collections.abc import Callable

    from tgibench.costs import CostModel

__all__ = ["price_of", "report"]

_REGION = "us-east-1"
_PAGE = "report.html"


_TEXTS: dict[str, Callable[[tb.Study, CostModel | None], str]] = {
    "markdown": markdown,
    "csv": to_csv,
    "study-csv": lambda study, _: study_csv(study),
    "json": lambda study, costs: to_json(study, costs) + "\n",
}


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--format", "kind", type=click.Choice(["html", *_TEXTS]), default="html", show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help=f"File to write. By default a page is {_PAGE} beside the results, and all else goes to standard output.",
)
@click.option(
    "--region", help=f"Whose prices: of SageMaker hosting, by default in {_REGION} where all machines have one."
)
@click.option("--as-of", help="Prices of another day: 2023-09 for those of the 2023 study.")
@click.option("--price", "own", multiple=True, metavar="TYPE=USD", help="Price of a machine per hour; may be repeated.")
@click.option("--title", help="The page's heading.")
def report(
    *,
    results: Path,
    kind: str,
    out: Path | None,
    region: str | None,
    as_of: str | None,
    own: tuple[str, ...],
    title: str | None,
) -> None:
    """Write a report of stored results: the three winners, plots, every figure, and where they come from."""
    study = tb.read_study(results)
    costs, notes = _costs(study, region, as_of, own)
    for note in notes:
        click.echo(f"tgibench: {note}", err=True)
    if kind == "html":
        text = html_page(study, costs, title=title, notes=notes)
        out = out or (results if results.is_dir() else results.parent) / _PAGE
    else:
        text = _TEXTS[kind](study, costs)
    if out is None:
        click.echo(text, nl=False)
    else:
        write_report(out, text)
        click.echo(f"wrote {out}", err=True)


def _costs(
    study: tb.Study, region: str | None, as_of: str | None, own: tuple[str, ...]
) -> tuple[CostModel | None, list[str]]:
    """The costs that were asked for; without being asked those of the default region, or none and a note of why."""
    prices = tb.PriceTable.builtin(region or _REGION, as_of=as_of)
    for price in own:
        prices = prices.with_price(*price_of(price))
    costs = tb.InstanceHours(prices)
    try:
        for measurement in study:
            costs.cost(measurement)
    except UnknownPrice as error:
        if region or as_of or own:
            raise UnknownPrice(f"{error}; on the command line: --price TYPE=USD") from error
        return None, [f"no dollars: {error}; on the command line: --price TYPE=USD"]
    return costs, []


def price_of(text: str) -> tuple[str, float]:
    """A machine and its price per hour, from ``TYPE=USD``.

    Raises:
        InvalidValueError: It is of another form.
    """
    instance_type, _, usd = text.rpartition("=")
    try:
        return instance_type, float(usd)
    except ValueError:
        raise InvalidValueError(f"--price must be TYPE=USD, such as ml.g5.2xlarge=1.515, got {text!r}") from None
