"""Price tables: what they hold, refuse and suggest."""

from __future__ import annotations

import datetime as dt

import attrs
import pytest

import tgibench as tb
from tgibench import registry

HEAD = "provider,region,instance_type,usd_per_hour,component,effective_date,source\n"
ROW = "acme,eu-1,acme.xl,2.5,hosting,2026-09-20,quote\n"


def written(tmp_path, content):
    """A price file of this content, text or bytes."""
    path = tmp_path / "prices.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("region", "instance_type", "usd"),
    [
        ("us-east-1", "ml.g5.2xlarge", 1.515),
        ("us-east-1", "ml.g5.12xlarge", 7.09),
        ("us-east-1", "ml.p4d.24xlarge", 25.2513),
        ("us-east-1", "ml.p5.48xlarge", 63.296),
        ("us-east-1", "ml.inf2.48xlarge", 15.58),
        ("us-west-2", "ml.g5.2xlarge", 1.515),
        ("us-west-2", "ml.g6e.48xlarge", 37.664),
        ("us-west-2", "ml.g7e.12xlarge", 10.3576),
    ],
)
def test_the_built_in_prices(region, instance_type, usd):
    """Each with its date and source."""
    price = tb.PriceTable.builtin(region).price(instance_type)
    assert (price.usd_per_hour, price.region, price.currency) == (usd, region, "USD")
    assert dt.date(2025, 1, 1) < price.effective_date < dt.date(2027, 1, 1)
    assert price.source


def test_a_machine_in_two_regions_costs_the_same():
    """Where both regions' prices were seen they are equal, to four digits."""
    east, west = (
        {price.instance_type: price.usd_per_hour for price in tb.PriceTable.builtin(region).prices}
        for region in ("us-east-1", "us-west-2")
    )
    both = east.keys() & west.keys()
    assert len(both) > 10
    assert {name: east[name] for name in both} == {name: west[name] for name in both}


def test_the_studys_prices_are_a_table_of_their_own():
    """Four machines at the prices of its cost tables."""
    table = tb.PriceTable.builtin(as_of="2023-09")
    assert {price.instance_type: price.usd_per_hour for price in table.prices} == {
        "ml.g5.2xlarge": 1.515, "ml.g5.12xlarge": 7.09, "ml.g5.48xlarge": 20.36, "ml.p4d.24xlarge": 37.688,
    }  # fmt: skip
    assert {price.effective_date.year for price in table.prices} == {2023}


def test_the_built_in_tables_have_names():
    """As a third party's table would have: an entry point whose object makes the table of a region."""
    assert registry.known_names(registry.PRICE_TABLES) == ["sagemaker", "sagemaker-2023-09"]
    assert registry.load(registry.PRICE_TABLES, "sagemaker")("us-west-2") == tb.PriceTable.builtin("us-west-2")
    study = registry.load(registry.PRICE_TABLES, "sagemaker-2023-09")("us-east-1")
    assert study == tb.PriceTable.builtin(as_of="2023-09")
    with pytest.raises(tb.UnknownNameError, match="unknown price table 'ec2'; known are sagemaker"):
        registry.load(registry.PRICE_TABLES, "ec2")


@pytest.mark.parametrize(
    ("look", "words"),
    [
        (lambda: tb.PriceTable.builtin().price("g5.2xlarge"), "no price of 'g5.2xlarge' .* nearest known: ml.g5.2xlarge"),
        (lambda: tb.PriceTable.builtin().price("ml.g5.3xlarge"), "nearest known: .*ml.g5.4?8?xlarge"),
        (lambda: tb.PriceTable.builtin().price("ml.g6e.12xlarge"), "us-west-2 has it at 13.1158 USD per hour"),
        (lambda: tb.PriceTable.builtin().price("standard"), "; known: ml.g4dn.12xlarge"),
        (lambda: tb.PriceTable.builtin("us-est-1"), "no built-in prices of region 'us-est-1'; nearest known: us-east-1"),
        (lambda: tb.PriceTable.builtin("eu-south-2"), "prices refresh"),
        (lambda: tb.PriceTable.builtin("us-west-2", as_of="2023-09"), "no built-in prices of region 'us-west-2'"),
        (lambda: tb.PriceTable.builtin(as_of="2024-01"), "as of '2024-01'; known are as_of=None, '2023-09'"),
        (lambda: tb.PriceTable(()).price("ml.g5.xlarge"), "none is known"),
    ],
)  # fmt: skip
def test_an_unknown_price_is_an_error_that_names_the_nearest_known(look, words):
    """It is never 0; the error is a LookupError too."""
    with pytest.raises(tb.UnknownPrice, match=words) as caught:
        look()
    assert isinstance(caught.value, LookupError)


def test_a_price_of_the_callers_own():
    """It is added, or stands instead of the one that was there; the table it came from does not change."""
    table = tb.PriceTable.builtin()
    own = table.with_price("acme.xl", 2.0).with_price("ml.g5.2xlarge", 1.2, source="private offer")
    assert own.price("acme.xl").usd_per_hour == 2.0
    assert own.price("acme.xl").effective_date is None
    assert (own.price("ml.g5.2xlarge").usd_per_hour, own.price("ml.g5.2xlarge").source) == (1.2, "private offer")
    assert table.price("ml.g5.2xlarge").usd_per_hour == 1.515
    assert len(own.prices) == len(table.prices) + 1


@pytest.mark.parametrize("usd", [0, -1, float("nan"), float("inf"), "2.0", None, True])
def test_a_price_is_a_number_above_zero(usd):
    """Anything else is refused with the value."""
    with pytest.raises(tb.InvalidValueError, match=f"usd_per_hour must be a number above 0, got {usd!r}"):
        tb.PriceTable(()).with_price("acme.xl", usd)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"currency": "EUR"}, "currency must be 'USD', got 'EUR': convert"),
        ({"instance_type": " "}, "instance_type must be a non-empty text"),
        ({"source": ""}, "source must be a non-empty text"),
        ({"effective_date": "2026-09-20"}, "effective_date must be a datetime.date"),
        ({"effective_date": dt.datetime(2026, 9, 20, tzinfo=dt.UTC)}, "effective_date must be a datetime.date"),
    ],
)  # fmt: skip
def test_a_price_says_where_it_is_from(change, words):
    """Blank texts, other currencies and dates that are none are refused."""
    with pytest.raises(tb.InvalidValueError, match=words):
        attrs.evolve(tb.PriceTable.builtin().price("ml.g5.xlarge"), **change)


def test_a_table_holds_one_price_of_each_machine():
    """Two regions' prices in one table would leave open which one a cost is reckoned with."""
    prices = [tb.PriceTable.builtin(region).price("ml.g5.xlarge") for region in ("us-east-1", "us-west-2")]
    with pytest.raises(tb.InvalidValueError, match=r"two of 'ml.g5.xlarge' .*us-east-1.*us-west-2.*choose a region"):
        tb.PriceTable(prices)


def test_a_file_of_the_callers_own(tmp_path):
    """As a spreadsheet writes it: byte-order mark, CRLF, blank lines, columns in any order, further columns, no date."""
    text = (
        "\ufeffsource,instance_type,usd_per_hour,region,provider,component,effective_date,currency,note\r\n"
        '"quote, signed",acme.xl, 2.50 ,eu-1,acme,hosting,,USD,\r\n\r\n'
    )
    price = tb.PriceTable.from_csv(written(tmp_path, text)).price("acme.xl")
    assert (price.usd_per_hour, price.source, price.effective_date) == (2.5, "quote, signed", None)


def test_a_file_of_several_regions_is_read_by_region(tmp_path):
    """Without one it is ambiguous; a region that it does not hold is an unknown price."""
    path = written(tmp_path, HEAD + ROW + ROW.replace("eu-1", "us-1").replace("2.5", "2.0"))
    assert tb.PriceTable.from_csv(path, region="us-1").price("acme.xl").usd_per_hour == 2.0
    with pytest.raises(tb.InvalidValueError, match="choose a region"):
        tb.PriceTable.from_csv(path)
    with pytest.raises(tb.UnknownPrice, match="no price of region 'us-2'; nearest known: us-1"):
        tb.PriceTable.from_csv(path, region="us-2")


def test_what_is_written_is_read_back(tmp_path):
    """Every price, to the last bit."""
    table = tb.PriceTable.builtin().with_price("acme.xl", 1 / 3, region="us-east-1", source='a "quote"')
    table.to_csv(tmp_path / "prices.csv")
    assert tb.PriceTable.from_csv(tmp_path / "prices.csv").prices == table.prices
    assert [file.name for file in tmp_path.iterdir()] == ["prices.csv"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "line 1 of .* lacks the columns provider, region"),
        (HEAD, "holds no price"),
        (HEAD.replace("usd_per_hour", "eur_per_hour") + ROW, "line 1 of .* lacks the columns usd_per_hour"),
        (HEAD + ROW.replace("2.5", "-2.5"), "line 2 of .*: usd_per_hour must be a number above 0, got '-2.5'"),
        (HEAD + ROW.replace("2.5", "0.00"), "line 2 of .* got '0.00'"),
        (HEAD + ROW.replace("2.5", "nan"), "line 2 of .* got 'nan'"),
        (HEAD + ROW.replace("2.5", "1e999"), "line 2 of .* got inf"),
        (HEAD + ROW.replace("2.5", "1_0"), "line 2 of .* got '1_0'"),
        (HEAD + ROW.replace("2.5", ""), "line 2 of .* got ''"),
        (HEAD + ROW.replace("2.5", "$2.5"), r"line 2 of .* got '\$2.5'"),
        (HEAD + ROW.replace("2.5", '"2,5"'), "line 2 of .* got '2,5'"),
        (HEAD + ROW.replace("acme.xl", ""), "line 2 of .* instance_type must be a non-empty text"),
        (HEAD + ROW.replace("2026-09-20", "20 Sept"), "line 2 of .* a day such as 2026-09-20, got '20 Sept'"),
        (HEAD + ROW.replace("quote", ""), "line 2 of .* source must be a non-empty text"),
        (HEAD + ROW + ROW.replace("2.5", "3"), "line 3 of .* is a second price of 'acme.xl'"),
        (HEAD + ROW + "acme,eu-1,acme.s\n", "line 3 of .* not as many cells"),
        (HEAD + ROW.replace("quote", "quote,more"), "line 2 of .* not as many cells"),
        (HEAD + ROW + 'acme,eu-1,"acme.s,1,hosting,,quote\n', "line 3 of .* is no CSV"),
        (HEAD.strip() + ",currency\n" + ROW.strip() + ",EUR\n", "line 2 of .* currency must be 'USD', got 'EUR'"),
        ((HEAD + ROW).encode("utf-16"), "cannot read the price file"),
        ((HEAD + ROW.replace("quote", "Preis für")).encode("latin-1"), "cannot read the price file"),
    ],
)
def test_a_malformed_file_is_one_error_that_names_line_and_value(tmp_path, content, words):
    """And the file stays as it was."""
    path = written(tmp_path, content)
    before = path.read_bytes()
    with pytest.raises(tb.InvalidValueError, match=words):
        tb.PriceTable.from_csv(path)
    assert path.read_bytes() == before


def test_a_file_that_is_not_there(tmp_path):
    """Reading and writing name the path."""
    with pytest.raises(tb.InvalidValueError, match=r"cannot read the price file '.*absent.csv'"):
        tb.PriceTable.from_csv(tmp_path / "absent.csv")
    with pytest.raises(tb.InvalidValueError, match=r"cannot write the price file '.*nowhere.*'"):
        tb.PriceTable.builtin().to_csv(tmp_path / "nowhere" / "prices.csv")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    """Where a folder stands in the way of the new file's name, nothing is lost and nothing is left over."""
    target = tmp_path / "prices.csv"
    target.mkdir()
    (target / "kept").touch()
    with pytest.raises(tb.InvalidValueError, match="cannot write the price file"):
        tb.PriceTable.builtin().to_csv(target)
    assert [file.name for file in tmp_path.iterdir()] == ["prices.csv"]
    assert (target / "kept").exists()
