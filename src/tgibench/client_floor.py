"""What the client itself adds to what it measures, and how much load it can hold: the values that a calibration finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tgibench.client_health import StampSource

if TYPE_CHECKING:
    from datetime import datetime

    from tgibench.client_health import ClientHealth
    from tgibench.stats import Distribution, Estimate

__all__ = ["ANSWER_TOKENS", "CORE_SHARE", "ClientFloor", "ClientHost", "LimitCheck"]

ANSWER_TOKENS = 100
"""Length of the answers of which `ClientFloor.tokens_per_s` speaks."""

CORE_SHARE = 0.7
"""The share of a core up to which one client process is trusted: above it sends queue up behind one another."""


@attrs.frozen(kw_only=True)
class ClientHost:
    """What a floor belongs to: when any of it differs, it must be found anew.

    Args:
        name: The machine's name on its network.
        machine_id: Its own number (Linux); None where there is none.
        cpu_model: As the system names it.
        cores: CPUs that this process may use.
        system: The kernel's name, release and architecture.
        python: Version.
        tgibench: Version.
        aiohttp: Version.
        stamps: Where arrival times are taken, on loopback without TLS.
    """

    name: str
    machine_id: str | None
    cpu_model: str
    cores: int
    system: str
    python: str
    tgibench: str
    aiohttp: str
    stamps: StampSource = attrs.field(converter=StampSource)


@attrs.frozen(kw_only=True)
class LimitCheck:
    """One run near the most that the client can hold, as measured.

    Args:
        tokens_per_s: Output tokens per second that arrived.
        requests_per_s: Requests per second that ended.
        core_share: CPU seconds per second that the client took.
        loop_lag_p99_s: The event loop's lag, 99th percentile.
    """

    tokens_per_s: float
    requests_per_s: float
    core_share: float
    loop_lag_p99_s: float


@attrs.frozen(kw_only=True)
class ClientFloor:
    """What the client adds on loopback, where a server of known schedule says when it wrote each token.

    Errors are magnitudes, each the client's figure minus the server's own. What the loopback and the server's process add is in
    them: they are upper bounds.

    Args:
        host: The machine and the software it was found with.
        found_at: Wall time (UTC, aware).
        load: What was put on, in words: errors hold for such loads and lighter ones.
        ttft_error_s: Of the time to first token, per request.
        icl_error_s: Of the gaps between successive chunks, pooled.
        tpot_error_s: Of the time per output token, per request.
        latency_error_s: Of the latency, per request.
        health: How the client fared meanwhile: the event loop's lag, its CPU share, how long it waited for a CPU.
        cpu_per_token_s: CPU seconds that a token costs at that load: a regression over stretches of time.
        cpu_per_request_s: CPU seconds that a request costs beside its tokens: likewise.
        check: A run near the limit; None when there was none to trust.
        core_share: Up to which share of a core `tokens_per_s` and `requests_per_s` reckon.
        notes: What to know of the figures, in plain sentences: what limited the check, what disturbed it.
    """

    host: ClientHost
    found_at: datetime
    load: str
    ttft_error_s: Distribution
    icl_error_s: Distribution
    tpot_error_s: Distribution
    latency_error_s: Distribution
    health: ClientHealth
    cpu_per_token_s: Estimate
    cpu_per_request_s: Estimate
    check: LimitCheck | None = None
    core_share: float = CORE_SHARE
    notes: tuple[str, ...] = ()

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second that one process holds in answers of 100 tokens: extrapolated to `core_share` of a core.

        From `check` where there is one, else from the CPU per token at a light load, which is higher than at a heavy one.
        """
        return self.core_share / (self._busy_cpu_per_token_s + self.cpu_per_request_s.value / ANSWER_TOKENS)

    @property
    def requests_per_s(self) -> float:
        """Requests per second of one token each that one process holds: extrapolated likewise."""
        return self.core_share / (self.cpu_per_token_s.value + self.cpu_per_request_s.value)

    def cores_for(self, *, tokens_per_s: float, requests_per_s: float) -> float:
        """CPU seconds per second that the client needs for a load: 1.0 is a whole core."""
        return tokens_per_s * self._busy_cpu_per_token_s + requests_per_s * self.cpu_per_request_s.value

    @property
    def _busy_cpu_per_token_s(self) -> float:
        if self.check is None:
            return self.cpu_per_token_s.value
        tokens_share = self.check.core_share - self.check.requests_per_s * self.cpu_per_request_s.value
        return min(self.cpu_per_token_s.value, max(0.0, tokens_share) / self.check.tokens_per_s)
