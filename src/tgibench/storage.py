"""Results on disk: a folder whose `study.jsonl` grows by one line for each finished cell.

The first line names the format and its version; each further line is one measurement, one failure, or the order in which a sweep wants
its cells. A line is written and flushed to the disk as soon as its cell is finished, so a crash loses at most the cells in flight. A last
line without its end was cut off by such a crash and is not part of the results. Versions: 1, the first; 2, with orders and with parts of
cells.
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
    from collections.abc import Iterable

    from tgibench.deployments import Deployment
    from tgibench.measurements import Measurement
    from tgibench.records import RequestLog

__all__ = ["StudyStore", "read_study"]

_FORMAT = "tgibench-study"
_VERSION = 2
_FILE = "study.jsonl"


def read_study(path: str | Path) -> Study:
    """Read a results folder (or its `study.jsonl`). A cell measured more than once counts as last written.

    Of a deployment's failures the last is read, and none where a measurement of it was written after them.

    Cells are in the order of the sweep that measured them, whichever was finished first; those of a later sweep come behind those that
    it was not asked for.

    Raises:
        ResultsError: There is none, it was written by a newer tgibench, or a line is damaged; nothing is changed.
    """
    return _read(_file_of(path)).study()


class StudyStore:
    """Appends finished cells to a results folder; made with its first line when it does not exist.

    Args:
        path: The folder.

    Raises:
        ResultsError: It cannot be written, or holds something that is no tgibench study.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = Path(path) / _FILE
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if not self._file.exists() or self._file.stat().st_size == 0:
                self._append({"format": _FORMAT, "version": _VERSION})
        except OSError as error:
            raise ResultsError(f"cannot write results to {str(path)!r}: {error}") from error
        found = _read(self._file)
        self._measurements, self._order = found.measurements, found.last_order
        self._drop_torn_line()
        if found.version < _VERSION:
            self._take_this_version()

    def expect(self, keys: Iterable[str]) -> None:
        """In which order a sweep's cells are to be read back, whichever is finished first."""
        keys = list(dict.fromkeys(keys))
        if keys != self._order:
            self._append({"kind": "order", "keys": keys})
            self._order = keys

    def finished(self, key: str) -> Measurement | None:
        """The measurement of a cell that is already stored; None otherwise, and where only a part of it was measured."""
        found = self._measurements.get(key)
        return None if found is None or found.partial else found

    def finished_cells(self) -> tuple[Measurement, ...]:
        """All that are stored and whole."""
        return tuple(each for each in self._measurements.values() if not each.partial)

    def part(self, key: str) -> Measurement | None:
        """What is stored of a cell whose load stopped before its end; None otherwise."""
        found = self._measurements.get(key)
        return found if found is not None and found.partial else None

    def add(self, measurement: Measurement, log: RequestLog | None = None) -> None:
        """Append a finished cell, durably; with its log, per-request and per-chunk columns go to an `.npz` beside it."""
        if log is not None:
            _save_log(self._file.parent / f"requests-{measurement.key}.npz", log)
        self._append({"kind": "measurement", "key": measurement.key, **measurement_to_json(measurement)})
        self._measurements[measurement.key] = measurement

    def add_failure(self, failure: DeploymentFailure, key: str | None = None) -> None:
        """Append what could not be measured; `key` is that of its first cell, which says where it stands among the others."""
        self._append(
            {
                "kind": "failure",
                "key": key,
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

    def _take_this_version(self) -> None:
        """An older file gets lines that older readers do not know: its first line must say so."""
        _, _, rest = self._file.read_bytes().partition(b"\n")
        first = json.dumps({"format": _FORMAT, "version": _VERSION}).encode()
        part = self._file.with_name(self._file.name + ".part")
        try:
            with part.open("wb") as file:
                file.write(first + b"\n" + rest)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._file)
        except OSError as error:
            raise ResultsError(f"cannot write results to {str(self._file)!r}: {error}") from error


@attrs.define
class _Found:
    """What a file holds.

    Args:
        version: Of its format.
        places: The keys of all cells and failures, in order.
        last_order: The order that the last sweep wanted.
        measurements: By key, as last written.
        failures: The last of each deployment that was not measured after it, with the key of the cell at whose place it stands, where it
            is known.
    """

    version: int
    places: dict[str, None] = attrs.field(factory=dict)
    last_order: list[str] | None = None
    measurements: dict[str, Measurement] = attrs.field(factory=dict)
    failures: dict[Deployment, tuple[str | None, DeploymentFailure]] = attrs.field(factory=dict)

    def take(self, record: dict[str, Any]) -> None:
        """Add a line."""
        match record["kind"]:
            case "measurement":
                measurement = measurement_from_json(record)
                self.measurements[measurement.key] = measurement
                self.places.setdefault(measurement.key)
                self.failures.pop(measurement.deployment, None)
            case "order":
                self.last_order = [str(key) for key in record["keys"]]
                for key in self.last_order:
                    self.places.pop(key, None)
                    self.places[key] = None
            case _:
                deployment = deployment_from_json(record["deployment"])
                failure = DeploymentFailure(deployment, record["message"], record["load"])
                self.failures.pop(deployment, None)
                self.failures[deployment] = (record.get("key"), failure)

    def study(self) -> Study:
        """All of it, in order."""
        places = {key: place for place, key in enumerate(self.places)}
        measurements = sorted(self.measurements.items(), key=lambda item: places[item[0]])
        failures = sorted(self.failures.values(), key=lambda item: places.get(item[0] or "", -1))
        return Study(tuple(cell for _, cell in measurements), tuple(failure for _, failure in failures))


def _read(file: Path) -> _Found:
    version, records = _records(file)
    found = _Found(version)
    for number, record in records:
        try:
            found.take(record)
        except (KeyError, TypeError, AttributeError, ValueError, TgibenchError) as error:
            raise ResultsError(f"line {number} of {file} is damaged: {type(error).__name__}: {error}") from error
    return found


def _file_of(path: str | Path) -> Path:
    path = Path(path)
    return path / _FILE if path.is_dir() else path


def _records(file: Path) -> tuple[int, list[tuple[int, dict[str, Any]]]]:
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
    return version, records[1:]


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
