"""`tgibench cleanup`: what killed runs left behind, shown and, when asked to, removed."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from tgibench.errors import DeployError, MissingExtraError
from tgibench.leftovers import CLEANERS, cleaner

if TYPE_CHECKING:
    from tgibench.leftovers import Leftover

__all__ = ["cleanup"]


@click.command()
@click.option("--yes", is_flag=True, help="Remove them; without it they are only shown.")
@click.option("--all", "everything", is_flag=True, help="Also what living processes or other machines may still use.")
@click.option(
    "--backend", "backends", multiple=True, type=click.Choice(list(CLEANERS)), help="Only of these; by default of all."
)
def cleanup(*, yes: bool, everything: bool, backends: tuple[str, ...]) -> None:
    """Show what killed runs left running, and remove it with --yes. Only what carries tgibench's own label is touched."""
    asked = backends or tuple(CLEANERS)
    clean = [asyncio.run(_clean(name, yes=yes, everything=everything, asked_for=bool(backends))) for name in asked]
    if not all(clean):
        sys.exit(2)


async def _clean(name: str, *, yes: bool, everything: bool, asked_for: bool) -> bool:
    """Whether all is well: looked at, and removed if it was to be."""
    try:
        found = await cleaner(name).find(everything=everything)
        _show(name, found, removed=yes)
        if found and yes:
            await cleaner(name).remove(found)
            click.echo(f"{name}: removed {len(found)}")
    except MissingExtraError as error:
        click.echo(f"{name}: not looked at: {error}", err=True)
        return not asked_for  # whoever never installed it never started anything with it
    except DeployError as error:
        click.echo(f"{name}: {error}", err=True)
        return False
    return True


def _show(name: str, found: list[Leftover], *, removed: bool) -> None:
    for leftover in found:
        click.echo(f"{name}: {leftover.kind} {leftover.name}: {leftover.note}")
    if not found:
        click.echo(f"{name}: nothing is left")
    elif not removed:
        click.echo(f"{name}: {len(found)} left; remove with `tgibench cleanup --yes`")
