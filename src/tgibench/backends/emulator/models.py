"""Shapes of common model families: what step times and memory are computed from. Pass a `ModelShape` of your own for others."""

from __future__ import annotations

import re

import attrs

from tgibench.validators import above_zero, count

__all__ = ["MODELS", "ModelShape", "find_model"]


@attrs.frozen(kw_only=True)
class ModelShape:
    """A dense decoder-only transformer.

    Args:
        name: Such as ``"llama-2-7b"``.
        parameters: Number of weights.
        layers: Number of transformer blocks.
        hidden: Width of the residual stream.
        intermediate: Width of the feed-forward layer (gated: three matrices).
        heads: Attention heads.
        kv_heads: Key and value heads.
    """

    name: str
    parameters: float = attrs.field(validator=above_zero)
    layers: int = attrs.field(validator=count)
    hidden: int = attrs.field(validator=count)
    intermediate: int = attrs.field(validator=count)
    heads: int = attrs.field(validator=count)
    kv_heads: int = attrs.field(validator=count)

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in fp16: 2 · layers · kv_heads · head size · 2 bytes."""
        return 4 * self.layers * self.kv_heads * (self.hidden // self.heads)

    @property
    def column_share(self) -> float:
        """Share of a block's weights in column-parallel matrices (query, key, value, gate, up) rather than row-parallel ones."""
        key_value = 2 * self.hidden * self.hidden * self.kv_heads / self.heads
        column = self.hidden**2 + key_value + 2 * self.hidden * self.intermediate
        row = self.hidden**2 + self.hidden * self.intermediate
        return column / (column + row)


def _shape(name: str, *numbers: float) -> ModelShape:
    parameters, layers, hidden, intermediate, heads, kv_heads = numbers
    return ModelShape(
        name=name,
        parameters=parameters * 1e9,
        layers=int(layers),
        hidden=int(hidden),
        intermediate=int(intermediate),
        heads=int(heads),
        kv_heads=int(kv_heads),
    )


# From each model's config.json: billions of parameters, layers, hidden, intermediate, heads, key-value heads.
MODELS = {
    model.name: model
    for model in (
        _shape("llama-2-7b", 6.738, 32, 4096, 11008, 32, 32),
        _shape("llama-2-13b", 13.016, 40, 5120, 13824, 40, 40),
        _shape("llama-2-70b", 68.977, 80, 8192, 28672, 64, 8),
        _shape("llama-3-8b", 8.030, 32, 4096, 14336, 32, 8),
        _shape("llama-3-70b", 70.554, 80, 8192, 28672, 64, 8),
        _shape("llama-3.1-8b", 8.030, 32, 4096, 14336, 32, 8),
        _shape("llama-3.1-70b", 70.554, 80, 8192, 28672, 64, 8),
        _shape("mistral-7b", 7.242, 32, 4096, 14336, 32, 8),
        _shape("codellama-34b", 33.744, 48, 8192, 22016, 64, 8),
        _shape("qwen2.5-7b", 7.616, 28, 3584, 18944, 28, 4),
    )
}


def find_model(model_id: str) -> ModelShape | None:
    """The shape that a model's name on the hub stands for: owner, case and suffixes (``-hf``, ``-chat``, ``-GPTQ``) do not matter."""
    name = re.sub(r"^meta-", "", model_id.rsplit("/", 1)[-1].lower())
    matching = [known for known in MODELS if re.match(re.escape(known) + r"(?![0-9a-z])", name)]
    return MODELS[max(matching, key=len)] if matching else None
