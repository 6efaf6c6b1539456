"""A small study whose figures are those of hand-made logs, and its prices."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

import tgibench as tb
from logs import Row, log_of, plain

MACHINES = {"ml.small": 2.0, "ml.large": 8.0}
NASTY = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>|`\"&amp;"


def costs():
    """Prices of the study's machines."""
    prices = tb.PriceTable(())
    for instance_type, usd_per_hour in MACHINES.items():
        prices = prices.with_price(instance_type, usd_per_hour, region="here", source="made up")
    return tb.InstanceHours(prices)


def cell(instance_type="ml.small", users=1, *, model="org/model", source=tb.Source.MEASURED, failed=0, **fields):
    """A measurement: the larger machine is twice as fast, and more users wait longer."""
    speed = 2.0 if instance_type == "ml.large" else 1.0
    generator = np.random.default_rng([users, int(speed)])
    rows = [
        plain(start_s, tokens=20, ttft_s=generator.uniform(0.1, 0.2) * users**0.5 / speed, tpot_s=0.02 / speed)
        for start_s in np.sort(generator.uniform(0, 55, size=60 * users))
    ]
    failure = tb.Failure(tb.FailureKind.OVERLOADED, "busy", 429)
    rows += [Row(planned_s=30.0, ended_s=30.1, chunks=(), failure=failure)] * failed
    log = log_of(*rows, window=(2.0, 60.0), concurrency=users)
    metrics = tb.Metrics.of(log)
    return tb.Measurement(
        **{
            "deployment": tb.Deployment(model, instance_type, server_version="3.3.7"),
            "load": tb.ClosedLoop(users, duration_s=60, warm_up_s=2),
            "prompts": "hand-made",
            "metrics": metrics,
            "source": source,
            "provenance": tb.Provenance(
                backend="fake",
                began_at=datetime(2026, 11, 24, 12, tzinfo=UTC),
                ended_at=datetime(2026, 11, 24, 12, 1, tzinfo=UTC),
                seed=7,
                facts={"region": "here", "image": "tgi:3.3.7"},
            ),
            "warnings": tb.warnings_of(metrics, log),
            **fields,
        }
    )


def study(**fields):
    """Two machines under two loads, one of them emulated, and one that could not be deployed."""
    cells = [
        cell(machine, users, source=source, failed=users - 1, **fields)
        for machine, source in (("ml.small", tb.Source.MEASURED), ("ml.large", tb.Source.EMULATED))
        for users in (1, 4)
    ]
    return tb.Study(tuple(cells), (tb.DeploymentFailure(tb.Deployment("org/model", "ml.huge"), "no capacity"),))


def nasty_study():
    """A study whose every text is an attack on the page."""
    deployment = tb.Deployment(NASTY, NASTY, server=NASTY, image=NASTY)
    provenance = tb.Provenance(backend=NASTY, facts={NASTY: NASTY})
    texts = {"deployment": deployment, "prompts": NASTY, "provenance": provenance, "warnings": (NASTY,)}
    cells = (cell(**texts), cell(users=4, **texts), cell("ml.large"))
    return tb.Study(cells, (tb.DeploymentFailure(deployment, NASTY, NASTY),))
