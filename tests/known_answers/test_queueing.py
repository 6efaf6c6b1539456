"""The runner and the metrics against queueing theory: a server of known law must give the theory's figures."""

from __future__ import annotations

import numpy as np
import pytest

import tgibench as tb
from fakes import FakeServer

PROMPT = tb.FixedPrompt(prompt="Hello", max_new_tokens=1)
SERVICE_S = 0.1


@pytest.mark.parametrize("utilisation", [0.3, 0.5, 0.8])
def test_mean_latency_of_an_m_d_1_queue(utilisation):
    """At utilisation u it is s + u·s / (2·(1 - u)) (Pollaczek and Khinchine), within 2 %."""
    load = tb.PoissonArrivals(utilisation / SERVICE_S, requests=80_000)
    log = tb.virtual_time.run(tb.run_load(FakeServer(SERVICE_S, slots=1), load, PROMPT, seed=1))
    metrics = tb.Metrics.of(log)
    theory_s = SERVICE_S + utilisation * SERVICE_S / (2 * (1 - utilisation))
    assert metrics.latency_s.mean == pytest.approx(theory_s, rel=0.02)


@pytest.mark.parametrize("users", [1, 7, 20])
def test_littles_law(users):
    """Requests in flight equal completed rate times mean latency, within 2 %."""
    load = tb.ClosedLoop(users, duration_s=200)
    log = tb.virtual_time.run(tb.run_load(FakeServer(SERVICE_S, slots=3), load, PROMPT))
    metrics = tb.Metrics.of(log)
    assert metrics.request_throughput_rps.value * metrics.latency_s.mean == pytest.approx(users, rel=0.02)


def test_what_was_sent_is_the_intended_process():
    """Sends of a Poisson load have dispersion 0.8 to 1.2; those of a constant one a CV below 0.1."""
    poisson = tb.virtual_time.run(
        tb.run_load(FakeServer(SERVICE_S), tb.PoissonArrivals(40.0, duration_s=500), PROMPT, seed=1)
    )
    counts, _ = np.histogram(poisson.sent_s, bins=np.arange(0, 501, 1.0))
    assert 0.8 < counts.var() / counts.mean() < 1.2
    constant = tb.virtual_time.run(tb.run_load(FakeServer(SERVICE_S), tb.ConstantArrivals(40.0, duration_s=50), PROMPT))
    gaps = np.diff(constant.sent_s)
    assert gaps.std() / gaps.mean() < 0.1
