"""The worker processes of one pool, and all that the operating system lends them.

Two pipes, one arena, one claim board are all that is shared::

    parent ──task pipe──▶ any worker ──result pipe──▶ parent
              │ take_back()
              ▼
            parent

The task pipe is the queue: an idle worker reads the next record, and nothing is assigned
ahead. The parent can read it too, to take unstarted tasks back. A worker's end is heard in
one place, its exit descriptor. Single-threaded, but for :func:`_after_fork`.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import threading
import time
import warnings
import weakref
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from math import ceil
from multiprocessing import forkserver, resource_tracker
from typing import TYPE_CHECKING, Any

from .arena import BOARD, BOARD_START, Arena, Slots
from .errors import LoaderClosedError, LoaderForkedError
from .quiet import quiet_logs
from .records import RECORD_BYTES, Result, Task
from .worker import STACK_SIGNAL, Descriptor, Setup, main

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from multiprocessing.process import BaseProcess

    from .build import Recipe
    from .options import LoaderOptions
    from .snapshot import Birth

__all__ = ["Crew", "News", "undisturbed"]

_GRACE = 0.25  # seconds that close() waits for batches that are being built
_LAST_WORDS = 1.0  # seconds that a stuck worker has for telling where it stands
_PAUSE = 0.05  # seconds of silence after which it has told everything
_START_DESCRIPTORS = 8  # that multiprocessing opens to start a process, and a few more
_AT_ONCE = 4096 // RECORD_BYTES  # records that one write may carry and stay atomic
_READ_BYTES = 65536  # what a pipe holds, at the most, by default


@dataclass(frozen=True, slots=True)
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
        self.forked = options.start_method == "fork"
        self._served = options.start_method == "forkserver"
        self._context = multiprocessing.get_context(options.start_method)
        self._init: Any = options.worker_init_fn
        if self._init is not None and not self.forked:
            import cloudpickle

            self._init = cloudpickle.dumps(self._init)
        self._portable = portable or not hasattr(os, "pidfd_open")
        self._members: dict[int, _Member] = {}
        self._backlog: list[bytes] = []  # what the task pipe had no room for
        self._foreign = False  # whether this is a forked copy of the parent
        self._closed = False
        self.leaving = False  # set before it is closed, by whatever thread
        # The parent's own ends go first: workers leave when they are gone. So does a
        # forked copy of the parent, which would keep them open.
        with ExitStack() as ends, ExitStack() as rest:
            tasks_out, self._tasks_in = os.pipe()
            ends.callback(os.close, self._tasks_in)
            rest.callback(os.close, tasks_out)
            self._results_out, results_in = os.pipe()
            ends.callback(os.close, self._results_out)
            rest.callback(os.close, results_in)
            self._tasks_back = _own_read_end(tasks_out)
            ends.callback(os.close, self._tasks_back)
            os.set_blocking(self._tasks_in, False)
            os.set_blocking(self._results_out, False)
            self._tasks_out, self._results_in = tasks_out, results_in
            self._parent = None
            if not self._portable:
                self._parent = os.pidfd_open(os.getpid())
                rest.callback(os.close, self._parent)
            arena = Arena.create(anonymous=not self._portable)
            rest.callback(arena.close)
            arena.reserve(BOARD, BOARD_START + 8 * (self.size + 1))
            self._board = arena.board(self.size + 1)  # the last: whether we close
            self.slots = Slots(arena, spare=2 * options.max_queue_size + 8)
            self._poll = select.poll()
            self._poll.register(self._results_out, select.POLLIN)
            self._ends, self._rest = ends.pop_all(), rest.pop_all()
        _crews.add(self)

    def hire(self, worker: int, birth: Birth) -> None:
        """Start a worker process. It takes tasks as soon as it is ready.

        Raises:
            SystemExit: This process is itself a worker that has just been started, and
                runs the top level of a script without a main guard. Its parent tells.
        """
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise SystemExit(1)
        if not self.forked:
            # Started later, it would open this thread to signals again, and the new
            # process with it.
            resource_tracker.ensure_running()
        with undisturbed(), ExitStack() as undo:
            self._board[worker] = 0
            trace, told = os.pipe()
            undo.callback(os.close, trace)
            os.set_blocking(trace, False)
            os.set_blocking(told, False)  # a crash must never wait for a reader
            with open(told, "wb", buffering=0):  # ours until the worker has it
                process = self._start(worker, birth, told)
            undo.callback(process.join)
            undo.callback(process.kill)
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
            tasks=Descriptor(self._tasks_out),
            results=Descriptor(self._results_in),
            arena=Descriptor(self.slots.arena.fd),
            stride=self.slots.arena.stride,
            trace=Descriptor(told),
            parent=None if self._parent is None else Descriptor(self._parent),
            litter=_servers_socket() if self._served else None,
            start_slot=self.slots.lend(),
        )
        process: BaseProcess = self._context.Process(
            target=main, args=(setup,), name=f"feedline-worker-{worker}"
        )
        with _starting, quiet_logs() if self.forked else nullcontext():
            self._expect_room()
            process.start()
        return process

    def _expect_room(self) -> None:
        """Fail here if descriptors run out: multiprocessing would leave some open.

        Raises:
            OSError: Too few are left for a start.
        """
        with ExitStack() as taken:
            for _ in range(_START_DESCRIPTORS):
                taken.callback(os.close, os.dup(self._tasks_in))

    @property
    def pids(self) -> dict[int, int]:
        """Process number of each worker."""
        return {worker: m.process.pid or 0 for worker, m in self._members.items()}

    def send(self, tasks: Iterable[Task]) -> None:
        """Put tasks into the pipe; what it has no room for waits here."""
        self.check_here()
        self._backlog += (task.pack() for task in tasks)
        while self._backlog:
            records = self._backlog[:_AT_ONCE]
            try:
                os.write(self._tasks_in, b"".join(records))
            except BlockingIOError:
                return
            del self._backlog[: len(records)]

    def take_back(self) -> list[Task]:
        """Take all tasks that no worker has taken."""
        records = b"".join(self._backlog)
        self._backlog.clear()
        with suppress(BlockingIOError):
            while True:
                records += os.read(self._tasks_back, _READ_BYTES)
        return [
            Task.unpack(records[at : at + RECORD_BYTES])
            for at in range(0, len(records), RECORD_BYTES)
        ]

    def receive(self) -> list[Result]:
        """Take the results that are there. Never waits."""
        self.check_here()
        try:
            records = os.read(self._results_out, _READ_BYTES)
        except BlockingIOError:
            return []
        if self._backlog:
            self.send(())
        return Result.unpack_all(records)

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
        ready = {fd for fd, _ in self._poll.poll(left)}
        self.check_here()
        ended = [w for w, member in self._members.items() if member.exit in ready]
        return News(self._results_out in ready, ended)

    def claim(self, worker: int) -> int:
        """Number of the task that a worker has taken and not answered; 0 for none."""
        return self._board[worker]

    def bury(self, worker: int) -> tuple[int, str]:
        """Part with a worker that has ended.

        Returns:
            Its exit code, negative for a signal, and its last Python frames, if it left
            any.
        """
        member = self._members.pop(worker)
        member.process.join()
        exitcode = member.process.exitcode
        stack = _own_frames(_read_all(member.trace))
        member.closing.close()
        with suppress(ValueError):  # someone else has reaped it, and nobody can tell
            member.process.close()
        return (0 if exitcode is None else exitcode), stack

    def stack_of(self, worker: int) -> str:
        """Ask a worker for its Python frames.

        Returns:
            The frames, or why there are none.
        """
        member = self._members[worker]
        pid = member.process.pid
        if pid is None or _is_stopped(pid):
            return "  the process is stopped by a signal (SIGSTOP)"
        with suppress(ProcessLookupError):
            os.kill(pid, STACK_SIGNAL)
        watch = select.poll()
        watch.register(member.trace, select.POLLIN)
        text, patience = b"", _LAST_WORDS
        while watch.poll(patience * 1000) and (more := _read_all(member.trace)):
            text, patience = text + more, _PAUSE
        return _own_frames(text) or "  it did not answer the request for its frames"

    def kill(self, worker: int) -> None:
        """End a worker at once. Its end is heard like any other."""
        self._members[worker].process.kill()

    def close(self) -> None:
        """End all workers and give everything back. Twice is once.

        Idle workers leave by themselves when the task pipe ends; those that build get a
        moment to finish and are killed after it.
        """
        if self._closed or self._foreign:
            return
        self._closed = self.leaving = True
        with undisturbed():
            self._board[self.size] = 1
            self._ends.close()
            watch = select.poll()
            waiting = {}
            for member in self._members.values():
                watch.register(member.exit, select.POLLIN)
                waiting[member.exit] = member
            deadline = time.monotonic() + _GRACE
            while waiting and (left := deadline - time.monotonic()) > 0:
                for fd, _ in watch.poll(left * 1000):
                    watch.unregister(fd)
                    del waiting[fd]
            for member in waiting.values():
                member.process.kill()
            for worker in list(self._members):
                self.bury(worker)
            self._rest.close()

    def kill_all(self) -> None:
        """End all workers at once, which is heard by whoever waits for them."""
        for member in list(self._members.values()):
            member.process.kill()

    def let_go(self) -> None:
        """In a forked copy of the parent, close what only the parent may hold open."""
        self._foreign = True
        self._ends.close()

    @property
    def gone(self) -> bool:
        """Whether there is nothing to talk to any more: closed, or a forked copy."""
        return self.leaving or self._foreign

    def check_here(self) -> None:
        """Refuse to work when it is closed, or in a forked copy of its process.

        Raises:
            LoaderForkedError: This is a copy.
            LoaderClosedError: Another thread or a signal's handler closes the loader.
        """
        if self._foreign:
            raise LoaderForkedError(
                f"this loader belongs to the process that {os.getpid()} was forked from; "
                "make a Loader in this process"
            )
        if self.leaving:
            raise LoaderClosedError(
                "the loader was closed in the middle of an epoch; make a new Loader"
            )


# Every crew of this process, for its forked copies to let go of.
_crews: weakref.WeakSet[Crew] = weakref.WeakSet()


# Held while a process starts: threads that fork side by side are refused by libraries that
# watch over forks, such as filelock.
_starting = threading.Lock()


def _after_fork() -> None:
    """In a forked child, close what only the parent may hold open."""
    global _starting
    _starting = threading.Lock()  # the copy is held by whoever forked
    for crew in list(_crews):
        crew.let_go()


os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let no signal in between, and let a fork be a fork.

    A worker starts with Ctrl-C and SIGTERM blocked, and opens itself to them once it has
    set its own handlers.
    """
    blocked = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        with warnings.catch_warnings():
            # From 3.12 on, a fork beside any other thread warns, numpy's own included.
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _own_read_end(pipe: int) -> int:
    """Another read end of a pipe, which alone never blocks.

    Blocking is a property of the open file, which duplicates share; this one is opened
    anew.
    """
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(FileNotFoundError):
            return os.open(
                f"{folder}/{pipe}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            )
    raise OSError("worker processes need /proc or /dev/fd; load in threads")


def _servers_socket() -> str | None:
    """Where the fork server listens; it stays if this process is killed."""
    forkserver.ensure_running()
    address = getattr(forkserver._forkserver, "_forkserver_address", None)  # noqa: SLF001
    return address if isinstance(address, str) else None


def _exit_descriptor(process: BaseProcess) -> int:
    try:
        return os.pidfd_open(process.pid or 0)
    except ProcessLookupError:  # it has ended, and someone has noticed
        return os.dup(process.sentinel)


def _is_stopped(pid: int) -> bool:
    import psutil

    with suppress(psutil.Error):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False


def _read_all(trace: int) -> bytes:
    text = b""
    with suppress(BlockingIOError):
        while more := os.read(trace, _READ_BYTES):
            text += more
    return text


def _own_frames(text: bytes) -> str:
    """The frames of the user's code, without the worker's own below them."""
    lines = text.decode(errors="replace").splitlines()
    kept = []
    for line in lines:
        if main.__code__.co_filename in line:
            break
        if line.startswith("  File"):
            kept.append(line)
    return "\n".join(kept)
