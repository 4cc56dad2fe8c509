"""The worker processes of one pool: starting, hearing, asking and ending them.

With them the parent shares two pipes and one arena, with the board, and nothing else. A
worker's end is heard in one place, its exit descriptor.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from math import ceil
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

from .arena import Arena
from .board import Board
from .errors import LoaderClosedError
from .frames import frames_left, frames_now
from .pipes import Pipes
from .postmortem import (
    OomKills,
    WorkerEnd,
    memory_left,
    memory_peak,
    peak_of_children,
)
from .slots import Slots
from .starting import servers_socket, start, undisturbed
from .worker import Descriptor, Setup, main

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from .build import Recipe
    from .options import LoaderOptions
    from .snapshot import Birth

__all__ = ["Crew", "News"]

_GRACE = 0.25  # seconds that close() waits for batches that are being built


@dataclass(slots=True)
class News:
    """What :meth:`Crew.wait` heard.

    Attributes:
        answers: Whether results can be read.
        ended: Numbers of the workers that have ended.
    """

    answers: bool
    ended: list[int]


@dataclass(frozen=True, slots=True)
class _Member:
    """One worker process.

    Attributes:
        process: As multiprocessing knows it.
        exit: Descriptor that becomes readable when the process has ended.
        trace: Descriptor from which its last Python frames are read.
        closing: Closes the descriptors.
    """

    process: BaseProcess
    exit: int
    trace: int
    closing: ExitStack

    def kill(self) -> None:
        """End it at once, if it has not been parted with."""
        with suppress(ValueError, AttributeError):  # closed, or being closed
            self.process.kill()

    def part(self) -> None:
        """Give back what it had. One that was interrupted can be done again."""
        with suppress(ValueError, AssertionError):  # closed, or being closed
            self.process.join()
        self.closing.close()
        with suppress(ValueError):  # someone else has reaped it, and nobody can tell
            self.process.close()


class Crew:
    """Starts, hears, replaces and ends worker processes.

    Args:
        options: The loader's.
        recipe: How workers build.
        portable: True does without the anonymous file and the process descriptors that
            Linux has, as other systems must.
    """

    def __init__(
        self, options: LoaderOptions, recipe: Recipe, *, portable: bool
    ) -> None:
        self.size = options.workers
        self._recipe = recipe
        self._method = options.start_method
        self.forked = self._method == "fork"
        self._context = multiprocessing.get_context(self._method)
        self._init: Any = options.worker_init_fn
        if self._init is not None and not self.forked:
            import cloudpickle

            self._init = cloudpickle.dumps(self._init)
        self._portable = portable or not hasattr(os, "pidfd_open")
        self._members: dict[int, _Member] = {}
        self._oom_kills = OomKills()
        self.leaving = False  # set before it is closed, by whatever thread
        self.closed = False
        with ExitStack() as undo:
            self.pipes = Pipes()
            undo.callback(self.pipes.close)
            self._parent = None
            if not self._portable:
                self._parent = os.pidfd_open(os.getpid())
                undo.callback(os.close, self._parent)
            arena = Arena.create(anonymous=not self._portable)
            undo.callback(arena.close)
            self._board = Board(arena, self.size)
            self.slots = Slots(
                arena, 2 * options.max_queue_size + 8, self._board.offers
            )
            self._answers = self.pipes.answers
            self._poll = select.poll()
            self._poll.register(self._answers, select.POLLIN)
            self._closing = undo.pop_all()

    def hire(self, worker: int, birth: Birth) -> None:
        """Start a worker process. It takes tasks as soon as it is ready.

        Raises:
            SystemExit: This process is itself a worker that has just been started, and
                runs the top level of a script without a main guard. Its parent tells.
            LoaderClosedError: The loader is being closed.
        """
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise SystemExit(1)
        self.check_here()
        if not self.forked:
            # Started later, it would open this thread to signals again, and the new
            # process with it.
            resource_tracker.ensure_running()
        with undisturbed(), ExitStack() as undo:
            self._board.claims[worker] = 0
            trace, told = os.pipe()
            undo.callback(os.close, trace)
            os.set_blocking(trace, False)
            os.set_blocking(told, False)  # a crash must never wait for a reader
            with open(told, "wb", buffering=0):  # ours until the worker has it
                process = self._start(worker, birth, told)
            undo.callback(process.join)
            undo.callback(process.kill)
            self.check_here()  # whoever has closed it meanwhile saw no such worker
            closing = ExitStack()
            closing.callback(os.close, trace)
            exit_ = process.sentinel
            if not self._portable:
                exit_ = _exit_descriptor(process)
                closing.callback(os.close, exit_)
            self._poll.register(exit_, select.POLLIN)
            closing.callback(self._poll.unregister, exit_)
            self._members[worker] = _Member(process, exit_, trace, closing)
            undo.pop_all()

    def _start(self, worker: int, birth: Birth, told: int) -> BaseProcess:
        setup = Setup(
            worker=worker,
            workers=self.size,
            recipe=self._recipe,
            init=self._init,
            birth=birth,
            tasks=Descriptor(self.pipes.tasks),
            results=Descriptor(self.pipes.results),
            arena=Descriptor(self.slots.arena.fd),
            stride=self.slots.arena.stride,
            trace=Descriptor(told),
            parent=None if self._parent is None else Descriptor(self._parent),
            litter=servers_socket() if self._method == "forkserver" else None,
            start_slot=self.slots.lend(),
        )
        process: BaseProcess = self._context.Process(
            target=main, args=(setup,), name=f"feedline-worker-{worker}"
        )
        start(process, worker, forked=self.forked)
        return process

    @property
    def pids(self) -> dict[int, int]:
        """Process number of each worker."""
        return {worker: m.process.pid or 0 for worker, m in self._members.items()}

    def wait(self, deadline: float | None) -> News:
        """Wait for results or for a worker's end.

        Args:
            deadline: ``time.monotonic()`` moment to give up at; None waits for ever.

        Raises:
            LoaderClosedError: It was closed meanwhile.
        """
        left = None
        if deadline is not None:
            left = max(0, ceil((deadline - time.monotonic()) * 1000))
        ready = dict(self._poll.poll(left))
        self.check_here()
        answers = bool(ready.pop(self._answers, 0))
        if not ready:
            return News(answers, [])
        ended = [w for w, member in self._members.items() if member.exit in ready]
        return News(answers, ended)

    def claim(self, worker: int) -> int:
        """Number of the task that a worker has taken and not answered; 0 for none."""
        return self._board.claims[worker]

    def bury(self, worker: int) -> WorkerEnd:
        """Part with a worker that has ended, and tell how it did."""
        member = self._members[worker]
        before = peak_of_children()
        member.process.join()
        if self._method == "forkserver":
            memory = memory_left()
        else:
            memory = memory_peak(before, peak_of_children(), own=self.forked)
        exitcode = member.process.exitcode or 0  # None: another has reaped it
        stack = frames_left(member.trace)
        self._part_with(worker)
        oom_killed = self._oom_kills.explain(exitcode)
        return WorkerEnd(exitcode, stack, oom_killed, memory)

    def _part_with(self, worker: int) -> None:
        # A signal's handler may close the loader in between.
        member = self._members.get(worker)
        if member is not None:
            member.part()
            self._members.pop(worker, None)

    def stack_of(self, worker: int) -> str:
        """Ask a worker for its Python frames; tell why there are none otherwise."""
        member = self._members[worker]
        return frames_now(member.process.pid or 0, member.trace)

    def kill(self, worker: int) -> None:
        """End a worker at once. Its end is heard like any other."""
        self._members[worker].kill()

    def close(self) -> None:
        """End all workers and give everything back. Twice is once.

        Idle workers leave by themselves when the task pipe ends; those that build get a
        moment to finish and are killed after it, or at once if the wait is interrupted.
        """
        if self.closed or self.pipes.foreign:
            return
        self.leaving = True
        with undisturbed():
            try:
                self._board.leave()
                self.pipes.hang_up()
                self._those_left(_GRACE)
            finally:
                for member in self._those_left(0):
                    member.kill()
                for worker in list(self._members):
                    self._part_with(worker)
                self._closing.close()
                self.closed = True

    def _those_left(self, seconds: float) -> list[_Member]:
        """Wait for the ends of all workers; tell whose did not come."""
        watch = select.poll()
        waiting = {}
        for member in list(self._members.values()):
            watch.register(member.exit, select.POLLIN)
            waiting[member.exit] = member
        deadline = time.monotonic() + seconds
        while waiting and (
            ended := watch.poll(max(0, deadline - time.monotonic()) * 1000)
        ):
            for fd, _ in ended:
                watch.unregister(fd)
                del waiting[fd]
        return list(waiting.values())

    def kill_all(self) -> None:
        """End all workers at once, which is heard by whoever waits for them."""
        for member in list(self._members.values()):
            member.kill()

    @property
    def gone(self) -> bool:
        """Whether there is nothing to talk to any more: closed, or a forked copy."""
        return self.leaving or self.pipes.foreign

    def check_here(self) -> None:
        """Refuse to work when it is closed, or in a forked copy of its process.

        Raises:
            LoaderForkedError: This is a copy.
            LoaderClosedError: Another thread or a signal's handler closes the loader.
        """
        self.pipes.check_here()
        if self.leaving:
            raise LoaderClosedError


def _exit_descriptor(process: BaseProcess) -> int:
    try:
        return os.pidfd_open(process.pid or 0)
    except ProcessLookupError:  # it has ended, and someone has noticed
        return os.dup(process.sentinel)
