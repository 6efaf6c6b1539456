"""The sweep of the 2023 study "Llama 2 on Amazon SageMaker a Benchmark", on any backend, beside what the study published.

python examples/llama2_sagemaker.py                                          all 60 cells, emulated in virtual time
python examples/llama2_sagemaker.py --backend sagemaker --store results      15 endpoints, one after the other: costs real money
python examples/llama2_sagemaker.py --backend sagemaker --parallel 4         four at once, as far as the quotas allow
python examples/llama2_sagemaker.py --fake --parallel 15                     all at once, on a SageMaker on this machine: free, in a minute
python examples/llama2_sagemaker.py --backend docker --only "7B-GPTQ"        what fits on the GPU of this machine
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
from typing import TYPE_CHECKING

import tgibench as tb
from tgibench.registry import BACKENDS, load
from tgibench.testing.fake_sagemaker import fake_sagemaker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tgibench.backends import Backend

MACHINES = {"ml.g5.2xlarge": 1, "ml.g5.12xlarge": 4, "ml.g5.48xlarge": 8, "ml.p4d.24xlarge": 8}
SMALL, FOUR_GPUS, EIGHT_GPUS, EIGHT_A100 = MACHINES
SERVED_ON = {
    "meta-llama/Llama-2-7b-hf": (SMALL, FOUR_GPUS, EIGHT_GPUS, EIGHT_A100),
    "TheBloke/Llama-2-7B-GPTQ": (SMALL,),
    "meta-llama/Llama-2-13b-hf": (FOUR_GPUS, EIGHT_GPUS, EIGHT_A100),
    "TheBloke/Llama-2-13B-GPTQ": (SMALL, FOUR_GPUS),
    "meta-llama/Llama-2-70b-hf": (EIGHT_GPUS, EIGHT_A100),
    "TheBloke/Llama-2-70B-GPTQ": (FOUR_GPUS, EIGHT_GPUS, EIGHT_A100),
}
DEPLOYMENTS = [
    tb.Deployment(
        model_id,
        machine,
        tensor_parallel=MACHINES[machine],
        quantization="gptq" if model_id.endswith("GPTQ") else None,
        server_version="1.0.3",
        max_input_tokens=1024,
        max_total_tokens=2048,
    )
    for model_id, machines in SERVED_ON.items()
    for machine in machines
]
PRICES_OF_2023 = tb.InstanceHours(tb.PriceTable.builtin(as_of="2023-09"))
GOALS = {
    "cheapest, 5 users": (tb.cheapest, 5),
    "highest throughput, 20 users": (tb.highest_throughput, 20),
    "fastest, 1 user": (tb.fastest, 1),
}
RUN_TO_RUN = 0.02  # two runs of one deployment are granted to differ so much, as a relative standard deviation
LOADS = [tb.ClosedLoop(users, duration_s=90) for users in (1, 5, 10, 20)]
SHORT_LOADS = [
    tb.ClosedLoop(load.concurrency, requests=2 * load.concurrency) for load in LOADS
]  # in real time, on a fake
PUBLISHED = {(cell.deployment, cell.load.concurrency): cell for cell in tb.llama2_sagemaker_2023()}
BAD_HOST = ("meta-llama/Llama-2-7b-hf", EIGHT_A100)  # slower there than 13B at every load: no deployment is like that


async def sweep(
    deployments: list[tb.Deployment], backend: Backend, *, stream: bool, store: str | None = None, parallel: int = 1
) -> tb.Study:
    """The study's sweep: each deployment under its four loads; greedy, at most 50 new tokens, prompts of the lengths that it sent."""
    prompts = tb.study_prompts(max_new_tokens=50, stream=stream)
    return await tb.sweep(
        deployments, LOADS, backend=backend, prompts=prompts, store=store, on_progress=_show, parallel=parallel
    )


async def sweep_on_fake(deployments: list[tb.Deployment], *, parallel: int) -> tb.Study:
    """The same against a fake account whose quotas allow so many endpoints of each type; short loads."""
    machines = {deployment.instance_type for deployment in deployments}
    async with fake_sagemaker(speed=1000, quotas=dict.fromkeys(machines, parallel)) as fake:
        os.environ.update(fake.environment)
        backend = tb.SageMakerBackend(role_arn=fake.role_arn, poll_s=0.2, consistent_after_s=0.2)
        prompts = tb.study_prompts(max_new_tokens=50, stream=False)
        study = await tb.sweep(
            deployments, SHORT_LOADS, backend=backend, prompts=prompts, on_progress=_show, parallel=parallel
        )
        left = fake.account.alive()
    print(
        "emulated in real time on this machine, whose own speed is in the figures: they show that it works, not how fast it is"
    )
    print(
        f"endpoints created and deleted: {fake.account.calls['CreateEndpoint']}; left: {', '.join(left) or 'nothing'}"
    )
    return study


def compare(study: tb.Study, round_trip_s: float) -> None:
    """Print each cell beside the published one, and the median deviations."""
    print(f"{'':44} {'ms/token (median)':>25} {'tokens/s (derived)':>25} {'queue ms (mean)':>17}")
    print(f"{'':44}" + f" {'ours':>8} {'study':>8} {'':>7}" * 2 + f" {'ours':>8} {'study':>8}")
    deviations: dict[str, list[float]] = {}
    for cell in study:
        deployment, metrics = cell.deployment, cell.metrics
        theirs = PUBLISHED[deployment, cell.load.concurrency].metrics
        pairs = {
            "ms/token": (_ms_per_token(metrics), _ms_per_token(theirs)),
            "tokens/s": (derived_tps(cell, round_trip_s), theirs.littles_law_throughput_tps),
        }
        bad_host = (deployment.model_id, deployment.instance_type) == BAD_HOST
        line = f"{deployment.label:34} {cell.load.label:>8}{'*' if bad_host else ' '}"
        for name, (our_figure, their_figure) in pairs.items():
            line += f" {_figure(our_figure)} {_figure(their_figure)}"
            if our_figure is None or their_figure is None:
                line += f" {'':>7}"
                continue
            deviation = our_figure / their_figure - 1
            line += f" {deviation:+7.1%}"
            if not bad_host:
                deviations.setdefault(f"{name}, {deployment.quantization or 'fp16'}", []).append(abs(deviation))
        print(f"{line} {_figure(_queue_ms(metrics))} {_figure(_queue_ms(theirs))}")
    print("* published from what seems to be a bad host; left out below")
    for name, values in deviations.items():
        print(
            f"median deviation of {name}: {statistics.median(values):.1%} (n = {len(values)}, largest {max(values):.1%})"
        )


def recommend(study: tb.Study) -> None:
    """Print what to deploy for each model's size and goal, with the prices of 2023: by our figures and by the study's."""
    print(f"\n{'recommended':38} {'by':5} {'':38} USD per 1M tokens, prices of 2023")
    for size in ("7b", "13b", "70b"):
        ours, theirs = (_of_size(size, cells) for cells in (study, PUBLISHED.values()))
        for goal, (choose, users) in GOALS.items() if ours else ():
            for heading, whose, cells in ((f"{size.upper():>3} {goal}", "ours", ours), ("", "study", theirs)):
                choice = choose(cells, PRICES_OF_2023, tb.concurrency(users), noise_ratio=RUN_TO_RUN)
                print(f"{heading:38} {whose:5} {_chosen(choice)}")


def _of_size(size: str, cells: Iterable[tb.Measurement]) -> list[tb.Measurement]:
    return [cell for cell in cells if f"-{size}-" in cell.deployment.model_id.lower()]


def _chosen(choice: tb.Choice) -> str:
    if choice.winner is None:
        return "-"
    usd = None if choice.cost is None else choice.cost.usd_per_million_output_tokens
    tie = f", a tie with {len(choice.tied)} more" if choice.tied else ""
    return f"{choice.winner.deployment.label:38} {'-' if usd is None else f'{usd.value:.2f}':>7}{tie}"


def derived_tps(cell: tb.Measurement, round_trip_s: float) -> float | None:
    """Tokens per second as the study had them: users x 50 / mean of the server's total time, whatever came back."""
    latency, load_profile = cell.metrics.latency_s, cell.load
    if latency is None or latency.mean is None or not isinstance(load_profile, tb.ClosedLoop):
        return None
    return load_profile.concurrency * 50 / (latency.mean - round_trip_s)


def _ms_per_token(metrics: tb.Metrics) -> float | None:
    figure = metrics.server_time_per_token_s or metrics.normalized_latency_s
    return None if figure is None or figure.p50 is None else figure.p50 * 1e3


def _queue_ms(metrics: tb.Metrics) -> float | None:
    return None if metrics.queue_s is None or metrics.queue_s.mean is None else metrics.queue_s.mean * 1e3


def _figure(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{value:8.1f}"


def _show(progress: tb.Progress) -> None:
    if sys.stderr.isatty():
        print(f"\r{progress.cells_done} of {progress.cells_total}: {progress.deployment:40}", end="\r", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="emulator", help="a backend's name, such as emulator, sagemaker or docker")
    parser.add_argument("--role-arn", help="for the backend: the role that SageMaker takes on")
    parser.add_argument("--region", help="for the backend: where it deploys")
    parser.add_argument("--stream", action="store_true", help="stream the answers, for TTFT; the study did not")
    parser.add_argument(
        "--only", default="", help='deployments whose label has this in it, such as "7b-hf @ ml.g5.2xlarge"'
    )
    parser.add_argument("--fake", action="store_true", help="a SageMaker on this machine, and short loads")
    parser.add_argument("--parallel", type=int, default=1, help="how many deployments may run at once")
    parser.add_argument("--store", help="folder for results; what it holds already is not measured again")
    return parser.parse_args()


def main() -> None:
    """Sweep, and print ours beside theirs."""
    options = _options()
    given = {name: value for name in ("role_arn", "region") if (value := getattr(options, name)) is not None}
    chosen = [deployment for deployment in DEPLOYMENTS if options.only in deployment.label]
    try:
        if options.fake:
            emulated, study = False, asyncio.run(sweep_on_fake(chosen, parallel=options.parallel))
        else:
            backend = load(BACKENDS, options.backend)(**given)
            # the emulator's clock is virtual; its round trip is no part of the server's time
            emulated = isinstance(backend, tb.Emulator)
            study = (tb.virtual_time.run if emulated else asyncio.run)(
                sweep(chosen, backend, stream=options.stream, store=options.store, parallel=options.parallel)
            )
    except (tb.TgibenchError, TypeError) as error:
        sys.exit(f"cannot sweep: {error}")
    for failure in study.failures:
        print(f"{failure.deployment.label}: {failure.message}", file=sys.stderr)
    compare(study, backend.round_trip_s if emulated else 0.0)
    recommend(study)


if __name__ == "__main__":
    main()
