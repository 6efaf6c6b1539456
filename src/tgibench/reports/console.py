"""A study as one table on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from tgibench.reports.columns import columns, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tgibench.costs import CostModel
    from tgibench.measurements import Measurement

__all__ = ["study_table"]


def study_table(measurements: Iterable[Measurement], costs: CostModel | None = None) -> Table:
    """A row for each measurement, its source included; with costs, what it costs. ± is half of the 95 % interval.

    Raises:
        UnknownPrice: The cost model knows no price of one of them.
    """
    table = Table(title="Measurements (times in ms; ± half the 95 % interval)", title_justify="left")
    shown = columns(brief=True, priced=costs is not None)
    for column in shown:
        table.add_column(
            column.short_heading, justify="right" if column.numeric else "left", overflow="fold", no_wrap=column.numeric
        )
    for row in rows_of(measurements, costs):
        table.add_row(*(Text(column.text(row)) for column in shown))
    return table
