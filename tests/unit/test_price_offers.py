"""Prices read from what AWS publishes, on samples of its formats."""

from __future__ import annotations

import copy
import datetime as dt
import json
from pathlib import Path

import pytest

import tgibench as tb

SAMPLES = Path(__file__).parents[1] / "samples"
PRICES = {"ml.g5.2xlarge": 1.515, "ml.g6e.2xlarge": 2.8026, "ml.p4d.24xlarge": 25.251286}
HOSTED_SKU = "4NHSGQTD5ZY9PW2A"


def sample(name):
    """The text of a sample."""
    return (SAMPLES / name).read_text(encoding="utf-8")


@pytest.fixture
def offer():
    """The JSON offer file, to be spoilt."""
    return json.loads(sample("offer.json"))


def term_of(offer, sku=HOSTED_SKU):
    """The one on-demand term of a product."""
    (term,) = offer["terms"]["OnDemand"][sku].values()
    return term


def dimension_of(offer):
    """The one price dimension of the hosted g5."""
    (dimension,) = term_of(offer)["priceDimensions"].values()
    return dimension


@pytest.mark.parametrize("name", ["offer.json", "offer.csv", "price_list.json"])
def test_every_form_gives_the_same_prices(name):
    """Hosting only: training, asynchronous inference and storage are none; each price has its own date, and the file's."""
    table = tb.prices_of_offer(sample(name), region="us-east-1")
    assert {price.instance_type: price.usd_per_hour for price in table.prices} == PRICES
    price = table.price("ml.p4d.24xlarge")
    assert (price.provider, price.region, price.component) == ("sagemaker", "us-east-1", "hosting")
    assert price.effective_date == dt.date(2025, 6, 1)
    assert "published 2026-09-20" in price.source


def test_the_price_list_api_in_pages():
    """Pages as boto3's paginator gives them, together; what `get_products` needs to be asked."""
    whole = json.loads(sample("price_list.json"))
    pages = [{**whole, "PriceList": [item]} for item in whole["PriceList"]]
    assert len(tb.prices_of_price_list(pages, region="us-east-1").prices) == 3
    assert tb.price_list_request("us-east-1", "ml.g5.2xlarge") == {
        "ServiceCode": "AmazonSageMaker",
        "Filters": [
            {"Type": "TERM_MATCH", "Field": "regionCode", "Value": "us-east-1"},
            {"Type": "TERM_MATCH", "Field": "component", "Value": "Hosting"},
            {"Type": "TERM_MATCH", "Field": "instanceName", "Value": "ml.g5.2xlarge"},
        ],
    }
    assert len(tb.price_list_request("us-east-1")["Filters"]) == 2
    assert tb.prices_of_price_list(whole, region="us-east-1") == tb.prices_of_price_list(pages, region="us-east-1")


@pytest.mark.parametrize("pages", [["PriceList"], [None], [{}], [{"PriceList": ["no JSON"]}]])
def test_what_is_no_page_is_one_error(pages):
    """Not a traceback from inside."""
    with pytest.raises(tb.InvalidValueError, match="the Price List API's answer is not in AWS's format"):
        tb.prices_of_price_list(pages, region="us-east-1")


def test_an_empty_answer_holds_no_price():
    """A filter that matched nothing is an unknown price, not an empty table."""
    with pytest.raises(tb.UnknownPrice, match="no hosting price of region 'us-east-1'; none is known"):
        tb.prices_of_price_list([], region="us-east-1")


def test_boto3_asks_what_the_price_list_api_understands():
    """The request and the sample are of the shapes in boto3's own model of the service."""
    boto3, stub = pytest.importorskip("boto3"), pytest.importorskip("botocore.stub")
    client = boto3.client("pricing", "us-east-1", aws_access_key_id="none", aws_secret_access_key="none")
    request = tb.price_list_request("us-east-1")
    with stub.Stubber(client) as service:
        service.add_response("get_products", json.loads(sample("price_list.json")), request)
        pages = client.get_paginator("get_products").paginate(**request)
        assert len(tb.prices_of_price_list(pages, region="us-east-1").prices) == 3


def test_a_page_that_is_not_the_last_is_refused():
    """The machine one looks for may be on the next."""
    page = {**json.loads(sample("price_list.json")), "NextToken": "more"}
    with pytest.raises(tb.InvalidValueError, match="ask for all its pages"):
        tb.prices_of_price_list([page], region="us-east-1")


@pytest.mark.parametrize("name", ["offer.json", "offer.csv", "price_list.json"])
def test_another_region_is_an_unknown_price(name):
    """It names the region that is there."""
    with pytest.raises(tb.UnknownPrice, match="no hosting price of region 'us-east-2'; nearest known: us-east-1"):
        tb.prices_of_offer(sample(name), region="us-east-2")


def test_two_products_of_a_machine_are_refused(offer):
    """Which of them is the price cannot be told."""
    again = copy.deepcopy(offer["products"][HOSTED_SKU])
    again["sku"] = "SECOND"
    offer["products"]["SECOND"] = again
    offer["terms"]["OnDemand"]["SECOND"] = offer["terms"]["OnDemand"][HOSTED_SKU]
    with pytest.raises(tb.InvalidValueError, match=f"2 products of 'ml.g5.2xlarge', not one: {HOSTED_SKU}, SECOND"):
        tb.prices_of_offer(json.dumps(offer), region="us-east-1")


def test_two_terms_of_a_machine_are_refused(offer):
    """Even if they agree."""
    offer["terms"]["OnDemand"][HOSTED_SKU]["another"] = term_of(offer)
    with pytest.raises(tb.InvalidValueError, match=r"2 on-demand terms of 'ml.g5.2xlarge'"):
        tb.prices_of_offer(json.dumps(offer), region="us-east-1")


def test_two_dimensions_of_a_machine_are_refused(offer):
    """A price in tiers, or in two currencies, is no hourly price."""
    term_of(offer)["priceDimensions"]["tier"] = dimension_of(offer)
    with pytest.raises(tb.InvalidValueError, match=r"2 price dimensions of 'ml.g5.2xlarge'"):
        tb.prices_of_offer(json.dumps(offer), region="us-east-1")


def test_a_machine_without_an_on_demand_price_is_refused(offer):
    """It does not silently fall out of the table."""
    del offer["terms"]["OnDemand"][HOSTED_SKU]
    with pytest.raises(tb.InvalidValueError, match=r"'ml.g5.2xlarge' .* has no on-demand price"):
        tb.prices_of_offer(json.dumps(offer), region="us-east-1")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("unit", "GB-Mo", "prices 'ml.g5.2xlarge' in USD per 'GB-Mo', not in US dollars per hour"),
        ("pricePerUnit", {"CNY": "10.1"}, "prices 'ml.g5.2xlarge' in CNY per 'Hrs'"),
        ("pricePerUnit", {"USD": "1.5", "CNY": "10.1"}, "2 price dimensions of 'ml.g5.2xlarge'"),
        ("pricePerUnit", {"USD": "0.0000000000"}, "'ml.g5.2xlarge': usd_per_hour must be a number above 0"),
        ("pricePerUnit", {"USD": "-1"}, "'ml.g5.2xlarge': usd_per_hour must be a number above 0, got '-1'"),
        ("pricePerUnit", {}, "has no on-demand price"),
    ],
)
def test_a_price_that_is_not_dollars_per_hour_is_refused(offer, field, value, words):
    """With the machine's name and what was found."""
    dimension_of(offer)[field] = value
    with pytest.raises(tb.InvalidValueError, match=words):
        tb.prices_of_offer(json.dumps(offer), region="us-east-1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the offer file is not in AWS's format"),
        ("<html>Forbidden</html>", "the offer file is not in AWS's format"),
        ("{}", "not in AWS's format: KeyError: 'offerCode'"),
        (sample("offer.json")[:4000], "the offer file is damaged or cut off"),
        (sample("offer.csv")[:1500], "the offer file is not in AWS's format"),
        (sample("offer.csv").replace("AmazonSageMaker", "AmazonEC2"), "the offer of 'AmazonEC2', not of 'AmazonSageMaker'"),
        (sample("offer.json").replace('"AmazonSageMaker"', '"AmazonEC2"'), "the offer of 'AmazonEC2'"),
        (sample("offer.csv").replace("Instance Name", "Machine"), "not in AWS's format: KeyError: 'instancename'"),
        (sample("offer.json").replace("regionCode", "place"), "not in AWS's format: KeyError: 'regioncode'"),
        ('{"PriceList": [{"product": {}}]}', "the Price List API's answer is not in AWS's format"),
        ('{"PriceList": 3}', "the Price List API's answer is not in AWS's format"),
    ],
)  # fmt: skip
def test_what_is_no_offer_is_one_error(text, words):
    """Damaged, cut off, of another service, or of another form."""
    with pytest.raises(tb.InvalidValueError, match=words):
        tb.prices_of_offer(text, region="us-east-1")
