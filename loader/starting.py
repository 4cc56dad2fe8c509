"""What the start of a worker takes: no signal, no log line, room for descriptors."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

from .errors import WorkerStartError
from .postmortem import NO_GUARD
from .quiet import quiet_logs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.process import BaseProcess

__all__ = ["servers_socket", "start", "undisturbed"]

_DESCRIPTORS = 8  # that multiprocessing opens to start a process, and a few more

# Held while a process starts: threads that fork side by side are refused by libraries that
# watch over forks, such as filelock.
_starting = threading.Lock()


def _after_fork() -> None:
    global _starting
    _starting = threading.Lock()  # the copy is held by whoever forked


os.register_at_fork(after_in_child=_after_fork)


def start(process: BaseProcess, worker: int, *, forked: bool) -> None:
    """Start a process, one at a time in this one.

    Args:
        process: Not started yet.
        worker: Its number, for an error.
        forked: Whether it begins as a copy of this process.

    Raises:
        OSError: Too few descriptors are left.
        WorkerStartError: The fork server, which was to start it, has ended.
    """
    with _starting, _plain_fork() if forked else nullcontext():
        _expect_room()
        try:
            process.start()
        except EOFError:  # newer servers run the script's top level themselves
            why = f"the fork server ended; {NO_GUARD}"
            raise WorkerStartError(worker, 1, why) from None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM.

    A worker starts like that, and opens itself to them once it has set its own handlers.
    Here they can come all the same: a thread of compiled code may receive them and have
    the main thread run Python's handlers.
    """
    blocked = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _plain_fork() -> Iterator[None]:
    with quiet_logs(), warnings.catch_warnings():
        # From 3.12 on, a fork beside any other thread warns, numpy's own included.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def servers_socket() -> str | None:
    """Where the fork server listens; it stays if this process is killed."""
    from multiprocessing import forkserver

    forkserver.ensure_running()
    address = getattr(forkserver._forkserver, "_forkserver_address", None)  # noqa: SLF001
    return address if isinstance(address, str) else None


def _expect_room() -> None:
    """Fail here if descriptors run out: multiprocessing would leave some open."""
    with ExitStack() as taken:
        for _ in range(_DESCRIPTORS):
            taken.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
