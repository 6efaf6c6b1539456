"""The sentence that is said before a run that this machine could not hold."""

from __future__ import annotations

import attrs
import pytest

import tgibench as tb
from tgibench import loads, open_files


@attrs.define
class Limits:
    """A system's limit of open files, which it lets be raised or not."""

    soft: int
    hard: int
    raisable: bool = True
    RLIMIT_NOFILE = 7
    RLIM_INFINITY = -1

    def getrlimit(self, _):
        return self.soft, self.hard

    def setrlimit(self, _, limits):
        if not self.raisable:
            raise ValueError("not allowed")
        self.soft, self.hard = limits


@pytest.fixture
def system(monkeypatch, tmp_path):
    """Sets the limits and the local ports of this system."""

    def set_to(limits, ports="1000 60999"):
        monkeypatch.setattr(open_files, "resource", limits)
        (tmp_path / "ports").write_text(ports)
        monkeypatch.setattr(open_files, "_LOCAL_PORTS", tmp_path / "ports")
        return limits

    return set_to


def test_the_limit_is_raised_as_far_as_the_system_lets_it(system):
    """Without a word: 2,000 connections fit once it is."""
    limits = system(Limits(1024, 20_000))
    open_files.make_room_for(2_000)
    assert limits.soft == 20_000


def test_what_cannot_be_held_is_refused_with_the_number_and_what_to_do(system):
    """Both the connections and the limit are named."""
    system(Limits(1024, 20_000))
    with pytest.raises(
        tb.InvalidValueError, match=r"^10000 requests in flight need 20\d\d\d open files.* may have 20000: .*ulimit"
    ):
        open_files.make_room_for(10_000)


def test_a_system_may_take_less_than_its_hard_limit(system):
    """Then the limit is raised to what is needed."""

    class NoSoInfinite(Limits):
        def setrlimit(self, _, limits):
            if limits[0] == self.RLIM_INFINITY:
                raise ValueError("not so many")
            self.soft, self.hard = limits

    limits = system(NoSoInfinite(256, -1))
    open_files.make_room_for(1_000)
    assert 2_000 < limits.soft < 2_500


def test_a_limit_that_may_not_be_raised_counts_as_it_is(system):
    """What the system refuses is no error as long as the limit is enough."""
    system(Limits(1024, 20_000, raisable=False))
    open_files.make_room_for(100)
    with pytest.raises(tb.InvalidValueError, match="may have 1024"):
        open_files.make_room_for(1_000)


def test_no_limit_holds_any_number_that_has_ports(system):
    """Two limits: files, and the ports from which one server can be reached."""
    system(Limits(-1, -1), ports="32768\t60999\n")
    open_files.make_room_for(28_232)
    with pytest.raises(tb.InvalidValueError, match=r"30000 requests .* 28232 local ports .* several machines"):
        open_files.make_room_for(30_000)


def test_servers_side_by_side_need_files_together_and_ports_apart(system):
    """Two servers of 20,000 connections each: 28,232 ports are enough for each, 50,000 files are not for both."""
    system(Limits(50_000, 50_000), ports="32768\t60999\n")
    open_files.make_room_for(20_000)
    with pytest.raises(tb.InvalidValueError, match=r"40000 requests .* need 80\d\d\d open files"):
        open_files.make_room_for(20_000, servers=2)


@attrs.frozen
class Unused:
    """A backend that must not deploy anything."""

    source: tb.Source = tb.Source.MEASURED
    name: str = "unused"

    def deploy(self, deployment):
        raise AssertionError(deployment)


TOO_MANY = tb.ClosedLoop(9_000, duration_s=1.0)
DEPLOYMENT = tb.Deployment("meta-llama/Llama-2-7b-hf", "ml.g5.2xlarge", server_version="1.0.3")


def sweep(backend, **options):
    """A sweep in real time that has too many users in one of its loads."""
    loads = [tb.ClosedLoop(1, duration_s=1.0), TOO_MANY]
    return tb.sweep_blocking([DEPLOYMENT], loads, backend=backend, prompts=tb.SyntheticPrompts(), **options)


def test_a_sweep_that_this_machine_cannot_hold_deploys_nothing(system):
    """The endpoint would be paid for and then not be used."""
    system(Limits(1024, 10_000))
    with pytest.raises(tb.InvalidValueError, match="9000 requests in flight need"):
        sweep(Unused())


def test_an_adaptive_sweep_that_this_machine_cannot_hold_deploys_nothing(system):
    """Its goals' loads count."""
    system(Limits(1024, 10_000))
    with pytest.raises(tb.InvalidValueError, match="9000 requests in flight need"):
        tb.adaptive_sweep_blocking(
            [DEPLOYMENT],
            [TOO_MANY],
            [tb.Goal.fastest(TOO_MANY)],
            tb.PerformanceModel(),
            backend=Unused(),
            prompts=tb.SyntheticPrompts(),
            costs=tb.InstanceHours(tb.PriceTable.builtin()),
        )


@pytest.mark.parametrize("source", [tb.Source.MEASURED, tb.Source.EMULATED])
def test_what_connects_nowhere_or_elsewhere_is_not_refused(system, source):
    """An emulator in this process needs no connections, and workers have limits of their own: both get as far as to deploy."""
    system(Limits(1024, 10_000))
    elsewhere = {"executor": object(), "shards": 2} if source is tb.Source.MEASURED else {}
    with pytest.raises(AssertionError, match="Llama"):
        sweep(Unused(source), **elsewhere)


def test_the_most_in_flight_is_that_of_the_fullest_phase():
    """Users of a closed phase, the cap of an open one; without a cap it is not known."""

    def most(*profiles):
        return loads.most_in_flight(tb.Stages(profiles).phases(0))

    closed, open_loop = tb.ClosedLoop(7, duration_s=1.0), tb.PoissonArrivals(5.0, duration_s=1.0)
    assert most(open_loop) == 1
    assert most(closed, open_loop) == 7
    assert most(closed, attrs.evolve(open_loop, max_in_flight=9)) == 9
