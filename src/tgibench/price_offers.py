"""Reads the prices that AWS publishes: bulk offer files (JSON and CSV) and answers of the Price List API. Bytes in, prices out.

Strict, because a wrong price is a wrong decision: of each machine exactly one hosting product, with one on-demand term, with one
hourly dimension, in US dollars. Formats: AWS Billing and Cost Management user guide, "Reading the service price list files", and
the Price List API's `GetProducts`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import date
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.errors import InvalidValueError, UnknownPrice
from tgibench.prices import Price, PriceTable, nearest, usd_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["price_list_request", "prices_of_offer", "prices_of_price_list"]

_SERVICE = "AmazonSageMaker"
# hosting's storage has other usage types, and so has asynchronous inference, at the same rates
_HOSTED_MACHINE = re.compile(r"(^|-)Host:ml\.")
_HOURS = frozenset({"hrs", "hours"})


@attrs.frozen(kw_only=True)
class _Rate:
    """One price dimension in one currency of one term of one product: a row of the CSV form."""

    sku: str
    machine: str
    region: str
    term: str
    effective: str
    unit: str
    currency: str
    amount: str


def price_list_request(region: str, instance_type: str | None = None) -> dict[str, Any]:
    """The arguments of boto3's ``client("pricing").get_products`` for one machine's hosting price, or all machines'.

    The client must be one of region ``us-east-1`` or ``ap-south-1``, wherever the prices are of, and needs the permission
    ``pricing:GetProducts``.
    """
    wanted = {"regionCode": region, "component": "Hosting"}
    if instance_type is not None:
        wanted["instanceName"] = instance_type
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
    return {"ServiceCode": _SERVICE, "Filters": filters}


def prices_of_price_list(pages: Iterable[Mapping[str, Any]] | dict[str, Any], *, region: str) -> PriceTable:
    """The hosting prices in answers of the Price List API.

    Args:
        pages: The answers of ``get_products``: all pages, or the one.
        region: Of which region.

    Raises:
        InvalidValueError: They are no such answers, pages are missing, or a price is not unequivocal.
        UnknownPrice: They hold no hosting price of the region.
    """
    where = "the Price List API's answer"
    pages = [pages] if isinstance(pages, dict) else list(pages)
    try:
        goes_on = bool(pages) and bool(pages[-1].get("NextToken"))
        items = [json.loads(item) if isinstance(item, str) else item for page in pages for item in page["PriceList"]]
        rates = [rate for item in items for rate in _rates_of_product(item["product"], item["terms"])]
        published = max((item.get("publicationDate", "")[:10] for item in items), default="")
    except InvalidValueError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _foreign(where, error) from error
    if goes_on:
        raise InvalidValueError(f"{where} goes on: ask for all its pages, with the paginator of get_products")
    return _table(rates, region, f"AWS Price List API{_told(published)}", where)


def prices_of_offer(text: str, *, region: str, where: str = "the offer file") -> PriceTable:
    """The hosting prices in what AWS publishes.

    Args:
        text: A bulk offer file of AmazonSageMaker, as JSON or CSV, or an answer of ``aws pricing get-products`` as JSON.
        region: Of which region.
        where: What to call the text in errors.

    Raises:
        InvalidValueError: It is none of these, or a price is not unequivocal; the message names the machine.
        UnknownPrice: It holds no hosting price of the region.
    """
    if not text.lstrip().startswith("{"):
        rates, published = _csv_rates(text, where)
    else:
        try:
            offer = json.loads(text)
        except ValueError as error:
            raise InvalidValueError(f"{where} is damaged or cut off: {error}") from error
        if "PriceList" in offer:
            return prices_of_price_list(offer, region=region)
        rates, published = _json_rates(offer, where)
    return _table(rates, region, f"AWS offer file {_SERVICE}{_told(published)}", where)


def _json_rates(offer: dict[str, Any], where: str) -> tuple[list[_Rate], str]:
    try:
        _check_service(offer["offerCode"], where)
        terms = offer["terms"]["OnDemand"]
        rates = [
            rate
            for sku, product in offer["products"].items()
            for rate in _rates_of_product(product, {"OnDemand": terms.get(sku, {})})
        ]
        return rates, offer["publicationDate"][:10]
    except InvalidValueError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _foreign(where, error) from error


def _rates_of_product(product: Mapping[str, Any], terms: Mapping[str, Any]) -> Iterator[_Rate]:
    """The rates of a hosting product; one without a price where it has none, so that it is noticed."""
    attributes = {name.lower(): text for name, text in product["attributes"].items()}
    if not _is_hosting(attributes):
        return
    rates = [
        _Rate(
            sku=product["sku"],
            machine=attributes["instancename"],
            region=attributes["regioncode"],
            term=code,
            effective=term["effectiveDate"],
            unit=dimension["unit"],
            currency=currency,
            amount=amount,
        )
        for code, term in terms.get("OnDemand", {}).items()
        for dimension in term["priceDimensions"].values()
        for currency, amount in dimension["pricePerUnit"].items()
    ]
    if not rates:
        raise InvalidValueError(f"{attributes['instancename']!r} ({product['sku']}) has no on-demand price")
    yield from rates


def _csv_rates(text: str, where: str) -> tuple[list[_Rate], str]:
    """The file's rows: five lines of ``name,value``, a line of column names, a row for each rate."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        head = {row[0]: row[1] for row in (next(reader) for _ in range(5))}
        _check_service(head["OfferCode"], where)
        columns = [name.replace(" ", "").lower() for name in next(reader)]
        rows = (dict(zip(columns, row, strict=True)) for row in reader if row)
        rates = [_rate_of_row(row) for row in rows if row["termtype"] == "OnDemand" and _is_hosting(row)]
        return rates, head["Publication Date"][:10]
    except InvalidValueError:
        raise
    except (StopIteration, RuntimeError, KeyError, IndexError, ValueError, csv.Error) as error:
        raise _foreign(where, error) from error


def _rate_of_row(row: dict[str, str]) -> _Rate:
    return _Rate(
        sku=row["sku"],
        machine=row["instancename"],
        region=row["regioncode"],
        term=row["offertermcode"],
        effective=row["effectivedate"],
        unit=row["unit"],
        currency=row["currency"],
        amount=row["priceperunit"],
    )


def _is_hosting(attributes: Mapping[str, str]) -> bool:
    return attributes.get("component") == "Hosting" and bool(_HOSTED_MACHINE.search(attributes["usagetype"]))


def _table(rates: Iterable[_Rate], region: str, source: str, where: str) -> PriceTable:
    machines: dict[str, list[_Rate]] = {}
    regions = set()
    for rate in rates:
        regions.add(rate.region)
        if rate.region == region:
            machines.setdefault(rate.machine, []).append(rate)
    if not machines:
        raise UnknownPrice(f"{where} holds no hosting price of region {region!r}{nearest(region, regions)}")
    prices = [_unequivocal(machine, found, source, where) for machine, found in sorted(machines.items())]
    return PriceTable(prices, where)


def _unequivocal(machine: str, rates: list[_Rate], source: str, where: str) -> Price:
    for what, found in (
        ("products", sorted({rate.sku for rate in rates})),
        ("on-demand terms", sorted({rate.term for rate in rates})),
        ("price dimensions", [f"{rate.amount} {rate.currency} per {rate.unit}" for rate in rates]),
    ):
        if len(found) > 1:
            raise InvalidValueError(f"{where} has {len(found)} {what} of {machine!r}, not one: {', '.join(found)}")
    (rate,) = rates
    if rate.unit.lower() not in _HOURS or rate.currency != "USD":
        raise InvalidValueError(
            f"{where} prices {machine!r} in {rate.currency} per {rate.unit!r}, not in US dollars per hour"
        )
    try:
        return Price(
            instance_type=machine,
            usd_per_hour=usd_of(rate.amount),
            provider="sagemaker",
            region=rate.region,
            effective_date=date.fromisoformat(rate.effective[:10]),
            source=source,
        )
    except ValueError as error:
        raise InvalidValueError(f"{where}, {machine!r}: {error}") from error


def _check_service(code: str, where: str) -> None:
    if code != _SERVICE:
        raise InvalidValueError(f"{where} is the offer of {code!r}, not of {_SERVICE!r}")


def _told(published: str) -> str:
    return f", published {published}" if published else ""


def _foreign(where: str, error: Exception) -> InvalidValueError:
    return InvalidValueError(f"{where} is not in AWS's format: {type(error).__name__}: {error}")
