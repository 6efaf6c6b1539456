"""Why a model server did not start, as its log tells it: TGI's words first, and those of the Python libraries below all of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from tgibench.protocols.tgi_logs import without_colour

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["StartFailure", "failure_reason"]

_LONGEST_LINE = 400


@attrs.frozen
class StartFailure:
    """What a log says of a start that failed.

    Args:
        reason: One clause: what was wrong and what to do.
        lines: The lines that decide it, at most a handful, without colours.
    """

    reason: str
    lines: tuple[str, ...]


# The first kind that any line shows is the reason: a server that runs out of memory also says that a shard could not start.
_KINDS: tuple[tuple[str, str], ...] = (
    (
        (
            r"NotEnoughCUDADevices|invalid device ordinal|only found \d+ CUDA devices|no CUDA-capable device|"
            r"No CUDA GPUs are available|Torch not compiled with CUDA"
        ),
        "not enough GPUs: the server sees fewer than tensor_parallel asks for; lower it or give the container more",
    ),
    (
        (
            r"CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError|HIP out of memory|cudaMalloc failed: out of memory|"
            r"Not enough memory to handle|No available memory for the cache blocks|not enough GPU memory|std::bad_alloc"
        ),
        (
            "out of memory: the model with its batches does not fit; take a larger machine, more tensor_parallel, a quantization or "
            "lower token limits"
        ),
    ),
    (
        r"signaled to shutdown with signal 9|Shard process was signaled|OOMKilled",
        "the system killed the server, most likely because the machine's memory (not the GPU's) ran out",
    ),
    (
        (
            r"Cannot load `\w+` weight|already quantized|[Qq]uantization method .*(?:does not match|not supported)|"
            r"Unknown quantization|is not quantized|qweight|does not support quantization"
        ),
        "wrong quantization: the model's weights are not of the kind that quantization names; leave it out or name the weights' own",
    ),
    (
        r"RepositoryNotFoundError|Repository Not Found|RevisionNotFoundError|Revision Not Found",
        "the hub knows no such model or revision, or only for those with access: check model_id, revision and token",
    ),
    (
        r"GatedRepoError|gated repo|40[13] Client Error|Invalid user token|Access to model .* is restricted",
        "the model is gated: accept its licence on the hub, and give a token that has access",
    ),
    (
        r"No safetensors weights found|No \.bin weights found|EntryNotFoundError|does not appear to have a file named",
        "the model's repository holds no weights that the server can load",
    ),
    (
        (
            r"DownloadError|Download encountered an error|LocalEntryNotFoundError|Max retries exceeded|name resolution|"
            r"No space left on device"
        ),
        "the weights could not be downloaded",
    ),
    (
        r"ArgumentValidation\(|error: unexpected argument|error: invalid value|unrecognized arguments",
        "a setting was refused",
    ),
)
_COMPILED = tuple((re.compile(pattern), reason) for pattern, reason in _KINDS)
_LAST_WORD = re.compile(r"^Error: \w+")


def failure_reason(lines: Iterable[str]) -> StartFailure | None:
    """The reason that a log shows, and the lines that show it; None when no known one is there.

    Of the lines of one kind the first and the last are given, and behind them the server's last word (``Error: ShardCannotStart``).
    """
    plain = [without_colour(line).strip() for line in lines]
    for pattern, reason in _COMPILED:
        shown = [line for line in plain if pattern.search(line)]
        if shown:
            last_words = [line for line in plain if _LAST_WORD.search(line)]
            before = [line for line in shown if line not in last_words] or shown
            return StartFailure(reason, tuple(map(_cut, dict.fromkeys((*before[:1], *before[-1:], *last_words[-1:])))))
    return None


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 1]}\u2026"
