"""The parameters of a fit: which of the model's figures a set of measurements can tell, and what is held likely of them before."""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from tgibench.errors import InvalidValueError
from tgibench.twin.performance import FittedRange

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from tgibench.twin.performance import PerformanceModel
    from tgibench.twin.step_time import ModelledTimes

    Numbers = NDArray[np.float64]

__all__ = ["PRIORS", "Parameter", "Prior", "fitted_range", "parameters_of", "with_parameters"]


@attrs.frozen
class Prior:
    """What is held likely of a parameter before any measurement: a log-normal distribution.

    Args:
        value: Its median.
        deviation: Standard deviation of its logarithm.
        upper: What it cannot exceed.
    """

    value: float
    deviation: float
    upper: float = float("inf")


# Round figures from what such hardware and engines usually do, and what is physically possible: no efficiency above the share of
# bandwidth (0.95) or arithmetic (1) that the best kernels reach. None of them comes from the rows that they are used with.
PRIORS: Mapping[str, Prior] = MappingProxyType(
    {
        "launch_s_per_layer": Prior(0.4e-3, 0.7),
        "launch_s_per_layer_gptq": Prior(0.5e-3, 0.7),
        "request_s": Prior(0.3e-3, 0.5),
        "step_s": Prior(0.5e-3, 0.7),
        "memory_efficiency": Prior(0.75, 0.15, 0.95),
        "compute_efficiency": Prior(0.65, 0.25, 1.0),
        "gptq_memory_efficiency": Prior(0.65, 0.25, 0.95),
        "gptq_compute_efficiency": Prior(0.5, 0.4, 1.0),
        "tuning_s": Prior(1.0, 0.7),
        "compile_s": Prior(2.5, 0.7),
        "start_up_s": Prior(30e-6, 0.7),
        "link_gb_per_s": Prior(5.0, 1.0),
        "host_factor": Prior(1.0, 0.2),
        "gptq_host_ratio": Prior(1.0, 0.15),
    }
)

_OF_ENGINE = ("launch_s_per_layer", "request_s", "step_s", "memory_efficiency", "compute_efficiency")
_OF_GPTQ = ("launch_s_per_layer_gptq", "gptq_memory_efficiency", "gptq_compute_efficiency")
_OF_TUNING = ("tuning_s", "compile_s")


@attrs.frozen(kw_only=True, eq=False)
class Parameter:
    """One figure to be estimated.

    Args:
        name: Such as ``"memory_efficiency"`` or ``"link_gb_per_s of pcie-8"``.
        rate: The rate that it sets (see `ModelledTimes.rates`).
        cells: In which cells.
        prior: What is held likely.
        of: The link, kind of link or host whose figure it is; None for the engine's.
    """

    name: str
    rate: str
    cells: NDArray[np.bool_]
    prior: Prior
    of: str | None = None


def parameters_of(times: Sequence[ModelledTimes], priors: Mapping[str, Prior], *, cold: bool) -> list[Parameter]:
    """What a set of cells can tell.

    Raises:
        InvalidValueError: The cells are of more than one engine.
    """
    engines = {each.profile.name for each in times}
    if len(engines) > 1:
        raise InvalidValueError(f"fit the rows of one engine at a time, got {', '.join(sorted(engines))}")
    tuned = cold and bool(times[0].profile.tuning_s)
    hosts = Counter(each.instance.host for each in times)
    reference = hosts.most_common(1)[0][0]
    gptq = np.array([each.gptq for each in times])
    everywhere = np.ones(len(times), dtype=bool)
    found = [_named(rate, priors, ~gptq if rate.startswith("launch") else everywhere) for rate in _OF_ENGINE]
    found += [_named(rate, priors, gptq) for rate in (*_OF_GPTQ, *(_OF_TUNING if tuned else ()))]
    found += _each(times, priors, "start_up_s", lambda each: each.instance.link.kind, _fits_link)
    found += _each(times, priors, "link_gb_per_s", lambda each: each.instance.link.name, _fits_link)
    for rate, applies in (
        ("host_factor", lambda each: each.instance.host != reference),
        ("gptq_host_ratio", lambda each: each.instance.host != reference and each.gptq),
    ):
        found += _each(times, priors, rate, lambda each: each.instance.host, applies)
    return [parameter for parameter in found if parameter.cells.any()]


def _named(rate: str, priors: Mapping[str, Prior], cells: NDArray[np.bool_]) -> Parameter:
    return Parameter(name=rate, rate=rate, cells=cells, prior=priors[rate])


def _each(
    times: Sequence[ModelledTimes],
    priors: Mapping[str, Prior],
    rate: str,
    group: Callable[[ModelledTimes], str],
    applies: Callable[[ModelledTimes], bool],
) -> list[Parameter]:
    """A parameter for each group of the cells that it applies to."""
    groups = sorted({group(each) for each in times if applies(each)})
    return [
        Parameter(
            name=f"{rate} of {name}",
            rate=rate,
            cells=np.array([applies(each) and group(each) == name for each in times]),
            prior=priors[rate],
            of=name,
        )
        for name in groups
    ]


def _fits_link(times: ModelledTimes) -> bool:
    return times.tensor_parallel > 1 and not times.instance.link.known


def with_parameters(
    model: PerformanceModel,
    times: Sequence[ModelledTimes],
    values: Mapping[str, float],
    parameters: Sequence[Parameter],
) -> PerformanceModel:
    """The model with the values that a fit found, in its engine and in every machine that they concern."""
    rates: dict[str, Any] = {parameter.rate: values[parameter.name] for parameter in parameters if parameter.of is None}
    profile = attrs.evolve(times[0].profile, source=f"fitted to {len(times)} measurements", **rates)
    instances = {}
    for name, instance in model.instances.items():
        link = instance.link
        found: dict[str, Any] = {
            "start_up_s": values.get(f"start_up_s of {link.kind}", link.start_up_s),
            "bandwidth_gb_per_s": values.get(f"link_gb_per_s of {link.name}", link.bandwidth_gb_per_s),
        }
        host: dict[str, Any] = {
            "host_factor": values.get(f"host_factor of {instance.host}", instance.host_factor),
            "gptq_host_ratio": values.get(f"gptq_host_ratio of {instance.host}", instance.gptq_host_ratio),
        }
        instances[name] = attrs.evolve(instance, link=link if link.known else attrs.evolve(link, **found), **host)
    if model.engine is not None:
        return attrs.evolve(model, engine=profile, instances=instances)
    return attrs.evolve(model, engines={**model.engines, profile.name: profile}, instances=instances)


def fitted_range(times: Sequence[ModelledTimes], users: Numbers) -> FittedRange:
    """What a set of cells covers."""
    return FittedRange(
        gpus=frozenset(each.instance.gpu.name for each in times),
        links=frozenset(each.instance.link.name for each in times if each.tensor_parallel > 1),
        hosts=frozenset(each.instance.host for each in times),
        engines=frozenset(each.profile.name for each in times),
        quantizations=frozenset("gptq" if each.gptq else "fp16" for each in times),
        users=(float(users.min()), float(users.max())),
        rows=len(times),
    )
