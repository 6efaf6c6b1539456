"""What the 2023 study "Llama 2 on Amazon SageMaker a Benchmark" sent."""

from __future__ import annotations

from importlib.resources import files

from tgibench.requests import PromptLengths

__all__ = ["study_prompts"]


def study_prompts(*, max_new_tokens: int = 50, stream: bool = True) -> PromptLengths:
    """Synthetic prompts of the lengths of the study's 1,000 ShareGPT prompts, in the order in which it sent them.

    The lengths are in tokens of the Llama tokenizer, counted from the study's own repository; the texts are not shipped. The study asked
    for at most 50 new tokens, greedy.
    """
    table = files("tgibench").joinpath("data/study_prompt_lengths.csv").read_text(encoding="utf-8")
    lengths = tuple(int(line) for line in table.split()[1:])
    return PromptLengths(input_tokens=lengths, max_new_tokens=max_new_tokens, stream=stream)
