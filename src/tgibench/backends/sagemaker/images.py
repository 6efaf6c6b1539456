"""Container images: a deployment's own, TGI's by exact version from our table, others from the SageMaker SDK's where it is installed."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from tgibench.errors import InvalidValueError

__all__ = ["ami_for", "image_for", "registry_host"]

_TGI = "huggingface-pytorch-tgi-inference"
# sagemaker-core 2.27.0, image_uri_config/huggingface-llm.json (GPU): tag before and after "-tgi<version>-gpu-"
_TGI_TAGS = {
    "0.6.0": ("2.0.0", "py39-cu118-ubuntu20.04"),
    "0.8.2": ("2.0.0", "py39-cu118-ubuntu20.04"),
    "0.9.3": ("2.0.1", "py39-cu118-ubuntu20.04"),
    "1.0.3": ("2.0.1", "py39-cu118-ubuntu20.04"),
    "1.1.0": ("2.0.1", "py39-cu118-ubuntu20.04"),
    "1.2.0": ("2.1.1", "py310-cu121-ubuntu20.04"),
    "1.3.1": ("2.1.1", "py310-cu121-ubuntu20.04"),
    "1.3.3": ("2.1.1", "py310-cu121-ubuntu20.04"),
    "1.4.0": ("2.1.1", "py310-cu121-ubuntu20.04"),
    "1.4.2": ("2.1.1", "py310-cu121-ubuntu22.04"),
    "1.4.5": ("2.1.1", "py310-cu121-ubuntu22.04"),
    "2.0.0": ("2.1.1", "py310-cu121-ubuntu22.04"),
    "2.0.1": ("2.1.1", "py310-cu121-ubuntu22.04"),
    "2.0.2": ("2.3.0", "py310-cu121-ubuntu22.04"),
    "2.2.0": ("2.3.0", "py310-cu121-ubuntu22.04-v2.0"),
    "2.3.1": ("2.4.0", "py311-cu124-ubuntu22.04"),
    "2.4.0": ("2.4.0", "py311-cu124-ubuntu22.04-v2.2"),
    "3.0.1": ("2.4.0", "py311-cu124-ubuntu22.04-v2.1"),
    "3.1.1": ("2.6.0", "py311-cu124-ubuntu22.04"),
    "3.2.0": ("2.6.0", "py311-cu124-ubuntu22.04"),
    "3.2.3": ("2.6.0", "py311-cu124-ubuntu22.04"),
    "3.3.4": ("2.7.0", "py311-cu124-ubuntu22.04"),
    "3.3.6": ("2.7.0", "py311-cu124-ubuntu22.04"),
}
# the same file: the registry of most regions, and those of the others
_REGISTRY = "763104351884"
_REGIONS = frozenset(
    (
        *("us-east-1", "us-east-2", "us-west-1", "us-west-2", "ca-central-1", "sa-east-1"),
        *("eu-west-1", "eu-west-2", "eu-west-3", "eu-central-1", "eu-north-1"),
        *("ap-south-1", "ap-southeast-1", "ap-southeast-2", "ap-northeast-1", "ap-northeast-2"),
    )
)
_REGISTRIES = {
    "af-south-1": "626614931356",
    "ap-east-1": "871362719292",
    "ap-northeast-3": "364406365360",
    "ap-south-2": "772153158452",
    "ap-southeast-3": "907027046896",
    "ap-southeast-4": "457447274322",
    "ca-west-1": "204538143572",
    "cn-north-1": "727897471807",
    "cn-northwest-1": "727897471807",
    "eu-central-2": "380420809688",
    "eu-south-1": "692866216735",
    "eu-south-2": "503227376785",
    "il-central-1": "780543022126",
    "me-central-1": "914824155844",
    "me-south-1": "217643126080",
    "us-gov-east-1": "446045086412",
    "us-gov-west-1": "442386744353",
}
_SDK_TABLES = {
    "tgi": ("huggingface-llm",),
    "vllm": ("huggingface-vllm", "vllm"),
    "sglang": ("huggingface-sglang", "sglang"),
    "lmi": ("djl-lmi",),
}
_CUDA = re.compile(r"-cu(\d+)")
_AMI_OF_CUDA_13 = "al2023-ami-sagemaker-inference-gpu-4-1"


def image_for(server: str, version: str | None, region: str) -> str:
    """The image of a server's exact version in a region.

    Raises:
        InvalidValueError: It is not known; the message says what is, and how to give one.
    """
    if version is None:
        raise InvalidValueError(
            f"server_version must say which version of {server!r} to run, such as '3.3.6' for TGI, got None"
        )
    if server == "tgi" and version in _TGI_TAGS:
        framework, system = _TGI_TAGS[version]
        return f"{registry_host(region)}/{_TGI}:{framework}-tgi{version}-gpu-{system}"
    found = _from_sdk(server, version, region)
    if found is not None:
        return found
    known = f"known are {', '.join(_TGI_TAGS)}; " if server == "tgi" else ""
    raise InvalidValueError(
        f"no image is known of {server!r} {version} in {region}: {known}give Deployment(image=…), or install the SDK's tables with "
        'pip install "tgibench[sagemaker-sdk]"'
    )


def registry_host(region: str) -> str:
    """Where AWS's own images are in a region.

    Raises:
        InvalidValueError: The region has no such registry that we know of.
    """
    number = _REGISTRY if region in _REGIONS else _REGISTRIES.get(region)
    if number is None:
        raise InvalidValueError(
            f"no registry of AWS's containers is known in region {region!r}: give Deployment(image=…)"
        )
    return f"{number}.dkr.ecr.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


def ami_for(image: str) -> str | None:
    """The host image that a container's CUDA needs; None for the instance type's default.

    CUDA 13 needs driver 580; older ones run on the defaults (TGI's images bring CUDA's compatibility libraries from 2.3.1).
    """
    cuda = _CUDA.search(image)
    return _AMI_OF_CUDA_13 if cuda and int(cuda[1]) >= 130 else None


def _from_sdk(server: str, version: str, region: str) -> str | None:
    """From the SageMaker SDK's files, without importing it; exact versions only, as its aliases mislead ("2.0" means 2.4.0)."""
    spec = importlib.util.find_spec("sagemaker")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    for table in _SDK_TABLES.get(server, ()):
        for folder in folders:
            path = Path(folder) / "core" / "image_uri_config" / f"{table}.json"
            if path.is_file():
                found = _in_table(json.loads(path.read_text(encoding="utf-8")), version, region)
                if found is not None:
                    return found
    return None


def _in_table(table: dict[str, Any], version: str, region: str) -> str | None:
    entry = table.get("inference", table).get("versions", {}).get(version)
    if entry is None or region not in entry.get("registries", {}):
        return None
    prefix, gpu = entry.get("tag_prefix"), entry.get("container_version", {}).get("gpu")
    python = (entry.get("py_versions") or [None])[0]
    tag = "-".join(part for part in (prefix, "gpu" if gpu else None, python, gpu) if part)
    suffix = ".cn" if region.startswith("cn-") else ""
    return f"{entry['registries'][region]}.dkr.ecr.{region}.amazonaws.com{suffix}/{entry['repository']}:{tag}"
