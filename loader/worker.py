"""What runs inside a worker process.

It reads a task, says on the board that it has it, builds the batch, writes it into a slot
that was offered to it or into the task's, and says so in the result pipe. It takes no lock
and shares none. When the task pipe ends, or its parent does, it leaves.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import reduction
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from .arena import Arena
from .board import Board
from .codec import Writer
from .errors import BatchEncodingError, add_note
from .inplace import Site
from .pickling import REFUSALS, find_refused
from .process_settings import (
    keep_memory,
    leave_with_parent,
    limit_threads,
    set_signals,
)
from .records import RECORD_BYTES, Kind, Result, Task
from .remote import pack_error
from .seeding import own_globals
from .slots import Offers
from .snapshot import load

if TYPE_CHECKING:
    from .build import Built, Recipe
    from .snapshot import Birth

__all__ = ["Descriptor", "Setup", "main"]


class Descriptor:
    """A file descriptor that goes along with a starting process, forked or not."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> Any:
        return _arrive, (reduction.DupFd(self.fd),)


def _arrive(sent: Any) -> Descriptor:
    fd = sent.detach()
    # A program that the user's code starts in here must not have it too.
    os.set_inheritable(fd, False)
    return Descriptor(fd)


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a worker is given.

    Attributes:
        worker: Its number, from 0.
        workers: How many there are.
        recipe: How to build.
        init: ``worker_init_fn``, or its pickle, or None.
        birth: The dataset, or where it is.
        tasks: Where tasks are read.
        results: Where results are written.
        arena: The shared memory.
        stride: Of the arena.
        trace: Where the Python frames go if it crashes or is asked for them.
        parent: Becomes readable when the parent ends; None where there is no such thing.
        litter: A socket that the parent removes if it can, and its folder.
        start_slot: Where to write the exception that keeps it from starting.
    """

    worker: int
    workers: int
    recipe: Recipe
    init: Any
    birth: Birth
    tasks: Descriptor
    results: Descriptor
    arena: Descriptor
    stride: int
    trace: Descriptor
    parent: Descriptor | None
    litter: str | None
    start_slot: int


def main(setup: Setup) -> None:
    """A worker's life."""
    set_signals(setup.trace.fd)
    parent = None if setup.parent is None else setup.parent.fd
    watcher = threading.Thread(
        target=leave_with_parent,
        args=(parent, setup.litter),
        name="feedline-parent",
        daemon=True,
    )
    watcher.start()
    limit_threads()
    keep_memory()
    own_globals()
    gc.freeze()  # the collector would touch, and so copy, every page that was forked
    arena = Arena(setup.arena.fd, setup.stride)
    board = Board(arena, setup.workers)
    with suppress(BrokenPipeError):  # the parent is gone, or has closed the pool
        try:
            dataset = setup.birth.dataset
            if setup.birth.slot:
                dataset = load(arena, setup.birth.slot, setup.birth.inherited)
            if setup.init is not None:
                init = setup.init
                (pickle.loads(init) if isinstance(init, bytes) else init)(setup.worker)
        except BaseException as error:  # noqa: BLE001 - raised where the epoch begins
            add_note(
                error, "Raised before the first batch, by the dataset or worker_init_fn"
            )
            packed = pack_error(error, _name(setup))
            size = Writer(arena, setup.start_slot).write(packed)
            _tell(setup, 0, size, 0, setup.start_slot, Kind.FAILED)
            return
        _tell(setup, 0, 0, 0, setup.start_slot, Kind.READY)
        _serve(setup, arena, board, dataset)
    if setup.litter and not board.leaving:
        watcher.join()  # the parent closes nothing, it dies


def _serve(setup: Setup, arena: Arena, board: Board, dataset: Any) -> None:
    worker, tasks = setup.worker, setup.tasks.fd
    claims, offers = board.claims, Offers(board, worker)
    version = setup.birth.version
    site = Site()
    site.open()
    line = _queue_up(tasks)
    while record := _next_record(tasks, line):
        task = Task.unpack(record)
        claims[worker] = task.number
        start = perf_counter_ns()
        slot = offers.take() or task.slot
        writer = site.room = Writer(arena, slot)
        built: Built | None = None
        kind: int = Kind.ERROR
        try:
            if task.version != version:
                dataset = None
                arena.detach()  # what the user's code keeps of it must not change
                dataset = load(arena, task.state_slot, setup.birth.inherited)
                version = task.version
            built = setup.recipe.build(dataset, task, worker, site)
            error = built.error
            if error is None:
                size = _write_batch(writer, task, built.batch)
                kind = Kind.BATCH
            elif built.again:
                kind = Kind.RAISED
        except SystemExit:
            raise
        except BaseException as failure:  # noqa: BLE001 - raised where the batch belongs
            error = failure
        # Nothing here may hold the batch, and no one may build in its slot, from now on:
        # what is still held of it is the user's own.
        site.room = built = None
        if error is None:
            writer.release()
        else:
            packed = pack_error(error, _name(setup))
            error = None
            try:
                writer.restart()
                size = writer.write(packed)
            except MemoryError:
                kind, size = Kind.NO_MEMORY, 0
        busy = perf_counter_ns() - start
        _tell(setup, task.number, size, busy, slot, kind)
        # Only now: a task that no claim and no result tells of would be done again.
        claims[worker] = 0


def _queue_up(tasks: int) -> Any:
    """Stand in line for tasks.

    Of idle workers the kernel wakes the one that has been in the line for longest, for
    each write of tasks: its caches are warm, and the others sleep on.
    """
    with suppress(AttributeError, OSError):  # not Linux, or not all of it
        line = select.epoll()
        line.register(tasks, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        return line
    crowd = select.poll()  # all of whom are woken
    crowd.register(tasks, select.POLLIN)
    return crowd


def _next_record(tasks: int, line: Any) -> bytes:
    """Read a task; nothing when the pipe has ended."""
    while True:
        try:
            return os.read(tasks, RECORD_BYTES)
        except BlockingIOError:
            line.poll()


def _tell(
    setup: Setup, number: int, size: int, busy: int, slot: int, kind: int
) -> None:
    result = Result(number, size, busy, slot, setup.worker, kind)
    os.write(setup.results.fd, result.pack())


def _write_batch(writer: Writer, task: Task, batch: Any) -> int:
    try:
        return writer.write(batch)
    except REFUSALS as error:
        raise BatchEncodingError(task.index, *find_refused(batch, "batch")) from error
    except Exception as error:
        add_note(
            error, f"Raised while batch {task.index} of epoch {task.epoch} was encoded"
        )
        raise


def _name(setup: Setup) -> str:
    return f"worker {setup.worker} (pid {os.getpid()})"
