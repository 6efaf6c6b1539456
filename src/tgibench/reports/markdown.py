"""A study as Markdown: for a pull request, a wiki or a mail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgibench.reports.columns import DERIVED, columns, cost_bases, is_derived, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tgibench.costs import CostModel
    from tgibench.measurements import Study
    from tgibench.reports.columns import Row

__all__ = ["markdown"]

_ESCAPED = str.maketrans(
    {character: f"\\{character}" for character in "\\|`[]"}
    | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "}
)


def markdown(study: Study, costs: CostModel | None = None) -> str:
    """One table of all measurements, then what went wrong and what a reader must be warned of.

    Args:
        study: What was measured.
        costs: What it costs; without it there are no dollars.

    Raises:
        UnknownPrice: The cost model knows no price of one of the measurements.
    """
    rows = rows_of(study, costs)
    return "\n".join([*_table(rows, priced=costs is not None), *_below(study, rows)]) + "\n"


def _table(rows: list[Row], *, priced: bool) -> Iterator[str]:
    shown = columns(priced=priced)
    yield _line(column.heading for column in shown)
    yield _line("---:" if column.numeric else "---" for column in shown)
    for row in rows:
        yield _line(column.text(row) if column.numeric else _escaped(column.text(row)) for column in shown)


def _below(study: Study, rows: list[Row]) -> Iterator[str]:
    yield ""
    yield "± is half of the 95 % interval."
    if any(is_derived(row) for row in rows):
        yield f"{DERIVED} Derived, not counted: users · tokens / mean latency."
    yield from (f"Costs: {_escaped(basis)}." for basis in cost_bases(rows))
    warnings = [(row.measurement, warning) for row in rows for warning in row.measurement.warnings]
    yield from _listed(
        "Warnings",
        (f"{measurement.deployment.label}, {measurement.load.label}: {warning}" for measurement, warning in warnings),
    )
    yield from _listed(
        "Not measured",
        (
            f"{failure.deployment.label}{f', {failure.load}' if failure.load else ''}: {failure.message}"
            for failure in study.failures
        ),
    )


def _listed(heading: str, sentences: Iterable[str]) -> Iterator[str]:
    lines = [f"- {_escaped(sentence)}" for sentence in sentences]
    if lines:
        yield from ("", f"## {heading}", "", *lines)


def _line(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _escaped(text: str) -> str:
    return text.translate(_ESCAPED)
