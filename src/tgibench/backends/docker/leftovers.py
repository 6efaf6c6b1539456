"""What runs that were killed left on the engine, and its removal: by our label only."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tgibench.backends.docker.engine import open_engine
from tgibench.backends.docker.ownership import DEPLOYMENT, MODEL, STARTED_AT, owner_state
from tgibench.errors import DeployError, TeardownError
from tgibench.leftovers import Leftover

if TYPE_CHECKING:
    from tgibench.backends.docker.engine import Engine, Held

__all__ = ["find", "remove", "remove_deployment"]

_GOING_S = 10.0
_POLL_S = 0.2


async def find(*, everything: bool = False) -> list[Leftover]:
    """Containers and volumes of runs whose process is gone; with `everything` also of living ones and of other machines'.

    Raises:
        MissingExtraError: aiodocker is not installed.
        DeployError: There is no engine, or it may not be used.
    """
    async with open_engine(None) as engine:
        held = [
            *(("container", each) for each in await engine.containers(DEPLOYMENT)),
            *(("volume", each) for each in await engine.volumes(DEPLOYMENT)),
        ]
    return [_leftover(kind, each) for kind, each in held if everything or owner_state(each.labels) == "gone"]


async def remove(leftovers: list[Leftover]) -> None:
    """Remove them, containers first, and make sure that they are gone.

    Raises:
        TeardownError: Something is still there.
        DeployError: The engine does not answer any more.
    """
    async with open_engine(None) as engine:
        for leftover in sorted(leftovers, key=lambda leftover: leftover.kind != "container"):
            await (engine.remove_container if leftover.kind == "container" else engine.remove_volume)(leftover.name)
        left = {each.name for each in (*await engine.containers(DEPLOYMENT), *await engine.volumes(DEPLOYMENT))}
    still = sorted(left & {leftover.name for leftover in leftovers})
    if still:
        raise TeardownError(
            f"still there: {', '.join(still)}; remove them by hand with `docker rm -f` and `docker volume rm`"
        )


async def remove_deployment(engine: Engine, identity: str, *, patience_s: float) -> None:
    """Stop and remove everything of one deployment, and make sure of it.

    Raises:
        TeardownError: Something is still there, or it cannot be told.
    """
    label = f"{DEPLOYMENT}={identity}"
    try:
        for container in await engine.containers(label):
            await engine.stop(container.name, patience_s=patience_s)
            await engine.remove_container(container.name)
        for volume in await engine.volumes(label):
            await engine.remove_volume(volume.name)
        left = await _still_there(engine, label)
    except DeployError as error:
        raise TeardownError(
            f"{error}; look with `docker ps -a --filter label={label}`, remove with `tgibench cleanup`"
        ) from error
    if left:
        raise TeardownError(f"still there: {', '.join(left)}; remove with `tgibench cleanup` or `docker rm -f`")


async def _still_there(engine: Engine, label: str, names: set[str] | None = None) -> list[str]:
    """What has the label (and one of the names) after a moment's patience: the engine may be at it still."""
    deadline_s = asyncio.get_running_loop().time() + _GOING_S
    while True:
        held = {each.name for each in (*await engine.containers(label), *await engine.volumes(label))}
        still = sorted(held if names is None else held & names)
        if not still or asyncio.get_running_loop().time() > deadline_s:
            return still
        await asyncio.sleep(_POLL_S)


def _leftover(kind: str, held: Held) -> Leftover:
    started, model = held.labels.get(STARTED_AT, "?"), held.labels.get(MODEL, "?")
    return Leftover(
        kind=kind, name=held.name, note=f"for {model}, started {started}, its process is {owner_state(held.labels)}"
    )
