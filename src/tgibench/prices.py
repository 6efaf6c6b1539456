"""What machines cost: a `Price` says where, of when and from whom it is; a `PriceTable` finds the one of a machine or refuses."""

from __future__ import annotations

import csv
import difflib
import io
import re
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import attrs

from tgibench.errors import InvalidValueError, UnknownPrice
from tgibench.files import write_whole
from tgibench.validators import above_zero, day_or_none, not_blank

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Price", "PriceTable", "nearest", "sagemaker_2023", "usd_of"]

_BUILTIN = {None: "prices.csv", "2023-09": "prices_2023_09.csv"}
_COLUMNS = ("provider", "region", "instance_type", "usd_per_hour", "component", "effective_date", "source")
_NUMBER = re.compile(r"\d+(\.\d+)?([eE][-+]?\d+)?|\.\d+")


def _usd(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if value != "USD":
        raise InvalidValueError(
            f"{attribute.name} must be 'USD', got {value!r}: convert the price, so that no two currencies are ever added"
        )


@attrs.frozen(kw_only=True)
class Price:
    """What one machine costs for an hour.

    Args:
        instance_type: The machine, as a `Deployment` names it.
        usd_per_hour: US dollars per hour, above 0.
        provider: Who rents it out, such as ``"sagemaker"``.
        region: Where, such as ``"us-east-1"``.
        component: What of the machine is priced: ``"hosting"`` for SageMaker endpoints.
        effective_date: A day on which the price held, by its source; None where nobody said.
        source: Who says so.
        currency: ``"USD"``; a price in another currency must be converted first.

    Raises:
        InvalidValueError: The price is no number above 0, a text is blank, or the currency is another.
    """

    instance_type: str = attrs.field(validator=not_blank)
    usd_per_hour: float = attrs.field(validator=above_zero)
    provider: str = attrs.field(validator=not_blank)
    region: str = attrs.field(validator=not_blank)
    component: str = attrs.field(default="hosting", validator=not_blank)
    effective_date: date | None = attrs.field(default=None, validator=day_or_none)
    source: str = attrs.field(validator=not_blank)
    currency: str = attrs.field(default="USD", validator=_usd)

    def __str__(self) -> str:
        day = "undated" if self.effective_date is None else self.effective_date.isoformat()
        place = f"{self.provider} {self.region} {self.component}"
        return f"{self.instance_type} at {self.usd_per_hour:g} USD per hour ({place}, {day}: {self.source})"


def _as_tuple(prices: Iterable[Price]) -> tuple[Price, ...]:
    return tuple(prices)


def _one_each(_: object, attribute: attrs.Attribute[tuple[Price, ...]], prices: tuple[Price, ...]) -> None:
    first: dict[str, Price] = {}
    for price in prices:
        before = first.setdefault(price.instance_type, price)
        if before is not price:
            raise InvalidValueError(
                f"{attribute.name} must hold one price of each machine, got two of {price.instance_type!r} "
                f"({_place(before)} and {_place(price)}): choose a region"
            )


@attrs.frozen
class PriceTable:
    """Prices by machine, one of each. A machine that it does not hold is an error, never free.

    Args:
        prices: The prices.
        name: What it calls itself in errors.

    Raises:
        InvalidValueError: Two prices are of the same machine.
    """

    prices: tuple[Price, ...] = attrs.field(converter=_as_tuple, validator=_one_each)
    name: str = "the price table"
    _elsewhere: tuple[Price, ...] = attrs.field(default=(), kw_only=True, repr=False, eq=False)

    @classmethod
    def builtin(cls, region: str = "us-east-1", *, as_of: str | None = None) -> Self:
        """The on-demand SageMaker hosting prices that come with tgibench, each with its source and date.

        Args:
            region: Where.
            as_of: None for the newest known; ``"2023-09"`` for those that the 2023 study reckoned with.

        Raises:
            UnknownPrice: No price is known of that region or date; the message names what is.
        """
        if as_of not in _BUILTIN:
            dates = ", ".join(repr(known) for known in _BUILTIN)
            raise UnknownPrice(f"no built-in prices as of {as_of!r}; known are as_of={dates}")
        file = _BUILTIN[as_of]
        everywhere = _parsed(files("tgibench").joinpath(f"data/{file}").read_text(encoding="utf-8"), file)
        chosen = [price for price in everywhere if price.region == region]
        if not chosen:
            raise UnknownPrice(
                f"no built-in prices of region {region!r}{nearest(region, {price.region for price in everywhere})}; "
                "read your own with PriceTable.from_csv, or have AWS's with `tgibench prices refresh`"
            )
        name = f"the built-in prices of {region}" + (f" as of {as_of}" if as_of else "")
        return cls(chosen, name, elsewhere=tuple(price for price in everywhere if price.region != region))

    @classmethod
    def from_csv(cls, path: str | Path, *, region: str | None = None) -> Self:
        """Read a CSV file.

        Its columns are ``provider``, ``region``, ``instance_type``, ``usd_per_hour``, ``component``, ``effective_date`` (ISO, may be
        empty), ``source`` and, if wanted, ``currency``; others are ignored.

        Args:
            path: The file, in UTF-8.
            region: Of which region; None for all, where no machine is priced twice.

        Raises:
            InvalidValueError: It cannot be read, or is malformed; the message names the line and the value.
            UnknownPrice: It holds no price of the region.
        """
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidValueError(f"cannot read the price file {str(path)!r}: {error}") from error
        prices = _parsed(text, str(path))
        chosen = [price for price in prices if region in {None, price.region}]
        if not chosen:
            known = {price.region for price in prices}
            raise UnknownPrice(f"{str(path)!r} holds no price of region {region!r}{nearest(str(region), known)}")
        return cls(chosen, repr(str(path)))

    def to_csv(self, path: str | Path) -> None:
        """Write a file that `from_csv` reads: whole, or not at all.

        Raises:
            InvalidValueError: It cannot be written.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows([_cell(getattr(price, column)) for column in _COLUMNS] for price in self.prices)
        try:
            write_whole(path, text.getvalue())
        except OSError as error:
            raise InvalidValueError(f"cannot write the price file {str(path)!r}: {error}") from error

    def with_price(
        self,
        instance_type: str,
        usd_per_hour: float,
        *,
        provider: str = "own",
        region: str = "anywhere",
        component: str = "hosting",
        effective_date: date | None = None,
        source: str = "given by the caller",
    ) -> Self:
        """This table with one price more, or another instead of the one it has. Arguments as of `Price`.

        Raises:
            InvalidValueError: As of `Price`.
        """
        price = Price(
            instance_type=instance_type,
            usd_per_hour=usd_per_hour,
            provider=provider,
            region=region,
            component=component,
            effective_date=effective_date,
            source=source,
        )
        others = (other for other in self.prices if other.instance_type != instance_type)
        return attrs.evolve(self, prices=(*others, price))

    def price(self, instance_type: str) -> Price:
        """The price of a machine.

        Raises:
            UnknownPrice: It is not known; the message names the nearest known machines.
        """
        for price in self.prices:
            if price.instance_type == instance_type:
                return price
        other = "".join(
            f" ({each.region} has it at {each.usd_per_hour:g} USD per hour)"
            for each in self._elsewhere
            if each.instance_type == instance_type
        )
        raise UnknownPrice(
            f"no price of {instance_type!r} in {self.name}{other}"
            f"{nearest(instance_type, {price.instance_type for price in self.prices})}; "
            f"add one: prices.with_price({instance_type!r}, usd_per_hour)"
        )


def sagemaker_2023(region: str = "us-east-1") -> PriceTable:
    """The prices that the 2023 study reckoned with: `PriceTable.builtin` as of ``"2023-09"``."""
    return PriceTable.builtin(region, as_of="2023-09")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error's sentence: which known names are nearest to one that is not known."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3)
    if near:
        return f"; nearest known: {', '.join(near)}"
    return f"; known: {', '.join(known)}" if known else "; none is known"


def usd_of(text: str) -> float:
    """The dollars that a file's cell holds.

    Raises:
        InvalidValueError: It holds no plain number above 0.
    """
    if not _NUMBER.fullmatch(text) or not float(text):
        raise InvalidValueError(f"usd_per_hour must be a number above 0, got {text!r}")
    return float(text)


def _place(price: Price) -> str:
    return f"{price.provider} {price.region} {price.component}"


def _parsed(text: str, where: str) -> list[Price]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    prices: dict[tuple[str, ...], Price] = {}
    try:
        _check_columns(reader.fieldnames or (), where)
        for row in reader:
            place = f"line {reader.line_num} of {where!r}"
            price = _price_of(row, place)
            key = (price.provider, price.region, price.instance_type, price.component)
            if key in prices:
                raise InvalidValueError(f"{place} is a second price of {price.instance_type!r} ({_place(price)})")
            prices[key] = price
    except csv.Error as error:
        raise InvalidValueError(f"line {reader.reader.line_num} of {where!r} is no CSV: {error}") from error
    if not prices:
        raise InvalidValueError(f"the price file {where!r} holds no price")
    return list(prices.values())


def _check_columns(found: Sequence[str], where: str) -> None:
    missing = [column for column in _COLUMNS if column not in found]
    if missing:
        raise InvalidValueError(
            f"line 1 of {where!r} lacks the columns {', '.join(missing)}: it must name {','.join(_COLUMNS)}"
        )


def _price_of(row: dict[str | Any, str | Any], place: str) -> Price:
    if None in row or None in row.values():
        raise InvalidValueError(f"{place} has not as many cells as line 1 names: {list(row.values())!r}")
    fields: dict[str, Any] = {column: row[column].strip() for column in _COLUMNS}
    try:
        fields["usd_per_hour"] = usd_of(fields["usd_per_hour"])
        fields["effective_date"] = _day_of(fields["effective_date"])
        return Price(**fields, currency=row.get("currency", "USD").strip())
    except InvalidValueError as error:
        raise InvalidValueError(f"{place}: {error}") from error


def _day_of(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise InvalidValueError(f"effective_date must be a day such as 2026-09-20, got {text!r}") from None


def _cell(value: object) -> str:
    if isinstance(value, float):
        return repr(value)
    return "" if value is None else str(value)
