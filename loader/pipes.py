"""The two pipes between the parent and its worker processes.

::

    parent ──task pipe──▶ any worker ──result pipe──▶ parent
              │ take_back()
              ▼
            parent

The task pipe is the queue: an idle worker reads the next record, and nothing is assigned
ahead. The parent reads it too, to take unstarted tasks back. Nothing waits here, but a
worker that writes a result. Single-threaded, but for :func:`_after_fork`.
"""

from __future__ import annotations

import os
import select
import weakref
from collections import deque
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from .errors import LoaderForkedError
from .records import RECORD_BYTES, Result, Task

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Pipes"]

_READ_BYTES = 65536  # what a pipe holds, at the most, by default
_MOST_TOGETHER = select.PIPE_BUF // RECORD_BYTES  # in one write that is atomic


class Pipes:
    """Both pipes, with the parent's ends of them and the workers'.

    Attributes:
        tasks: Where workers read tasks, and the parent takes them back.
        results: Where workers write results.
        answers: Where the parent reads results; it becomes readable when there are any.
        foreign: Whether this is a forked copy of the parent.
    """

    def __init__(self) -> None:
        self.foreign = False
        self._backlog: deque[bytes] = deque()  # writes that found no room in the pipe
        # The parent's own ends are apart: workers leave when they are gone. A forked copy
        # of the parent, which would keep them open, lets go of them.
        with ExitStack() as own, ExitStack() as theirs:
            self.tasks, self._tasks_in = os.pipe()
            own.callback(os.close, self._tasks_in)
            theirs.callback(os.close, self.tasks)
            self.answers, self.results = os.pipe()
            own.callback(os.close, self.answers)
            theirs.callback(os.close, self.results)
            for end in (self.tasks, self._tasks_in, self.answers):
                os.set_blocking(end, False)
            self._own, self._theirs = own.pop_all(), theirs.pop_all()
        _everyones.add(self)

    def send(self, tasks: Iterable[Task], together: int = 1) -> None:
        """Put tasks into the pipe; what it has no room for waits here.

        Args:
            tasks: In the order in which they are to be begun.
            together: How many go into one write. Each write wakes one idle worker.
        """
        self.check_here()
        records = b"".join([task.pack() for task in tasks])
        size = min(together, _MOST_TOGETHER) * RECORD_BYTES
        starts = range(0, len(records), size)
        self._backlog += [records[start : start + size] for start in starts]
        while self._backlog:
            try:
                os.write(self._tasks_in, self._backlog[0])
            except BlockingIOError:
                return
            self._backlog.popleft()

    def take_back(self) -> list[Task]:
        """Take all tasks that no worker has taken, in the order of sending."""
        records = b""
        with suppress(BlockingIOError):
            while more := os.read(self.tasks, _READ_BYTES):
                records += more
        records += b"".join(self._backlog)
        self._backlog.clear()
        return [
            Task.unpack(records[at : at + RECORD_BYTES])
            for at in range(0, len(records), RECORD_BYTES)
        ]

    def receive(self) -> list[Result]:
        """Take the results that are there."""
        self.check_here()
        try:
            records = os.read(self.answers, _READ_BYTES)
        except BlockingIOError:
            return []
        if self._backlog:
            self.send(())
        return Result.unpack_all(records)

    def check_here(self) -> None:
        """Refuse to work in a forked copy of the process that owns the workers.

        Raises:
            LoaderForkedError: This is one.
        """
        if self.foreign:
            raise LoaderForkedError(
                f"this loader belongs to the process that {os.getpid()} was forked from; "
                "make a Loader in this process"
            )

    def hang_up(self) -> None:
        """Close the parent's own ends: idle workers leave when the task pipe ends."""
        self._own.close()

    def close(self) -> None:
        """Close all ends. Twice is once."""
        self._own.close()
        self._theirs.close()


# All pipes of this process, for its forked copies to let go of.
_everyones: weakref.WeakSet[Pipes] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child, close what only the parent may hold open."""
    for pipes in list(_everyones):
        pipes.foreign = True
        pipes.hang_up()


os.register_at_fork(after_in_child=_after_fork)
