"""Images that are not here: pulled by a real engine from a registry that this test plays, on 127.0.0.1 as engines allow without TLS."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import tarfile
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

import tgibench as tb

pytestmark = pytest.mark.docker

LAYER_BYTES = 3_000_000
PIECES = 10


def digest(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def image():
    """A manifest and its blobs: one layer of random bytes, and a program that is not in it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("noise")
        entry.size = LAYER_BYTES
        tar.addfile(entry, io.BytesIO(os.urandom(LAYER_BYTES)))
    layer = gzip.compress(archive.getvalue(), 1)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/no-such-program"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(archive.getvalue())]},
        }
    ).encode()
    kind = "application/vnd.docker"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.distribution.manifest.v2+json",
        "config": {"mediaType": f"{kind}.container.image.v1+json", "size": len(config), "digest": digest(config)},
        "layers": [
            {"mediaType": f"{kind}.image.rootfs.diff.tar.gzip", "size": len(layer), "digest": digest(layer)},
        ],
    }
    return json.dumps(manifest).encode(), {digest(config): config, digest(layer): layer}


@asynccontextmanager
async def registry():
    """Serves the image `some/server:1` and no other; its layer comes in pieces."""
    manifest, blobs = image()

    async def answer(request):
        path = request.path
        if path == "/v2/":
            return web.Response()
        if path in {"/v2/some/server/manifests/1", f"/v2/some/server/manifests/{digest(manifest)}"}:
            headers = {"Docker-Content-Digest": digest(manifest)}
            kind = "application/vnd.docker.distribution.manifest.v2+json"
            return web.Response(body=manifest, content_type=kind, headers=headers)
        blob = blobs.get(path.rpartition("/")[2])
        if blob is None:
            refusal = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            return web.json_response(refusal, status=404)
        response = web.StreamResponse(headers={"Content-Length": str(len(blob))})
        await response.prepare(request)
        step = len(blob) // PIECES + 1
        for start in range(0, len(blob), step):
            await response.write(blob[start : start + step])
            await asyncio.sleep(0.15 if len(blob) > LAYER_BYTES // 2 else 0)
        return response

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def failing(name, steps):
    deployment = tb.Deployment("org/pulled", "this machine", image=name)
    with pytest.raises(tb.DeployError) as failure:
        async with tb.DockerBackend(on_progress=steps.append).deploy(deployment):
            pass
    return str(failure.value)


async def test_an_image_that_is_absent_is_pulled_with_progress(docker):
    """In megabytes; what cannot be run from it is told in one sentence, and its container removed."""
    steps = []
    async with registry() as host:
        message = await failing(f"{host}/some/server:1", steps)
    try:
        assert steps[0] == f"pulling {host}/some/server:1"
        assert any(step.endswith(" of 3.0 MB") for step in steps), steps
        assert [step for step in steps if step.startswith("created")]
        assert "cannot start the container" in message
        assert "/no-such-program" in message
        assert "\n" not in message
        assert not await asyncio.to_thread(
            docker, "ps", "--all", "--quiet", "--filter", "label=tgibench.model=org/pulled"
        )
    finally:
        await asyncio.to_thread(docker, "rmi", f"{host}/some/server:1")


async def test_an_image_that_the_registry_does_not_have_is_told(docker):
    """One sentence with the registry's own words."""
    async with registry() as host:
        message = await failing(f"{host}/some/other:2", [])
    assert message.startswith(f"cannot pull the image {host}/some/other:2: no such image (")
    assert "\n" not in message
