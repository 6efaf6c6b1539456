"""What is about to be created, written down and synced to the disk before it is: what a killed process left is found by it.

One file of JSON lines for each deployment, in a state folder of the user's. The process that owns it holds a lock on the file, which
ends with the process however it ends; so a locked journal is of a run that lives. No environment, token or key is ever in it.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from tgibench.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

__all__ = ["Intent", "Journal", "begin_journal", "journaled", "mark_gone", "state_folder"]


@attrs.frozen(kw_only=True)
class Intent:
    """What a deployment is about to create.

    Args:
        name: Of the model, the endpoint configuration and the endpoint alike.
        region: Where.
        account: Whose.
        instance_type: On what.
        count: How many of them.
        usd_per_hour: Of all of them together.
        tags: What all of them carry.
        dead_man: Whether there is a schedule of the same name that deletes the endpoint at its expiry.
    """

    name: str
    region: str
    account: str
    instance_type: str
    count: int
    usd_per_hour: float
    tags: dict[str, str]
    dead_man: bool = False

    @property
    def worth(self) -> str:
        """What runs and its price."""
        return f"{self.count} x {self.instance_type} in {self.region}, {self.usd_per_hour:g} USD per hour"


@attrs.frozen(eq=False)
class Journal:
    """A journal that is being written."""

    _file: TextIO
    path: Path

    def write(self, event: str, **facts: Any) -> None:
        """Append a line, and have it on the disk before anything else happens."""
        line = {"event": event, "at": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def state_folder() -> Path:
    """``$TGIBENCH_STATE_DIR``, else tgibench's folder in ``$XDG_STATE_HOME`` or ``~/.local/state``; with SageMaker's journals."""
    own = os.environ.get("TGIBENCH_STATE_DIR")
    shared = os.environ.get("XDG_STATE_HOME")
    base = Path(own) if own else (Path(shared) if shared else Path.home() / ".local" / "state") / "tgibench"
    return base / "sagemaker"


@contextmanager
def begin_journal(intent: Intent) -> Iterator[Journal]:
    """A journal that begins with the intent; on leaving it is closed, whatever it says.

    Raises:
        DeployError: It cannot be written; nothing may be created then.
    """
    folder = state_folder()
    path = folder / f"{intent.name}.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            journal = Journal(file, path)
            journal.write("intent", **attrs.asdict(intent))
            _sync_folder(folder)
            yield journal
    except OSError as error:
        if error.filename is None or Path(error.filename) not in {path, folder}:
            raise
        raise DeployError(f"the journal {path} cannot be written, so nothing is created: {error}") from error


def journaled() -> Iterator[tuple[Intent, bool]]:
    """The intents whose resources are not known to be gone, each with whether its process lives."""
    for path in sorted(state_folder().glob("*.jsonl")):
        try:
            with path.open(encoding="utf-8") as file:
                lives = _locked(file)
                lines = [_parsed(line) for line in file]
        except OSError as error:
            raise DeployError(f"the journal {path} cannot be read: {error}") from error
        intent = _intent(lines)
        if intent is not None and not any(line.get("event") == "gone" for line in lines):
            yield intent, lives


def mark_gone(name: str) -> None:
    """Note in a journal, if there is one, that everything of its intent is gone."""
    path = state_folder() / f"{name}.jsonl"
    if path.exists():
        with path.open("a", encoding="utf-8") as file:
            Journal(file, path).write("gone", by="cleanup")


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _parsed(line: str) -> dict[str, Any]:
    """A line as far as it got: the last one of a killed process may be cut off."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _intent(lines: list[dict[str, Any]]) -> Intent | None:
    fields = attrs.fields(Intent)
    first = next((line for line in lines if line.get("event") == "intent"), None)
    if first is None or not all(field.name in first for field in fields if field.default is attrs.NOTHING):
        return None
    return Intent(**{field.name: first[field.name] for field in fields if field.name in first})


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
