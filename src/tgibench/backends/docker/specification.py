"""The container of a deployment as the engine's API wants it: what `docker run` would be told, as a value."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.backends.docker.servers import Accelerator
from tgibench.deployments import sounds_secret
from tgibench.errors import DeployError, InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tgibench.backends.docker.servers import ServerImage
    from tgibench.deployments import Deployment

__all__ = ["Gpus", "Specification", "device_requests", "specify"]

Gpus = str | int | tuple[str, ...] | None
"""``"auto"``, ``"all"``, how many, which (indices or ids as `nvidia-smi -L` lists them), or None for none."""

_SECRETS_FILE = "/tgibench-secrets"
_GIB = 1 << 30
_VARIABLE = re.compile(r"[A-Za-z_]\w*")


@attrs.frozen(kw_only=True)
class Specification:
    """What the engine is told.

    Args:
        image: The image's name.
        config: The body of the engine's call that makes a container.
        files: Files of the container's own; those with secrets are here and not in `config`.
        has_gpus: Whether GPUs are handed in.
        secrets: Texts that must be shown nowhere.
    """

    image: str
    config: Mapping[str, Any]
    files: Mapping[str, bytes] = attrs.field(repr=False)
    has_gpus: bool
    secrets: frozenset[str] = attrs.field(repr=False)

    def masked(self, line: str) -> str:
        """The line without any secret."""
        for secret in self.secrets:
            line = line.replace(secret, "***")
        return line


def specify(
    deployment: Deployment,
    server: ServerImage,
    *,
    image: str,
    entrypoint: Sequence[str],
    labels: Mapping[str, str],
    gpus: Gpus,
    nvidia_here: bool,
    hf_token: str | None = None,
    cache: str | None = None,
    shm_gib: float | None = None,
    port: int | None = None,
) -> Specification:
    """The container of a deployment.

    Secrets (the token, and variables whose names sound like one) are no part of what the engine shows of a container: a file that
    is put into it holds them, and a shell reads and deletes it before it becomes the image's own entry point.

    Args:
        deployment: What is deployed.
        server: How its server is run.
        image: The image.
        entrypoint: The image's own entry point.
        labels: For the container and its volume.
        gpus: Which GPUs.
        nvidia_here: Whether the engine has NVIDIA's runtime or driver, for ``"auto"``.
        hf_token: The hub's token.
        cache: A folder of the host (absolute) or the name of a volume for the weights; None for a volume that goes with the container.
        shm_gib: Shared memory; None for 1, or 64 where accelerators share a model.
        port: The port on 127.0.0.1; None leaves the choice to the engine.

    Raises:
        DeployError: More than one replica, or a variable that is none.
        InvalidValueError: `gpus` is none of its forms.
    """
    if deployment.replicas > 1:
        raise DeployError(
            f"{deployment.label} wants {deployment.replicas} replicas; one container is one: deploy it with replicas=1"
        )
    accelerator = Accelerator.of(image)
    requests = device_requests(gpus, by_default=accelerator.nvidia and nvidia_here)
    environment = {**dict(server.environment), **dict(deployment.environment)}
    secret = {name: value for name, value in environment.items() if sounds_secret(name)}
    if hf_token is not None:
        secret |= {"HF_TOKEN": hf_token, "HUGGING_FACE_HUB_TOKEN": hf_token}  # the older name until TGI 2.0
    for name in environment:
        if not _VARIABLE.fullmatch(name):
            raise DeployError(f"an environment variable cannot be called {name!r}")
    arguments = server.arguments(deployment, bool(requests) or accelerator.amd)
    config: dict[str, Any] = {
        "Image": image,
        "Cmd": list(arguments),
        "Env": [f"{name}={value}" for name, value in environment.items() if name not in secret],
        "Labels": dict(labels),
        "ExposedPorts": {f"{server.port}/tcp": {}},
        "HostConfig": {
            "PortBindings": {f"{server.port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port or 0)}]},
            "ShmSize": round((shm_gib or (64.0 if deployment.tensor_parallel > 1 else 1.0)) * _GIB),
            "Mounts": [_mount(cache, server.cache_folder, labels)],
            "DeviceRequests": requests,
            "LogConfig": {"Type": "json-file", "Config": {}},  # the engine's own default may be one that cannot be read
            **dict(accelerator.host),
        },
    }
    files: dict[str, bytes] = {}
    if secret:
        reading = f'. {_SECRETS_FILE} && rm -f {_SECRETS_FILE}; exec "$@"'
        config["Entrypoint"] = ["/bin/sh", "-c", reading, "tgibench", *entrypoint]
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in secret.items()]
        files[_SECRETS_FILE] = "".join(lines).encode()
    return Specification(
        image=image,
        config=config,
        files=files,
        has_gpus=bool(requests),
        secrets=frozenset(filter(None, secret.values())),
    )


def device_requests(gpus: Gpus, *, by_default: bool) -> list[dict[str, Any]]:
    """The GPUs as the engine's API wants them; nothing where there are to be none.

    Raises:
        InvalidValueError: It is none of the forms of `Gpus`.
    """
    capabilities = {"Driver": "", "Capabilities": [["gpu"]]}
    if gpus is None or (gpus == "auto" and not by_default):
        return []
    if gpus in {"all", "auto"}:
        return [{**capabilities, "Count": -1}]
    if isinstance(gpus, int) and gpus > 0 and gpus is not True:
        return [{**capabilities, "Count": gpus}]
    if isinstance(gpus, tuple) and gpus and all(gpus):
        return [{**capabilities, "DeviceIDs": list(gpus)}]
    raise InvalidValueError(
        f"""gpus must be "auto", "all", a number above 0, names such as ("0", "2") or None, got {gpus!r}"""
    )


def _mount(cache: str | None, folder: str, labels: Mapping[str, str]) -> dict[str, Any]:
    if cache is None:
        return {"Type": "volume", "Target": folder, "VolumeOptions": {"Labels": dict(labels)}}
    return {"Type": "bind" if PurePath(cache).is_absolute() else "volume", "Source": cache, "Target": folder}
