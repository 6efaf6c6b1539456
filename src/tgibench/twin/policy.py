"""How an engine schedules: the router's settings, by version of text-generation-inference and by memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs import validators

from tgibench.errors import DeployError
from tgibench.twin.engines import version_of
from tgibench.validators import above_zero, count

if TYPE_CHECKING:
    from tgibench.deployments import Deployment

__all__ = ["EngineSettings", "settings_for"]

_CHUNKED_SINCE = (3, 0, 0)
_LIKE_TGI_3 = frozenset({"vllm", "sglang"})
_NO_LIMIT = 1_000_000


@attrs.frozen(kw_only=True)
class EngineSettings:
    """The scheduler's settings, by the names that TGI's launcher gives them; defaults are TGI 1.0.3's.

    Args:
        max_concurrent_requests: Requests accepted at once, queued ones included; more are refused at once.
        max_input_tokens: Longest prompt.
        max_total_tokens: Longest prompt and answer.
        max_batch_prefill_tokens: Most prompt tokens of one prefill.
        max_batch_total_tokens: Most tokens, reserved answers included, of all running sequences.
        waiting_served_ratio: Newcomers wait until there are this many for each running sequence …
        max_waiting_tokens: … or this many decodes went by.
        max_batch_size: Most running sequences; None for no limit.
        chunked_prefill: Whether prompts are prefilled in pieces beside the running sequences (TGI 3).
        block_tokens: Prompts and answers are rounded up to blocks of so many tokens.
    """

    max_concurrent_requests: int = attrs.field(default=128, validator=count)
    max_input_tokens: int = attrs.field(default=1024, validator=count)
    max_total_tokens: int = attrs.field(default=2048, validator=count)
    max_batch_prefill_tokens: int = attrs.field(default=4096, validator=count)
    max_batch_total_tokens: int = attrs.field(default=16_000, validator=count)
    waiting_served_ratio: float = attrs.field(default=1.2, validator=above_zero)
    max_waiting_tokens: int = attrs.field(default=20, validator=count)
    max_batch_size: int | None = attrs.field(default=None, validator=validators.optional(count))
    chunked_prefill: bool = False
    block_tokens: int = attrs.field(default=16, validator=count)


def settings_for(deployment: Deployment, cache_tokens: int | None = None) -> EngineSettings:
    """The scheduler's settings by the deployment's server and version, its token limits and the tokens that its memory holds.

    Defaults by version from TGI's launcher: `waiting_served_ratio` 1.2 until 2.0.1 and 0.3 after; prompts of 1,024 and 2,048
    tokens in all until 1.4, 4,095 and 4,096 after; prefills in chunks from 3.0. vLLM and SGLang are taken to schedule as TGI 3 does,
    whatever their version, and to queue whatever comes rather than refuse it; a server of any other name to be TGI of that version. Give a
    `PerformanceModel` or an `Emulator` settings of your own where that is not so.

    Raises:
        DeployError: The memory does not hold one request of the longest length.
    """
    like_tgi = deployment.server not in _LIKE_TGI_3
    version = version_of(deployment) if like_tgi else _CHUNKED_SINCE
    default_total = 2048 if version < (2, 0, 0) else 4096
    total = deployment.max_total_tokens or default_total
    default_input = 1024 if version < (2, 0, 0) else total - 1
    longest = deployment.max_input_tokens or min(default_input, total - 1)
    if cache_tokens is not None and cache_tokens < total:
        raise DeployError(
            f"{deployment.label} has memory for the keys and values of {cache_tokens} tokens, which is less than one request of "
            f"max_total_tokens={total}; lower max_total_tokens or take a larger machine"
        )
    defaults = EngineSettings()
    return EngineSettings(
        max_concurrent_requests=defaults.max_concurrent_requests if like_tgi else _NO_LIMIT,
        max_input_tokens=longest,
        max_total_tokens=total,
        max_batch_prefill_tokens=max(defaults.max_batch_prefill_tokens, longest + 50),
        max_batch_total_tokens=cache_tokens or max(defaults.max_batch_total_tokens, total),
        waiting_served_ratio=1.2 if version < (2, 0, 2) else 0.3,
        chunked_prefill=version >= _CHUNKED_SINCE,
    )
