"""What a deployment's container is, server by server: values only, no engine."""

from __future__ import annotations

import attrs
import pytest

import tgibench as tb
from tgibench.backends.docker.container import gpu_facts
from tgibench.backends.docker.pulling import PullProgress
from tgibench.backends.docker.servers import LLAMA_CPP, TGI, VLLM
from tgibench.backends.docker.specification import device_requests, specify

DEPLOYMENT = tb.Deployment("org/model", "machine", server_version="3.3.7")


def specified(deployment=DEPLOYMENT, server=TGI, **options):
    given = {"entrypoint": ("launcher",), "labels": {"a": "b"}, "gpus": "auto", "nvidia_here": True}
    return specify(deployment, server, image=server.image_of(deployment), **{**given, **options})


@pytest.mark.parametrize(
    ("server", "version", "variant", "image"),
    [
        (TGI, "1.0.3", None, "ghcr.io/huggingface/text-generation-inference:1.0.3"),
        (TGI, "3.3.5", "intel-cpu", "ghcr.io/huggingface/text-generation-inference:3.3.5-intel-cpu"),
        (TGI, "3.3.5", "rocm", "ghcr.io/huggingface/text-generation-inference:3.3.5-rocm"),
        (VLLM, "0.10.1", None, "vllm/vllm-openai:v0.10.1"),
        (VLLM, "latest", None, "vllm/vllm-openai:latest"),
        (LLAMA_CPP, "server-cuda", None, "ghcr.io/ggml-org/llama.cpp:server-cuda"),
    ],
)
def test_the_image_follows_from_the_version(server, version, variant, image):
    """Unless the deployment names its own."""
    deployment = tb.Deployment("m", "i", server_version=version)
    assert server.image_of(deployment, variant) == image
    assert server.image_of(attrs.evolve(deployment, image="mine:1"), variant) == "mine:1"


def test_without_version_and_image_nothing_can_be_run():
    """The error says what to give."""
    with pytest.raises(tb.DeployError, match=r"names no server_version.*image="):
        TGI.image_of(tb.Deployment("m", "i"))


FULL = tb.Deployment(
    "org/model",
    "machine",
    tensor_parallel=4,
    quantization="awq",
    revision="abc",
    max_input_tokens=5000,
    max_total_tokens=6000,
)


@pytest.mark.parametrize(
    ("version", "limits"),
    [
        ("1.4.5", ["--max-input-length", "5000", "--max-total-tokens", "6000", "--max-batch-prefill-tokens", "5000"]),
        ("2.0.0", ["--max-input-tokens", "5000", "--max-total-tokens", "6000"]),
        ("3.3.7", ["--max-input-tokens", "5000", "--max-total-tokens", "6000"]),
        ("latest", ["--max-input-tokens", "5000", "--max-total-tokens", "6000"]),
    ],
)
def test_tgis_command_line_is_the_canonical_one_of_the_version(version, limits):
    """The limit's flag changed its name with 2.0; before, the prefill's own default would refuse a longer prompt."""
    specification = specified(attrs.evolve(FULL, server_version=version))
    assert specification.config["Cmd"] == [
        "--model-id", "org/model", "--revision", "abc", "--num-shard", "4", "--quantize", "awq", *limits,
    ]  # fmt: skip
    assert specification.has_gpus


def test_settings_that_are_not_given_are_left_to_the_server():
    """No flag for them."""
    assert specified().config["Cmd"] == ["--model-id", "org/model", "--num-shard", "1"]


def test_vllm_and_llama_cpp_have_command_lines_of_their_own():
    """The same seam; each publishes its own port."""
    vllm = specified(attrs.evolve(FULL, server_version="0.10.1"), VLLM)
    assert vllm.config["Cmd"] == [
        "--model", "org/model", "--revision", "abc", "--tensor-parallel-size", "4", "--quantization", "awq",
        "--max-model-len", "6000", "--port", "8000",
    ]  # fmt: skip
    assert list(vllm.config["HostConfig"]["PortBindings"]) == ["8000/tcp"]
    llama = attrs.evolve(FULL, server_version="server-cuda", quantization="Q4_K_M")
    assert specified(llama, LLAMA_CPP).config["Cmd"] == [
        "--hf-repo", "org/model:Q4_K_M", "--ctx-size", "6000", "--host", "0.0.0.0", "--port", "8080", "--n-gpu-layers", "999",
        "--metrics",
    ]  # fmt: skip
    local = tb.Deployment("/models/x.gguf", "i", server_version="server")
    assert specified(local, LLAMA_CPP, gpus=None).config["Cmd"][:2] == ["--model", "/models/x.gguf"]


@pytest.mark.parametrize(
    ("gpus", "requests"),
    [
        ("all", [{"Driver": "", "Capabilities": [["gpu"]], "Count": -1}]),
        (2, [{"Driver": "", "Capabilities": [["gpu"]], "Count": 2}]),
        (("0", "GPU-1a"), [{"Driver": "", "Capabilities": [["gpu"]], "DeviceIDs": ["0", "GPU-1a"]}]),
        (None, []),
        ("auto", []),
    ],
)
def test_gpus_are_asked_for_as_docker_run_asks(gpus, requests):
    """All, so many, these, none; "auto" is none without NVIDIA's runtime."""
    assert device_requests(gpus, by_default=False) == requests


@pytest.mark.parametrize("gpus", [0, -1, True, "some", (), ("",)])
def test_gpus_in_no_known_form_are_refused(gpus):
    """When the backend is made."""
    with pytest.raises(tb.InvalidValueError, match="gpus must be"):
        tb.DockerBackend(gpus=gpus)


def test_auto_means_nvidias_gpus_where_they_are_and_the_image_is_for_them():
    """TGI without GPUs does without its kernels for them."""
    assert specified(nvidia_here=True).config["HostConfig"]["DeviceRequests"]
    without = specified(nvidia_here=False)
    assert without.config["HostConfig"]["DeviceRequests"] == []
    assert without.config["Cmd"][-1] == "--disable-custom-kernels"
    intel = specify(
        DEPLOYMENT, TGI, image="x/tgi:3.3.5-intel-cpu", entrypoint=(), labels={}, gpus="auto", nvidia_here=True
    )
    assert intel.config["HostConfig"]["DeviceRequests"] == []
    assert intel.config["HostConfig"]["IpcMode"] == "host"
    amd = specify(DEPLOYMENT, TGI, image="x/tgi:3.3.5-rocm", entrypoint=(), labels={}, gpus="auto", nvidia_here=True)
    assert [device["PathOnHost"] for device in amd.config["HostConfig"]["Devices"]] == ["/dev/kfd", "/dev/dri"]
    assert "--disable-custom-kernels" not in amd.config["Cmd"]


def test_accelerators_that_share_a_model_get_more_shared_memory():
    """NCCL needs it; what is given is obeyed."""
    sizes = [
        specified().config["HostConfig"]["ShmSize"],
        specified(attrs.evolve(FULL, server_version="3.3.7")).config["HostConfig"]["ShmSize"],
        specified(shm_gib=0.5).config["HostConfig"]["ShmSize"],
    ]
    assert sizes == [1 << 30, 64 << 30, 1 << 29]


def test_secrets_are_in_a_file_and_in_nothing_that_the_engine_shows():
    """The token under both of its names, and variables that sound secret; quoted for the shell that reads them."""
    deployment = attrs.evolve(DEPLOYMENT, environment=(("MY_PASSWORD", "it's"), ("CUDA_GRAPHS", "0")))
    specification = specified(deployment, hf_token="hf_x")
    (content,) = specification.files.values()
    assert content.decode().splitlines() == [
        """export MY_PASSWORD='it'"'"'s'""",
        "export HF_TOKEN=hf_x",
        "export HUGGING_FACE_HUB_TOKEN=hf_x",
    ]
    assert "hf_x" not in str(specification.config) + repr(specification)
    assert "it's" not in str(specification.config)
    assert "CUDA_GRAPHS=0" in specification.config["Env"]
    assert specification.config["Entrypoint"][-2:] == ["tgibench", "launcher"]
    assert specification.masked("token hf_x, password it's") == "token ***, password ***"
    assert "Entrypoint" not in specified().config


@pytest.mark.parametrize("name", ["A B", "1A", "A=B", "A;reboot;TOKEN"])
def test_a_variable_that_is_none_is_refused(name):
    """It would be run by the shell that reads the secrets."""
    with pytest.raises(tb.DeployError, match="cannot be called"):
        specified(attrs.evolve(DEPLOYMENT, environment=((name, "x"),)))


def test_one_container_is_one_replica():
    """More are somebody else's work."""
    with pytest.raises(tb.DeployError, match="wants 2 replicas; one container is one"):
        specified(attrs.evolve(DEPLOYMENT, replicas=2))


def test_the_weights_folder_is_the_users_or_goes_with_the_container(tmp_path):
    """A folder, a volume by name, or a volume of ours with our label."""
    ours, folder, volume = (
        specified(cache=cache).config["HostConfig"]["Mounts"][0] for cache in (None, str(tmp_path), "w")
    )
    assert ours == {"Type": "volume", "Target": "/data", "VolumeOptions": {"Labels": {"a": "b"}}}
    assert folder == {"Type": "bind", "Source": str(tmp_path), "Target": "/data"}
    assert volume == {"Type": "volume", "Source": "w", "Target": "/data"}


def test_a_weights_folder_that_is_not_there_is_refused(tmp_path):
    """When the backend is made."""
    with pytest.raises(tb.InvalidValueError, match="cache must be a folder that is there"):
        tb.DockerBackend(cache=tmp_path / "none")


async def test_a_server_without_a_known_image_is_told():
    """With the names that are known."""
    with pytest.raises(tb.DeployError, match=r"'triton'; known are tgi, vllm, llama.cpp"):
        async with tb.DockerBackend().deploy(tb.Deployment("m", "i", server="triton")):
            pass


def test_gpus_are_told_by_name_number_driver_and_memory():
    """As `nvidia-smi` lists them; nothing of what is no list."""
    listed = "NVIDIA A10G, 535.129.03, 23028 MiB\n" * 4
    facts = {"gpu": "NVIDIA A10G", "gpu_count": "4", "gpu_driver": "535.129.03", "gpu_memory": "23028 MiB"}
    assert gpu_facts(listed) == facts
    assert gpu_facts("A, 1, 8 MiB\nB, 1, 9 MiB")["gpu"] == "A + B"
    assert gpu_facts("No devices were found\n") == {}


def test_pulling_is_told_in_steps_of_what_is_known_to_come():
    """Layers are added up; not every event has a word."""
    progress = PullProgress()

    def event(layer, current, total=10_000_000, status="Downloading"):
        return {"id": layer, "status": status, "progressDetail": {"current": current, "total": total}}

    assert progress.take({"status": "Pulling from x", "id": "latest"}) is None
    assert progress.take(event("a", 1_000_000)) == "1.0 of 10.0 MB"
    assert progress.take(event("a", 1_100_000)) is None
    assert progress.take(event("b", 9_000_000)) == "10.1 of 20.0 MB"
    assert progress.take({"id": "a", "status": "Download complete", "progressDetail": {}}) == "19.0 of 20.0 MB"
    assert progress.take({"id": "b", "status": "Download complete"}) == "20.0 of 20.0 MB"
    assert progress.take({"id": "b", "status": "Pull complete", "progressDetail": {}}) is None
