"""The public signatures as callers use them: never run, only type-checked."""

from __future__ import annotations

import tgibench as tb


async def sweep_and_read() -> float | None:
    """A sweep's types reach its metrics."""
    study: tb.Study = await tb.sweep(
        [tb.Deployment("m", "i", tensor_parallel=2)],
        [tb.ClosedLoop(1, requests=5), tb.Stages((tb.PoissonArrivals(1.0, duration_s=3.0),))],
        backend=tb.Emulator(),
        prompts=tb.SyntheticPrompts(),
        slo=tb.SLO(ttft_s=0.5),
    )
    latency: tb.Distribution | None = study.measurements[0].metrics.latency_s
    return None if latency is None else latency.p50


def blocking_twin() -> tb.RequestLog:
    """The twin has the verb's arguments and result."""
    endpoint = tb.HttpEndpoint("http://127.0.0.1", tb.OpenAIChatProtocol())
    return tb.run_load_blocking(endpoint, tb.ClosedLoop(1, requests=1), tb.FixedPrompt(prompt="x"), seed=1)


def costs(measurement: tb.Measurement) -> list[tb.CostModel]:
    """Every cost model is a CostModel, and so are sums of them; figures are estimates or None."""
    hours = tb.InstanceHours(tb.PriceTable.builtin("us-east-1"), utilisation=0.5)
    total = hours + tb.FixedCost(0.1) + tb.PerToken(0.2, 0.6)
    million: tb.Estimate | None = total.cost(measurement).usd_per_million_output_tokens
    throughput: tb.Estimate | None = measurement.throughput_tps
    del million, throughput
    return [hours, total, tb.FixedCost(1.0), tb.PerToken(0.2, 0.6)]


def backends() -> list[tb.Backend]:
    """Every backend is a Backend."""
    return [
        tb.Emulator(),
        tb.HttpBackend("http://127.0.0.1"),
        tb.ProcessBackend(["server", "{port}"]),
        tb.DockerBackend(),
    ]


def published() -> tuple[tb.Study, tb.Study]:
    """What others measured is a Study like any other."""
    return tb.llama2_sagemaker_2023(), tb.read_sagemaker_results("sagemaker.csv", server_version=None)


async def twin() -> tuple[tb.Measurement, float]:
    """Predictions are measurements; a fitted model guides a sweep."""
    deployment, load, prompts = tb.Deployment("m", "i"), tb.ClosedLoop(1, requests=5), tb.SyntheticPrompts()
    guess: tb.Measurement = tb.predict(deployment, load, prompts, method="simulation")
    model: tb.PerformanceModel = tb.fit([guess], prompts).with_instance(tb.Instance(name="i", gpu=tb.Gpu("g", 1, 1, 1)))
    found: tb.AdaptiveStudy = await tb.adaptive_sweep(
        [deployment],
        [load],
        [tb.Goal.cheapest(load)],
        tb.calibrate(model, [guess], prompts).model,
        backend=tb.Emulator(),
        prompts=prompts,
        costs=tb.InstanceHours(tb.PriceTable.builtin()),
    )
    return guess, found.saved_usd
