"""A clock that is minutes off is told as such, wherever AWS refuses a signature for it."""

from __future__ import annotations

import pytest

import tgibench as tb
from sagemaker_account import account

STUDY = tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge", server_version="1.0.3")


@pytest.mark.parametrize(("clock_ahead_s", "words"), [(600.0, "s behind AWS's"), (-600.0, "s ahead of AWS's")])
async def test_a_clock_that_is_off_is_one_clear_sentence(monkeypatch, tmp_path, clock_ahead_s, words):
    """In the plan under a code of its own, when attaching, and of each request; what was measured is in it."""
    async with account(monkeypatch, tmp_path, clock_ahead_s=clock_ahead_s) as fake:
        ((code, sentence),) = (await tb.SageMakerBackend(role_arn=fake.role_arn).plan(STUDY)).problems
        assert code == "clock"
        with pytest.raises(tb.AwsError) as refused:
            async with tb.SageMakerBackend(endpoint_name="ep").deploy(STUDY):
                pass
        target = tb.SageMakerEndpoint(tb.SageMakerProtocol(endpoint_name="ep"))
        async with target.connect() as client:
            failure = (await client.generate(tb.GenerationRequest(prompt="x"), tb.Timeouts())).failure
        assert (failure.kind, failure.status) == (tb.FailureKind.HTTP_ERROR, 403)
        for said in (sentence, str(refused.value), failure.message):
            assert words in said
            assert any(f"{seconds} s" in said for seconds in (599, 600, 601))
            assert "set the clock" in said


async def test_other_refusals_stay_what_they_are(monkeypatch, tmp_path):
    """With a wrong key it is the key, though the clock is a little off too."""
    async with account(monkeypatch, tmp_path, clock_ahead_s=60.0) as fake:
        fake.identity.secret_key = "another"
        ((code, sentence),) = (await tb.SageMakerBackend(role_arn=fake.role_arn).plan(STUDY)).problems
        assert (code, "clock" in sentence) == ("credentials", False)
