"""The 2023 study "Llama 2 on Amazon SageMaker a Benchmark": the prompts it sent, and what it published, as Measurements.

Its times are those of the server's own log (TGI 1.0.3), so there is no TTFT, no client-side latency and no count of failures: these
are None, or absent from the counts. Its tokens/s were not counted but derived, and stand in `Metrics.littles_law_throughput_tps`.
`Metrics.extra` has what no field is made for: ``server_total_s``, the server's time from receiving a request to answering it, and
``server_inference_s``, its part after the wait. docs/study-2023.md tells the whole story.
"""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import TYPE_CHECKING

from tgibench.measurements import Study
from tgibench.published._cells import FIGURES, STATISTICS, Cell, deployment, distribution, own_column
from tgibench.published._results import read_sagemaker_results
from tgibench.requests import PromptLengths

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["llama2_sagemaker_2023", "read_sagemaker_results", "study_prompts"]

_FACTS = {
    "study": "Llama 2 on Amazon SageMaker a Benchmark, 26 September 2023, https://huggingface.co/blog/llama-sagemaker-benchmark",
    "data": "https://github.com/philschmid/text-generation-inference-tests, results/sagemaker.csv at f020075",
}
_PROMPTS = "1,000 ShareGPT prompts in a fixed order, of the lengths of tgibench.study_prompts()"
_VERSION = "1.0.3"
_TOKENS = 50


def study_prompts(*, max_new_tokens: int = 50, stream: bool = True) -> PromptLengths:
    """Synthetic prompts of the lengths of the study's 1,000 ShareGPT prompts, in the order in which it sent them.

    The lengths are in tokens of the Llama tokenizer, counted from the study's own repository; the texts are not shipped. The study asked
    for at most 50 new tokens, greedy, and did not stream.
    """
    lengths = tuple(int(line) for line in _table("study_prompt_lengths.csv")[1:])
    return PromptLengths(input_tokens=lengths, max_new_tokens=max_new_tokens, stream=stream)


def llama2_sagemaker_2023() -> Study:
    """The study's 60 cells: 15 deployments of Llama 2 under TGI 1.0.3 with 1, 5, 10 and 20 users, as published.

    The package states the figures in a table of its own, in seconds, at four significant digits; the mean of the server's total time, of
    which the study's tokens/s are derived, has twelve. Each measurement's warnings say what is known to be wrong with it.
    """
    lines = [line for line in _table("llama2_sagemaker_2023.csv") if not line.startswith("#")]
    cells = [_cell(row) for row in csv.DictReader(lines)]
    return Study(
        tuple(
            cell.measurement(server_version=_VERSION, prompts=_PROMPTS, facts=_FACTS, known_faults=_faults(cell))
            for cell in cells
        )
    )


def _cell(row: Mapping[str, str]) -> Cell:
    users, requests = int(row["users"]), int(row["requests"])
    return Cell(
        deployment=deployment(
            row["model_id"], row["instance_type"], int(row["tensor_parallel"]), row["quantization"] or None
        ),
        users=users,
        requests=requests,
        tokens=_TOKENS,
        throughput_tps=users * _TOKENS / float(row[own_column("server_total_s", "mean")]),
        figures={
            figure: distribution(requests, {name: float(row[own_column(figure, name)]) for name in STATISTICS})
            for figure in FIGURES
        },
    )


def _faults(cell: Cell) -> Iterator[str]:
    """What the study's data show of single deployments."""
    if cell.deployment.model_id.endswith("7b-hf") and cell.deployment.instance_type == "ml.p4d.24xlarge":
        yield "slower at every load than the 13B model on the same machine: it seems to have run on a bad host"
    if cell.deployment.quantization == "gptq":
        yield "TGI 1.0.3 tuned its GPTQ kernels while it was measured: stalls of seconds that a warm server does not have"


def _table(name: str) -> list[str]:
    return files("tgibench").joinpath("data", name).read_text(encoding="utf-8").splitlines()
