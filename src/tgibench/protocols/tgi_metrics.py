"""A server's `/metrics` page (Prometheus' text form) as numbers."""

from __future__ import annotations

import re

__all__ = ["read_metrics"]

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(\{[^}]*\})?\s+(\S+)")


def read_metrics(page: str) -> dict[str, float]:
    """Every sample by its name; one with labels by name and labels as they stand, ``'tgi_request_failure{err="overloaded"}'``.

    Lines that are no sample are passed over: a page that is none of Prometheus' has no numbers.
    """
    samples: dict[str, float] = {}
    for line in page.splitlines():
        match = _SAMPLE.match(line)
        if match:
            name, labels, text = match.groups()
            try:
                samples[name + (labels or "")] = float(text)
            except ValueError:
                continue
    return samples
