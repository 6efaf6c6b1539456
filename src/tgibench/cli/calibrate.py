"""`tgibench calibrate`: what the client itself adds on this machine, and the load that one process of it holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from tgibench.floor_cache import floor_to_json
from tgibench.formatting import MISSING
from tgibench.sync import calibrate_client_blocking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tgibench.client_floor import ClientFloor
    from tgibench.stats import Distribution, Estimate, Interval

__all__ = ["calibrate"]


@click.command()
@click.option("--refresh", is_flag=True, help="Find it anew, whatever is remembered.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON, and nothing else.")
def calibrate(*, refresh: bool, as_json: bool) -> None:
    """Find what the client itself adds to each metric on this machine, and the load that it holds. Takes a few seconds."""
    floor = calibrate_client_blocking(refresh=refresh)
    if as_json:
        click.echo(json.dumps(floor_to_json(floor), allow_nan=False))
        return
    console = Console(soft_wrap=True)
    console.print(_table(floor))
    for line in _below(floor):
        console.print(line, markup=False, highlight=False)


def _table(floor: ClientFloor) -> Table:
    table = Table(
        title="What the client adds, at most (\N{MICRO SIGN}s; 95 % interval in brackets)", title_justify="left"
    )
    for heading in ("error of", "p50", "p99", "sample"):
        table.add_column(heading, justify="left" if heading == "error of" else "right", no_wrap=True)
    for name, errors in (
        ("TTFT", floor.ttft_error_s),
        ("gap between chunks", floor.icl_error_s),
        ("TPOT", floor.tpot_error_s),
        ("latency", floor.latency_error_s),
    ):
        table.add_row(name, _figure(errors, "p50"), _figure(errors, "p99"), str(errors.count))
    return table


def _below(floor: ClientFloor) -> Iterator[str]:
    health, check = floor.health, floor.check
    yield f"Load: {floor.load}. Times: {health.stamps.value}."
    if health.loop_lag_p50_s is not None and health.loop_lag_p99_s is not None:
        yield (
            f"Event loop's lag: p50 {health.loop_lag_p50_s * 1e3:.2f} ms, p99 {health.loop_lag_p99_s * 1e3:.2f} ms "
            f"({health.samples} samples)."
        )
    yield f"CPU per token {_microseconds(floor.cpu_per_token_s)}, per request {_microseconds(floor.cpu_per_request_s)}."
    if check is not None:
        yield (
            f"Measured: {check.tokens_per_s:,.0f} tokens/s and {check.requests_per_s:,.0f} requests/s took "
            f"{check.core_share:.0%} of a core, lag p99 {check.loop_lag_p99_s * 1e3:.2f} ms."
        )
    yield (
        f"Extrapolated to {floor.core_share:.0%} of a core, one process holds {floor.tokens_per_s:,.0f} tokens/s (answers of 100 tokens) "
        f"or {floor.requests_per_s:,.0f} requests/s (of one token)."
    )
    yield from (f"! {note}" for note in floor.notes)
    host = floor.host
    yield (
        f"{host.name}, {host.cpu_model}, {host.cores} cores, {host.system}; Python {host.python}, tgibench {host.tgibench}, "
        f"aiohttp {host.aiohttp}; found {floor.found_at:%Y-%m-%d %H:%M} UTC."
    )


def _figure(errors: Distribution, quantile: str) -> str:
    value_s = getattr(errors, quantile)
    if value_s is None:
        return MISSING
    return f"{value_s * 1e6:,.1f}" + _bounds(errors.intervals.get(quantile), 1e6, 1)


def _microseconds(cost: Estimate) -> str:
    return f"{cost.value * 1e6:.1f} \N{MICRO SIGN}s" + _bounds(cost.interval, 1e6, 1)


def _bounds(interval: Interval | None, scale: float, decimals: int) -> str:
    return "" if interval is None else f" [{interval[0] * scale:.{decimals}f}, {interval[1] * scale:.{decimals}f}]"
