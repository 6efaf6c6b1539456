"""Shapes of models: the built-in table, and config.json files."""

from __future__ import annotations

import json

import pytest

import tgibench as tb
from tgibench.twin.shapes import MODELS, find_model

LLAMA_2_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}


def written(folder, **changes):
    """A config with changes; None takes a field away."""
    config = {name: value for name, value in {**LLAMA_2_7B, **changes}.items() if value is not None}
    folder.joinpath("config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_a_config_gives_the_shape_that_the_table_has(tmp_path):
    """Llama 2 7B counted from its config is the table's, weights to 0.1 %."""
    read, known = tb.ModelShape.from_config(written(tmp_path)), MODELS["llama-2-7b"]
    assert read.parameters == pytest.approx(known.parameters, rel=1e-3)
    assert (read.layers, read.hidden, read.kv_bytes_per_token) == (known.layers, known.hidden, known.kv_bytes_per_token)
    assert read.column_share == known.column_share
    assert read.name == tmp_path.name


def test_grouped_heads_with_a_size_of_their_own(tmp_path):
    """Keys and values are counted by the heads' own size where the config gives one: Qwen3 8B's 8.19 billion weights."""
    changes = {"model_type": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36, "num_key_value_heads": 8}
    more = {"intermediate_size": 12288, "vocab_size": 151936, "head_dim": 128}
    shape = tb.ModelShape.from_config(written(tmp_path, **changes, **more), name="qwen3-8b")
    assert shape.parameters == pytest.approx(8.19e9, rel=2e-3)
    assert shape.kv_bytes_per_token == 2 * 36 * 8 * 128 * 2


def test_a_plain_feed_forward_layer_has_two_matrices(tmp_path):
    """GPT-NeoX 20B: 20.6 billion weights, none of them in a gate."""
    changes = {"model_type": "gpt_neox", "hidden_size": 6144, "num_hidden_layers": 44, "num_attention_heads": 64}
    more = {"num_key_value_heads": None, "intermediate_size": 24576, "vocab_size": 50432}
    shape = tb.ModelShape.from_config(written(tmp_path, **changes, **more) / "config.json", name="neox")
    assert shape.parameters == pytest.approx(20.55e9, rel=3e-3)
    assert not shape.gated


# What the hub's config.json files say, by `model_type`'s own names; none of them says whether embeddings are tied.
GEMMA_2B = {
    "model_type": "gemma",
    "hidden_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "intermediate_size": 16384,
    "vocab_size": 256000,
}
GEMMA_2_2B = {
    "model_type": "gemma2",
    "hidden_size": 2304,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "intermediate_size": 9216,
    "vocab_size": 256000,
}
GPT_2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
OPT_125M = {
    "model_type": "opt",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "ffn_dim": 3072,
    "max_position_embeddings": 2048,
    "word_embed_proj_dim": 768,
    "vocab_size": 50272,
}
OPT_350M = {
    **OPT_125M,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "ffn_dim": 4096,
    "word_embed_proj_dim": 512,
}
MPT_7B = {"model_type": "mpt", "d_model": 4096, "n_layers": 32, "n_heads": 32, "vocab_size": 50432}
STARCODER = {
    "model_type": "gpt_bigcode",
    "n_embd": 6144,
    "n_layer": 40,
    "n_head": 48,
    "n_inner": 24576,
    "n_positions": 8192,
    "multi_query": True,
    "vocab_size": 49152,
}
STARCODER_2_3B = {
    "model_type": "starcoder2",
    "hidden_size": 3072,
    "num_hidden_layers": 30,
    "num_attention_heads": 24,
    "num_key_value_heads": 2,
    "intermediate_size": 12288,
    "vocab_size": 49152,
}
FALCON_7B = {
    "model_type": "falcon",
    "hidden_size": 4544,
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
    "num_kv_heads": 71,
    "multi_query": True,
    "new_decoder_architecture": False,
    "vocab_size": 65024,
}
FALCON_40B = {
    "model_type": "falcon",
    "hidden_size": 8192,
    "num_hidden_layers": 60,
    "num_attention_heads": 128,
    "num_kv_heads": 8,
    "multi_query": True,
    "new_decoder_architecture": True,
    "vocab_size": 65024,
}


def shape_of(folder, config):
    folder.joinpath("config.json").write_text(json.dumps(config), encoding="utf-8")
    return tb.ModelShape.from_config(folder)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        pytest.param(GEMMA_2B, 2_506_172_416, id="gemma-2b"),
        pytest.param(GEMMA_2_2B, 2_614_341_888, id="gemma-2-2b"),
        pytest.param(GPT_2, 124_439_808, id="gpt2"),
        pytest.param(OPT_125M, 125_239_296, id="opt-125m"),
        pytest.param(OPT_350M, 331_196_416, id="opt-350m"),
        pytest.param(STARCODER, 15_517_456_384, id="starcoder"),
        pytest.param(STARCODER_2_3B, 3.03e9, id="starcoder2-3b"),
        # Its checkpoint holds 7,217,189,760, the 65,024 x 4,544 of the embeddings twice.
        pytest.param(FALCON_7B, 7_217_189_760 - 65_024 * 4_544, id="falcon-7b"),
        pytest.param({**FALCON_7B, "tie_word_embeddings": False}, 7_217_189_760, id="falcon-7b-untied"),
    ],
)
def test_weights_are_counted_as_the_family_ties_its_embeddings(tmp_path, config, parameters):
    """Where a config does not say, they are tied or not as transformers takes it; the count is right to 0.1 %."""
    assert shape_of(tmp_path, config).parameters == pytest.approx(parameters, rel=1e-3)


def test_mpt_has_no_output_matrix_of_its_own(tmp_path):
    """MPT-7B's model card says 6.7 billion; a second matrix of embeddings would make them 6.86."""
    assert shape_of(tmp_path, MPT_7B).parameters == pytest.approx(6.7e9, rel=1e-2)


@pytest.mark.parametrize(
    ("config", "kv_heads"),
    [
        pytest.param(FALCON_7B, 1, id="falcon-7b"),
        pytest.param({**FALCON_7B, "multi_query": None}, 1, id="falcon's default"),
        pytest.param({**FALCON_7B, "multi_query": False}, 71, id="falcon-rw"),
        pytest.param(FALCON_40B, 8, id="falcon-40b"),
        pytest.param(STARCODER, 1, id="starcoder"),
        pytest.param({**STARCODER, "multi_query": None}, 1, id="gpt_bigcode's default"),
        pytest.param({**STARCODER, "multi_query": False}, 48, id="gpt_bigcode with as many"),
    ],
)
def test_multi_query_attention_has_one_key_value_head(tmp_path, config, kv_heads):
    """As transformers builds it: Falcon's `num_kv_heads` counts in its new architecture, or without multi-query attention."""
    assert shape_of(tmp_path, config).kv_heads == kv_heads


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": ["llama"]}, r"is of model_type \['llama'\], not of a dense"),
        ({"num_local_experts": "8"}, "must give num_local_experts as a whole number of at least 1, got '8'"),
        ({"tie_word_embeddings": "no"}, "must give tie_word_embeddings as true or false, got 'no'"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "is of model_type 'mixtral', not of a dense"),
        ({"num_local_experts": 8}, "'llama' with experts"),
        ({"num_hidden_layers": None}, "must give num_hidden_layers or n_layer"),
        ({"vocab_size": 0}, "must give vocab_size as a whole number of at least 1, got 0"),
    ],
)
def test_what_is_no_dense_decoder_is_refused(tmp_path, changes, message):
    """The message names the file, the field and what to do."""
    with pytest.raises(tb.InvalidValueError, match=message):
        tb.ModelShape.from_config(written(tmp_path, **changes))


def test_a_config_that_cannot_be_read_is_refused(tmp_path):
    """Absent or no JSON."""
    with pytest.raises(tb.InvalidValueError, match="cannot read the model's config"):
        tb.ModelShape.from_config(tmp_path)
    tmp_path.joinpath("config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(tb.InvalidValueError, match="must be a JSON object, got list"):
        tb.ModelShape.from_config(tmp_path)


def test_shapes_of_ones_own_are_found_by_name():
    """A mapping of the caller's is searched as the built-in one is."""
    own = {
        "tiny": tb.ModelShape(name="tiny", parameters=1e8, layers=2, hidden=64, intermediate=128, heads=2, kv_heads=2)
    }
    assert find_model("someone/Tiny-chat", own) is own["tiny"]
    assert find_model("someone/tinier", own) is None
