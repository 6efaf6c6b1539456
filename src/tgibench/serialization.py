"""Measurements as plain JSON values and back: the field names are the format."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs

from tgibench import arrivals, loads
from tgibench.client_health import ClientHealth, StampSource
from tgibench.client_limits import ClientInfluence
from tgibench.deployments import Deployment
from tgibench.errors import InvalidValueError
from tgibench.measurements import Measurement, describe_load
from tgibench.metrics import SLO, Metrics
from tgibench.provenance import Provenance, Source
from tgibench.records import FailureKind, Window
from tgibench.stats import Distribution, Estimate
from tgibench.timelines import Timeline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tgibench.loads import LoadProfile, Phase

__all__ = [
    "RecordedLoad",
    "deployment_from_json",
    "figure_from_json",
    "figure_to_json",
    "health_from_json",
    "health_to_json",
    "measurement_from_json",
    "measurement_to_json",
]

_LOADS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        loads.ClosedLoop,
        loads.Stages,
        arrivals.ConstantArrivals,
        arrivals.PoissonArrivals,
        arrivals.GammaArrivals,
        arrivals.Ramp,
        arrivals.Replay,
    )
}

_YOUNGER = (
    "backend_identity",
    "first_token_after_ready_s",
    "startup_usd",
    "startup_price",
)  # than the results of format version 1


@attrs.frozen
class RecordedLoad:
    """A load profile of somebody else's, or one refused today, read back from results: its description, which cannot be run again.

    Args:
        label: Its label.
        description: What was stored of it.
    """

    label: str
    description: str

    def phases(self, seed: int) -> Iterator[Phase]:
        """Never: it is a description only."""
        del seed
        raise InvalidValueError(f"the load {self.label!r} was read from results and cannot be run: {self.description}")

    def split(self, n: int) -> tuple[LoadProfile, ...]:
        """Never: it is a description only."""
        raise InvalidValueError(f"the load {self.label!r} was read from results and cannot be split into {n}")


def measurement_to_json(measurement: Measurement) -> dict[str, Any]:
    """A measurement as JSON values."""
    provenance = measurement.provenance
    return {
        "deployment": measurement.deployment.described(),
        "load": {**describe_load(measurement.load), "label": measurement.load.label},
        "prompts": measurement.prompts,
        "timeouts": dict(measurement.timeouts),
        "slo": attrs.asdict(measurement.slo) if measurement.slo else None,
        "source": measurement.source.value,
        "provenance": {
            "backend": provenance.backend,
            "backend_identity": provenance.backend_identity,
            "began_at": provenance.began_at.isoformat() if provenance.began_at else None,
            "ended_at": provenance.ended_at.isoformat() if provenance.ended_at else None,
            "seed": provenance.seed,
            "ready_after_s": provenance.ready_after_s,
            "first_token_after_ready_s": provenance.first_token_after_ready_s,
            "startup_usd": provenance.startup_usd,
            "startup_price": provenance.startup_price,
            "facts": dict(provenance.facts),
        },
        "warnings": list(measurement.warnings),
        "client": _influence_to_json(measurement.client),
        "partial": measurement.partial,
        "metrics": _metrics_to_json(measurement.metrics),
    }


def measurement_from_json(record: dict[str, Any]) -> Measurement:
    """A measurement from JSON values.

    Raises:
        KeyError, TypeError, ValueError, InvalidValueError: The values are not those of a measurement.
    """
    provenance = record["provenance"]
    return Measurement(
        deployment=deployment_from_json(record["deployment"]),
        load=_load_from_json(record["load"]),
        prompts=record["prompts"],
        timeouts=record.get("timeouts", {}),  # older results do not tell
        slo=SLO(**slo) if (slo := record.get("slo")) is not None else None,
        source=Source(record["source"]),
        provenance=Provenance(
            backend=provenance["backend"],
            began_at=_instant(provenance["began_at"]),
            ended_at=_instant(provenance["ended_at"]),
            seed=provenance["seed"],
            ready_after_s=provenance["ready_after_s"],
            **{name: provenance.get(name) for name in _YOUNGER},
            facts=provenance["facts"],
        ),
        warnings=tuple(record["warnings"]),
        client=_influence_from_json(record.get("client")),  # older results have none
        partial=record.get("partial", False),
        metrics=_metrics_from_json(record["metrics"]),
    )


def deployment_from_json(fields: dict[str, Any]) -> Deployment:
    """A deployment from its fields."""
    return Deployment(**{**fields, "environment": tuple((name, value) for name, value in fields["environment"])})


def health_to_json(health: ClientHealth) -> dict[str, Any]:
    """How a client fared, as JSON values."""
    return {**attrs.asdict(health), "stamps": health.stamps.value}


def health_from_json(fields: dict[str, Any]) -> ClientHealth:
    """How a client fared, from JSON values; what a newer tgibench added is left out."""
    known = {field.name for field in attrs.fields(ClientHealth)}
    figures = {name: value for name, value in fields.items() if name in known}
    return ClientHealth(**{**figures, "stamps": StampSource(fields["stamps"])})


def _influence_to_json(client: ClientInfluence | None) -> dict[str, Any] | None:
    if client is None:
        return None
    return {
        "health": health_to_json(client.health),
        "calibrated": client.calibrated,
        "shares": dict(client.shares),
        "reasons": list(client.reasons),
        "workers": client.workers,
    }


def _influence_from_json(fields: dict[str, Any] | None) -> ClientInfluence | None:
    if fields is None:
        return None
    return ClientInfluence(
        health=health_from_json(fields["health"]),
        calibrated=fields["calibrated"],
        shares=fields["shares"],
        reasons=tuple(fields["reasons"]),
        workers=fields["workers"],
    )


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _load_from_json(record: dict[str, Any]) -> LoadProfile:
    fields = {name: value for name, value in record.items() if name not in {"type", "label"}}
    kind = _LOADS.get(record["type"])
    if kind is None:
        return RecordedLoad(record["label"], str(fields))
    if "profiles" in fields:
        stages = [_load_from_json({"label": "", **profile}) for profile in fields["profiles"]]
        try:
            return loads.Stages(stages)
        except InvalidValueError:  # an older tgibench took no notice of a later stage's warm-up
            return RecordedLoad(record["label"], str(fields))
    if "starts" in fields:
        fields["starts"] = tuple(fields["starts"])
    load: LoadProfile = kind(**{**fields, "part": loads.Part(**fields["part"])})
    return load


def _metrics_to_json(metrics: Metrics) -> dict[str, Any]:
    return {field.name: figure_to_json(getattr(metrics, field.name)) for field in attrs.fields(Metrics)}


def figure_to_json(value: object) -> Any:
    """A figure as JSON values that say which kind it is of; a mapping's one by one, anything else as it is."""
    if isinstance(value, Distribution):
        return {"distribution": attrs.asdict(value)}
    if isinstance(value, Estimate):
        return {"estimate": attrs.asdict(value)}
    if isinstance(value, Window):
        return {"window": attrs.asdict(value)}
    if isinstance(value, Timeline):
        return {"timeline": attrs.asdict(value)}
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(name): figure_to_json(part) for name, part in value.items()}
    return value


def _metrics_from_json(fields: dict[str, Any]) -> Metrics:
    known = {field.name for field in attrs.fields(Metrics)}
    figures = {name: figure_from_json(value) for name, value in fields.items() if name in known}
    figures["failures"] = {FailureKind(kind): number for kind, number in fields["failures"].items()}
    absent = dict.fromkeys(known - figures.keys())  # a metric that is younger than the results
    return Metrics(**{**absent, **figures})


def figure_from_json(value: Any) -> Any:
    """A figure from such values."""
    match value:
        case {"distribution": dict(fields)}:
            intervals = {name: tuple(bounds) if bounds else None for name, bounds in fields["intervals"].items()}
            return Distribution(**{**fields, "intervals": intervals, "batch_means": _batch_means(fields)})
        case {"estimate": dict(fields)}:
            interval = tuple(fields["interval"]) if fields["interval"] else None
            return Estimate(**{**fields, "interval": interval, "batch_means": _batch_means(fields)})
        case {"window": dict(fields)}:
            return Window(**fields)
        case {"timeline": dict(fields)}:
            series = {name: tuple(part) for name, part in fields.items() if isinstance(part, list)}
            return Timeline(**{**fields, **series})
        case dict():
            return {name: figure_from_json(part) for name, part in value.items()}
        case _:
            return value


def _batch_means(fields: dict[str, Any]) -> tuple[float, ...]:
    """Older results have none."""
    return tuple(fields.get("batch_means", ()))
