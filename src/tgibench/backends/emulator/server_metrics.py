"""The numbers of `/metrics`, in Prometheus' text form and under TGI's names."""

from __future__ import annotations

import bisect
from collections import Counter
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tgibench.backends.emulator.engine import Engine
    from tgibench.backends.emulator.wire import RequestTimes
    from tgibench.twin.policy import EngineSettings

__all__ = ["Histogram", "ServerMetrics"]

_DURATION_BUCKETS = tuple(0.00015 * 1.5**power for power in range(35))


@attrs.define
class Histogram:
    """Counts of values by upper bound."""

    bounds: Sequence[float]
    counts: Counter[int] = attrs.field(factory=Counter)
    total: float = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> Iterator[str]:
        """Its text form."""
        yield f"# TYPE {name} histogram"
        below = 0
        for place, bound in enumerate(self.bounds):
            below += self.counts[place]
            yield f'{name}_bucket{{le="{bound!r}"}} {below}'
        count = self.counts.total()
        yield f'{name}_bucket{{le="+Inf"}} {count}'
        yield f"{name}_sum {self.total!r}"
        yield f"{name}_count {count}"


def _linear(limit: int) -> tuple[float, ...]:
    return tuple(limit * step / 100 for step in range(1, 101))


@attrs.define(init=False)
class ServerMetrics:
    """What the server counts; the engine's own counters join it when the page is written."""

    arrived: int
    succeeded: int
    failed: Counter[str]
    histograms: dict[str, Histogram]

    def __init__(self, settings: EngineSettings) -> None:
        self.arrived = self.succeeded = 0
        self.failed = Counter()
        durations = (
            "duration",
            "validation_duration",
            "queue_duration",
            "inference_duration",
            "mean_time_per_token_duration",
        )
        limits = {
            "input_length": settings.max_input_tokens,
            "max_new_tokens": settings.max_total_tokens,
            "generated_tokens": settings.max_total_tokens,
        }
        self.histograms = {name: Histogram(_DURATION_BUCKETS) for name in durations}
        self.histograms |= {name: Histogram(_linear(limit)) for name, limit in limits.items()}

    def accept(self, *, input_tokens: int, max_new_tokens: int) -> None:
        """A request passed validation."""
        self.histograms["input_length"].observe(input_tokens)
        self.histograms["max_new_tokens"].observe(max_new_tokens)

    def succeed(self, times: RequestTimes) -> None:
        """A request was answered: only these enter the durations."""
        self.succeeded += 1
        self.histograms["duration"].observe(times.total_s)
        self.histograms["validation_duration"].observe(times.validation_s)
        self.histograms["queue_duration"].observe(times.queue_s)
        self.histograms["inference_duration"].observe(times.inference_s)
        self.histograms["mean_time_per_token_duration"].observe(times.time_per_token_s)
        self.histograms["generated_tokens"].observe(times.generated_tokens)

    def page(self, engines: Iterable[Engine]) -> str:
        """The text of `/metrics`."""
        lines = list(self._counters())
        for name, histogram in self.histograms.items():
            lines += histogram.lines(f"tgi_request_{name}")
        lines += _engine_lines(list(engines))
        return "\n".join(lines) + "\n"

    def _counters(self) -> Iterator[str]:
        yield "# TYPE tgi_request_count counter"
        yield f"tgi_request_count {self.arrived}"
        yield "# TYPE tgi_request_success counter"
        yield f"tgi_request_success {self.succeeded}"
        yield "# TYPE tgi_request_failure counter"
        for reason, count in sorted(self.failed.items()):
            yield f'tgi_request_failure{{err="{reason}"}} {count}'


def _engine_lines(engines: list[Engine]) -> Iterator[str]:
    for name, value in (
        ("tgi_queue_size", sum(engine.queue_size for engine in engines)),
        ("tgi_batch_current_size", sum(engine.batch_size for engine in engines)),
    ):
        yield f"# TYPE {name} gauge"
        yield f"{name} {value}"
    steps = {
        "prefill": (sum(e.counters.prefills for e in engines), sum(e.counters.prefill_s for e in engines)),
        "decode": (sum(e.counters.decodes for e in engines), sum(e.counters.decode_s for e in engines)),
    }
    for name in ("tgi_batch_inference_count", "tgi_batch_inference_success"):
        yield f"# TYPE {name} counter"
        for method, (count, _) in steps.items():
            yield f'{name}{{method="{method}"}} {count}'
    name = "tgi_batch_inference_duration"
    yield f"# TYPE {name} histogram"
    for method, (count, seconds) in steps.items():
        yield f'{name}_bucket{{method="{method}",le="+Inf"}} {count}'
        yield f'{name}_sum{{method="{method}"}} {seconds!r}'
        yield f'{name}_count{{method="{method}"}} {count}'
