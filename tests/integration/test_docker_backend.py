"""Containers on a real engine: from the order to deploy to the last trace removed. Only the model is emulated."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys

import aiohttp
import attrs
import numpy as np
import pytest

import tgibench as tb

pytestmark = pytest.mark.docker

LABEL = "tgibench.deployment"
PROMPTS = tb.SyntheticPrompts(max_new_tokens=10)


def deployment(version="3.3.7", *, model="org/model", environment=(), **settings):
    return tb.Deployment(model, "this machine", server_version=version, environment=tuple(environment), **settings)


def held(docker, *, model):
    """Containers and volumes that tgibench made for the model."""
    label = f"label=tgibench.model={model}"
    containers = docker("ps", "--all", "--quiet", "--filter", label).split()
    return containers + docker("volume", "ls", "--quiet", "--filter", label).split()


async def inspected(docker, endpoint):
    text = await asyncio.to_thread(docker, "inspect", endpoint.container)
    return json.loads(text)[0], text


async def failing(backend, deployed):
    """The message with which deploying fails."""
    with pytest.raises(tb.DeployError) as failure:
        async with backend.deploy(deployed):
            pass
    return str(failure.value)


@pytest.mark.parametrize(("version", "as_json"), [("1.0.3", False), ("3.3.7", False), ("3.3.7", True)])
async def test_the_whole_way_from_a_deployment_to_metrics_leaves_nothing(docker, version, as_json):
    """Started, measured, the server's own times of each request joined from its log, removed; all EMULATED, as the server says."""
    model = f"whole/{version}-{as_json}"
    steps = []
    deployed = deployment(version, model=model, environment=[("EMULATE_JSON", "1")] if as_json else [])
    study = await tb.sweep(
        [deployed],
        [tb.ClosedLoop(4, requests=40), tb.PoissonArrivals(40, requests=40)],
        backend=tb.DockerBackend(on_progress=steps.append),
        prompts=PROMPTS,
    )
    assert not study.failures
    assert len(study) == 2
    for cell in study:
        assert cell.metrics.counts["succeeded"] == 40
        assert cell.source is tb.Source.EMULATED
        assert cell.metrics.queue_s.count == cell.metrics.server_time_per_token_s.count == 40
        assert cell.metrics.server_time_per_token_s.p50 < cell.metrics.latency_s.p50
        said_of_the_server = [
            text for text in cell.warnings if "server" in text and not text.startswith("not valid: the client")
        ]
        assert said_of_the_server == []
        facts = cell.provenance.facts
        assert facts["image"] == f"ghcr.io/huggingface/text-generation-inference:{version}"
        assert facts["image_id"].startswith("sha256:")
        assert facts["version"] == version
        assert facts["docker"]
        # the server's mean wait by its counters is the mean of what its log told of each request
        assert float(facts["server_mean_queue_s"]) == pytest.approx(cell.metrics.queue_s.mean, rel=0.01, abs=1e-6)
        assert 0 < cell.provenance.first_token_after_ready_s < cell.provenance.ready_after_s
    assert [step.split()[0] for step in steps if not step.startswith("loading")] == [
        "created",
        "started",
        "ready",
        "stopping",
    ]
    assert any("Shard ready" in step for step in steps)
    assert held(docker, model=model) == []


async def test_answers_that_are_no_streams_keep_the_times_of_their_headers(docker):
    """The log adds what the headers lack: nothing of a request is told twice."""
    async with tb.DockerBackend().deploy(deployment(model="whole/answers")) as endpoint:
        view_of = await endpoint.watch_run()
        prompts = attrs.evolve(PROMPTS, stream=False)
        log = await tb.run_load(endpoint, tb.ClosedLoop(2, requests=10), prompts)
        view = await view_of(log)
    assert not np.isnan(log.queue_s).any()
    np.testing.assert_array_equal(view.log.queue_s, log.queue_s)
    assert view.warnings == ()


async def test_the_container_is_what_docker_run_would_make(docker):
    """TGI's flags by version, on 127.0.0.1 alone, with shared memory, a volume of its own, and telemetry off."""
    deployed = deployment(
        "1.0.3", model="org/spec", tensor_parallel=2, quantization="gptq", max_input_tokens=5000, max_total_tokens=6000
    )
    async with tb.DockerBackend(shm_gib=2).deploy(deployed) as endpoint:
        container, _ = await inspected(docker, endpoint)
        assert container["Config"]["Cmd"] == [
            "--model-id", "org/spec", "--num-shard", "2", "--quantize", "gptq", "--max-input-length", "5000",
            "--max-total-tokens", "6000", "--max-batch-prefill-tokens", "5000", "--disable-custom-kernels",
        ]  # fmt: skip
        assert container["Config"]["Entrypoint"] == ["/usr/local/bin/text-generation-launcher"]
        assert {"USAGE_STATS=off", "HF_HUB_DISABLE_TELEMETRY=1"} <= set(container["Config"]["Env"])
        assert container["HostConfig"]["ShmSize"] == 2 << 30
        assert not container["HostConfig"]["DeviceRequests"]
        (bound,) = container["NetworkSettings"]["Ports"]["80/tcp"]
        assert bound["HostIp"] == "127.0.0.1"
        assert endpoint.url == f"http://127.0.0.1:{bound['HostPort']}"
        (mount,) = container["Mounts"]
        assert (mount["Type"], mount["Destination"]) == ("volume", "/data")
        assert len(held(docker, model="org/spec")) == 2
    assert held(docker, model="org/spec") == []


async def test_a_cache_of_the_users_own_is_used_and_kept(docker, tmp_path):
    """A folder, and a named volume."""
    name = f"weights-{tmp_path.name}"
    try:
        for cache, kind in ((tmp_path, "bind"), (name, "volume")):
            async with tb.DockerBackend(cache=cache).deploy(deployment(model="org/cache")) as endpoint:
                container, _ = await inspected(docker, endpoint)
                (mount,) = container["Mounts"]
                assert (mount["Type"], mount["Destination"]) == (kind, "/data")
        assert name in docker("volume", "ls", "--quiet").split()
        assert tmp_path.is_dir()
    finally:
        docker("volume", "rm", name)


@pytest.mark.parametrize(
    ("failure", "reason", "line"),
    [
        ("out of memory", "out of memory", "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate"),
        ("gated model", "the model is gated", "GatedRepoError: 401 Client Error."),
        ("wrong quantization", "wrong quantization", "Cannot load `gptq` weight"),
        ("download error", "could not be downloaded", "Max retries exceeded with url: /api/models/org/dies"),
        ("not enough GPUs", "not enough GPUs", "only found 0 CUDA devices"),
        ("killed by the system", "the system killed the server", "signaled to shutdown with signal 9"),
    ],
)
async def test_each_way_to_die_is_one_error_with_the_lines_that_decide(docker, failure, reason, line):
    """And nothing is left."""
    message = await failing(
        tb.DockerBackend(), deployment(model="org/dies", environment=[("EMULATE_FAILURE", failure)])
    )
    first, *lines = message.splitlines()
    assert "ended with exit code 1 before it was ready: " in first
    assert reason in first
    assert any(line in each for each in lines)
    assert len(lines) <= 3


async def test_a_flag_that_the_version_does_not_know_ends_it_at_once(docker):
    """The launcher's own words are shown."""
    deployed = deployment("1.0.3", model="org/flag", quantization="marlin")
    assert "invalid choice: 'marlin'" in await failing(tb.DockerBackend(), deployed)


async def test_a_deployment_that_fails_does_not_end_a_sweep(docker):
    """Its sentence is in the study, the next deployment is measured."""
    study = await tb.sweep(
        [deployment(model="org/a", environment=[("EMULATE_FAILURE", "out of memory")]), deployment(model="org/b")],
        [tb.ClosedLoop(1, requests=3)],
        backend=tb.DockerBackend(),
        prompts=PROMPTS,
    )
    (failure,) = study.failures
    assert "out of memory" in failure.message
    assert [cell.deployment.model_id for cell in study] == ["org/b"]
    assert held(docker, model="org/a") == held(docker, model="org/b") == []


async def test_a_token_reaches_the_server_and_is_shown_nowhere(docker, tmp_path):
    """Not by `docker inspect`, nor in steps, errors, facts, results or the backend's own text; a gated model starts with it."""
    token = "hf_doNotShowThis"
    gated = deployment(model="org/gated", environment=[("EMULATE_GATED", "1"), ("MY_API_KEY", "it's also secret")])
    assert "the model is gated" in await failing(tb.DockerBackend(), gated)
    shown = []
    backend = tb.DockerBackend(hf_token=token, on_progress=shown.append)
    async with backend.deploy(gated) as endpoint:
        _, text = await inspected(docker, endpoint)
        shown += [text, repr(endpoint), repr(backend)]
    dying = attrs.evolve(gated, environment=(("EMULATE_FAILURE", "no known reason"),))
    shown.append(await failing(backend, dying))
    assert "a token named *** did not help" in shown[-1]
    await tb.sweep([gated], [tb.ClosedLoop(1, requests=2)], backend=backend, prompts=PROMPTS, store=tmp_path)
    shown += [path.read_text() for path in tmp_path.rglob("*.json*")]
    assert len(shown) > 10
    assert not [text for text in shown if token in text or "also secret" in text]


async def test_the_port_may_be_chosen_and_one_that_is_taken_is_told(docker):
    """One sentence; nothing is left."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = await failing(tb.DockerBackend(port=port), deployment(model="org/port"))
    assert "the port is taken" in message
    assert "\n" not in message
    async with tb.DockerBackend(port=port).deploy(deployment(model="org/port")) as endpoint:
        assert endpoint.url == f"http://127.0.0.1:{port}"
    assert held(docker, model="org/port") == []


async def test_without_a_gpu_runtime_asking_for_gpus_is_told(docker):
    """One sentence with what to do."""
    if "nvidia" in docker("info", "--format", "{{json .Runtimes}}"):
        pytest.skip("this engine has NVIDIA's runtime")
    message = await failing(tb.DockerBackend(gpus="all"), deployment(model="org/gpus"))
    assert "no GPU runtime" in message
    assert "gpus=None" in message
    assert "\n" not in message
    assert held(docker, model="org/gpus") == []


async def test_no_such_image_is_told(docker):
    """Neither here nor to be pulled."""
    missing = attrs.evolve(deployment(), image="127.0.0.1:9/no/such:1")
    message = await failing(tb.DockerBackend(), missing)
    assert message.startswith("cannot pull the image 127.0.0.1:9/no/such:1: the registry cannot be reached")
    assert "\n" not in message


async def test_a_server_that_is_not_ready_in_time_is_removed_and_told(docker):
    """With what it printed last."""
    slow = deployment(model="org/slow", environment=[("EMULATE_START_S", "100")])
    message = await failing(tb.DockerBackend(ready_timeout_s=2), slow)
    assert "was not ready within 2 s" in message
    assert "Starting check and download process for org/slow" in message
    assert held(docker, model="org/slow") == []


async def test_requests_in_flight_are_finished_before_the_server_ends(docker):
    """The grace period is TGI's own: an answer of two seconds arrives whole although the deployment is left at once."""
    log = None

    async def load(endpoint):
        nonlocal log
        log = await tb.run_load(endpoint, tb.ClosedLoop(3, requests=3), tb.SyntheticPrompts(max_new_tokens=400))

    async with asyncio.TaskGroup() as group, tb.DockerBackend().deploy(deployment(model="org/grace")) as endpoint:
        group.create_task(load(endpoint))
        await busy(endpoint, requests=3)
    assert log.counts["succeeded"] == 3
    assert log.output_tokens.tolist() == [400] * 3
    assert held(docker, model="org/grace") == []


async def busy(endpoint, *, requests):
    """Wait until so many requests are at work on the server."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{endpoint.url}/metrics") as page:
                if f"tgi_batch_current_size {requests}\n" in await page.text():
                    return
            await asyncio.sleep(0.05)


async def test_a_stubborn_server_is_killed(docker):
    """After the patience that it was given."""
    stubborn = deployment(model="org/stubborn", environment=[("EMULATE_STUBBORN", "1"), ("EMULATE_START_S", "100")])
    message = await failing(tb.DockerBackend(ready_timeout_s=1, stop_timeout_s=1), stubborn)
    assert "not ready within 1 s" in message
    assert held(docker, model="org/stubborn") == []


async def test_a_cancelled_sweep_keeps_what_is_finished_and_leaves_nothing(docker):
    """As Ctrl-C does it."""
    first_cell = asyncio.Event()
    sweeping = asyncio.get_running_loop().create_task(
        tb.sweep(
            [deployment(model="org/cancel")],
            [tb.ClosedLoop(1, requests=2), tb.ClosedLoop(1, duration_s=60)],
            backend=tb.DockerBackend(),
            prompts=PROMPTS,
            on_measurement=lambda _: first_cell.set(),
        )
    )
    await first_cell.wait()
    await asyncio.sleep(0.3)
    sweeping.cancel()
    study = await sweeping
    assert study.interrupted
    assert len(study) == 1
    assert held(docker, model="org/cancel") == []


async def test_counts_that_differ_from_the_servers_are_a_warning(docker):
    """Somebody else asks the same server during the run."""
    async with tb.DockerBackend().deploy(deployment(model="org/counts")) as endpoint:
        view_of = await endpoint.watch_run()
        log = await tb.run_load(endpoint, tb.ClosedLoop(2, requests=6), PROMPTS)
        await tb.run_load(endpoint, tb.ClosedLoop(2, requests=4), PROMPTS)
        view = await view_of(log)
    assert view.warnings == ("the server counted 10 successful requests, the client 6: somebody else may have used it",)
    assert not np.isnan(view.log.queue_s).any(), "the six are told from the four by their time"


async def test_a_removal_that_cannot_be_made_sure_of_is_an_error_that_says_how(docker, tmp_path):
    """The engine goes away while the server runs: here, the way to it."""
    real = docker_socket(docker)
    path = tmp_path / "engine.sock"

    async def pass_on(reader, writer):
        engine_reader, engine_writer = await asyncio.open_unix_connection(real)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(copy(reader, engine_writer))
                group.create_task(copy(engine_reader, writer))
        finally:
            engine_writer.close()
            writer.close()

    way = await asyncio.start_unix_server(pass_on, path)

    async def lose_the_engine():
        async with tb.DockerBackend(engine=f"unix://{path}").deploy(deployment(model="org/away")):
            way.close()
            path.unlink()

    with pytest.raises(tb.TeardownError, match=r"(?s)no Docker engine answers.*`tgibench cleanup`"):
        await lose_the_engine()
    assert len(held(docker, model="org/away")) == 2
    for container in docker("ps", "--quiet", "--filter", "label=tgibench.model=org/away").split():
        docker("rm", "--force", "--volumes", container)


async def copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def docker_socket(docker):
    address = docker("context", "inspect", "--format", "{{.Endpoints.docker.Host}}").strip()
    scheme, _, path = address.partition("://")
    if scheme != "unix":
        pytest.skip(f"the engine is not at a socket but at {address}")
    return path


FORBIDDEN = """
import asyncio, os
import aiodocker
import tgibench as tb
backend, deployment = tb.DockerBackend(), tb.Deployment("m", "i", server_version="3.3.7")
async def main():
    async with backend.deploy(deployment):
        pass
os.setgroups([]), os.setgid(65534), os.setuid(65534)
try:
    asyncio.run(main())
except tb.DeployError as error:
    print(error)
"""


def test_no_permission_to_use_the_engine_is_told(docker):
    """As another user than the engine's."""
    docker_socket(docker)
    done = subprocess.run([sys.executable, "-c", FORBIDDEN], capture_output=True, text=True, timeout=60, check=False)
    if "Operation not permitted" in done.stderr:
        pytest.skip("becoming another user needs root")
    assert done.stdout.startswith("no permission to use the Docker engine at unix://"), done.stderr
