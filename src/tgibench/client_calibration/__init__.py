"""Finds what the client itself adds to what it measures, and how much load it can hold, on this machine: `calibrate_client`.

A token server of our own (`tgibench.client_calibration._token_server`) runs beside the client, as a process that ends with this one. The
real client loads it through the real runner, and what was recorded is compared with the instants at which the server wrote.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np

from tgibench import virtual_time
from tgibench.arrivals import ConstantArrivals
from tgibench.backends.process import ProcessBackend
from tgibench.client_calibration._comparing import Errors, cpu_costs
from tgibench.client_calibration._observing import Schedule, observe
from tgibench.client_floor import ANSWER_TOKENS, CORE_SHARE, ClientFloor, LimitCheck
from tgibench.client_health import StampSource
from tgibench.client_limits import is_starved
from tgibench.deployments import Deployment
from tgibench.errors import CalibrationError, InvalidValueError
from tgibench.floor_cache import keep_floor, remembered_floor, this_host
from tgibench.protocols.tgi import TgiProtocol
from tgibench.stats import distribution

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tgibench.client import HttpEndpoint
    from tgibench.client_calibration._observing import Observation
    from tgibench.stats import Distribution

__all__ = ["calibrate_client"]

_SERVER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("_token_server.py")), "{port}")
_READY_S = 20.0
_STOP_S = 2.0
_WARM_UP = (ConstantArrivals(100.0, duration_s=0.2), Schedule(first_s=0.005, gap_s=0.005, tokens=10))
_TOKENS = (ConstantArrivals(100.0, duration_s=1.0), Schedule(first_s=0.05, gap_s=0.005, tokens=100))
_REQUESTS = (ConstantArrivals(300.0, duration_s=1.0), Schedule(first_s=0.01, gap_s=0.01, tokens=2))
_LOAD = "55 streams of 200 tokens/s each, then 300 requests/s of 2 tokens each, evenly begun, on loopback"
_CHECK = Schedule(first_s=0.005, gap_s=0.005, tokens=ANSWER_TOKENS)
_CHECK_S = 1.1
_KEPT_UP = 0.95


async def calibrate_client(*, refresh: bool = False) -> ClientFloor:
    """What this machine's client adds to each metric, and the load that one process of it holds; takes about five seconds.

    What was found is kept in ``$XDG_CACHE_HOME/tgibench`` (``~/.cache/tgibench``) and used again, here and by every measurement, until
    machine or software change: `tgibench.sweep` and `tgibench.measure` never calibrate by themselves. Nothing else should run meanwhile.

    Args:
        refresh: Find it anew whatever is remembered.

    Raises:
        CalibrationError: The client's own requests failed.
        DeployError: The token server could not be started.
        InvalidValueError: The running loop's time is virtual: there is no client to calibrate.
        TeardownError: It could not be stopped.
    """
    if virtual_time.is_virtual(asyncio.get_running_loop()):
        raise InvalidValueError("calibrate_client needs real time, got a virtual loop: use asyncio.run")
    remembered = None if refresh else remembered_floor(*StampSource)
    if remembered is not None:
        return remembered
    backend = ProcessBackend(_SERVER, TgiProtocol(), ready_timeout_s=_READY_S, stop_timeout_s=_STOP_S)
    async with backend.deploy(Deployment("token-server", "loopback")) as endpoint:
        floor = await _find(endpoint)
    try:
        keep_floor(floor)
    except OSError as error:
        return attrs.evolve(floor, notes=(*floor.notes, f"it could not be kept: {error}"))
    return floor


async def _find(endpoint: HttpEndpoint) -> ClientFloor:
    await observe(endpoint, *_WARM_UP)
    tokens, requests = await observe(endpoint, *_TOKENS), await observe(endpoint, *_REQUESTS)
    per_token_s, per_request_s = cpu_costs((tokens, requests))
    answers_per_s = CORE_SHARE / (per_token_s.value * ANSWER_TOKENS + per_request_s.value)
    near = await observe(endpoint, ConstantArrivals(answers_per_s, duration_s=_CHECK_S), _CHECK)
    of_tokens, of_requests = Errors.of(tokens), Errors.of(requests)
    health = tokens.log.health
    check = _checked(near)
    return ClientFloor(
        host=this_host(health.stamps),
        found_at=datetime.now(UTC),
        load=_LOAD,
        ttft_error_s=_summary(of_tokens.ttft_s, of_requests.ttft_s),
        icl_error_s=_summary(of_tokens.icl_s),
        tpot_error_s=_summary(of_tokens.tpot_s),
        latency_error_s=_summary(of_tokens.latency_s, of_requests.latency_s),
        health=health,
        cpu_per_token_s=per_token_s,
        cpu_per_request_s=per_request_s,
        check=check,
        notes=tuple(_notes(tokens, check, answers_per_s)),
    )


def _summary(*samples: NDArray[np.float64]) -> Distribution:
    summary = distribution(np.concatenate(samples))
    if summary is None:
        raise CalibrationError("no answer of the token server could be compared: run it again")
    return summary


def _checked(near: Observation) -> LimitCheck | None:
    """What the run near the limit came to while it was in full swing; None when other programs disturbed it."""
    health = near.log.health
    if is_starved(health):
        return None
    begin_s, end_s = near.full_swing_s(_CHECK_S)
    length_s, cpu_s = near.cpu_between(begin_s, end_s)
    tokens, requests = near.written_between(begin_s, begin_s + length_s)
    if not tokens or health.loop_lag_p99_s is None:
        return None
    return LimitCheck(
        tokens_per_s=tokens / length_s,
        requests_per_s=requests / length_s,
        core_share=cpu_s / length_s,
        loop_lag_p99_s=health.loop_lag_p99_s,
    )


def _notes(tokens: Observation, check: LimitCheck | None, answers_per_s: float) -> Iterator[str]:
    health, planned_tps = tokens.log.health, answers_per_s * ANSWER_TOKENS
    if is_starved(health):
        waiting = f"{health.waiting_ratio:.0%} of the time in which the client needed one"
        yield f"other programs had a CPU in {waiting}: run it again when they rest"
    if check is None:
        yield "other programs disturbed the run near the limit: one process may well hold more than a light load lets one reckon"
    elif check.tokens_per_s < _KEPT_UP * planned_tps:
        yield f"the token server wrote no more than {check.tokens_per_s:,.0f} of {planned_tps:,.0f} tokens/s"
