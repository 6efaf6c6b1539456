"""Sweeps of several deployments at once: what runs beside what, what one failing does to the others, and in which order results come."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import attrs
import pytest

import tgibench as tb
from fakes import FakeServer
from tgibench.backends import Room
from tgibench.backends.teardown import to_the_end

LOADS = [tb.ClosedLoop(1, duration_s=20), tb.ClosedLoop(5, duration_s=20)]
PROMPTS = tb.SyntheticPrompts(input_tokens=8)
BOTH_LOADS_S = 2 * 20


@attrs.define(slots=False)
class Cloud:
    """Deploys fake servers; each takes as long to start as its instance type says. Remembers what happened when."""

    broken: tuple = ()
    broken_teardown: tuple = ()
    stopping_s: float = 5
    name = "cloud"
    source = tb.Source.MEASURED
    events: list = attrs.field(factory=list)
    running: set = attrs.field(factory=set)
    most: int = 0

    @asynccontextmanager
    async def deploy(self, deployment):
        clock, kind = asyncio.get_running_loop(), deployment.instance_type
        self.events.append((clock.time(), "start", kind))
        self.running.add(deployment)
        self.most = max(self.most, len(self.running))
        try:
            await asyncio.sleep(float(kind.partition(" ")[0]))
            if kind in self.broken:
                raise tb.DeployError(f"no capacity for {kind}")
            yield FakeServer(0.5)
        finally:
            await to_the_end(self.stop(deployment))

    async def stop(self, deployment):
        await asyncio.sleep(self.stopping_s)
        self.running.remove(deployment)
        self.events.append((asyncio.get_running_loop().time(), "stop", deployment.instance_type))
        if deployment.instance_type in self.broken_teardown:
            raise tb.TeardownError(f"{deployment.instance_type} is still there")

    def began(self):
        """When each began."""
        return {kind: at for at, what, kind in self.events if what == "start"}

    def ended(self):
        """When each was stopped."""
        return {kind: at for at, what, kind in self.events if what == "stop"}


@attrs.define(slots=False)
class Quotas(Cloud):
    """Has room for so many of each model."""

    quotas: dict = attrs.field(factory=dict)
    asked: int = 0

    async def rooms(self, deployments):
        """By model."""
        self.asked += 1
        return [
            Room(pool=each.model_id, size=self.quotas[each.model_id], units=each.replicas)
            if each.model_id in self.quotas
            else None
            for each in deployments
        ]


def deployments(*kinds, model="m", replicas=1):
    """One of each kind."""
    return [tb.Deployment(model, kind, replicas=replicas) for kind in kinds]


def sweep(backend, which, loads=LOADS, **options):
    """Sweep in virtual time."""
    return tb.virtual_time.run(tb.sweep(which, loads, backend=backend, prompts=PROMPTS, **options))


def figures(study):
    """What was measured, without when and how long it took to be made ready."""
    return [(cell.deployment, cell.load, cell.metrics, cell.warnings) for cell in study]


def test_so_many_run_at_once_as_were_asked_for():
    """Each load of a deployment still runs alone on it; the fourth begins when the first is stopped."""
    cloud = Cloud()
    sweep(cloud, deployments("10", "20", "30", "40"), parallel=3)
    assert cloud.most == 3
    assert cloud.began()["30"] == 0
    assert cloud.began()["40"] == pytest.approx(10 + BOTH_LOADS_S + 5, abs=1.5)
    alone = Cloud()
    sweep(alone, deployments("10", "20", "30", "40"))
    assert alone.most == 1


def test_results_are_in_the_order_of_the_sweep_whichever_was_finished_first(tmp_path):
    """The slowest is named first: the study, what is read back, and what a second sweep returns all begin with it."""
    kinds, finished = ("200", "50 broken", "100", "1", "2 broken"), []
    cloud = Cloud(broken=("50 broken", "2 broken"))
    study = sweep(cloud, deployments(*kinds), parallel=5, store=tmp_path, on_measurement=finished.append)
    assert [(cell.deployment.instance_type, cell.load.concurrency) for cell in study] == [
        ("200", 1), ("200", 5), ("100", 1), ("100", 5), ("1", 1), ("1", 5),
    ]  # fmt: skip
    assert [failure.deployment.instance_type for failure in study.failures] == ["50 broken", "2 broken"]
    assert finished[0].deployment.instance_type == "1"
    assert tb.read_study(tmp_path) == study
    lines = [json.loads(line) for line in (tmp_path / "study.jsonl").read_text().splitlines()]
    written = [line["deployment"]["instance_type"] for line in lines if line.get("kind") == "measurement"]
    assert written == ["1", "1", "100", "100", "200", "200"]
    assert sweep(Cloud(), deployments("200", "100", "1"), parallel=5, store=tmp_path).measurements == study.measurements


def test_a_sweep_that_goes_on_is_read_back_in_its_own_order(tmp_path):
    """Those it was not asked for stand before; one that is asked for in another order is written no second time."""
    sweep(Cloud(), deployments("3", "4"), store=tmp_path)
    assert [cell.deployment.instance_type for cell in tb.read_study(tmp_path)] == ["3", "3", "4", "4"]
    study = sweep(Cloud(), deployments("1", "2", "3"), store=tmp_path)
    read = tb.read_study(tmp_path).measurements
    assert [cell.deployment.instance_type for cell in read] == ["4", "4", "1", "1", "2", "2", "3", "3"]
    assert read[2:] == study.measurements
    size = (tmp_path / "study.jsonl").stat().st_size
    sweep(Cloud(), deployments("1", "2", "3"), store=tmp_path)
    assert (tmp_path / "study.jsonl").stat().st_size == size


def test_side_by_side_measures_what_one_after_the_other_does():
    """On the emulator, in virtual time: the same figures to the last bit, and so does doing it again."""
    which = [
        tb.Deployment("meta-llama/Llama-2-7b-hf", kind, tensor_parallel=n, server_version="1.0.3")
        for kind, n in (("ml.g5.2xlarge", 1), ("ml.g5.12xlarge", 4), ("ml.p4d.24xlarge", 8))
    ]
    loads = [tb.ClosedLoop(users, duration_s=20) for users in (1, 7)]
    backend = tb.Emulator(ready_after_s=33.3)
    one_by_one = sweep(backend, which, loads)
    at_once = sweep(backend, which, loads, parallel=3)
    assert figures(at_once) == figures(one_by_one)
    assert figures(sweep(backend, which, loads, parallel=3)) == figures(at_once)
    assert figures(sweep(backend, which, loads, parallel=2)) == figures(at_once)
    assert [cell.provenance.facts for cell in at_once] == [cell.provenance.facts for cell in one_by_one]


def test_one_that_fails_does_not_hurt_those_beside_it():
    """It becomes a failure at once; the others are measured as if it had not been there."""
    study = sweep(Cloud(broken=("5",)), deployments("5", "1", "10"), parallel=3)
    assert [failure.message for failure in study.failures] == ["no capacity for 5"]
    assert figures(study) == figures(sweep(Cloud(), deployments("1", "10"), parallel=2))


def test_the_backends_room_is_kept():
    """A quota of 1 makes one model's deployments wait for each other, while another's run; replicas count."""
    cloud = Quotas(quotas={"tight": 1, "wide": 5})
    which = [
        *deployments("1", "2", "3", model="tight"),
        *deployments("4", "5", model="wide", replicas=2),
        *deployments("6", model="wide", replicas=2),
        *deployments("7", model="free"),
    ]
    study = sweep(cloud, which, parallel=10)
    assert len(study) == 14
    began, ended = cloud.began(), cloud.ended()
    assert ended["1"] <= began["2"]
    assert ended["2"] <= began["3"]
    assert began["1"] == began["4"] == began["5"] == began["7"] == 0
    assert began["6"] == ended["4"]
    assert cloud.asked == 1


def test_a_quota_of_1_makes_a_parallel_sweep_the_sequential_one():
    """To the second: the same things happen at the same times."""
    tight, alone = Quotas(quotas={"m": 1}), Cloud()
    at_once = sweep(tight, deployments("1", "2", "3"), parallel=9)
    assert figures(at_once) == figures(sweep(alone, deployments("1", "2", "3")))
    assert tight.events == alone.events


def test_what_takes_more_than_there_is_runs_alone():
    """The backend itself says what is wrong with it."""
    cloud = Quotas(quotas={"m": 2})
    study = sweep(cloud, [*deployments("1", "2"), *deployments("3", replicas=4), *deployments("4")], parallel=9)
    assert len(study) == 8
    assert cloud.began()["3"] == max(cloud.ended()["1"], cloud.ended()["2"], cloud.ended()["4"])


def test_one_after_the_other_asks_for_no_room():
    """It would cost calls for nothing."""
    cloud = Quotas(quotas={"m": 1})
    sweep(cloud, deployments("1", "2"))
    assert cloud.asked == 0


@pytest.mark.parametrize(
    "backend",
    [tb.DockerBackend(), tb.ProcessBackend(["server", "{port}"]), tb.HttpBackend("http://127.0.0.1:9")],
    ids=lambda backend: backend.name,
)
async def test_what_shares_a_machine_or_a_server_runs_one_at_a_time(backend):
    """Side by side they would be each other's load."""
    first, second = await backend.rooms(deployments("1", "2"))
    assert first == second
    assert (first.size, first.units) == (1, 1)


def cancelled(backend, which, at_s, **options):
    """Sweep, and cancel it."""

    async def work():
        async with asyncio.TaskGroup() as group:
            task = group.create_task(tb.sweep(which, LOADS, backend=backend, prompts=PROMPTS, **options))
            await asyncio.sleep(at_s)
            task.cancel()
            study = await task
            assert task.cancelling() == 1
            return study

    return tb.virtual_time.run(work())


@pytest.mark.parametrize("at_s", [0.5, 12, 40, 58])
def test_ctrl_c_stops_all_and_keeps_what_is_finished(tmp_path, at_s):
    """Whether they are being made ready, loaded or stopped: all are stopped at once, nothing further starts, and it goes on next time."""
    cloud, which = Cloud(), deployments("10", "15", "20", "1")
    study = cancelled(cloud, which, at_s, parallel=3, store=tmp_path)
    assert study.interrupted
    assert study.failures == ()
    assert cloud.running == set()
    assert "1" not in cloud.began() or at_s == 58
    assert max(cloud.ended().values()) <= at_s + 5
    assert len(study) == {0.5: 0, 12: 0, 40: 2, 58: 5}[at_s]
    assert tb.read_study(tmp_path).measurements == study.measurements
    whole = sweep(Cloud(), which, parallel=3, store=tmp_path)
    assert len(whole) == 8
    assert [cell for cell in whole if cell in study.measurements] == list(study.measurements)


def test_one_that_is_cancelled_from_outside_stops_the_others_too():
    """As a backend's own signal handler does it: it cancels the tasks that deploy, and not the sweep."""
    tasks = []

    @attrs.define(slots=False)
    class Cancelling(Cloud):
        @asynccontextmanager
        async def deploy(self, deployment):
            tasks.append(asyncio.current_task())
            async with super().deploy(deployment) as endpoint:
                yield endpoint

    async def work():
        cloud = Cancelling()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(
                tb.sweep(deployments("1", "30", "2"), LOADS, backend=cloud, prompts=PROMPTS, parallel=2)
            )
            await asyncio.sleep(10)
            tasks[0].cancel()
            return await task, cloud

    study, cloud = tb.virtual_time.run(work())
    assert (study.interrupted, len(study)) == (True, 0)
    assert cloud.ended() == {"1": 15, "30": 15}


def test_what_cannot_be_stopped_is_raised_and_the_others_are_stopped(tmp_path):
    """Nothing further starts; what was finished is in the store."""
    cloud = Cloud(broken_teardown=("1",))
    with pytest.raises(tb.TeardownError, match="1 is still there"):
        sweep(cloud, deployments("1", "30", "2"), parallel=2, store=tmp_path)
    assert cloud.running == set()
    assert set(cloud.began()) == {"1", "30"}
    assert cloud.ended()["30"] == cloud.ended()["1"] + 5
    assert [cell.deployment.instance_type for cell in tb.read_study(tmp_path)] == ["1", "1"]


def test_of_several_that_cannot_be_stopped_all_are_told():
    """The first is raised, the others are in its notes; it is no group of errors."""
    with pytest.raises(tb.TeardownError, match="is still there") as raised:
        sweep(Cloud(broken_teardown=("1", "2", "3")), deployments("1", "2", "3"), parallel=3)
    told = " ".join([str(raised.value), *raised.value.__notes__])
    assert all(f"{kind} is still there" in told for kind in ("1", "2", "3"))


def test_a_teardown_that_fails_before_every_load_was_run_is_raised_too():
    """It is not only one deployment's failure: something may still cost money."""

    class Leaky(Cloud):
        @asynccontextmanager
        async def deploy(self, deployment):
            async with super().deploy(deployment):
                raise tb.TeardownError("it is still there")
            yield

    cloud = Leaky()
    with pytest.raises(tb.TeardownError, match="still there"):
        sweep(cloud, deployments("1", "2"))
    assert set(cloud.began()) == {"1"}


def test_progress_says_who_moved_and_how_many_are_at_work():
    """Each report names its deployment and load."""
    seen = []
    sweep(Cloud(), deployments("1", "2", "3"), parallel=2, on_progress=seen.append)
    assert {each.deployment for each in seen} == {f"m @ {kind}" for kind in ("1", "2", "3")}
    assert max(each.at_work for each in seen) == 2
    assert {each.load for each in seen} == {None, "1 user", "5 users"}
    assert (seen[-1].cells_done, seen[-1].cells_total) == (6, 6)


def test_in_real_time_a_cell_says_how_many_loads_ran_beside_it():
    """They share the client's core: a reader should know."""

    async def work(parallel):
        return await tb.sweep(
            deployments("0", "0 "),
            [tb.ClosedLoop(1, requests=1)],
            backend=Cloud(stopping_s=0),
            prompts=PROMPTS,
            parallel=parallel,
        )

    assert [cell.provenance.facts.get("loads_beside") for cell in asyncio.run(work(2))] == ["1", "1"]
    assert [cell.provenance.facts.get("loads_beside") for cell in asyncio.run(work(1))] == [None, None]


def test_less_than_one_at_once_is_refused():
    """Before anything is started."""
    with pytest.raises(tb.InvalidValueError, match="parallel must be at least 1, got 0"):
        sweep(Cloud(), deployments("1"), parallel=0)
