"""Another laboratory's plain rows as measurements, so that they can be fitted to, calibrated with, priced and compared."""

from __future__ import annotations

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
        InvalidValueError: No figure is given.
    """
    given = {"tpot_s": tpot_s, "server_time_per_token_s": server_time_per_token_s, "ttft_s": ttft_s}
    if output_throughput_tps is None and all(value is None for value in given.values()):
        raise InvalidValueError(
            f"the row of {deployment.label}, {load.label} gives no figure: no time and no throughput"
        )
    unknown = dict.fromkeys(field.name for field in attrs.fields(Metrics))
    known = {name: Distribution(count=requests or 1, p50=value) for name, value in given.items() if value is not None}
    if latency_p90_s is not None:
        known["latency_s"] = Distribution(count=requests or 1, p90=latency_p90_s)
    counts = {} if requests is None else {"succeeded": requests}
    rate = None if output_throughput_tps is None else Estimate(output_throughput_tps)
    maps = {"counts": counts, "failures": {}, "tokens_from": {}, "extra": {}}
    return Measurement(
        deployment=deployment,
        load=load,
        prompts=prompts.identity,
        metrics=Metrics(**{**unknown, **known, **maps, "output_throughput_tps": rate}),  # type: ignore[arg-type]  # names are checked by attrs
        source=source,
        provenance=Provenance(backend="rows", facts=facts or {}),
    )
