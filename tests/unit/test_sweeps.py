"""Sweeps and the store: what is kept, what is skipped, what is never lost."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import attrs
import pytest

import tgibench as tb
from fakes import FakeServer

DEPLOYMENTS = [tb.Deployment("m", "small"), tb.Deployment("m", "large")]
LOADS = [tb.ClosedLoop(1, duration_s=20), tb.ClosedLoop(5, duration_s=20)]
PROMPTS = tb.SyntheticPrompts(input_tokens=8)


@attrs.define(slots=False)
class FakeBackend:
    """Deploys fake servers; remembers what it started and stopped; `broken` instances cannot be deployed."""

    broken: tuple = ()
    broken_teardown: tuple = ()
    started: list = attrs.field(factory=list)
    stopped: list = attrs.field(factory=list)
    name = "fake"
    source = tb.Source.MEASURED
    facts: dict = attrs.field(factory=dict)
    fails: object = None

    @asynccontextmanager
    async def deploy(self, deployment):
        if deployment.instance_type in self.broken:
            raise tb.DeployError(f"no capacity for {deployment.instance_type}")
        await asyncio.sleep(30)
        self.started.append(deployment.instance_type)
        try:
            yield FakeServer(0.5, facts=self.facts, fails=self.fails)
        finally:
            self.stopped.append(deployment.instance_type)
        if deployment.instance_type in self.broken_teardown:
            raise tb.TeardownError(f"{deployment.instance_type} is still there")


def sweep(backend, **options):
    """Sweep in virtual time."""
    return tb.virtual_time.run(tb.sweep(DEPLOYMENTS, LOADS, backend=backend, prompts=PROMPTS, **options))


def test_each_deployment_is_deployed_once_and_runs_every_load():
    """Four cells in order from two deployments, each stopped again."""
    backend, seen = FakeBackend(), []
    study = sweep(backend, on_measurement=seen.append)
    assert [(cell.deployment.instance_type, cell.load.concurrency) for cell in study] == [
        ("small", 1), ("small", 5), ("large", 1), ("large", 5),
    ]  # fmt: skip
    assert backend.started == backend.stopped == ["small", "large"]
    assert tuple(seen) == study.measurements
    assert not study.interrupted
    cell = study.measurements[1]
    assert cell.metrics.counts == {"issued": 200, "succeeded": 200, "failed": 0, "unsent": 0}
    assert cell.provenance.ready_after_s == 30
    assert cell.source is tb.Source.MEASURED


def test_a_deployment_that_fails_does_not_lose_the_rest():
    """It becomes a failure with its reason; the others are measured."""
    study = sweep(FakeBackend(broken=("small",)))
    assert [failure.message for failure in study.failures] == ["no capacity for small"]
    assert [cell.deployment.instance_type for cell in study] == ["large", "large"]


def test_a_tear_down_that_fails_is_raised_and_nothing_more_is_started():
    """What may still cost money must not pass unseen; finished cells are in the store."""
    backend = FakeBackend(broken_teardown=("small",))
    with pytest.raises(tb.TeardownError, match="small is still there"):
        sweep(backend)
    assert backend.started == ["small"]


def test_an_emulated_server_is_never_called_measured():
    """An endpoint that says it is emulated makes its cells EMULATED whatever the backend."""
    study = sweep(FakeBackend(facts={"emulated": "true"}))
    assert {cell.source for cell in study} == {tb.Source.EMULATED}


def test_stored_cells_are_read_back_as_they_were(tmp_path):
    """Every field of every cell and failure survives the disk."""
    study = sweep(FakeBackend(broken=("large",)), store=tmp_path)
    assert tb.read_study(tmp_path) == study


@pytest.mark.parametrize(
    "load",
    [
        tb.PoissonArrivals(3.0, duration_s=10, warm_up_s=1),
        tb.GammaArrivals(3.0, 2.0, requests=9),
        tb.Ramp(1.0, 3.0, duration_s=10),
        tb.Replay((0.0, 1.5)),
        tb.Stages((tb.ClosedLoop(2, requests=4), tb.ConstantArrivals(1.0, duration_s=3))),
    ],
    ids=repr,
)
def test_every_load_profile_survives_the_store(tmp_path, load):
    """A profile read back equals the one that ran, and its key too."""
    study = tb.virtual_time.run(
        tb.sweep(DEPLOYMENTS[:1], [load], backend=FakeBackend(), prompts=PROMPTS, store=tmp_path)
    )
    (cell,) = tb.read_study(tmp_path)
    assert cell.load == load
    assert cell.key == study.measurements[0].key


def test_finished_cells_are_not_measured_again(tmp_path):
    """A second sweep over a complete store deploys nothing and returns the same cells."""
    first = sweep(FakeBackend(), store=tmp_path)
    backend = FakeBackend()
    assert sweep(backend, store=tmp_path) == first
    assert backend.started == []


@pytest.mark.parametrize("answered", [0, 7, 45])
def test_a_cell_that_stopped_early_is_kept_and_measured_again(tmp_path, answered):
    """It says that it is a part, and the loads after it are run all the same; the next sweep measures what gave up, and only that."""
    seen, fresh = [], []
    ill = sweep(FakeBackend(fails=lambda number: number >= answered), store=tmp_path, on_progress=seen.append)
    assert [cell.metrics.counts["succeeded"] for cell in ill] == [min(answered, 40), max(answered - 40, 0)] * 2
    assert [cell.partial for cell in ill] == [answered < 40, True] * 2
    assert any("the run stopped early: gave up after 20 failures" in text for text in ill.measurements[1].warnings)
    assert (ill.failures, ill.interrupted) == ((), False)
    assert seen[-1].cells_done == seen[-1].cells_total == 4
    assert tb.read_study(tmp_path) == ill
    well = sweep(FakeBackend(), store=tmp_path, on_measurement=fresh.append)
    assert [cell.key for cell in fresh] == [cell.key for cell in ill if cell.partial]
    assert not any(cell.partial for cell in well)
    assert tb.read_study(tmp_path) == well == sweep(FakeBackend(broken=("small", "large")), store=tmp_path)


def test_a_failure_is_read_back_until_its_deployment_is_measured(tmp_path):
    """What a later sweep measured failed no longer; what failed again is one failure, as last told."""
    ill = sweep(FakeBackend(broken=("small", "large")), store=tmp_path)
    assert tb.read_study(tmp_path) == ill == sweep(FakeBackend(broken=("small", "large")), store=tmp_path)
    assert tb.read_study(tmp_path) == ill
    half = sweep(FakeBackend(broken=("large",)), store=tmp_path)
    assert [failure.deployment.instance_type for failure in half.failures] == ["large"]
    assert tb.read_study(tmp_path) == half
    whole = sweep(FakeBackend(), store=tmp_path)
    assert whole.failures == ()
    assert tb.read_study(tmp_path) == whole


def test_a_failure_after_a_measurement_of_its_deployment_is_read_back(tmp_path):
    """One load was measured, then its machines were gone: both are told, also after a sweep that could not go on."""
    first = tb.virtual_time.run(
        tb.sweep(DEPLOYMENTS[:1], LOADS[:1], backend=FakeBackend(), prompts=PROMPTS, store=tmp_path)
    )
    broken = sweep(FakeBackend(broken=("small", "large")), store=tmp_path)
    assert broken.measurements == first.measurements
    assert len(broken.failures) == 2
    assert tb.read_study(tmp_path) == broken == sweep(FakeBackend(broken=("small", "large")), store=tmp_path)
    assert tb.read_study(tmp_path) == broken


def test_another_seed_is_another_cell(tmp_path):
    """What was measured under one seed does not stand for another."""
    sweep(FakeBackend(), store=tmp_path)
    backend = FakeBackend()
    sweep(backend, store=tmp_path, seed=1)
    assert backend.started == ["small", "large"]


def test_ctrl_c_returns_the_finished_cells_and_stops_what_was_started(tmp_path):
    """Cancelled in its second cell: the first is returned and stored; the sweep goes on from there next time."""

    async def cancelled():
        backend = FakeBackend()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(tb.sweep(DEPLOYMENTS, LOADS, backend=backend, prompts=PROMPTS, store=tmp_path))
            await asyncio.sleep(60)
            task.cancel()
            return await task, backend

    study, backend = tb.virtual_time.run(cancelled())
    assert study.interrupted
    assert len(study) == 1
    assert backend.started == backend.stopped == ["small"]
    whole = sweep(FakeBackend(), store=tmp_path)
    assert len(whole) == 4
    assert whole.measurements[0] == study.measurements[0]


def test_a_line_cut_off_by_a_crash_costs_only_that_cell(tmp_path):
    """The torn last line is no result; the next sweep measures that cell again and the file is whole."""
    sweep(FakeBackend(), store=tmp_path)
    file = tmp_path / "study.jsonl"
    file.write_bytes(file.read_bytes()[:-100])
    assert len(tb.read_study(tmp_path)) == 3
    backend = FakeBackend()
    assert len(sweep(backend, store=tmp_path)) == 4
    assert backend.started == ["large"]
    assert all(json.loads(line) for line in file.read_text().splitlines())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"format": "tgibench-study", "version": 99}\n', "has format version 99, this tgibench reads up to 2"),
        ('{"some": "json"}\n', "is no tgibench study"),
        ("not json\n", "line 1 of .* is damaged"),
        ('{"format": "tgibench-study", "version": 1}\n{"kind": "measurement"}\n', "line 2 of .* is damaged"),
    ],
)
def test_what_is_no_study_is_refused_and_left_alone(tmp_path, content, words):
    """One clear error, and the file is as it was."""
    file = tmp_path / "study.jsonl"
    file.write_text(content)
    with pytest.raises(tb.ResultsError, match=words):
        sweep(FakeBackend(), store=tmp_path)
    assert file.read_text() == content


def test_an_absent_study_is_refused(tmp_path):
    """The error names the file."""
    with pytest.raises(tb.ResultsError, match=r"cannot read results from .*nowhere"):
        tb.read_study(tmp_path / "nowhere")


def test_per_chunk_times_are_stored_when_asked_for(tmp_path):
    """One compressed file for each cell, with its columns."""
    np = pytest.importorskip("numpy")
    study = sweep(FakeBackend(), store=tmp_path, keep_chunk_times=True)
    with np.load(tmp_path / f"requests-{study.measurements[0].key}.npz") as columns:
        assert len(columns["sent_s"]) == 40
        assert len(columns["chunk_times_s"]) == 40


def test_a_sweep_of_nothing_is_refused():
    """At least one deployment and one load."""
    with pytest.raises(tb.InvalidValueError, match="at least one deployment and one load, got 0 and 2"):
        tb.virtual_time.run(tb.sweep([], LOADS, backend=FakeBackend(), prompts=PROMPTS))


def test_a_negative_seed_is_refused_before_anything_is_deployed():
    """Generators take none."""
    backend = FakeBackend()
    with pytest.raises(tb.InvalidValueError, match="seed must be a whole number of at least 0, got -1"):
        tb.virtual_time.run(tb.sweep(DEPLOYMENTS, LOADS, backend=backend, prompts=PROMPTS, seed=-1))
    assert backend.started == []


def test_progress_tells_where_the_sweep_is():
    """It ends with all cells done."""
    seen = []
    sweep(FakeBackend(), on_progress=seen.append)
    assert (seen[0].cells_done, seen[0].cells_total) == (0, 4)
    assert seen[-1].cells_done == 4


async def test_the_blocking_twins_refuse_to_run_inside_a_loop():
    """The error names the call to await."""
    with pytest.raises(tb.RunningLoopError, match=r"await tgibench.sweep\(...\)"):
        tb.sweep_blocking(DEPLOYMENTS, LOADS, backend=FakeBackend(), prompts=PROMPTS)


def test_a_blocking_twin_returns_what_the_verb_does():
    """In real time, on a loop of its own."""
    log = tb.run_load_blocking(FakeServer(0.001), tb.ClosedLoop(2, requests=10), PROMPTS)
    assert log.counts["succeeded"] == 10
    assert log.health.cpu_share is None or log.health.cpu_share >= 0
