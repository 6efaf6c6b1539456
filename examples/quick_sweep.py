"""The 2023 study's loads on two emulated machines, in virtual time; replace the backend to measure your own servers."""

from __future__ import annotations

import tgibench as tb

DEPLOYMENTS = [
    tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge"),
    tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.12xlarge", tensor_parallel=4),
]
LOADS = [tb.ClosedLoop(users, duration_s=90) for users in (1, 5, 10, 20)]


def main() -> None:
    """Sweep and print."""
    study = tb.virtual_time.run(tb.sweep(DEPLOYMENTS, LOADS, backend=tb.Emulator(), prompts=tb.study_prompts()))
    for cell in study:
        per_token = cell.metrics.server_time_per_token_s
        rate = cell.metrics.output_throughput_tps
        if per_token is None or per_token.p50 is None or rate is None:
            continue
        figures = f"{per_token.p50 * 1e3:6.1f} ms/token {rate.value:7.1f} tokens/s"
        print(f"{cell.deployment.label:40} {cell.load.label:9} {figures}  {cell.source}")


if __name__ == "__main__":
    main()
