"""Every exception that tgibench raises on purpose.

::

    TgibenchError
    ├── InvalidValueError        a value the caller gave is out of range or of the wrong form   (also a ValueError)
    ├── UnknownNameError         a name in a file or on the command line stands for nothing     (also a LookupError)
    ├── UnknownPrice             no price is known of a machine or region                       (also a LookupError)
    ├── MissingExtraError        an optional dependency is not installed                        (also an ImportError)
    ├── CalibrationError         the client's own floor could not be found
    ├── RunningLoopError         a blocking twin was called where an event loop runs
    ├── DeployError              a server could not be started, reached or made ready
    │   ├── BudgetError          the budget does not allow it, or ran out
    │   ├── AwsError             AWS refused a call, or could not be reached
    │   ├── PreflightError       what a deployment needs is not there; nothing was created
    │   └── TeardownError        something that was started could not be stopped; says what is left
    ├── WorkerError              no worker could be reached, or all of them were lost
    ├── DownloadError            something could not be fetched from the network
    └── ResultsError             a results folder or file cannot be read or written

A request that fails under load is no exception: it is a `tgibench.Failure` in the `tgibench.RequestLog`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "AwsError",
    "BudgetError",
    "CalibrationError",
    "DeployError",
    "DownloadError",
    "InvalidValueError",
    "MissingExtraError",
    "PreflightError",
    "ResultsError",
    "RunningLoopError",
    "TeardownError",
    "TgibenchError",
    "UnknownNameError",
    "UnknownPrice",
    "WorkerError",
    "foremost",
]


class TgibenchError(Exception):
    """Any error that tgibench raises on purpose."""


class InvalidValueError(TgibenchError, ValueError):
    """A value that the caller gave is out of range or of the wrong form."""


class UnknownNameError(TgibenchError, LookupError):
    """A name in a file or on the command line stands for nothing that is installed."""


class UnknownPrice(TgibenchError, LookupError):  # noqa: N818 - the word for what is missing
    """No price is known of a machine or region; the message names the nearest known ones."""


class MissingExtraError(TgibenchError, ImportError):
    """An optional dependency is not installed; the message says which extra brings it."""


class CalibrationError(TgibenchError):
    """The client's own floor could not be found; the message says why."""


class RunningLoopError(TgibenchError, RuntimeError):
    """A blocking twin was called where an event loop already runs; the message names the call to await."""


class DeployError(TgibenchError):
    """A server could not be started, reached or made ready."""


class AwsError(DeployError):
    """AWS refused a call, or could not be reached.

    Args:
        message: AWS's own words.
        code: AWS's own code, such as ``"ValidationException"``.
        busy: Whether the same call may well succeed later (throttling, a server's error, a broken connection).
        expired: Whether credentials are missing or have ended.
    """

    def __init__(self, message: str, *, code: str = "unknown", busy: bool = False, expired: bool = False) -> None:
        super().__init__(message)
        self.code, self.busy, self.expired = code, busy, expired


class BudgetError(DeployError):
    """A budget does not allow a deployment, or ran out while it was measured."""


class PreflightError(DeployError):
    """What a deployment needs is not there; nothing was created.

    Args:
        problems: A stable code (``"quota"``, ``"price"``, …) and a sentence for each thing that is missing.
    """

    def __init__(self, problems: tuple[tuple[str, str], ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "; ".join(f"{code}: {sentence}" for code, sentence in self.problems)


class TeardownError(DeployError):
    """Something that was started could not be stopped; the message says what is left and how to remove it."""


class WorkerError(TgibenchError):
    """No worker of a run could be reached, or all of them were lost; the message says why."""


class DownloadError(TgibenchError):
    """Something could not be fetched from the network; the message names the address."""


class ResultsError(TgibenchError):
    """A results folder or file cannot be read or written."""


def foremost(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The gravest of several errors, with the others in its notes: what could not be stopped comes first."""
    found = list(_leaves(errors))
    foremost = next((error for error in found if isinstance(error, TeardownError)), found[0])
    for other in found:
        if other is not foremost:
            foremost.add_note(f"and: {type(other).__name__}: {other}")
    return foremost


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error
