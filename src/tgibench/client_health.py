"""How well the client itself fared during a run, and where it took its times."""

from __future__ import annotations

import enum

import attrs

__all__ = ["ClientHealth", "StampSource", "Worker"]


class StampSource(enum.StrEnum):
    """Where the arrival time of bytes was taken, best first."""

    VIRTUAL = "virtual"  # an emulated time: exact
    KERNEL = "kernel"  # the kernel's receive stamp of the segment (Linux)
    SOCKET_READY = (
        "socket_ready"  # taken when the socket was seen to have bytes, before any were read (Linux without such stamps)
    )
    SOCKET_READ = "socket_read"  # taken when the bytes left the socket, before any parsing
    STREAM_READ = "stream_read"  # taken when the HTTP library handed the bytes on: the fallback

    @property
    def exact_when_late(self) -> bool:
        """Whether an arrival time is right however late the client came to read what arrived."""
        return self in {StampSource.VIRTUAL, StampSource.KERNEL}


@attrs.frozen(kw_only=True)
class ClientHealth:
    """How the client itself fared during a run, so that its limit is not taken for the server's.

    Args:
        stamps: Where arrival times were taken.
        cpu_share: CPU seconds of this process per second of the run (1.0 is one core); None in virtual time.
        loop_lag_p50_s: Median lateness of the event loop, sampled all through the run; None in virtual time.
        loop_lag_p99_s: Its 99th percentile.
        loop_lag_max_s: Its largest value.
        samples: Number of lag samples.
        run_delay_share: Share of the run in which the event loop's thread had something to do but waited for a CPU (Linux); None where
            the system does not tell, in virtual time, and of older results.
        held_up_share: Share of the lag samples before which that thread had waited for a CPU in more than a tenth of the time since the
            sample before (2 of 20 ms): so long as for another program's turn, not for a server's last writes; None where
            `run_delay_share` is, and of older results.
        workers: Number of processes that sent the load; the figures above are those of the one that fared worst.
    """

    stamps: StampSource
    cpu_share: float | None = None
    loop_lag_p50_s: float | None = None
    loop_lag_p99_s: float | None = None
    loop_lag_max_s: float | None = None
    samples: int = 0
    run_delay_share: float | None = None
    held_up_share: float | None = None
    workers: int = 1

    @property
    def waiting_ratio(self) -> float | None:
        """Share of the time in which the client had something to do that it spent waiting for a CPU; None where that is not known."""
        if self.run_delay_share is None or self.cpu_share is None:
            return None
        wanted = self.cpu_share + self.run_delay_share
        return self.run_delay_share / wanted if wanted > 0 else None


@attrs.frozen(kw_only=True)
class Worker:
    """One of the workers that shared a run.

    Args:
        number: Which part of the load it ran, from 0.
        place: Its host and process, ``host:pid``; None when it never reported.
        health: How it fared; None when it was lost.
        clock_offset_s: Its loop's clock minus that of the process that led the run; None when it never reported.
        clock_uncertainty_s: By how much that may be wrong: half the shortest round trip.
        clock_drift_s: Change of the offset from the run's start to its end; None when it was lost.
        late_s: By how much it began later than agreed; None when it never did.
        lost: Why its record is missing; None when it is there.
        lost_requests: Requests of its part of which nothing is known. By duration in a closed loop no number is planned: then those that
            it had taken up when it last told of its progress.
    """

    number: int
    place: str | None = None
    health: ClientHealth | None = None
    clock_offset_s: float | None = None
    clock_uncertainty_s: float | None = None
    clock_drift_s: float | None = None
    late_s: float | None = None
    lost: str | None = None
    lost_requests: int = 0
