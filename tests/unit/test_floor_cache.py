"""A floor is found once for each machine and set of software."""

from __future__ import annotations

import attrs
import pytest

import tgibench as tb
from floors import floor, on_another_machine
from tgibench.floor_cache import floor_from_json, floor_to_json, keep_floor, remembered_floor

KERNEL = tb.StampSource.KERNEL


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_what_is_kept_is_remembered_whole(cache):
    """In the user's cache folder, with its check and notes."""
    check = tb.LimitCheck(tokens_per_s=1e4, requests_per_s=100.0, core_share=0.6, loop_lag_p99_s=0.001)
    own = floor(stamps=KERNEL, check=check, notes=("a note",))
    path = keep_floor(own)
    assert path.parent == cache / "tgibench"
    assert remembered_floor(KERNEL) == own
    assert remembered_floor(*tb.StampSource) == own


def test_nothing_is_remembered_of_other_stamps_machines_or_versions():
    """Each is part of what a floor belongs to."""
    own = floor(stamps=KERNEL)
    assert remembered_floor(KERNEL) is None
    keep_floor(on_another_machine(own))
    keep_floor(attrs.evolve(own, host=attrs.evolve(own.host, aiohttp="3.0.0")))
    assert remembered_floor(*tb.StampSource) is None
    keep_floor(own)
    assert remembered_floor(tb.StampSource.SOCKET_READ) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"host": 3}'])
def test_a_damaged_file_counts_as_none(text):
    """It will be found anew."""
    keep_floor(floor(stamps=KERNEL)).write_text(text)
    assert remembered_floor(KERNEL) is None


def test_a_floor_is_plain_json_that_also_says_what_was_reckoned_from_it():
    """And is read back without that."""
    own = floor()
    record = floor_to_json(own)
    assert record["tokens_per_s"] == own.tokens_per_s
    assert record["requests_per_s"] == own.requests_per_s
    assert floor_from_json(record) == own


def test_virtual_time_has_no_client_to_calibrate():
    """It says what to do instead."""
    with pytest.raises(tb.InvalidValueError, match=r"use asyncio\.run"):
        tb.virtual_time.run(tb.calibrate_client())
