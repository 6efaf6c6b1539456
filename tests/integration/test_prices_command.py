"""`tgibench prices` as a user runs it, and the download against a server on loopback."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

import tgibench as tb
from commands import run_here, run_process
from tgibench.price_download import download_offer

SAMPLES = Path(__file__).parents[1] / "samples"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Loopback is reached without the machine's proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@asynccontextmanager
async def publishing(answer, *, hangs=False):
    """Answer every request with these bytes and hang up, or wait for the client to; yields the URL and the request lines."""
    asked, serving = [], set()

    async def serve(reader, writer):
        serving.add(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b"\r\n")[0].decode())
        writer.write(answer)
        with suppress(ConnectionError):
            await writer.drain()
            if hangs:
                await reader.read()
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
        await asyncio.wait(serving)


def http(body, *, status="200 OK", length=None):
    """A whole answer, or one that promises more than it holds."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length or len(body)}\r\n\r\n"
    return head.encode() + body


def test_it_lists_what_is_built_in():
    """Every machine with its price, region, date and source."""
    done = run_process("prices")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if "ml.p4d.24xlarge" in line)
    for words in ("25.2513", "us-east-1", "hosting", "2026-11-09", "EC2 us-east-1"):
        assert words in line
    listed = json.loads(run_here("prices", "--region", "us-west-2", "--json").stdout)
    assert {price["region"] for price in listed} == {"us-west-2"}
    assert {"instance_type", "usd_per_hour", "effective_date", "source", "currency"} <= listed[0].keys()


def test_tables_go_by_name():
    """The study's too; an unknown name or region is one sentence."""
    assert "37.6880" in run_here("prices", "--table", "sagemaker-2023-09").stdout
    for arguments, words in (
        (("--table", "ec2"), "unknown price table 'ec2'; known are sagemaker, sagemaker-2023-09"),
        (("--region", "us-est-1"), "nearest known: us-east-1"),
        (("--file", "absent.csv"), "cannot read the price file 'absent.csv'"),
    ):
        done = run_here("prices", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr


@pytest.mark.parametrize("name", ["offer.json", "offer.csv", "price_list.json"])
def test_refresh_writes_a_table_from_a_file(tmp_path, name):
    """The file that it wrote is one that it lists; prices that differ from the built-in ones are told."""
    out = tmp_path / "prices.csv"
    offer = tmp_path / name
    offer.write_text((SAMPLES / name).read_text().replace("1.5150000000", "1.2000000000"))
    done = run_here("prices", "refresh", "--region", "us-east-1", "--offer-file", str(offer), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"3 hosting prices of us-east-1 written to {out}",
        "ml.g5.2xlarge: 1.2 USD per hour since 2023-09-01, 1.515 in the built-in table (2025-01-26)",
    ]
    assert tb.PriceTable.from_csv(out).price("ml.g5.2xlarge").usd_per_hour == 1.2
    assert "ml.g6e.2xlarge" in run_here("prices", "--file", str(out)).stdout


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ((SAMPLES / "offer.json").read_text()[:5000], "is damaged or cut off"),
        ((SAMPLES / "offer.json").read_text().replace('"Hrs"', '"GB-Mo"'), "not in US dollars per hour"),
        ((SAMPLES / "offer.json").read_text().replace("us-east-1", "eu-west-9"), "us-east-1'; known: eu-west-9"),
    ],
)
def test_a_refresh_that_fails_leaves_the_old_file(tmp_path, content, words):
    """One sentence, exit code 2, and nothing changed on disk."""
    offer, out = tmp_path / "offer.json", tmp_path / "prices.csv"
    offer.write_text(content)
    tb.PriceTable.builtin().to_csv(out)
    before = out.read_bytes()
    done = run_here("prices", "refresh", "--region", "us-east-1", "--offer-file", str(offer), "--out", str(out))
    assert done.returncode == 2
    assert words in done.stderr
    assert out.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"offer.json", "prices.csv"}


@pytest.mark.parametrize("arguments", [(), ("--download", "--offer-file", "offer.json")])
def test_refresh_takes_one_source(tmp_path, arguments):
    """None or two are refused."""
    done = run_here("prices", "refresh", "--region", "us-east-1", "--out", str(tmp_path / "prices.csv"), *arguments)
    assert done.returncode == 2
    assert "give either --offer-file (a file) or --download" in done.stderr


async def test_refresh_downloads_the_regions_file(tmp_path):
    """From where AWS keeps it, at the address it is told to use."""
    out = tmp_path / "prices.csv"
    async with publishing(http((SAMPLES / "offer.json").read_bytes())) as (url, asked):
        arguments = ("refresh", "--region", "us-east-1", "--download", "--base-url", url, "--out", str(out))
        done = await asyncio.to_thread(run_process, "prices", *arguments)
    assert done.returncode == 0, done.stderr
    assert asked == ["GET /offers/v1.0/aws/AmazonSageMaker/current/us-east-1/index.json HTTP/1.1"]
    assert len(tb.PriceTable.from_csv(out).prices) == 3


@pytest.mark.parametrize(
    ("answer", "options", "words"),
    [
        (http(b"", status="403 Forbidden"), {}, "answered 403 Forbidden: is 'us-east-1' a region's name"),
        (http(b'{"offerCode": ', length=5000), {}, "cannot fetch http://127.0.0.1"),
        (http(b"{}" * 100), {"largest_bytes": 100}, "is larger than 100 bytes"),
        (http(b"\xff\xfe"), {}, "cannot fetch .* 'utf-8' codec"),
        (b"", {}, "cannot fetch"),
    ],
)
async def test_a_download_that_is_not_whole_is_an_error(answer, options, words):
    """It names the address."""
    async with publishing(answer) as (url, _):
        with pytest.raises(tb.DownloadError, match=words):
            await download_offer("us-east-1", base_url=url, **options)


async def test_a_download_that_takes_too_long_is_an_error():
    """A server that says nothing more does not hold the command for ever."""
    async with publishing(http(b"{", length=10), hangs=True) as (url, _):
        with pytest.raises(tb.DownloadError, match=r"was not read within 0.3 s"):
            await download_offer("us-east-1", base_url=url, timeout_s=0.3)


async def test_a_region_is_a_name():
    """It is not a way to another address."""
    with pytest.raises(tb.InvalidValueError, match="region must be a name such as us-east-1"):
        await download_offer("../../AmazonEC2", base_url="http://127.0.0.1:9")
