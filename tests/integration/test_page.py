"""The report's page in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import tgibench as tb
from studies import NASTY, costs, nasty_study, study

_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium that tells what it logs and loads; where there is none the tests fail in CI and are skipped elsewhere."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        absent = "needs Debian's chromium and chromium-driver: apt-get install chromium chromium-driver"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(absent)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (*_OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of the small study."""
    return written(tb.html_page(study(), costs()), tmp_path_factory)


def written(html, tmp_path_factory):
    """Where a page was written."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    tb.write_report(path, html)
    return path.as_uri()


def shown(browser, address, *, width=1280, scheme="light"):
    """Open a page, wait until all is drawn, and return what the browser complained of."""
    browser.get_log("browser")
    browser.get_log("performance")
    emulate(browser, scheme)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(address)
    WebDriverWait(browser, 60).until(lambda _: browser.execute_script("return document.documentElement.dataset.drawn"))
    return [entry["message"] for entry in browser.get_log("browser")]


def emulate(browser, scheme):
    """Prefer light or dark."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def table(browser, name):
    """A table's rows as texts by heading."""
    headings, rows = browser.execute_script(
        "const table = document.getElementById(arguments[0]);"
        "const texts = (row) => [...row.cells].map((cell) => cell.textContent);"
        "return [texts(table.tHead.rows[0]), [...table.tBodies[0].rows].map(texts)];",
        name,
    )
    return [dict(zip(headings, row, strict=True)) for row in rows]


def numbers(text):
    """The numbers in a cell of a table."""
    return [float(number.replace(",", "")) for number in re.findall(r"[\d,]*\.?\d+", text)]


def half(bounds):
    """Half of an interval."""
    return (bounds[1] - bounds[0]) / 2


def test_it_opens_without_a_complaint_and_loads_nothing(browser, page):
    """No line on the console, every plot is drawn, and the page itself is all that was ever asked for."""
    assert shown(browser, page) == []
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map((plot) => plot.querySelectorAll('.main-svg').length)"
    )
    assert len(drawn) == 6
    assert all(drawn)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert {address for address in asked if not address.startswith(("data:", "blob:"))} == {page}


def test_the_tables_figures_are_the_studys(browser, page):
    """Row for row: times, rates, their intervals, dollars, counts and sources."""
    shown(browser, page)
    rows, model = table(browser, "measurements-table"), costs()
    assert len(rows) == 4
    for row, cell in zip(rows, study(), strict=True):
        metrics, cost = cell.metrics, model.cost(cell)
        assert row["deployment"] == cell.deployment.label
        assert row["load"] == cell.load.label
        assert row["source"] == cell.source
        assert [row["ok"], row["failed"], row["unsent"]] == [
            str(metrics.counts[name]) for name in ("succeeded", "failed", "unsent")
        ]
        for heading, value in {
            "TTFT p50 (ms)": metrics.ttft_s.p50,
            "TTFT p95 (ms)": metrics.ttft_s.p95,
            "TPOT p50 (ms)": metrics.tpot_s.p50,
            "latency p50 (ms)": metrics.latency_s.p50,
            "latency p95 (ms)": metrics.latency_s.p95,
        }.items():
            assert numbers(row[heading]) == [pytest.approx(value * 1e3, abs=0.051)], heading
        rate, per_million = metrics.output_throughput_tps, cost.usd_per_million_output_tokens
        assert numbers(row["tokens/s"]) == pytest.approx([rate.value, half(rate.interval)], abs=0.051)
        assert numbers(row["USD/1M output tokens"]) == pytest.approx(
            [per_million.value, half(per_million.interval)], abs=0.0051
        )
        assert numbers(row["USD/hour"]) == [cost.usd_per_hour.value]


def test_the_answer_names_the_winners_and_how_sure_they_are(browser, page):
    """Three cards; each has the winner that `cheapest`, `fastest` and `highest_throughput` choose, and its source."""
    shown(browser, page)
    cards = [card.text for card in browser.find_elements(By.CSS_SELECTOR, ".card")]
    chosen = [choose(study(), costs()) for choose in (tb.cheapest, tb.fastest, tb.highest_throughput)]
    assert len(cards) == 3
    for text, choice in zip(cards, chosen, strict=True):
        assert choice.goal.upper() in text
        assert f"{choice.winner.deployment.label}\n{choice.winner.load.label} {choice.winner.source}" in text
        assert f"is {100 * choice.margin_ratio:.3g} % worse" in text


def test_no_text_of_a_study_is_ever_run(browser, tmp_path_factory):
    """Markup in every name and message is shown as it is, in tables and in plots."""
    hostile = tb.html_page(nasty_study(), title=NASTY, notes=[NASTY])
    assert shown(browser, written(hostile, tmp_path_factory)) == []
    assert browser.execute_script("return typeof window.pwned") == "undefined"
    assert browser.find_element(By.TAG_NAME, "h1").text == NASTY
    assert NASTY.rsplit("/", 1)[-1] in table(browser, "measurements-table")[0]["deployment"]
    assert browser.find_elements(By.CSS_SELECTOR, "main img, main script") == []
    legends = browser.execute_script(
        "return [...document.querySelectorAll('.plot .legendtext')].map((text) => text.textContent)"
    )
    assert any(NASTY in text for text in legends)


def test_a_phone_scrolls_tables_and_not_the_page(browser, page):
    """At 390 pixels nothing sticks out."""
    assert shown(browser, page, width=390) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


def test_every_table_is_a_real_one(browser, page):
    """Captions, and headers with a scope for columns and rows."""
    shown(browser, page)
    tables = browser.find_elements(By.TAG_NAME, "table")
    assert len(tables) >= 6
    for each in tables:
        name = each.get_attribute("id")
        assert each.find_elements(By.TAG_NAME, "caption"), name
        assert not each.find_elements(By.CSS_SELECTOR, "thead :is(td, th:not([scope=col]))"), name
        assert len(each.find_elements(By.CSS_SELECTOR, "tbody th[scope=row]")) == len(
            each.find_elements(By.CSS_SELECTOR, "tbody tr")
        ), name


def test_the_keyboard_reaches_everything(browser, page):
    """Tab comes to the skip link first, then to links, choices, tables and details; an arrow key chooses another run."""
    shown(browser, page)
    reached = []
    for _ in range(40):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        focused = browser.switch_to.active_element
        reached.append(focused.get_attribute("id") or focused.get_attribute("class") or focused.tag_name)
    assert reached[0] == "skip"
    assert {"load", "run", "summary"} <= set(reached)
    assert any("scroll" in name for name in reached)
    before = table(browser, "timeline-table")
    browser.find_element(By.ID, "run").send_keys(Keys.ARROW_DOWN)
    after = table(browser, "timeline-table")
    assert len(before) == len(after) == 60
    assert before != after
    timeline = study().measurements[1].metrics.timeline
    assert [int(row["failed"]) for row in after] == list(timeline.failed)
    assert sum(timeline.failed) == 3


def test_it_is_dark_for_whoever_prefers_it(browser, page):
    """Ground and plots change at once, without a reload."""
    shown(browser, page)
    look = (
        "return [getComputedStyle(document.body).backgroundColor,"
        " document.querySelector('.plot .xtick text').style.fill]"
    )
    light = browser.execute_script(look)
    emulate(browser, "dark")
    WebDriverWait(browser, 20).until(lambda _: browser.execute_script(look)[1] != light[1])
    assert browser.execute_script(look)[0] != light[0]


def test_without_prices_nothing_is_said_of_dollars(browser, tmp_path_factory):
    """No cheapest, no section of costs; the rest is there."""
    assert shown(browser, written(tb.html_page(study()), tmp_path_factory)) == []
    assert len(browser.find_elements(By.CSS_SELECTOR, ".card")) == 2
    assert "$" not in browser.find_element(By.TAG_NAME, "main").text
    assert "USD" not in browser.find_element(By.TAG_NAME, "main").text


def test_an_empty_study_is_a_page_that_says_so(browser, tmp_path_factory):
    """What failed is still on it."""
    empty = tb.Study((), study().failures, interrupted=True)
    assert shown(browser, written(tb.html_page(empty, costs()), tmp_path_factory)) == []
    text = browser.find_element(By.TAG_NAME, "body").text
    assert "Nothing was measured" in text
    assert "no capacity" in text
