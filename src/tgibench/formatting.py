"""Figures as text, the same in every table: milliseconds, half intervals, dollars; and a plain HTML table for notebooks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from tgibench.stats import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tgibench.stats import Distribution, Interval

__all__ = [
    "MISSING",
    "dollars",
    "dollars_an_hour",
    "estimate",
    "html_table",
    "mean_ms",
    "milliseconds",
    "quantile_ms",
    "scaled",
]

MISSING = "-"


def milliseconds(value_s: float | None) -> str:
    """Seconds as milliseconds with one decimal."""
    return MISSING if value_s is None else f"{value_s * 1e3:,.1f}"


def quantile_ms(figure: Distribution | None, name: str) -> str:
    """A figure of a distribution in seconds (``"p50"``, ``"max"``, …), in milliseconds."""
    return milliseconds(None if figure is None else getattr(figure, name))


def mean_ms(figure: Distribution | None) -> str:
    """The mean of a distribution in seconds, in milliseconds, ± half of its interval."""
    if figure is None or figure.mean is None:
        return MISSING
    return milliseconds(figure.mean) + _half(figure.intervals.get("mean"), 1e3, 1)


def estimate(figure: Estimate | None, decimals: int = 1) -> str:
    """An estimate ± half of its interval."""
    if figure is None:
        return MISSING
    return f"{figure.value:,.{decimals}f}" + _half(figure.interval, 1.0, decimals)


def dollars(figure: Estimate | None) -> str:
    """An estimate in US dollars ± half of its interval: cents, and more digits below ten cents."""
    if figure is None:
        return MISSING
    decimals = 2 if abs(figure.value) >= 0.1 else 4
    return f"${figure.value:,.{decimals}f}" + _half(figure.interval, 1.0, decimals)


def dollars_an_hour(figure: Estimate | None) -> str:
    """A price per hour to six digits, ± half of its interval if it has one: prices are known to a tenth of a cent and better."""
    return MISSING if figure is None else f"${figure.value:,.6g}" + _half(figure.interval, 1.0, 4)


def scaled(figure: Estimate, factor: float) -> Estimate:
    """An estimate in another unit."""
    bounds = figure.interval
    return Estimate(
        figure.value * factor, None if bounds is None else (bounds[0] * factor, bounds[1] * factor), figure.count
    )


def html_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str) -> str:
    """A plain HTML table with headers of scope; every text is escaped."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "".join(f"<tr>{_html_row(row)}</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _html_row(row: Sequence[str]) -> str:
    first, *others = (escape(text) for text in row)
    return f'<th scope="row">{first}</th>' + "".join(f"<td>{text}</td>" for text in others)


def _half(bounds: Interval | None, scale: float, decimals: int) -> str:
    """Nothing for an interval of no width: an exact figure, such as a price."""
    if bounds is None or bounds[0] == bounds[1]:
        return ""
    return f" ±{(bounds[1] - bounds[0]) / 2 * scale:,.{decimals}f}"
