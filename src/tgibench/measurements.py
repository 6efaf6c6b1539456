"""A `Measurement` binds what was deployed and how it was loaded to what came out; a `Study` is many of them."""

from __future__ import annotations

import hashlib
import json
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import attrs

from tgibench.formatting import MISSING, estimate, html_table, quantile_ms
from tgibench.provenance import Source
from tgibench.stats import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tgibench.client_limits import ClientInfluence
    from tgibench.deployments import Deployment
    from tgibench.loads import LoadProfile
    from tgibench.metrics import SLO, Metrics
    from tgibench.provenance import Provenance

__all__ = ["DeploymentFailure", "Measurement", "Study", "cell_key", "describe_load"]

_MOST_SHOWN = 100


def describe_load(load: LoadProfile) -> dict[str, object]:
    """A load profile as plain JSON values: its class's name and its fields; of a profile that is no attrs class, its repr."""
    name, kind = type(load).__name__, type(load)
    if not attrs.has(kind):
        return {"type": name, "label": load.label, "repr": repr(load)}
    return {"type": name, **attrs.asdict(cast("attrs.AttrsInstance", load), value_serializer=_nested_load)}


def _nested_load(instance: object, attribute: attrs.Attribute[object] | None, value: object) -> object:
    if attribute is not None and attribute.name == "profiles" and isinstance(value, tuple):
        return [describe_load(profile) for profile in value]
    del instance
    return value


def cell_key(
    deployment: Deployment,
    load: LoadProfile,
    *,
    prompts: str,
    seed: int | None,
    backend: str,
    timeouts: Mapping[str, float] | None = None,
    slo: SLO | None = None,
) -> str:
    """A hash of what is measured: 16 hex digits, equal for equal cells on every machine.

    Args:
        deployment: What is deployed.
        load: How it is loaded.
        prompts: The `identity` of the prompt source.
        seed: Of arrivals and prompts.
        backend: The backend's `identity`, or its name where it has none.
        timeouts: Those limits of each request that are not the defaults.
        slo: What goodput counts by.
    """
    cell: dict[str, object] = {
        "deployment": deployment.described(),
        "load": describe_load(load),
        "prompts": prompts,
        "seed": seed,
        "backend": backend,
    }
    if timeouts:
        cell["timeouts"] = {name: float(limit_s) for name, limit_s in timeouts.items()}
    if slo is not None:
        cell["slo"] = {name: float(limit_s) for name, limit_s in attrs.asdict(slo).items() if limit_s is not None}
    return hashlib.sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()[:16]


def _frozen_limits(limits: Mapping[str, float]) -> Mapping[str, float]:
    return MappingProxyType(dict(limits))


@attrs.frozen(kw_only=True)
class Measurement:
    """One cell of a study: a deployment under a load.

    Args:
        deployment: What was deployed.
        load: How it was loaded.
        prompts: The `identity` of the prompt source.
        metrics: What came out.
        source: How the numbers were come by.
        provenance: What one must know to judge or repeat the run.
        timeouts: Those limits of each request, in seconds, that were not the defaults, by their names in `tgibench.Timeouts`.
        slo: What its goodput counts by; None where none was given, and of older results.
        warnings: What a reader must be warned of, in plain sentences (see `tgibench.checks`).
        client: What the client itself may have done to the figures; None where nothing was measured, and of older results.
        partial: Whether its load stopped before its end, cut off by a budget or given up after failures in a row: the figures are of the
            part that was measured, and a sweep that finds such a cell in its store measures it again.
    """

    deployment: Deployment
    load: LoadProfile
    prompts: str
    metrics: Metrics
    source: Source
    provenance: Provenance
    timeouts: Mapping[str, float] = attrs.field(factory=dict, converter=_frozen_limits, hash=False)
    slo: SLO | None = None
    warnings: tuple[str, ...] = ()
    client: ClientInfluence | None = None
    partial: bool = False

    @property
    def key(self) -> str:
        """A hash of what was measured: deployment, load, prompts, seed, backend, timeouts and SLO. Equal keys are the same cell."""
        return cell_key(
            self.deployment,
            self.load,
            prompts=self.prompts,
            seed=self.provenance.seed,
            backend=self.provenance.backend_identity or self.provenance.backend,
            timeouts=self.timeouts,
            slo=self.slo,
        )

    @property
    def throughput_tps(self) -> Estimate | None:
        """Output tokens per second, for costs and decisions: the counted `output_throughput_tps`.

        A PUBLISHED measurement that counted none has its `littles_law_throughput_tps` instead, without an interval.
        """
        counted, derived = self.metrics.output_throughput_tps, self.metrics.littles_law_throughput_tps
        if counted is not None or derived is None or self.source is not Source.PUBLISHED:
            return counted
        return Estimate(derived)


@attrs.frozen
class DeploymentFailure:
    """A deployment, or one of its loads, that could not be measured.

    Args:
        deployment: Which.
        message: Why, in one sentence.
        load: The label of the load under which it failed; None when it could not be deployed.
    """

    deployment: Deployment
    message: str
    load: str | None = None


@attrs.frozen
class Study:
    """What a sweep measured.

    Args:
        measurements: The cells that were finished, and what there is of those that stopped early, in the order of the sweep.
        failures: What could not be measured, and why; in that order too.
        interrupted: Whether the sweep was stopped before its end.
    """

    measurements: tuple[Measurement, ...]
    failures: tuple[DeploymentFailure, ...] = ()
    interrupted: bool = False

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self.measurements)

    def __len__(self) -> int:
        return len(self.measurements)

    def _repr_html_(self) -> str:
        """A plain table for notebooks, of at most 100 measurements."""
        shown = self.measurements[:_MOST_SHOWN]
        left = len(self) - len(shown)
        rows = ([*_names(cell), *_figures(cell), cell.source.value] for cell in shown)
        return html_table(
            (
                "deployment",
                "load",
                "TTFT p50 (ms)",
                "TPOT p50 (ms)",
                "latency p50 (ms)",
                "tokens/s",
                "ok",
                "failed",
                "source",
            ),
            rows,
            caption=f"{len(self)} measurements; ± is half of the 95 % interval"
            + (f"; {left} more are not shown" if left else ""),
        )


def _names(cell: Measurement) -> tuple[str, str]:
    return cell.deployment.label, cell.load.label


def _figures(cell: Measurement) -> tuple[str, ...]:
    metrics, counts = cell.metrics, cell.metrics.counts
    return (
        quantile_ms(metrics.ttft_s, "p50"),
        quantile_ms(metrics.tpot_s, "p50"),
        quantile_ms(metrics.latency_s, "p50"),
        estimate(cell.throughput_tps),
        str(counts.get("succeeded", MISSING)),
        str(counts.get("failed", MISSING)),
    )
