"""Shapes of common model families: what step times and memory are computed from. Pass a `ModelShape` of your own for others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import validators

from tgibench.errors import InvalidValueError
from tgibench.validators import above_zero, count

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MODELS", "ModelShape", "find_model"]

_GATED_MATRICES, _PLAIN_MATRICES = 3, 2
# `model_type`s of config.json by how many matrices their feed-forward layer has.
_GATED = {
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "phi3",
    "gemma",
    "gemma2",
    "stablelm",
    "olmo",
    "olmo2",
    "granite",
    "internlm2",
}
_PLAIN = {"gpt_neox", "gpt_bigcode", "gpt2", "opt", "falcon", "phi", "mpt", "starcoder2"}
# Families whose configurations in transformers (src/transformers/models/*/configuration_*.py) tie the output to the input embeddings
# unless the file says otherwise. A file that transformers wrote leaves that out, for it is its general default.
_TIED = {"gemma", "gemma2", "gpt2", "gpt_bigcode", "opt", "falcon", "mpt", "starcoder2"}
_MULTI_QUERY = {"falcon", "gpt_bigcode"}  # unless the file says otherwise
# Families with learned positions: how many a file that does not say has, and rows beyond them (OPTLearnedPositionalEmbedding.offset).
_POSITIONS = {"gpt2": (1024, 0), "gpt_bigcode": (1024, 0), "opt": (2048, 2)}
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


@attrs.frozen(kw_only=True)
class ModelShape:
    """A dense decoder-only transformer.

    Args:
        name: Such as ``"llama-2-7b"``.
        parameters: Number of weights.
        layers: Number of transformer blocks.
        hidden: Width of the residual stream.
        intermediate: Width of the feed-forward layer.
        heads: Attention heads.
        kv_heads: Key and value heads.
        head_size: Width of a head; None for hidden / heads.
        gated: Whether the feed-forward layer has three matrices (gate, up, down) rather than two.
        source: Where the figures come from.
    """

    name: str
    parameters: float = attrs.field(validator=above_zero)
    layers: int = attrs.field(validator=count)
    hidden: int = attrs.field(validator=count)
    intermediate: int = attrs.field(validator=count)
    heads: int = attrs.field(validator=count)
    kv_heads: int = attrs.field(validator=count)
    head_size: int | None = attrs.field(default=None, validator=validators.optional(count))
    gated: bool = True
    source: str = attrs.field(default="given by the caller", eq=False)

    @classmethod
    def from_config(cls, path: str | Path, *, name: str | None = None) -> ModelShape:
        """Read a Hugging Face ``config.json``; the weights are counted from it (norms and biases left out: 0.1 % or less).

        Where the file does not say whether embeddings are tied, or how many key and value heads there are, they are what transformers
        takes for the family.

        Args:
            path: The file, or the folder that holds it.
            name: The shape's name; by default the folder's.

        Raises:
            InvalidValueError: It cannot be read, a field is missing, or the model is no dense decoder of a known family.
        """
        path = Path(path)
        file = path / "config.json" if path.is_dir() else path
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InvalidValueError(f"cannot read the model's config {str(file)!r}: {error}") from error
        if not isinstance(config, dict):
            raise InvalidValueError(
                f"the model's config {str(file)!r} must be a JSON object, got {type(config).__name__}"
            )
        return _shape_of(config, name or file.resolve().parent.name, str(file))

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in fp16: 2 · layers · kv_heads · head size · 2 bytes."""
        return 4 * self.layers * self.kv_heads * (self.head_size or self.hidden // self.heads)

    @property
    def column_share(self) -> float:
        """Share of a block's weights in column-parallel matrices (query, key, value, gate, up) rather than row-parallel ones."""
        attention = self.hidden * self.heads * (self.head_size or self.hidden // self.heads)
        key_value = 2 * attention * self.kv_heads / self.heads
        feed_forward = self.hidden * self.intermediate
        column = attention + key_value + feed_forward * (2 if self.gated else 1)
        return column / (column + attention + feed_forward)


def _shape_of(config: dict[str, Any], name: str, where: str) -> ModelShape:
    kind = _dense_family(config, where)
    hidden = _figure(config, ("hidden_size", "n_embd", "d_model"), where)
    layers = _figure(config, ("num_hidden_layers", "n_layer", "n_layers"), where)
    heads = _figure(config, ("num_attention_heads", "n_head", "n_heads"), where)
    kv_heads = _kv_heads(config, kind, heads, where)
    wide = _figure(config, ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"), where, default=4 * hidden)
    head_size = _figure(config, ("head_dim",), where, default=hidden // heads)
    gated = kind in _GATED
    attention = 2 * hidden * head_size * (heads + kv_heads)
    block = attention + (_GATED_MATRICES if gated else _PLAIN_MATRICES) * hidden * wide
    return ModelShape(
        name=name,
        parameters=float(layers * block + _embeddings(config, kind, hidden, where)),
        layers=layers,
        hidden=hidden,
        intermediate=wide,
        heads=heads,
        kv_heads=kv_heads,
        head_size=None if head_size == hidden // heads else head_size,
        gated=gated,
        source=where,
    )


def _dense_family(config: dict[str, Any], where: str) -> str:
    kind = config.get("model_type")
    known = isinstance(kind, str) and kind in _GATED | _PLAIN
    experts = [_figure(config, (field,), where, default=1) for field in _EXPERTS if config.get(field) != 0]
    if not isinstance(kind, str) or not known or max(experts, default=1) > 1:
        raise InvalidValueError(
            f"{where} is of model_type {kind!r}{' with experts' if known else ''}, not of a dense decoder family "
            "that is known here; pass ModelShape(...) with its figures"
        )
    return kind


def _kv_heads(config: dict[str, Any], kind: str, heads: int, where: str) -> int:
    """As transformers has it: where attention is multi-query, what falcon-7b's file gives as num_kv_heads is not looked at."""
    multi_query = kind in _MULTI_QUERY and _flag(config, "multi_query", where, default=True)
    if multi_query and not _flag(config, "new_decoder_architecture", where, default=False):
        return 1
    return _figure(config, ("num_key_value_heads", "num_kv_heads"), where, default=heads)


def _embeddings(config: dict[str, Any], kind: str, hidden: int, where: str) -> int:
    """Weights of tokens and positions, and of what lies between them and the blocks where they are narrower (OPT 350M)."""
    width = _figure(config, ("word_embed_proj_dim",), where, default=hidden)
    tied = _flag(config, "tie_word_embeddings", where, default=kind in _TIED)
    tokens = _figure(config, ("vocab_size",), where) * width * (1 if tied else 2)
    projections = 2 * width * hidden if width != hidden else 0
    if kind not in _POSITIONS:
        return tokens + projections
    usual, more = _POSITIONS[kind]
    positions = _figure(config, ("n_positions", "max_position_embeddings"), where, default=usual) + more
    return tokens + projections + positions * hidden


def _flag(config: dict[str, Any], name: str, where: str, *, default: bool) -> bool:
    found = default if config.get(name) is None else config[name]
    if not isinstance(found, bool):
        raise InvalidValueError(f"{where} must give {name} as true or false, got {found!r}")
    return found


def _figure(config: dict[str, Any], names: tuple[str, ...], where: str, default: int | None = None) -> int:
    found = next((config[name] for name in names if config.get(name) is not None), default)
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise InvalidValueError(
            f"{where} must give {' or '.join(names)} as a whole number of at least 1, got {found!r}"
        )
    return found


def _shape(name: str, repository: str, *numbers: float) -> ModelShape:
    parameters, layers, hidden, intermediate, heads, kv_heads = numbers
    return ModelShape(
        name=name,
        parameters=parameters * 1e9,
        layers=int(layers),
        hidden=int(hidden),
        intermediate=int(intermediate),
        heads=int(heads),
        kv_heads=int(kv_heads),
        source=f"config.json of {repository}; the number of weights counted from it",
    )


# Billions of parameters, layers, hidden, intermediate, heads, key-value heads.
MODELS = {
    model.name: model
    for model in (
        _shape("llama-2-7b", "meta-llama/Llama-2-7b-hf", 6.738, 32, 4096, 11008, 32, 32),
        _shape("llama-2-13b", "meta-llama/Llama-2-13b-hf", 13.016, 40, 5120, 13824, 40, 40),
        _shape("llama-2-70b", "meta-llama/Llama-2-70b-hf", 68.977, 80, 8192, 28672, 64, 8),
        _shape("llama-3-8b", "meta-llama/Meta-Llama-3-8B", 8.030, 32, 4096, 14336, 32, 8),
        _shape("llama-3-70b", "meta-llama/Meta-Llama-3-70B", 70.554, 80, 8192, 28672, 64, 8),
        _shape("llama-3.1-8b", "meta-llama/Llama-3.1-8B", 8.030, 32, 4096, 14336, 32, 8),
        _shape("llama-3.1-70b", "meta-llama/Llama-3.1-70B", 70.554, 80, 8192, 28672, 64, 8),
        _shape("mistral-7b", "mistralai/Mistral-7B-v0.1", 7.242, 32, 4096, 14336, 32, 8),
        _shape("codellama-34b", "codellama/CodeLlama-34b-hf", 33.744, 48, 8192, 22016, 64, 8),
        _shape("qwen2.5-7b", "Qwen/Qwen2.5-7B", 7.616, 28, 3584, 18944, 28, 4),
    )
}


def find_model(model_id: str, shapes: Mapping[str, ModelShape] = MODELS) -> ModelShape | None:
    """The shape that a model's name on the hub stands for: owner, case and suffixes (``-hf``, ``-chat``, ``-GPTQ``) do not matter.

    Args:
        model_id: The name on the hub, or a shape's own.
        shapes: Where to look.
    """
    if model_id in shapes:
        return shapes[model_id]
    name = re.sub(r"^meta-", "", model_id.rsplit("/", 1)[-1].lower())
    matching = [known for known in shapes if re.match(re.escape(known.lower()) + r"(?![0-9a-z])", name)]
    return shapes[max(matching, key=len)] if matching else None
