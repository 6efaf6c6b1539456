"""One row of the study, however it was stored, and the Measurement it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from tgibench.deployments import Deployment
from tgibench.loads import ClosedLoop
from tgibench.measurements import Measurement
from tgibench.metrics import Metrics
from tgibench.provenance import Provenance, Source
from tgibench.stats import Distribution, samples_needed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["FIGURES", "STATISTICS", "Cell", "deployment", "distribution", "own_column"]

FIGURES = ("server_time_per_token_s", "server_total_s", "server_inference_s", "queue_s")
STATISTICS = ("mean", "min", "p50", "p90", "p95", "max")

_DURATION_S = 90
_LOGGED_SHARE = 0.9


def own_column(figure: str, statistic: str) -> str:
    """The name of a column in the package's own table."""
    return f"{figure.removesuffix('_s')}_{statistic}_s"


def deployment(model_id: str, instance_type: str, tensor_parallel: int, quantization: str | None) -> Deployment:
    """A deployment with the token limits that the study's benchmark.py set."""
    return Deployment(
        model_id,
        instance_type,
        tensor_parallel=tensor_parallel,
        quantization=quantization,
        max_input_tokens=1024,
        max_total_tokens=2048,
    )


def distribution(count: int, figures: Mapping[str, float]) -> Distribution:
    """A distribution from a figure for each of `STATISTICS`, in seconds; its quantiles are pandas', which interpolate as ours do."""
    known: dict[str, Any] = {name: figures[name] for name in STATISTICS}
    return Distribution(count=count, **known)


@attrs.frozen(kw_only=True)
class Cell:
    """What was deployed, with how many users, and the figures in seconds.

    Args:
        deployment: Without the server's version.
        users: Requests in flight.
        requests: Requests that the server logged.
        tokens: New tokens asked for, at most, of each request.
        throughput_tps: What the study called throughput: users · tokens / mean of the server's total time.
        figures: A distribution for each of `FIGURES`, with a figure for each of `STATISTICS`.
    """

    deployment: Deployment
    users: int
    requests: int
    tokens: int
    throughput_tps: float
    figures: Mapping[str, Distribution]

    def measurement(
        self,
        *,
        server_version: str | None,
        prompts: str,
        facts: Mapping[str, str],
        known_faults: Iterable[str] = (),
    ) -> Measurement:
        """The row as a measurement; what the study did not publish is None, or absent from the counts."""
        unknown: dict[str, Any] = dict.fromkeys(field.name for field in attrs.fields(Metrics))
        known: dict[str, Any] = {
            "counts": {"succeeded": self.requests},
            "failures": {},
            "tokens_from": {},
            "server_time_per_token_s": self.figures["server_time_per_token_s"],
            "queue_s": self.figures["queue_s"],
            "littles_law_throughput_tps": self.throughput_tps,
            "extra": {name: self.figures[name] for name in ("server_total_s", "server_inference_s")},
        }
        version = {"version": server_version} if server_version else {}
        return Measurement(
            deployment=attrs.evolve(self.deployment, server_version=server_version),
            load=ClosedLoop(self.users, duration_s=_DURATION_S),
            prompts=prompts,
            metrics=Metrics(**{**unknown, **known}),
            source=Source.PUBLISHED,
            provenance=Provenance(backend="sagemaker", facts={"server": "tgi", **version, **facts}),
            warnings=(*known_faults, *self._warnings()),
        )

    def _warnings(self) -> Iterator[str]:
        logged_tps = self.requests * self.tokens / _DURATION_S
        if logged_tps < _LOGGED_SHARE * self.throughput_tps:
            yield (
                f"the {self.requests} requests that the server logged come to {logged_tps:.0f} tokens/s over {_DURATION_S} s, not "
                f"to {self.throughput_tps:.0f}: others failed or were not logged, or there were no more prompts to send"
            )
        if self.requests < samples_needed(0.95):
            yield f"{self.requests} requests are too few for an interval of p95"
        yield (
            f"tokens/s were derived, not counted: users x {self.tokens} / mean of the server's total time, as if every answer had "
            f"{self.tokens} tokens"
        )
        yield "times are those of the server's log: network and gateway are not in them, and failures are not known"
