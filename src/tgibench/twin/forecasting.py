"""Predictions as measurements: each figure PREDICTED, with the interval that the model's errors give it."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.measurements import Measurement
from tgibench.metrics import Metrics
from tgibench.provenance import Provenance, Source
from tgibench.stats import Distribution, Estimate
from tgibench.twin.asking import asked, most_running
from tgibench.twin.limits import limits_met, refuse_what_never_fits, where_closed_form_is_rough
from tgibench.twin.performance import Remainder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tgibench.stats import Interval
    from tgibench.twin.asking import Question
    from tgibench.twin.performance import PerformanceModel, Spread
    from tgibench.twin.step_time import ModelledTimes

__all__ = [
    "FIRST_TOKEN_DEVIATION",
    "as_predicted",
    "closed_form_measurements",
    "interval_of",
    "published_throughput_tps",
    "to_the_middle",
    "with_model_intervals",
    "with_remainder",
]

FIRST_TOKEN_DEVIATION = 0.3
"""Of the logarithm of times to first token and waits, which the 2023 study does not tell: a cautious figure, not a fitted one."""

_Z = 1.96
_SHORTEST_ANSWER = 10.0  # below, times per token are off by factors
_AWAY = frozenset({"output_tokens", "input_tokens"})
_FIRST_TOKEN = frozenset({"ttft_s", "queue_s"})
_SHOWN = "littles_law_throughput_tps"
_RATES = frozenset({"output_throughput_tps", "request_throughput_rps", "goodput_rps", "requests", _SHOWN})
_TIMES_PER_TOKEN = frozenset({"server_time_per_token_s", "time_per_token_s", "tpot_s", "icl_s", "normalized_latency_s"})
_LATENCIES = frozenset({"latency_s", "long_latency_s"})


def interval_of(value: float, deviation: float) -> Interval:
    """95 % of measurements, when the logarithm of measured / predicted has that standard deviation."""
    factor = math.exp(_Z * deviation)
    return value / factor, value * factor


def published_throughput_tps(users: float, longest_output: float, latency_s: float) -> float:
    """Tokens per second as the 2023 study computed them: users · asked tokens / mean time on the server."""
    return users * longest_output / latency_s


def closed_form_measurements(
    questions: Sequence[Question], model: PerformanceModel, *, prompts: str, seed: int
) -> list[Measurement]:
    """Answer questions by the closed form, all at once.

    Args:
        questions: The cells.
        model: What to compute from.
        prompts: The prompt source's identity.
        seed: Of the prompts.

    Raises:
        DeployError: A model or machine is unknown, or something does not fit.
    """
    if not questions:
        return []
    batch = asked(questions, model)
    for question, times in zip(questions, batch.times, strict=True):
        refuse_what_never_fits(question.deployment, question.prompts, model.policy(question.deployment, times))
    answer = batch.forecast()
    columns = {field.name: getattr(answer, field.name).tolist() for field in attrs.fields(type(answer))}
    measurements = []
    for place, (question, times) in enumerate(zip(questions, batch.times, strict=True)):
        figures = {name: values[place] for name, values in columns.items()}
        remainder = model.remainder(question.deployment, question.users)
        figures = {name: value * _multiple(name, remainder) for name, value in figures.items()}
        rough = tuple(where_closed_form_is_rough(question, model.policy(question.deployment, times)))
        extrapolated = bool(rough or model.beyond(question.deployment, times, question.users))
        measurements.append(
            as_predicted(
                question,
                _metrics(question, figures, model.spread_of(question.deployment, extrapolated=extrapolated)),
                times,
                model,
                prompts=prompts,
                seed=seed,
                method="closed-form",
                users=question.users,
                further_warnings=rough,
            )
        )
    return measurements


def as_predicted(
    question: Question,
    metrics: Metrics,
    times: ModelledTimes,
    model: PerformanceModel,
    *,
    prompts: str,
    seed: int,
    method: str,
    users: float,
    further_warnings: Iterable[str] = (),
) -> Measurement:
    """A predicted measurement: what it was computed from stands in its provenance, what to beware of in its warnings.

    Args:
        question: The cell.
        metrics: What is predicted of it.
        times: The deployment's step times.
        model: What they were computed from.
        prompts: The prompt source's identity.
        seed: Of the prompts.
        method: How it was predicted.
        users: Requests in flight on a replica that has any, at most or on average.
        further_warnings: Beside those of limits that are met and of a fit that is left.
    """
    deployment = question.deployment
    policy = model.policy(deployment, times)
    room = most_running(question, policy.max_batch_total_tokens)
    warnings = [*model.beyond(deployment, times, users), *limits_met(question, policy, users, room), *further_warnings]
    return Measurement(
        deployment=deployment,
        load=question.load,
        prompts=prompts,
        metrics=metrics,
        source=Source.PREDICTED,
        provenance=Provenance(
            backend="predicted",
            seed=seed,
            facts={
                "method": method,
                "engine": times.profile.name,
                "gpu": times.instance.gpu.name,
                "weights_gb": f"{times.weight_bytes / 1e9:.1f}",
                "cache_tokens": str(times.cache_tokens),
                "requests_at_once": f"{room:.0f}",
                "decode_factor": f"{times.decode_factor:.4f}",
                "prefill_factor": f"{times.prefill_factor:.4f}",
            },
        ),
        warnings=tuple(warnings),
    )


def with_remainder(metrics: Metrics, remainder: Remainder) -> Metrics:
    """Simulated metrics multiplied by what a calibration says beyond its factors."""
    changes: dict[str, Any] = {}
    for name in (*_TIMES_PER_TOKEN, *_LATENCIES, *_RATES):
        figure, multiple = getattr(metrics, name, None), _multiple(name, remainder)
        if isinstance(figure, Distribution):
            known = {each: getattr(figure, each) for each in ("mean", "min", "max", "p50", "p90", "p95", "p99")}
            moved: dict[str, Any] = {
                each: value if value is None else value * multiple for each, value in known.items()
            }
            changes[name] = attrs.evolve(figure, **moved)
        elif isinstance(figure, Estimate):
            changes[name] = attrs.evolve(figure, value=figure.value * multiple)
        elif name == _SHOWN and figure is not None:
            changes[name] = figure * multiple
    return attrs.evolve(metrics, **changes)


def to_the_middle(predicted: Sequence[Metrics]) -> Metrics:
    """The first of several predictions of one cell, moved to the geometric mean of all in its time per token and its throughput.

    A figure that one of them lacks stays the first's.
    """
    times = [_time_per_token_s(metrics) for metrics in predicted]
    throughputs = [_throughput_tps(metrics) for metrics in predicted]
    return with_remainder(predicted[0], Remainder(time=_to_their_mean(times), throughput=_to_their_mean(throughputs)))


def _time_per_token_s(metrics: Metrics) -> float | None:
    figure = metrics.server_time_per_token_s
    return None if figure is None else figure.p50


def _throughput_tps(metrics: Metrics) -> float | None:
    """From users and the mean time on the server where that is known, which the end of a short run leaves alone; else counted."""
    counted = metrics.output_throughput_tps
    return metrics.littles_law_throughput_tps or (None if counted is None else counted.value)


def _to_their_mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value]
    return math.exp(statistics.fmean(map(math.log, known))) / known[0] if len(known) == len(values) else 1.0


def _multiple(name: str, remainder: Remainder) -> float:
    """Of a figure of `Metrics` or of the closed form's answer."""
    if name in _TIMES_PER_TOKEN:
        return remainder.time
    if name in _LATENCIES:
        return 1 / remainder.throughput
    return remainder.throughput if name in _RATES else 1.0


def with_model_intervals(metrics: Metrics, spread: Spread) -> Metrics:
    """Simulated metrics with the model's intervals in place of those of a sample that can be made as large as one likes."""
    changes: dict[str, Any] = {}
    for field in attrs.fields(Metrics):
        figure = getattr(metrics, field.name)
        if isinstance(figure, Distribution) and field.name not in _AWAY:
            deviation = FIRST_TOKEN_DEVIATION if field.name in _FIRST_TOKEN else _deviation(field.name, spread)
            changes[field.name] = _spread(figure, deviation)
        elif isinstance(figure, Estimate) and field.name in _RATES:
            changes[field.name] = attrs.evolve(figure, interval=interval_of(figure.value, spread.throughput))
    return attrs.evolve(metrics, **changes)


def _deviation(name: str, spread: Spread) -> float:
    return spread.throughput if name == "latency_s" else spread.time_per_token


def _spread(figure: Distribution, deviation: float) -> Distribution:
    known = {name: getattr(figure, name) for name in ("mean", "p50", "p90", "p95", "p99")}
    intervals = {name: None if value is None else interval_of(value, deviation) for name, value in known.items()}
    return attrs.evolve(figure, intervals=intervals)


def _metrics(question: Question, figures: dict[str, float], spread: Spread) -> Metrics:
    replicas, users = question.busy_replicas, question.users
    output, longest = question.prompts.output_tokens, question.prompts.longest_output
    requests = max(1, round(figures["requests"] * replicas))
    latency_s = figures["latency_s"] + question.round_trip_s
    tpot_s, ttft_s = figures["tpot_s"], figures["ttft_s"]
    told = users <= 1 or longest >= _SHORTEST_ANSWER

    def of(deviation: float, *, mean: float | None = None, p50: float | None = None) -> Distribution:
        return _spread(Distribution(count=requests, mean=mean, p50=p50), deviation)

    def rate(value: float) -> Estimate:
        return Estimate(value, interval_of(value, spread.throughput))

    return Metrics(
        counts={"issued": requests, "succeeded": requests, "failed": 0, "unsent": 0},
        failures={},
        window=None,
        latency_s=of(spread.throughput, mean=latency_s),
        ttft_s=of(FIRST_TOKEN_DEVIATION, p50=ttft_s),
        tpot_s=of(spread.time_per_token, p50=tpot_s) if told and longest > 1 else None,
        icl_s=None,
        normalized_latency_s=of(spread.time_per_token, p50=(ttft_s + tpot_s * (longest - 1)) / longest)
        if told
        else None,
        server_time_per_token_s=of(spread.time_per_token, p50=figures["time_per_token_s"]) if told else None,
        queue_s=of(FIRST_TOKEN_DEVIATION, mean=figures["queue_s"]),
        schedule_delay_s=None,
        connect_s=None,
        largest_gap_s=None,
        input_tokens=Distribution(
            count=requests, mean=float(question.prompts.means[min(requests, len(question.prompts.means)) - 1])
        ),
        output_tokens=Distribution(count=requests, mean=output),
        stall_ratio=None,
        output_throughput_tps=rate(replicas * users * output / latency_s),
        request_throughput_rps=rate(replicas * users / latency_s),
        goodput_rps=None,
        littles_law_throughput_tps=published_throughput_tps(users * replicas, longest, figures["latency_s"]),
        tokens_from={},
        extra={},
    )
