"""Workers for the command's loads: processes of this machine, or those of a Dask cluster."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

from tgibench.errors import InvalidValueError, MissingExtraError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["gathered"]

_CONNECT_S = 10.0


@contextlib.contextmanager
def gathered(number: int | None, *, dask: str | None = None, listen: str | None = None) -> Iterator[dict[str, Any]]:
    """What `tgibench.sweep` takes to share each load among workers; nothing of it where neither a number nor a cluster is given.

    Args:
        number: How many workers; of a cluster, all it has when None.
        dask: Address of a Dask scheduler; None for processes of this machine.
        listen: The address of this machine at which a cluster's workers reach it; None for the loopback.

    Raises:
        InvalidValueError: The address is none, the cluster has fewer workers, or `listen` is given without one.
        MissingExtraError: Dask is not installed.
        WorkerError: The scheduler cannot be reached.
    """
    if dask is None and listen is not None:
        raise InvalidValueError("--listen is for --dask: workers of this machine need no address")
    if dask is not None:
        with _dask(dask, number) as workers:
            yield {**workers, **({} if listen is None else {"listen": listen})}
    elif number is not None:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(number, mp_context=context, initializer=_ignore_interrupts) as executor:
            yield {"executor": executor, "shards": number}
    else:
        yield {}


def _ignore_interrupts() -> None:
    """A terminal's Ctrl-C reaches the workers too; they stop when the command tells them to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _dask(address: str, number: int | None) -> Iterator[dict[str, Any]]:
    try:
        distributed: Any = importlib.import_module("distributed")
    except ModuleNotFoundError as error:
        raise MissingExtraError('--dask needs distributed: pip install "tgibench[dask]"') from error
    scheme, _, rest = address.partition("://")
    if not scheme or not rest.rpartition(":")[2].isdigit():
        raise InvalidValueError(f"--dask must be a scheduler's address such as tcp://10.0.0.5:8786, got {address!r}")
    try:
        client = distributed.Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:  # a TimeoutError is an OSError; ValueError: an unknown scheme
        raise WorkerError(f"no Dask scheduler answers at {address!r}: {error}") from error
    with client:
        found = len(client.nthreads())
        if found < (number or 1):
            raise InvalidValueError(f"the Dask cluster at {address} has {found} workers, {number or 1} are needed")
        yield {"executor": client.get_executor(pure=False, retries=0), "shards": number or found}
