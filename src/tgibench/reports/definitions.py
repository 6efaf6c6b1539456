"""What each figure of a report means: the formulas of docs/terms.md, for pages that must stand alone."""

from __future__ import annotations

from tgibench.provenance import Source

__all__ = ["FORMULAS", "SOURCES"]

FORMULAS = {
    "latency_s": "planned start (open loop) or send (closed loop) → last byte",
    "ttft_s": "send → first non-empty token's bytes; streams only",
    "tpot_s": (
        "(last \N{MINUS SIGN} first chunk) / (output tokens \N{MINUS SIGN} tokens of the first chunk), per request; "
        "with one token a chunk, / (output tokens \N{MINUS SIGN} 1)"
    ),
    "icl_s": "gaps between successive chunks as they arrive, pooled over requests",
    "normalized_latency_s": "latency / output tokens",
    "output_throughput_tps": "output tokens of successes received inside the window / window length",
    "request_throughput_rps": "requests that succeeded inside the window / window length",
    "littles_law_throughput_tps": (
        "concurrency · mean output tokens / mean latency: only to compare with the 2023 figures, which were computed so"
    ),
}
"""By field name, word for word as in docs/terms.md (a test compares them)."""

SOURCES = {
    Source.MEASURED: "timed by tgibench on a server that really ran",
    Source.EMULATED: "timed by tgibench on its emulated server: not a measurement of any real machine",
    Source.PREDICTED: "computed by a performance model: nothing ran",
    Source.PUBLISHED: "taken from a publication: measured by somebody else, in their own way",
}
