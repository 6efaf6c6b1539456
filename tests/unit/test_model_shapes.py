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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
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
