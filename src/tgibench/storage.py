"""Results on disk: a folder whose `study.jsonl` grows by one line for each finished cell.

The first line names the format and its version; each further line is one measurement or failure. A line is written and flushed to the
disk before the next cell begins, so a crash loses at most the cell in flight. A last line without its end was cut off by such a crash
and is not part of the results. Versions: 1, the first.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from tgibench.errors import ResultsError, TgibenchError
from tgibench.measurements import DeploymentFailure, Study
from tgibench.serialization import (
    deployment_from_json,
    measurement_from_json,
    measurement_to_json,
)

if TYPE_CHECKING:
    from tgibench.measurements import Measurement
    from tgibench.records import RequestLog

__all__ = ["StudyStore", "read_study"]

_FORMAT = "tgibench-study"
_VERSION = 1
_FILE = "study.jsonl"


def read_study(path: str | Path) -> Study:
    """Read a results folder (or its `study.jsonl`). A cell measured more than once counts as last written.

    Raises:
        ResultsError: There is none, it was written by a newer tgibench, or a line is damaged; nothing is changed.
    """
    measurements: dict[str, Measurement] = {}
    failures = []
    for number, record in _records(_file_of(path)):
        try:
            if record["kind"] == "measurement":
                measurement = measurement_from_json(record)
                measurements[measurement.key] = measurement
            else:
                failures.append(
                    DeploymentFailure(deployment_from_json(record["deployment"]), record["message"], record["load"])
                )
        except (KeyError, TypeError, AttributeError, ValueError, TgibenchError) as error:
            raise ResultsError(f"line {number} of {path} is damaged: {type(error).__name__}: {error}") from error
    return Study(tuple(measurements.values()), tuple(failures))


class StudyStore:
    """Appends finished cells to a results folder; made with its first line when it does not exist.

    Args:
        path: The folder.

    Raises:
        ResultsError: It cannot be written, or holds something that is no tgibench study.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = Path(path) / _FILE
        self._finished: dict[str, Measurement] = {}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if not self._file.exists() or self._file.stat().st_size == 0:
                self._append({"format": _FORMAT, "version": _VERSION})
        except OSError as error:
            raise ResultsError(f"cannot write results to {str(path)!r}: {error}") from error
        self._finished = {measurement.key: measurement for measurement in read_study(self._file)}
        self._drop_torn_line()

    def finished(self, key: str) -> Measurement | None:
        """The measurement of a cell that is already stored; None otherwise."""
        return self._finished.get(key)

    def add(self, measurement: Measurement, log: RequestLog | None = None) -> None:
        """Append a finished cell, durably; with its log, per-request and per-chunk columns go to an `.npz` beside it."""
        if log is not None:
            _save_log(self._file.parent / f"requests-{measurement.key}.npz", log)
        self._append({"kind": "measurement", "key": measurement.key, **measurement_to_json(measurement)})
        self._finished[measurement.key] = measurement

    def add_failure(self, failure: DeploymentFailure) -> None:
        """Append what could not be measured."""
        self._append(
            {
                "kind": "failure",
                "deployment": failure.deployment.described(),
                "message": failure.message,
                "load": failure.load,
            }
        )

    def _append(self, record: dict[str, Any]) -> None:
        try:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ResultsError(f"cannot write results to {str(self._file)!r}: {error}") from error

    def _drop_torn_line(self) -> None:
        content = self._file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self._file.open("r+b") as file:
                file.truncate(whole)


def _file_of(path: str | Path) -> Path:
    path = Path(path)
    return path / _FILE if path.is_dir() else path


def _records(file: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"cannot read results from {str(file)!r}: {error}") from error
    *lines, _torn = text.split("\n")
    records = [(number, _record(line, number, file)) for number, line in enumerate(lines, start=1)]
    if not records or records[0][1].get("format") != _FORMAT:
        raise ResultsError(f"{str(file)!r} is no tgibench study: its first line does not say so")
    version = records[0][1].get("version")
    if not isinstance(version, int) or version > _VERSION:
        raise ResultsError(
            f"{str(file)!r} has format version {version!r}, this tgibench reads up to {_VERSION}: install a newer one"
        )
    return records[1:]


def _record(line: str, number: int, file: Path) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ResultsError(f"line {number} of {str(file)!r} is damaged: {error.msg}") from error
    if not isinstance(record, dict):
        raise ResultsError(f"line {number} of {str(file)!r} is damaged: not an object")
    return record


def _save_log(path: Path, log: RequestLog) -> None:
    columns: dict[str, Any] = {
        field.name: column
        for field in attrs.fields(type(log))
        if isinstance(column := getattr(log, field.name), np.ndarray)
    }
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, **columns)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise ResultsError(f"cannot write the columns of a run to {str(path)!r}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
