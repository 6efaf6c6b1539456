"""The files that the study's scripts wrote: 34 columns, in milliseconds, under names with the study's own spelling.

Source: philschmid/text-generation-inference-tests, `sagemaker_llm_container/utils/get_metrics.py`; a CSV file of all rows and a JSON
file for each of them.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgibench.errors import InvalidValueError, ResultsError
from tgibench.measurements import Study
from tgibench.published._cells import FIGURES, STATISTICS, Cell, deployment, distribution

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tgibench.stats import Distribution

__all__ = ["read_sagemaker_results"]

_HEADINGS = dict(
    zip(FIGURES, ("Latency (ms/token)", "Latency Request ms", "Latency Infernece ms", "Queue time ms"), strict=True)
)
_WORDS = dict(zip(STATISTICS, ("avg", "min", "med", "p(90)", "p(95)", "max"), strict=True))
_ASCENDING = ("min", "p50", "p90", "p95", "max")
_THROUGHPUT = "Thorughput (tokens/second)"
_PROMPTS = "not said in the file"
_ROUNDING = 1e-6


def read_sagemaker_results(path: str | Path, *, server_version: str | None = "1.0.3") -> Study:
    """Read what the 2023 study's scripts wrote: its CSV file, one of its JSON files, or a folder of JSON files.

    Args:
        path: The file or the folder.
        server_version: The version of TGI that was measured, which the files do not say; None where it is unknown.

    Raises:
        ResultsError: There is none, or a figure is missing, is no number, or contradicts the others.
    """
    path = Path(path)
    cells = [_cell(row, where) for row, where in _rows(path)]
    if not cells:
        raise ResultsError(f"{str(path)!r} holds no results of the study's scripts")
    return Study(
        tuple(
            cell.measurement(server_version=server_version, prompts=_PROMPTS, facts={"file": path.name})
            for cell in cells
        )
    )


def _rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Each row and where it stands."""
    if path.is_dir():
        for file in sorted(path.glob("*.json")):
            yield from _json_rows(file)
    elif path.suffix == ".json":
        yield from _json_rows(path)
    else:
        yield from _csv_rows(path)


def _json_rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    try:
        content = json.loads(_text_of(path))
    except json.JSONDecodeError as error:
        raise ResultsError(f"{str(path)!r} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ResultsError(f"{str(path)!r} must hold one object of figures by name, got {str(content)[:80]}")
    yield content, repr(str(path))


def _csv_rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    reader = csv.DictReader(io.StringIO(_text_of(path), newline=""), strict=True)
    try:
        for row in reader:
            where = f"line {reader.line_num} of {str(path)!r}"
            if None in row:
                raise ResultsError(f"{where} has more fields than the first line has names")
            yield row, where
    except csv.Error as error:
        raise ResultsError(f"line {reader.line_num} of {str(path)!r} is no CSV: {error}") from error


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"cannot read results from {str(path)!r}: {error}") from error


def _cell(row: Mapping[str, Any], where: str) -> Cell:
    requests = _whole(row, "Number of requests", where)
    quantization = _text(row, "quantization", where)
    try:
        deployed = deployment(
            _text(row, "Model Id", where),
            _text(row, "Instance", where),
            _whole(row, "Tensor parallelism degree", where),
            None if quantization == "none" else quantization,
        )
    except InvalidValueError as error:
        raise ResultsError(f"{where}: {error}") from error
    users, tokens = _whole(row, "Virtual Users", where), _whole(row, "generated_tokens per request", where)
    figures = {figure: _distribution(row, figure, requests, where) for figure in FIGURES}
    return Cell(
        deployment=deployed,
        users=users,
        requests=requests,
        tokens=tokens,
        throughput_tps=_throughput(row, users * tokens, figures["server_total_s"].mean, where),
        figures=figures,
    )


def _throughput(row: Mapping[str, Any], tokens: int, mean_s: float | None, where: str) -> float:
    """The stated tokens/s, when it is what the study's scripts compute."""
    stated_tps = _number(row, _THROUGHPUT, where)
    if not mean_s or abs(stated_tps * mean_s - tokens) > _ROUNDING * tokens:
        raise ResultsError(
            f"{where}: {_THROUGHPUT!r} is {stated_tps:g}, which is not users x tokens / mean request time ({tokens} / {mean_s:g} s), as "
            "the study's scripts compute it: one of these figures was changed"
        )
    return stated_tps


def _distribution(row: Mapping[str, Any], figure: str, count: int, where: str) -> Distribution:
    columns = {name: f"{_HEADINGS[figure]} {word}" for name, word in _WORDS.items()}
    values_ms = {name: _number(row, column, where) for name, column in columns.items()}
    for lower, upper in itertools.pairwise(_ASCENDING):
        if values_ms[lower] > values_ms[upper]:
            raise ResultsError(f"{where}: {columns[lower]!r} exceeds {columns[upper]!r}")
    if not values_ms["min"] * (1 - _ROUNDING) <= values_ms["mean"] <= values_ms["max"] * (1 + _ROUNDING):
        raise ResultsError(f"{where}: {columns['mean']!r} is not between {columns['min']!r} and {columns['max']!r}")
    return distribution(count, {name: value_ms / 1000 for name, value_ms in values_ms.items()})


def _field(row: Mapping[str, Any], column: str, where: str) -> Any:
    value = row.get(column)
    if value is None:
        raise ResultsError(f"{where} has no {column!r}: the study's scripts write 34 figures under fixed names")
    return value


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    return str(_field(row, column, where)).strip()


def _number(row: Mapping[str, Any], column: str, where: str) -> float:
    given = _field(row, column, where)
    try:
        value = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ResultsError(f"{where}: {column!r} must be a number of at least 0, got {given!r}")
    return value


def _whole(row: Mapping[str, Any], column: str, where: str) -> int:
    value = _number(row, column, where)
    if value < 1 or value != int(value):
        raise ResultsError(f"{where}: {column!r} must be a whole number of at least 1, got {row[column]!r}")
    return int(value)
