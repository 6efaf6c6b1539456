"""Logs that outgrow memory: where they lie, what becomes of their files, and what a full disk does."""

from __future__ import annotations

import errno
import functools
import gc
import os
import pickle
import tempfile
from pathlib import Path

import attrs
import numpy as np
import pytest

import tgibench as tb
from cells import measurement
from fakes import FakeServer
from logs import Row, builder_of, built, log_of, plain
from tgibench import merging, metrics, recording, runner, spills
from tgibench.storage import StudyStore

ROWS = tuple(plain(start_s, tokens=3 + number) for number, start_s in enumerate((0.4, 0.1, 0.3, 0.2)))


def columns(log):
    """All arrays of a log."""
    return {
        field.name: column
        for field in attrs.fields(type(log))
        if isinstance(column := getattr(log, field.name), np.ndarray)
    }


def same(first, second):
    """Whether two logs hold the same values."""
    return all(np.array_equal(column, columns(second)[name], equal_nan=True) for name, column in columns(first).items())


def open_files(folder):
    """How many files of a folder this process holds."""
    return sum(os.path.realpath(link).startswith(str(folder)) for link in Path("/proc/self/fd").iterdir())


@pytest.fixture
def no_room(monkeypatch):
    """A disk that takes three pieces and then no more."""
    written = []

    def write(file, place, data):
        if len(written) >= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(data)
        whole_write(file, place, data)

    whole_write = spills._write
    monkeypatch.setattr(spills, "_write", write)
    return written


def test_a_log_on_disk_holds_the_values_of_one_in_memory():
    """Rows in the order of their plan, each with its own chunks; small blocks change nothing."""
    assert same(log_of(*ROWS), built(builder_of(*ROWS, most_in_memory=0)))


def test_a_log_is_gone_through_in_blocks(monkeypatch):
    """However few chunks a block holds, the metrics are the same; very many gaps differ by their precision alone."""
    whole = tb.Metrics.of(log_of(*ROWS))
    monkeypatch.setattr(spills, "_BLOCK_CHUNKS", 5)
    monkeypatch.setattr(recording, "_BLOCK_ROWS", 2)
    in_blocks = tb.Metrics.of(built(builder_of(*ROWS, most_in_memory=0)))
    assert in_blocks == whole
    monkeypatch.setattr(metrics, "_SORTED_UP_TO", 3)
    counted = tb.Metrics.of(built(builder_of(*ROWS, most_in_memory=0)))
    assert attrs.evolve(counted, icl_s=None) == attrs.evolve(whole, icl_s=None)
    for figure in ("min", "p50", "p90", "p99", "max", "mean"):
        assert getattr(counted.icl_s, figure) == pytest.approx(getattr(whole.icl_s, figure), rel=1e-6)


def test_merged_logs_lie_on_disk_too(monkeypatch):
    """The parts of a run, merged in small blocks and on disk, are what they are in memory: the log of one process."""
    parts = [log_of(*ROWS[:1]), log_of(*ROWS[1:])]
    in_memory = merging.merge_logs(parts)
    monkeypatch.setattr(merging, "columns_of", functools.partial(spills.columns_of, most_in_memory=0))
    monkeypatch.setattr(merging, "_BLOCK_ROWS", 2)
    monkeypatch.setattr(spills, "_BLOCK_CHUNKS", 5)
    on_disk = merging.merge_logs(parts)
    assert not on_disk.planned_s.flags.writeable
    assert on_disk.planned_s.tolist() == pytest.approx(sorted(row.planned_s for row in ROWS))
    assert on_disk.output_tokens.tolist() == [4, 6, 5, 3]
    assert same(on_disk, in_memory)
    assert tb.Metrics.of(on_disk) == tb.Metrics.of(log_of(*ROWS))


def test_memory_holds_no_more_than_it_may(tmp_path, monkeypatch):
    """What exceeds the limit is in the file, while the run goes on."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    builder = builder_of(*ROWS * 400, most_in_memory=4096)
    held = sum(len(piece) for spill in (builder._rows, builder._chunk_times) for piece in spill._pieces)
    assert held == builder._rows.held + builder._chunk_times.held <= 2 * (4096 + 4096 // 8 + 64)
    assert same(built(builder), log_of(*ROWS * 400))


def test_a_run_is_soon_as_large_as_it_gets(tmp_path, monkeypatch):
    """By default 64 KiB of each kind wait for the file; a log that fits into memory is in memory all the same."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    builder = builder_of(*[plain(number, tokens=100) for number in range(300)])
    assert builder._chunk_times.held < 80_000 < 300 * 100 * 8
    assert built(builder).chunk_times_s.flags.owndata


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's list of open files")
def test_the_files_vanish_with_the_log(tmp_path, monkeypatch):
    """They never have a name, and nothing holds them when the log, or a builder that was given up, is gone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    log, given_up = built(builder_of(*ROWS, most_in_memory=0)), builder_of(*ROWS, most_in_memory=0)
    assert open_files(tmp_path) > 0
    assert list(tmp_path.iterdir()) == []
    latencies_s = log.ended_s
    del log, given_up
    gc.collect()
    assert open_files(tmp_path) == 1, "an array of the log is still there"
    assert latencies_s[0] > 0
    del latencies_s
    gc.collect()
    assert open_files(tmp_path) == 0


def test_a_log_on_disk_can_be_pickled_and_stored(tmp_path):
    """A pickle holds the values; so does what a store writes."""
    log = built(builder_of(*ROWS, most_in_memory=0))
    assert same(pickle.loads(pickle.dumps(log)), log)  # noqa: S301 - our own
    cell = measurement(tb.Metrics.of(log))
    StudyStore(tmp_path).add(cell, log)
    with np.load(tmp_path / f"requests-{cell.key}.npz") as stored:
        assert set(stored) == set(columns(log))
        assert all(np.array_equal(stored[name], column, equal_nan=True) for name, column in columns(log).items())


def test_a_store_without_room_for_the_columns_is_one_error(tmp_path, monkeypatch):
    """It names the file, leaves no part of one, and the cell is not half there."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez_compressed", full)
    log, store = log_of(*ROWS), StudyStore(tmp_path)
    with pytest.raises(tb.ResultsError, match=r"requests-.*npz.*No space left"):
        store.add(measurement(tb.Metrics.of(log)), log)
    assert [path.name for path in tmp_path.iterdir()] == ["study.jsonl"]
    assert len(tb.read_study(tmp_path)) == 0


def test_a_full_disk_loses_nothing(no_room):
    """The builder says what is amiss and what to do, and its log is whole."""
    builder = builder_of(*ROWS, most_in_memory=0)
    assert "No space left" in builder.problem
    assert "TMPDIR" in builder.problem
    assert same(built(builder), log_of(*ROWS))
    assert len(no_room) == 3


def test_without_a_disk_a_run_goes_on_as_long_as_memory_may_hold_it(no_room):
    """Less than the most in memory is no reason to stop."""
    rows = [plain(number, tokens=100) for number in range(300)]
    assert builder_of(*rows).problem is None
    assert len(no_room) == 3
    assert "No space left" in builder_of(*rows, most_in_memory=200_000).problem


def test_a_disk_that_is_full_after_the_run_loses_nothing(no_room):
    """What cannot be put in order on disk is put in order in memory."""
    builder = builder_of(ROWS[0], most_in_memory=0)
    assert builder.problem is None
    assert same(built(builder), log_of(ROWS[0]))


def test_a_run_stops_when_the_disk_is_full(no_room, monkeypatch):
    """With everything that was measured, and the reason."""
    monkeypatch.setattr(runner, "LogBuilder", functools.partial(recording.LogBuilder, most_in_memory=0))
    log = tb.virtual_time.run(tb.run_load(FakeServer(1.0), tb.ClosedLoop(1, requests=50), tb.SyntheticPrompts()))
    assert "No space left" in log.stopped
    assert log.counts["succeeded"] == len(log) == 2
    assert log.counts["unsent"] == 48


def test_of_very_many_failures_some_messages_are_kept(monkeypatch):
    """So many of each kind; kind and status stay known of all."""
    monkeypatch.setattr(recording, "_MESSAGES_OF_A_KIND", 2)
    kinds = (tb.FailureKind.OVERLOADED, tb.FailureKind.CONNECTION_RESET)
    failures = [Row(planned_s=float(n), failure=tb.Failure(kinds[n % 2], f"number {n}", 429)) for n in range(10)]
    log = log_of(*reversed(failures))
    assert sorted(log.messages) == [6, 7, 8, 9]
    assert log.failure(9).message == "number 9"
    assert log.failure(0) == tb.Failure(kinds[0], "one of very many of its kind: its message was not kept", 429)
