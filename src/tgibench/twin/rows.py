"""Another laboratory's plain rows as measurements, so that they can be fitted to, calibrated with, priced and compared."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TYPE_CHECKING

import attrs

from tgibench.errors import InvalidValueError
from tgibench.measurements import Measurement
from tgibench.metrics import Metrics
from tgibench.provenance import Provenance, Source
from tgibench.stats import Distribution, Estimate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tgibench.deployments import Deployment
    from tgibench.loads import LoadProfile
    from tgibench.requests import PromptSource

__all__ = ["measurement_of_row"]


def measurement_of_row(
    deployment: Deployment,
    load: LoadProfile,
    prompts: PromptSource,
    *,
    tpot_s: float | None = None,
    server_time_per_token_s: float | None = None,
    ttft_s: float | None = None,
    output_throughput_tps: float | None = None,
    latency_p90_s: float | None = None,
    requests: int | None = None,
    source: Source = Source.PUBLISHED,
    facts: Mapping[str, str] | None = None,
) -> Measurement:
    """A measurement from a row of somebody's table; what the row does not tell is None.

    Args:
        deployment: What was deployed.
        load: How it was loaded.
        prompts: What the requests said; lengths are enough (`PromptLengths`).
        tpot_s: Median time per output token after the first, as clients saw it.
        server_time_per_token_s: Median of the server's inference time by tokens.
        ttft_s: Median time to the first token.
        output_throughput_tps: Counted output tokens per second.
        latency_p90_s: 90th percentile of latency. At one user it tells a fit what a prompt's length costs.
        requests: How many succeeded.
        source: How the figures were come by.
        facts: Where the row is from.

    Raises:
        InvalidValueError: No figure is given, or one is no finite number above 0, or `requests` no whole number of at least 1.
    """
    medians = {
        "tpot_s": _figure("tpot_s", tpot_s),
        "server_time_per_token_s": _figure("server_time_per_token_s", server_time_per_token_s),
        "ttft_s": _figure("ttft_s", ttft_s),
    }
    throughput_tps = _figure("output_throughput_tps", output_throughput_tps)
    long_s = _figure("latency_p90_s", latency_p90_s)
    succeeded = _count("requests", requests)
    if throughput_tps is None and all(value is None for value in medians.values()):
        raise InvalidValueError(
            f"the row of {deployment.label}, {load.label} gives no figure: no time and no throughput"
        )
    unknown = dict.fromkeys(field.name for field in attrs.fields(Metrics))
    known = {
        name: Distribution(count=succeeded or 1, p50=value) for name, value in medians.items() if value is not None
    }
    if long_s is not None:
        known["latency_s"] = Distribution(count=succeeded or 1, p90=long_s)
    counts = {} if succeeded is None else {"succeeded": succeeded}
    rate = None if throughput_tps is None else Estimate(throughput_tps)
    maps = {"counts": counts, "failures": {}, "tokens_from": {}, "extra": {}}
    return Measurement(
        deployment=deployment,
        load=load,
        prompts=prompts.identity,
        metrics=Metrics(**{**unknown, **known, **maps, "output_throughput_tps": rate}),  # type: ignore[arg-type]  # names are checked by attrs
        source=source,
        provenance=Provenance(backend="rows", facts=facts or {}),
    )


def _figure(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value <= 0:
        raise InvalidValueError(
            f"{name} must be a finite number above 0, got {value!r}; leave it out where it is not known"
        )
    return float(value)


def _count(name: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InvalidValueError(
            f"{name} must be a whole number of at least 1, got {value!r}; leave it out where it is not known"
        )
    return int(value)
