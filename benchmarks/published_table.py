"""Write the package's own table of the 2023 study from the study's CSV file.

    python benchmarks/published_table.py llama2_sagemaker_2023_original.csv > src/tgibench/data/llama2_sagemaker_2023.csv

The original is results/sagemaker.csv of github.com/philschmid/text-generation-inference-tests at f020075 (Apache-2.0).
"""

import csv
import itertools
import sys

import tgibench as tb

HEADER = """\
# The figures of the 60 runs of "Llama 2 on Amazon SageMaker a Benchmark" (Philipp Schmid, Hugging Face, 26 September 2023):
# https://huggingface.co/blog/llama-sagemaker-benchmark
# Source: https://github.com/philschmid/text-generation-inference-tests, results/sagemaker.csv at commit f020075 (Apache-2.0).
# Seconds, from the log lines of TGI 1.0.3; requests are those that it logged. Four significant digits, but for server_total_mean_s:
# twelve, because the study's tokens/s were users x 50 / server_total_mean_s. Written by benchmarks/published_table.py.
"""
MACHINES = ("ml.g5.2xlarge", "ml.g5.12xlarge", "ml.g5.48xlarge", "ml.p4d.24xlarge")
FIGURES = ("server_time_per_token_s", "server_total_s", "server_inference_s", "queue_s")
STATISTICS = ("mean", "min", "p50", "p90", "p95", "max")
PRECISE = ("server_total_s", "mean")


def place(cell):
    deployment = cell.deployment
    size = next(
        number for number, name in enumerate(("7b", "13b", "70b")) if f"-{name}-" in deployment.model_id.lower()
    )
    return size, deployment.quantization or "", MACHINES.index(deployment.instance_type), cell.load.concurrency


def row(cell):
    deployment, metrics = cell.deployment, cell.metrics
    yield deployment.model_id
    yield deployment.instance_type
    yield deployment.tensor_parallel
    yield deployment.quantization or ""
    yield cell.load.concurrency
    yield metrics.counts["succeeded"]
    for figure, statistic in itertools.product(FIGURES, STATISTICS):
        distribution = metrics.extra.get(figure) or getattr(metrics, figure)
        digits = 12 if (figure, statistic) == PRECISE else 4
        yield repr(float(f"{getattr(distribution, statistic):.{digits}g}"))


def main():
    study = tb.read_sagemaker_results(sys.argv[1])
    sys.stdout.write(HEADER)
    table = csv.writer(sys.stdout, lineterminator="\n")
    names = (f"{figure.removesuffix('_s')}_{name}_s" for figure, name in itertools.product(FIGURES, STATISTICS))
    table.writerow(("model_id", "instance_type", "tensor_parallel", "quantization", "users", "requests", *names))
    for cell in sorted(study, key=place):
        table.writerow(row(cell))


if __name__ == "__main__":
    main()
