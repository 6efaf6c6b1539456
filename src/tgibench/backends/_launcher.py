"""Becomes a server's process and leaves a guard behind that stops the server should the measuring process die, even by SIGKILL.

Run as a script, with ``python -I -S _launcher.py FD PATIENCE_S PROGRAM ARGUMENTS…``, as the leader of a process group of its own. FD
is a socket whose other end the measuring process alone holds. When that end closes without a byte having come, the guard asks the
group to stop, waits, and kills it. The guard is no kin of the server and in no group with it: a server that waits for its children, or
is stopped in the regular way, never meets it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time

_LOOK_S = 1.0
_POLL_S = 0.05
_CANNOT_START = 127


def main() -> None:
    """Leave the guard, then become the program."""
    measurer = socket.socket(fileno=int(sys.argv[1]))
    measurer.set_inheritable(False)
    group, between = os.getpid(), os.fork()
    if between == 0:
        if os.fork() == 0:
            _guard(measurer, group, patience_s=float(sys.argv[2]))
        os._exit(0)
    os.waitpid(between, 0)
    command = sys.argv[3:]
    try:
        os.execvp(command[0], command)  # noqa: S606 - to become it is the purpose
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(_CANNOT_START)


def _guard(measurer: socket.socket, group: int, *, patience_s: float) -> None:
    os.setsid()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # the server's output must end with the server
        os.dup2(nothing, stream)
    while not select.select([measurer], [], [], _LOOK_S)[0]:
        if not _signalled(group, 0):  # it ended by itself: its number may be another's by and by
            os._exit(0)
    try:
        told_to_go = bool(measurer.recv(1))
    except OSError:
        told_to_go = False
    if not told_to_go:
        _stop(group, patience_s)
    os._exit(0)


def _stop(group: int, patience_s: float) -> None:
    clock = time.monotonic  # noqa: TID251 - there is no event loop here
    deadline_s = clock() + patience_s
    _signalled(group, signal.SIGTERM)
    while clock() < deadline_s and _signalled(group, 0):
        time.sleep(_POLL_S)
    _signalled(group, signal.SIGKILL)


def _signalled(group: int, number: int) -> bool:
    """Send a signal; False when there is no process left to take it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # what is left belongs to another user
        return False
    return True


if __name__ == "__main__":
    main()
