"""Why a server did not start, from its log."""

from __future__ import annotations

import pytest

from tgibench.protocols.start_failures import failure_reason

NOISE = [
    "2024-01-01T00:00:00.000000Z  INFO text_generation_launcher: Starting check and download process for org/model",
    "2024-01-01T00:00:01.000000Z  INFO text_generation_launcher: Waiting for shard to be ready... rank=0",
]
LAST = "Error: ShardCannotStart"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 86.00 MiB", "out of memory"),
        ("Not enough memory to handle 4096 prefill tokens. You need to decrease `--max-batch-prefill-tokens`", "out of memory"),
        ("RuntimeError: Not enough memory to handle max_total_tokens=9000", "out of memory"),
        ("ERROR text_generation_launcher: Shard process was signaled to shutdown with signal 9 rank=0", "system killed"),
        ("huggingface_hub.utils._errors.GatedRepoError: 403 Client Error.", "gated"),
        ("OSError: 401 Client Error: Unauthorized for url: https://huggingface.co/api/models/x", "gated"),
        ("huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error.", "knows no such model"),
        ("RuntimeError: Cannot load `gptq` weight, make sure the model is already quantized", "wrong quantization"),
        ("FileNotFoundError: No safetensors weights found for model org/model at revision None.", "holds no weights"),
        ("ERROR text_generation_launcher: Download encountered an error:", "could not be downloaded"),
        ('Error: NotEnoughCUDADevices("`sharded` is true but only found 1 CUDA devices")', "not enough GPUs"),
        ("RuntimeError: CUDA error: invalid device ordinal", "not enough GPUs"),
        ('Error: ArgumentValidation("`max_input_tokens` must be < `max_total_tokens`")', "setting was refused"),
    ],
)  # fmt: skip
def test_each_kind_is_told_by_its_line(line, reason):
    """Among the lines that always come, with the line and the server's last word."""
    found = failure_reason([*NOISE, line, LAST])
    assert reason in found.reason
    assert found.lines == (line, LAST)


def test_memory_is_the_reason_even_where_the_shard_is_said_to_have_failed():
    """The kinds have an order: what caused comes before what followed."""
    lines = ["Shard 0 crashed", "torch.OutOfMemoryError: CUDA out of memory.", "Error: DownloadError"]
    assert "out of memory" in failure_reason(lines).reason


def test_the_cause_between_the_first_line_of_a_kind_and_the_last_word_is_shown():
    """A download's error has a heading, a cause and a last word."""
    heading, cause = "Download encountered an error:", "ConnectionError: Max retries exceeded with url: /api/models/x"
    found = failure_reason([heading, "Traceback", cause, "Error: DownloadError"])
    assert found.lines == (heading, cause, "Error: DownloadError")


def test_colours_are_taken_off_and_long_lines_cut():
    """What is shown fits a message."""
    found = failure_reason(["\x1b[31mtorch.OutOfMemoryError\x1b[0m: " + "x" * 1000])
    (line,) = found.lines
    assert line.startswith("torch.OutOfMemoryError: x")
    assert len(line) == 400


def test_a_log_without_a_known_sign_has_no_reason():
    """Better none than a wrong one."""
    assert failure_reason([*NOISE, "Error: WebserverFailed"]) is None
    assert failure_reason([]) is None
