"""The 2023 study's own files, which stand beside a working copy of this repository but are no part of it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
ORIGINAL = SHARED / "llama2_sagemaker_2023_original.csv"
PROMPT_LENGTHS = SHARED / "study_prompt_lengths.csv"

beside_the_repository = pytest.mark.skipif(
    not ORIGINAL.exists(), reason=f"the study's own files are not at {SHARED}: a few of their rows are tested literally"
)


def original_rows():
    """The 60 rows of the study's CSV, as text."""
    with ORIGINAL.open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))
