"""Measurements whose every figure is known by hand."""

from __future__ import annotations

import attrs

import tgibench as tb

NOTHING = dict.fromkeys(field.name for field in attrs.fields(tb.Metrics))
COUNTS = {"issued": 0, "succeeded": 0, "failed": 0, "unsent": 0}


def metrics(**figures):
    """Metrics that hold nothing but these figures."""
    return tb.Metrics(**{**NOTHING, "counts": COUNTS, "failures": {}, "tokens_from": {}, "extra": {}, **figures})


def measurement(figures, *, source=tb.Source.MEASURED, instance_type="ml.g5.2xlarge", replicas=1, **provenance):
    """A cell with the given metrics."""
    return tb.Measurement(
        deployment=tb.Deployment("meta-llama/Llama-2-7b-hf", instance_type, replicas=replicas),
        load=tb.ClosedLoop(5, duration_s=90),
        prompts="hand-made",
        metrics=figures,
        source=source,
        provenance=tb.Provenance(**{"backend": "hand", **provenance}),
    )
