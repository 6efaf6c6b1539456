"""Deployments: what they refuse, how they are called, what they hide."""

from __future__ import annotations

import pytest

import tgibench as tb


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_id": " "}, "model_id must be a non-empty text"),
        ({"tensor_parallel": 0}, "tensor_parallel must be a whole number of at least 1, got 0"),
        ({"replicas": 1.5}, "replicas must be a whole number of at least 1, got 1.5"),
        ({"max_total_tokens": 0}, "max_total_tokens must be a whole number"),
        ({"max_input_tokens": 1024, "max_total_tokens": 1024}, r"must exceed max_input_tokens \(1024\), got 1024"),
    ],
)
def test_wrong_values_are_refused(fields, words):
    """One sentence with field, value and rule."""
    with pytest.raises(tb.InvalidValueError, match=words):
        tb.Deployment(**{"model_id": "m", "instance_type": "i", **fields})


@pytest.mark.parametrize(
    ("deployment", "label"),
    [
        (tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge"), "Llama-2-7b-hf @ ml.g5.2xlarge"),
        (tb.Deployment("m", "i", tensor_parallel=4, quantization="gptq"), "m gptq @ i tp4"),
        (tb.Deployment("TheBloke/Llama-2-7B-GPTQ", "i", quantization="gptq", replicas=2), "Llama-2-7B-GPTQ @ 2 x i"),
    ],
)
def test_labels_are_short_and_telling(deployment, label):
    """Model without owner, quantization once, machine, how often."""
    assert deployment.label == label


def test_secrets_in_the_environment_are_not_shown():
    """Neither a repr nor what goes into results holds a token's value; plain settings stay."""
    deployment = tb.Deployment(
        "m", "i", environment=(("HF_TOKEN", "hf_verysecret"), ("MAX_BATCH_PREFILL_TOKENS", "4096"))
    )
    assert "verysecret" not in repr(deployment)
    assert deployment.described()["environment"] == [["HF_TOKEN", "***"], ["MAX_BATCH_PREFILL_TOKENS", "4096"]]
