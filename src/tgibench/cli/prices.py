"""`tgibench prices`: list a table of prices, or make one from what AWS publishes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import attrs
import click
from rich.console import Console
from rich.table import Table

from tgibench import registry
from tgibench.errors import InvalidValueError, UnknownPrice
from tgibench.price_download import AWS_PRICES, download_offer
from tgibench.price_offers import prices_of_offer
from tgibench.prices import PriceTable

__all__ = ["prices"]

_TABLE_WIDTH = 150


@click.group(invoke_without_command=True)
@click.option("--table", default="sagemaker", show_default=True, help="Name of the table: sagemaker-2023-09, …")
@click.option("--region", help="Of which region; of a named table by default us-east-1.")
@click.option("--file", "path", type=click.Path(path_type=Path), help="CSV file of prices instead of a named table.")
@click.option("--json", "as_json", is_flag=True, help="Print the prices as JSON, and nothing else.")
@click.pass_context
def prices(context: click.Context, *, table: str, region: str | None, path: Path | None, as_json: bool) -> None:
    """List what machines cost, or make a new table."""
    if context.invoked_subcommand is not None:
        return
    if path is None:
        listed = registry.load(registry.PRICE_TABLES, table)(region or "us-east-1")
    else:
        listed = PriceTable.from_csv(path, region=region)
    if as_json:
        click.echo(json.dumps([attrs.asdict(price) for price in listed.prices], default=str))
    else:
        _print(listed)


@prices.command()
@click.option("--region", required=True, help="Of which region, such as us-east-1.")
@click.option(
    "--offer-file",
    type=click.Path(path_type=Path),
    help="AWS's offer file of AmazonSageMaker (JSON or CSV), or what `aws pricing get-products` printed.",
)
@click.option("--download", is_flag=True, help="Fetch the region's offer file from AWS; needs no account.")
@click.option("--base-url", default=AWS_PRICES, show_default=True, help="Where --download fetches from.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV file to write.")
def refresh(*, region: str, offer_file: Path | None, download: bool, base_url: str, out: Path) -> None:
    """Make a table of hosting prices from what AWS publishes."""
    if download == (offer_file is not None):
        raise InvalidValueError("give either --offer-file (a file) or --download")
    if offer_file is None:
        text, where = asyncio.run(download_offer(region, base_url=base_url)), f"the offer file of {region}"
    else:
        text, where = _read(offer_file), repr(str(offer_file))
    table = prices_of_offer(text, region=region, where=where)
    table.to_csv(out)
    click.echo(f"{len(table.prices)} hosting prices of {region} written to {out}")
    for change in _changes(region, table):
        click.echo(change)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValueError(f"cannot read the offer file {str(path)!r}: {error}") from error


def _changes(region: str, table: PriceTable) -> list[str]:
    """What differs from the prices that come with tgibench."""
    try:
        shipped = {price.instance_type: price for price in PriceTable.builtin(region).prices}
    except UnknownPrice:
        return []
    pairs = [(shipped[price.instance_type], price) for price in table.prices if price.instance_type in shipped]
    return [
        f"{new.instance_type}: {new.usd_per_hour:g} USD per hour since {new.effective_date}, "
        f"{old.usd_per_hour:g} in the built-in table ({old.effective_date})"
        for old, new in pairs
        if f"{old.usd_per_hour:.4f}" != f"{new.usd_per_hour:.4f}"
    ]


def _print(listed: PriceTable) -> None:
    table = Table(title=f"US dollars per hour: {listed.name}", title_justify="left")
    table.add_column("machine", no_wrap=True)
    table.add_column("USD/h", justify="right", no_wrap=True)
    for heading in ("provider", "region", "component", "as of"):
        table.add_column(heading, no_wrap=True)
    table.add_column("source", overflow="fold")
    for price in listed.prices:
        table.add_row(
            price.instance_type,
            f"{price.usd_per_hour:.4f}",
            price.provider,
            price.region,
            price.component,
            "-" if price.effective_date is None else price.effective_date.isoformat(),
            price.source,
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=_TABLE_WIDTH)
    console.print(table)
