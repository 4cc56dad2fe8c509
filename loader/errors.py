"""Every way in which loading can fail, in one tree.

::

    LoaderError
    ├── LoaderClosedError    iterated after close()                    (RuntimeError)
    ├── LoaderBusyError      two epochs at once where hooks forbid it  (RuntimeError)
    ├── LoaderForkedError    used in a forked copy of its process      (RuntimeError)
    ├── BatchTimeoutError    a batch took longer than ``timeout``      (TimeoutError)
    ├── BatchEncodingError   a batch cannot travel between processes   (TypeError)
    ├── DatasetEncodingError the dataset cannot travel to its workers  (TypeError)
    ├── WorkerStartError     a worker ended before it was ready        (RuntimeError)
    ├── WorkerDiedError      a batch ended its worker again and again  (RuntimeError)
    ├── SkipLimitError       more batches failed than ``max_errors``   (RuntimeError)
    └── RemoteError          stands in for an exception that cannot travel

What the user's own ``__getitem__`` raises is none of these: it arrives as itself.
Each class also inherits the builtin that fits, so that a plain ``except`` keeps working.
"""

from __future__ import annotations

import signal
from contextlib import suppress

__all__ = [
    "BatchEncodingError",
    "BatchTimeoutError",
    "DatasetEncodingError",
    "LoaderBusyError",
    "LoaderClosedError",
    "LoaderError",
    "LoaderForkedError",
    "RemoteError",
    "SkipLimitError",
    "WorkerDiedError",
    "WorkerStartError",
]

_BRIEF = 500  # characters


class LoaderError(Exception):
    """Anything that feedline itself raises while it loads."""


class LoaderClosedError(LoaderError, RuntimeError):
    """The loader was closed, and was asked for batches."""

    def __str__(self) -> str:
        return "the loader was closed; make a new Loader"


class LoaderBusyError(LoaderError, RuntimeError):
    """A second epoch was begun while hooks of the dataset belong to the first."""


class LoaderForkedError(LoaderError, RuntimeError):
    """The loader belongs to another process, of which this one is a forked copy."""


class BatchTimeoutError(LoaderError, TimeoutError):
    """The consumer waited longer than ``timeout`` for one batch.

    Attributes:
        index: Index of the batch that did not come.
        seconds: The limit, in seconds.
        where: Who was building it and where it stood, Python frames included; or why
            nobody was.
        attempts: How many workers it has cost, this one included: more than 1 with
            ``on_timeout="replace"``, or if others died of it.
    """

    def __init__(
        self, index: int, seconds: float, where: str, attempts: int = 1
    ) -> None:
        super().__init__(index, seconds, where, attempts)
        self.index = index
        self.seconds = seconds
        self.where = where
        self.attempts = attempts

    def __str__(self) -> str:
        beside = (
            f", in attempt {self.attempts}"
            if self.attempts > 1
            else " (allow more, or go on with on_timeout='replace')"
        )
        return (
            f"batch {self.index} took longer than timeout={self.seconds!r} seconds"
            f"{beside}; {self.where}"
        )


class BatchEncodingError(LoaderError, TypeError):
    """A batch holds something that cannot be sent from a worker process.

    Attributes:
        index: Index of the batch.
        path: Where inside the batch it sits, such as ``batch['x'][2]``.
        reason: The type found there, and what refused it.
    """

    def __init__(self, index: int, path: str, reason: str) -> None:
        super().__init__(index, path, reason)
        self.index = index
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"batch {self.index} cannot be sent from its worker process: {self.path} is "
            f"{self.reason}; return plain data, or load in threads "
            "(use_multiprocessing=False)"
        )


class DatasetEncodingError(LoaderError, TypeError):
    """The dataset holds something that cannot be sent to worker processes.

    Attributes:
        path: The attribute, such as ``dataset.lock``.
        reason: The type found there, and what refused it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the dataset cannot be sent to worker processes: {self.path} is "
            f"{self.reason}; open it inside __getitem__, leave it out in __getstate__, "
            "or use start_method='fork', which copies the whole process"
        )


class WorkerStartError(LoaderError, RuntimeError):
    """A worker process ended before it could take its first batch.

    Attributes:
        worker: Number of the worker, from 0.
        exitcode: Exit code; negative is the number of the signal that ended it.
        detail: What is known of the cause, and the way out.
    """

    def __init__(self, worker: int, exitcode: int, detail: str) -> None:
        super().__init__(worker, exitcode, detail)
        self.worker = worker
        self.exitcode = exitcode
        self.detail = detail

    def __str__(self) -> str:
        return (
            f"worker {self.worker} did not start: {describe_exit(self.exitcode)}; "
            f"{self.detail}"
        )


class WorkerDiedError(LoaderError, RuntimeError):
    """A batch ended every worker process that tried to build it.

    Attributes:
        index: Index of the batch.
        worker: Number of the last worker that tried, from 0.
        exitcode: Its exit code; negative is the number of the signal that ended it.
        attempts: How many workers tried.
        stack: The last worker's Python frames at the crash; empty if it left none.
        oom_killed: Whether the kernel's out-of-memory killer ended it, by the count that
            the kernel keeps for the worker's control group; None if there is no such
            count, or if it was not ended by SIGKILL.
        memory: What is known of its memory, in words: the most that it had at a time, or,
            under forkserver, what the system had left after its end.
    """

    def __init__(
        self,
        index: int,
        worker: int,
        exitcode: int,
        attempts: int,
        stack: str = "",
        oom_killed: bool | None = None,
        memory: str = "",
    ) -> None:
        super().__init__(index, worker, exitcode, attempts, stack, oom_killed, memory)
        self.index = index
        self.worker = worker
        self.exitcode = exitcode
        self.attempts = attempts
        self.stack = stack
        self.oom_killed = oom_killed
        self.memory = memory

    def __str__(self) -> str:
        said = (
            f"batch {self.index} ended its worker process {self.attempts} times, last "
            f"worker {self.worker}: "
            f"{describe_end(self.exitcode, self.oom_killed, self.memory)}"
        )
        return f"{said}\n{self.stack}" if self.stack else said


class SkipLimitError(LoaderError, RuntimeError):
    """More batches of one epoch failed than ``max_errors`` lets be left out.

    Raised where the batch belongs that was one too many, from the error of that batch.

    Attributes:
        epoch: Number of the epoch, from 0.
        count: Batches of it that failed, this one included.
        max_errors: As it was given.
        limit: The same as a number of batches.
        indices: Of the last ones that failed, ten at the most, this one last.
    """

    def __init__(
        self,
        epoch: int,
        count: int,
        max_errors: float,
        limit: int,
        indices: tuple[int, ...],
    ) -> None:
        super().__init__(epoch, count, max_errors, limit, indices)
        self.epoch = epoch
        self.count = count
        self.max_errors = max_errors
        self.limit = limit
        self.indices = indices

    def __str__(self) -> str:
        share = f" ({self.limit} batches)" if type(self.max_errors) is float else ""
        named = ", ".join(map(str, self.indices))
        which = "the last ones are" if self.count > 1 else "it is"
        plural = "es" if self.count > 1 else ""
        return (
            f"{self.count} batch{plural} of epoch {self.epoch} failed, more than "
            f"max_errors={self.max_errors!r}{share} allows; {which} {named}; mend them, "
            "or allow more; loader.skipped tells the error of each that was left out"
        )


class RemoteError(LoaderError):
    """Stands in for an exception that could not be sent from its worker.

    Attributes:
        type_name: Qualified name of the original exception's class.
        message: What it said.
        trace: The worker's traceback, as text.
    """

    def __init__(self, type_name: str, message: str, trace: str = "") -> None:
        super().__init__(type_name, message, trace)
        self.type_name = type_name
        self.message = message
        self.trace = trace

    def __str__(self) -> str:
        said = f"{self.type_name}: {self.message}"
        return f"{said}\n{self.trace}" if self.trace else said


def add_note(error: BaseException, note: str) -> None:
    """Add a note, once, if the exception takes any; a frozen one does not."""
    with suppress(Exception):
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)


def brief(error: BaseException) -> str:
    """Show an exception in a line, whatever it holds."""
    try:
        said = repr(error)
    except Exception:  # noqa: BLE001 - the user's own, which may need what is not there
        said = type(error).__qualname__
    return said if len(said) <= _BRIEF else f"{said[:_BRIEF]}..."


def describe_exit(exitcode: int) -> str:
    """Say an exit code as a person would: ``killed by SIGKILL (signal 9)``.

    Args:
        exitcode: As ``multiprocessing.Process.exitcode`` gives it: negative is the
            number of a signal.
    """
    if exitcode >= 0:
        return f"it exited with code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = "an unnamed signal"
    return f"it was killed by {name} (signal {-exitcode})"


def describe_end(exitcode: int, oom_killed: bool | None, memory: str) -> str:
    """Say how a worker ended, what stands behind it, and how much memory it had.

    Args:
        exitcode: Negative is the number of a signal.
        oom_killed: See :func:`likely_cause`.
        memory: What is known of its memory, in words; may be empty.
    """
    said = f"{describe_exit(exitcode)}; {likely_cause(exitcode, oom_killed)}"
    return f"{said}; {memory}" if memory else said


def likely_cause(exitcode: int, oom_killed: bool | None = None) -> str:
    """Say what stands behind such an end, and what to do about it.

    Args:
        exitcode: Negative is the number of a signal.
        oom_killed: Whether the kernel's out-of-memory killer did it; None if nobody can
            tell.
    """
    if exitcode == -signal.SIGKILL:
        if oom_killed is False:
            return (
                "the kernel's out-of-memory killer did not do it: something else sent "
                "SIGKILL, such as a job scheduler or a person"
            )
        surely = "did it" if oom_killed else "does that most often"
        return (
            f"the kernel's out-of-memory killer {surely}: lower workers, max_queue_size "
            "or the batch size"
        )
    crashes = {
        signal.SIGSEGV,
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
    }
    if -exitcode in crashes:
        return (
            "a crash in compiled code: build that batch alone with workers=0 to see it"
        )
    if exitcode < 0:
        return "something outside sent it that signal"
    return "__getitem__ ended its process: look for sys.exit() or os._exit() in it"
