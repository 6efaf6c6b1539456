"""What this process has alive in an account, and what it says of it when it is told to stop.

While something is alive, the first SIGINT or SIGTERM cancels the runs, which then delete it; the second prints what is still alive, its
price and the command that removes it, and deleting goes on; the third ends the process.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tgibench.backends.sagemaker.journal import Intent

__all__ = ["tell_expired", "watched"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@attrs.define(eq=False)
class _Watch:
    """The one watch of this process: what is alive, and which task of whom to cancel."""

    alive: dict[str, tuple[Intent, asyncio.Task[Any] | None]] = attrs.field(factory=dict)
    told: int = 0
    _before: dict[signal.Signals, Any] = attrs.field(factory=dict)
    _loop: asyncio.AbstractEventLoop | None = None

    def begin(self) -> None:
        """Take the signals over, where nobody else has them on this loop."""
        if threading.current_thread() is not threading.main_thread():
            return
        self.told, self._loop = 0, asyncio.get_running_loop()
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if getattr(before, "__module__", None) == "asyncio.unix_events":
                continue  # a handler of this loop's: whoever set it cancels
            self._before[number] = before
            self._loop.add_signal_handler(number, self._stop)

    def end(self) -> None:
        """Give them back."""
        for number, before in self._before.items():
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_signal_handler(number)
            signal.signal(number, before)
        self._before.clear()

    def _stop(self) -> None:
        self.told += 1
        if self.told == 1:
            for _, task in self.alive.values():
                if task is not None:
                    task.cancel()
        elif self.told == 2:
            print(self.sentence(), file=sys.stderr, flush=True)  # noqa: T201 - the last words of a process about to go
        else:
            raise KeyboardInterrupt

    def sentence(self) -> str:
        """What is alive, and what to do about it."""
        lines = [f"  {intent.name}: {intent.worth}" for intent, _ in self.alive.values()]
        return "\n".join(
            [
                "tgibench: still alive and being deleted:",
                *lines,
                "tgibench: if you end this process now (a third signal does), remove it with: tgibench cleanup --yes",
            ]
        )


_WATCH = _Watch()


@contextmanager
def watched(intent: Intent) -> Iterator[None]:
    """For as long as what was intended may be alive."""
    if not _WATCH.alive:
        _WATCH.begin()
    _WATCH.alive[intent.name] = intent, asyncio.current_task()
    try:
        yield
    finally:
        del _WATCH.alive[intent.name]
        if not _WATCH.alive:
            _WATCH.end()


def tell_expired(intent: Intent, timeout_s: float) -> None:
    """Say that something cannot be deleted as the credentials have ended: what, its price, and what to do."""
    lines = [
        "tgibench: the AWS credentials have ended, so this cannot be deleted:",
        f"  {intent.name}: {intent.worth}",
        f"tgibench: newer ones are looked for, for {timeout_s:g} s; where there are some, remove it with: tgibench cleanup --yes",
    ]
    if intent.dead_man:
        lines.append(f"tgibench: the account itself deletes the endpoint at {intent.tags['tgibench:expires']}")
    print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201 - money runs, and no result tells it
