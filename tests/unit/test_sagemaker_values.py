"""What a deployment becomes for SageMaker: image, host image, variables, names; and where boto3 is known."""

from __future__ import annotations

import json
import pickle
import re
import sys
from pathlib import Path

import pytest

import tgibench as tb
from tgibench.backends.sagemaker import aws, images, journal
from tgibench.backends.sagemaker.images import ami_for, image_for
from tgibench.backends.sagemaker.names import is_ours, name_for, tags_for
from tgibench.backends.sagemaker.plan import health_timeout_s
from tgibench.backends.sagemaker.servers import environment_of

SOURCES = Path(tb.__file__).parent


def deployment(**changes):
    """Of the study's kind."""
    fields = {"server_version": "1.0.3", "max_input_tokens": 1024, "max_total_tokens": 2048, **changes}
    return tb.Deployment(fields.pop("model_id", "meta-llama/Llama-2-7b-hf"), "ml.g5.2xlarge", **fields)


@pytest.mark.parametrize(
    ("version", "region", "host", "tag"),
    [
        ("1.0.3", "us-east-1", "763104351884.dkr.ecr.us-east-1.amazonaws.com", "2.0.1-tgi1.0.3-gpu-py39-cu118-ubuntu20.04"),
        ("3.3.6", "eu-central-1", "763104351884.dkr.ecr.eu-central-1.amazonaws.com", "2.7.0-tgi3.3.6-gpu-py311-cu124-ubuntu22.04"),
        ("2.4.0", "ap-east-1", "871362719292.dkr.ecr.ap-east-1.amazonaws.com", "2.4.0-tgi2.4.0-gpu-py311-cu124-ubuntu22.04-v2.2"),
        ("1.4.5", "cn-north-1", "727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn", "2.1.1-tgi1.4.5-gpu-py310-cu121-ubuntu22.04"),
    ],
)  # fmt: skip
def test_tgis_images_are_known_by_exact_version(version, region, host, tag):
    """As the SageMaker SDK resolves them."""
    assert image_for("tgi", version, region) == f"{host}/huggingface-pytorch-tgi-inference:{tag}"


@pytest.mark.parametrize(
    ("server", "version", "region", "words"),
    [
        ("tgi", "2.0", "us-east-1", "known are"),
        ("tgi", None, "us-east-1", "which version"),
        ("tgi", "1.0.3", "mars-1", "mars-1"),
        ("vllm", "0.14.0", "us-east-1", "sagemaker-sdk"),
    ],
)
def test_an_image_that_is_not_known_is_no_guess(server, version, region, words):
    """An alias is none either: the SDK's "2.0" means 2.4.0."""
    with pytest.raises(tb.InvalidValueError, match=words):
        image_for(server, version, region)


def test_other_servers_images_are_read_from_the_sdks_files_without_importing_it(monkeypatch, tmp_path):
    """A package of that name that must not be imported."""
    folder = tmp_path / "sagemaker" / "core" / "image_uri_config"
    folder.mkdir(parents=True)
    (tmp_path / "sagemaker" / "__init__.py").write_text("raise RuntimeError('imported')")
    entry = {
        "repository": "huggingface-vllm", "tag_prefix": "0.14.0", "py_versions": ["py312"],
        "container_version": {"gpu": "cu129-ubuntu22.04"}, "registries": {"us-east-1": "763104351884"},
    }  # fmt: skip
    (folder / "huggingface-vllm.json").write_text(json.dumps({"inference": {"versions": {"0.14.0": entry}}}))
    monkeypatch.syspath_prepend(str(tmp_path))
    image = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-vllm:0.14.0-gpu-py312-cu129-ubuntu22.04"
    assert image_for("vllm", "0.14.0", "us-east-1") == image
    assert "sagemaker" not in sys.modules
    with pytest.raises(tb.InvalidValueError):
        image_for("vllm", "0.14.0", "eu-west-1")


def test_cuda_13_gets_the_host_image_with_its_driver():
    """Older ones run on the default."""
    assert ami_for("x/lmi:0.38.0-lmi29.0.0-cu130") == "al2023-ami-sagemaker-inference-gpu-4-1"
    assert ami_for(image_for("tgi", "3.3.6", "us-east-1")) is None
    assert images.registry_host("us-west-2").startswith("763104351884.dkr.ecr.us-west-2")


@pytest.mark.parametrize(
    ("version", "present", "absent"),
    [
        ("1.4.5", {"MAX_INPUT_LENGTH": "1024"}, {"MAX_INPUT_TOKENS", "USAGE_STATS"}),
        ("2.0.0", {"MAX_INPUT_TOKENS": "1024"}, {"MAX_INPUT_LENGTH", "USAGE_STATS"}),
        ("2.2.0", {"MAX_INPUT_TOKENS": "1024", "USAGE_STATS": "off"}, {"MAX_INPUT_LENGTH"}),
        ("3.3.6", {"MAX_INPUT_TOKENS": "1024", "MAX_TOTAL_TOKENS": "2048", "SM_NUM_GPUS": "1"}, {"MAX_INPUT_LENGTH"}),
    ],
)
def test_tgis_variables_are_those_of_its_version(version, present, absent):
    """Both names of the longest prompt together are an error to the launcher."""
    variables = environment_of(deployment(server_version=version))
    assert present.items() <= variables.items()
    assert not absent & variables.keys()


@pytest.mark.parametrize(
    ("server", "variables"),
    [
        ("vllm", {"SM_VLLM_MODEL": "m", "SM_VLLM_TENSOR_PARALLEL_SIZE": "4", "SM_VLLM_MAX_MODEL_LEN": "2048"}),
        ("sglang", {"SM_SGLANG_MODEL_PATH": "m", "SM_SGLANG_TP_SIZE": "4", "SM_SGLANG_CONTEXT_LENGTH": "2048"}),
        ("lmi", {"HF_MODEL_ID": "m", "OPTION_TENSOR_PARALLEL_DEGREE": "4", "OPTION_MAX_MODEL_LEN": "2048"}),
    ],
)
def test_other_servers_have_variables_of_their_own(server, variables):
    """The deployment's own variables win."""
    told = deployment(model_id="m", server=server, tensor_parallel=4, environment=(("X", "1"),))
    assert {**variables, "X": "1"}.items() <= environment_of(told).items()
    name = next(iter(variables))
    assert environment_of(deployment(server=server, environment=((name, "own"),)))[name] == "own"


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_a_hub_token_is_given_under_both_names(name):
    """As a plain string."""
    variables = environment_of(deployment(environment=((name, "hf_x"),)))
    assert variables["HF_TOKEN"] == variables["HUGGING_FACE_HUB_TOKEN"] == "hf_x"


def test_the_health_checks_time_out_follows_the_models_size():
    """Within the service's limits; an unknown model gets the longest."""
    seconds = [health_timeout_s(deployment(model_id=f"meta-llama/Llama-2-{size}-hf")) for size in ("7b", "13b", "70b")]
    assert seconds == sorted(seconds)
    assert (seconds[0], health_timeout_s(deployment(model_id="somebody/else"))) == (900, 3600)


def test_names_are_ours_only_with_the_tag_of_their_run():
    """And short enough for the service."""
    name, tags = name_for(deployment(), "0123abcd"), tags_for("0123abcd", "arn:aws:iam::1:user/x y,z", 60)
    assert re.fullmatch(r"tgib-0123abcd-[0-9a-f]{8}", name)
    assert name == name_for(deployment(), "0123abcd") != name_for(deployment(quantization="gptq"), "0123abcd")
    assert is_ours(name, tags)
    assert not is_ours(name, {})
    assert not is_ours(name, {**tags, "tgibench:run": "ffffffff"})
    assert not is_ours(f"x{name}", tags)
    assert tags["tgibench:owner"] == "arn:aws:iam::1:user/x y_z"


def test_a_journal_whose_last_line_was_cut_off_still_tells_its_intent(monkeypatch, tmp_path):
    """It is found until it says that everything is gone, and lives as long as it is held."""
    monkeypatch.setenv("TGIBENCH_STATE_DIR", str(tmp_path))
    intent = journal.Intent(
        name="tgib-0123abcd-00000000", region="r", account="1", instance_type="t", count=1, usd_per_hour=2.0, tags={"a": "b"}
    )  # fmt: skip
    with journal.begin_journal(intent) as written:
        written.write("create", kind="model")
        assert list(journal.journaled()) == [(intent, True)]
    with written.path.open("a") as file:
        file.write('{"event": "gon')
    assert list(journal.journaled()) == [(intent, False)]
    written.path.write_text(written.path.read_text() + "\n")
    journal.mark_gone(intent.name)
    assert list(journal.journaled()) == []


def test_a_journal_that_cannot_be_written_stops_everything(monkeypatch, tmp_path):
    """Nothing may be created without one."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TGIBENCH_STATE_DIR", str(tmp_path / "file"))
    intent = journal.Intent(name="n", region="r", account="1", instance_type="t", count=1, usd_per_hour=1, tags={})
    with pytest.raises(tb.DeployError, match="nothing is created"), journal.begin_journal(intent):
        raise AssertionError


def test_errors_come_through_a_pickle_whole():
    """With their codes, as a worker hands them back."""
    refused = pickle.loads(pickle.dumps(tb.AwsError("m", code="Throttling", busy=True)))  # noqa: S301 - our own bytes
    assert (str(refused), refused.code, refused.busy, refused.expired) == ("m", "Throttling", True, False)
    missing = pickle.loads(pickle.dumps(tb.PreflightError((("role", "none"), ("quota", "0")))))  # noqa: S301
    assert (str(missing), missing.problems[0]) == ("role: none; quota: 0", ("role", "none"))


def test_boto3_is_known_to_one_module(monkeypatch):
    """Which says what to install where it is missing."""
    mentions = re.compile(r"^\s*(?:import|from)\s+boto|import_module\(|part_of\(\"boto", re.MULTILINE)
    knowing = {
        path.name
        for path in SOURCES.glob("backends/sagemaker/*.py")
        if mentions.search(path.read_text(encoding="utf-8"))
    }
    assert knowing == {"aws.py"}
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(tb.MissingExtraError, match=r"tgibench\[sagemaker\]"):
        aws.part_of("boto3")
