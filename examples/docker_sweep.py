"""Two deployments of TGI in local containers, each under four loads: a table, a recommendation, and nothing left afterwards.

Needs a Docker engine (and, for real numbers, NVIDIA's GPUs and container toolkit). Give another model as the first argument.
"""

from __future__ import annotations

import os
import sys

import tgibench as tb
from tgibench.reports.console import study_table

MODEL = sys.argv[1] if len(sys.argv) > 1 else "mistralai/Mistral-7B-Instruct-v0.3"
DEPLOYMENTS = [
    tb.Deployment(MODEL, "this machine", server_version="3.3.7", max_input_tokens=2048, max_total_tokens=3072),
    tb.Deployment(
        MODEL, "this machine", server_version="3.3.7", quantization="eetq", max_input_tokens=2048, max_total_tokens=3072
    ),
]
COSTS = tb.InstanceHours(
    tb.PriceTable.builtin().with_price("this machine", 0.50)
)  # what an hour of yours costs, in US dollars
LOADS = [tb.ClosedLoop(users, requests=20 * users) for users in (1, 2, 4, 8)]


def main() -> None:
    """Sweep, and print the table and which deployment to take."""
    from rich.console import Console  # noqa: PLC0415 - the library itself does without it

    backend = tb.DockerBackend(
        hf_token=os.environ.get("HF_TOKEN"),
        cache=os.environ.get(
            "TGIBENCH_CACHE"
        ),  # a folder for the weights; without it they are loaded for each deployment
        on_progress=lambda step: print(step, file=sys.stderr),
    )
    study = tb.sweep_blocking(DEPLOYMENTS, LOADS, backend=backend, prompts=tb.SyntheticPrompts(max_new_tokens=20))
    Console(width=150).print(study_table(study))
    print(tb.cheapest(study, COSTS, tb.ttft_at_most(0.5), tb.failures_at_most(0)).sentence)
    for failure in study.failures:
        print(f"{failure.deployment.label}: {failure.message}")


if __name__ == "__main__":
    main()
