"""Prompt sources: which request comes k-th, and what files they accept."""

from __future__ import annotations

import json

import pytest

import tgibench as tb


def prompts(source, number=20, seed=0):
    """The first texts of a source."""
    return [source.request(index, seed=seed).prompt for index in range(number)]


def test_synthetic_prompts_begin_differently():
    """No two of a thousand share their first eight words, so no prefix cache can answer for the model."""
    source = tb.SyntheticPrompts(input_tokens=64)
    beginnings = {" ".join(prompt.split()[:8]) for prompt in prompts(source, 1000)}
    assert len(beginnings) == 1000


def test_synthetic_prompts_have_their_length_and_repeat_with_the_seed():
    """A word a token; the k-th is the same whenever it is asked for, and another under another seed."""
    source = tb.SyntheticPrompts(input_tokens=64, max_new_tokens=7)
    request = source.request(3, seed=1)
    assert (len(request.prompt.split()), request.input_tokens, request.max_new_tokens) == (64, 64, 7)
    assert request == source.request(3, seed=1)
    assert request != source.request(3, seed=2)


def test_prompt_lengths_come_in_their_order_and_begin_again():
    """The k-th prompt has the k-th length."""
    source = tb.PromptLengths(input_tokens=(5, 9, 2))
    assert [source.request(index, seed=0).input_tokens for index in range(5)] == [5, 9, 2, 5, 9]
    assert len(set(prompts(source, 9))) == 9


def test_the_2023_format_is_read(tmp_path):
    """A JSON list of [prompt, input_tokens, output_tokens]."""
    file = tmp_path / "samples.json"
    file.write_text(json.dumps([["one", 3, 7], ["two", 4, 8]]))
    source = tb.PromptFile.read(file, max_new_tokens=50)
    request = source.request(1, seed=0)
    assert (request.prompt, request.input_tokens, request.output_tokens, request.max_new_tokens) == ("two", 4, 8, 50)


def test_json_lines_are_read_in_order_and_begin_again(tmp_path):
    """Objects of a line each; a line may set its own number of tokens."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n\n{"prompt": "b", "max_new_tokens": 3}\n')
    source = tb.PromptFile.read(file)
    assert prompts(source, 5) == ["a", "b", "a", "b", "a"]
    assert source.request(1, seed=0).max_new_tokens == 3


def test_a_line_ends_with_a_line_feed_and_nothing_else(tmp_path):
    """Texts may hold the other characters at which Unicode ends lines; a mark of the byte order is no text."""
    texts = ["a\u2028b", "c\u2029d", "e\u0085f", "g\x0bh"]
    lines = "\r\n".join(json.dumps({"prompt": text}, ensure_ascii=False) for text in texts)
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert prompts(tb.PromptFile.read(file), 4) == texts


def test_shuffled_prompts_are_a_new_permutation_each_pass():
    """Each pass holds every prompt once; the seed decides the order."""
    source = tb.PromptFile.of([str(number) for number in range(10)], shuffled=True)
    order = prompts(source, 20, seed=4)
    assert sorted(order[:10]) == sorted(order[10:]) == [str(number) for number in range(10)]
    assert order[:10] != order[10:]
    assert order == prompts(source, 20, seed=4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "holds no prompt"),
        ('[{"text": "x"}]', "entry 1 of .* must be"),
        ('{"prompt": "a"}\n{"prompt"', "line 2 of the prompt file .* is not JSON"),
        ('{"prompt": "a"}\n' + 100_000 * "[", "line 2 of the prompt file .* nest too deeply"),
        ('[["a", 0, 3]]', "entry 1 of .*input_tokens must be a whole number of at least 1, got 0"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path, content, words):
    """The error names the entry or line."""
    file = tmp_path / "prompts.json"
    file.write_text(content)
    with pytest.raises(tb.InvalidValueError, match=words):
        tb.PromptFile.read(file)


def test_synthetic_prompts_have_a_longest_length():
    """What no memory could hold is refused when it is asked for."""
    with pytest.raises(tb.InvalidValueError, match="input_tokens must be at most 10000000 tokens, got 100000000000"):
        tb.SyntheticPrompts(input_tokens=100_000_000_000)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    """The error names the file."""
    with pytest.raises(tb.InvalidValueError, match=r"cannot read the prompt file .*absent"):
        tb.PromptFile.read(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (tb.FixedPrompt(prompt="a"), tb.FixedPrompt(prompt="b")),
        (tb.FixedPrompt(prompt="a"), tb.FixedPrompt(prompt="a", max_new_tokens=3)),
        (tb.SyntheticPrompts(input_tokens=3), tb.SyntheticPrompts(input_tokens=4)),
        (tb.PromptFile.of(["a", "b"]), tb.PromptFile.of(["a", "c"])),
        (tb.PromptFile.of(["a", "b"]), tb.PromptFile.of(["a", "b"], shuffled=True)),
        (tb.PromptLengths(input_tokens=(1, 2)), tb.PromptLengths(input_tokens=(2, 1))),
    ],
)
def test_identities_differ_when_requests_do(one, other):
    """Different requests never share a stored cell's key."""
    assert one.identity != other.identity


def test_a_long_prompt_is_cut_in_a_repr():
    """Logs stay readable."""
    assert len(repr(tb.GenerationRequest(prompt="x" * 5000))) < 300


def test_a_temperature_of_zero_is_refused():
    """Greedy is said by leaving it out."""
    with pytest.raises(tb.InvalidValueError, match="temperature must be above 0"):
        tb.GenerationRequest(prompt="a", temperature=0.0)
