"""Worker threads over two ``SimpleQueue``s.

Each thread shows on its seat what it is building, and clears that before it answers.
Nothing is being built when every seat is clear: a thread that has taken an abandoned order
and not shown it yet will find it among the unwanted ones, and drop it. Threads are daemons,
because one that hangs in the user's code cannot be ended and must not keep the interpreter
from ending.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from .errors import LoaderClosedError, LoaderForkedError, add_note
from .pool import MOST_ATTEMPTS, GivenUp, Pool, by_ticket, size_of
from .records import Completion

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from .build import Recipe
    from .records import Order

__all__ = ["ThreadPool"]

_log = logging.getLogger(__name__)

_GRACE = 0.5  # seconds that close() waits for batches that are being built
_NO_TICKET = -1


@dataclass(slots=True, eq=False)
class _Seat:
    """One thread's place: what it is doing, for the consumer's thread to see.

    Attributes:
        number: Of the worker.
        order: What is being built.
        given_up: Set when nobody waits for this thread any more; it leaves by itself.
        answering: Held by who decides what becomes of the order: the thread while it
            answers, the consumer for ever once it has given the thread up. Nobody waits
            for it.
        failed: Set when ``worker_init_fn`` raised and the thread has left.
        thread: Who sits here.
    """

    number: int
    order: Order | None = None
    given_up: bool = False
    failed: bool = False
    answering: threading.Lock = field(default_factory=threading.Lock)
    thread: threading.Thread = field(init=False)


@dataclass(frozen=True, slots=True, eq=False)
class _Shared:
    """All that the threads and the consumer share.

    Attributes:
        orders: What to build; None tells all threads to leave.
        answers: What came of it.
        unwanted: Tickets of abandoned orders that a thread may be about to begin. Only
            the consumer's thread changes it.
    """

    orders: SimpleQueue[Order | None] = field(default_factory=SimpleQueue)
    answers: SimpleQueue[Completion] = field(default_factory=SimpleQueue)
    unwanted: set[int] = field(default_factory=set)


class ThreadPool(Pool):
    """Builds batches in threads of this process.

    Args:
        dataset: The user's; all threads use this one object.
        recipe: How to build.
        workers: How many threads.
        init: Called with the worker's number in each thread before its first batch.
        measure: Whether completions tell their batch's size.
    """

    def __init__(
        self,
        dataset: Any,
        recipe: Recipe,
        workers: int,
        init: Callable[[int], object] | None,
        *,
        measure: bool,
    ) -> None:
        self._dataset = dataset
        self._recipe = recipe
        self._workers = workers
        self._init = init
        self._measure = measure
        self._shared = _Shared()
        self._process = os.getpid()
        self._seats: dict[int, _Seat] = {}  # by number
        self._release = weakref.finalize(self, self._shared.orders.put, None)

    def settle(self, timeout: float | None) -> None:
        """Wait until no thread is building anything."""
        left = {order.ticket for order in self._take_back()}
        self._shared.unwanted.difference_update(left)
        while busy := [seat for seat in self._seats.values() if seat.order is not None]:
            deadline = None if timeout is None else time.monotonic() + timeout
            if not self.collect(deadline):
                for seat in busy:
                    self._part_with(seat)

    def begin_epoch(self, *, alone: bool) -> None:
        """Start the threads that there are not, all of them at the first epoch."""
        self.check_here()
        for number in range(self._workers):
            seat = self._seats.get(number)
            if seat is None or seat.failed or not seat.thread.is_alive():
                self._seat(number)

    def submit(self, orders: Sequence[Order], *, again: bool = False) -> None:
        """Queue the orders for whichever thread is free first."""
        lost = self.interrupted
        if again:
            self.interrupted = True  # until what was taken back is there again
            orders = sorted([*orders, *self._take_back()], key=by_ticket)
        for order in orders:
            self._shared.orders.put(order)
        self.interrupted = lost

    def collect(self, deadline: float | None) -> list[Completion]:
        """Wait for one answer and take all that are there."""
        answers = self._shared.answers
        if answers.empty():
            self.check_here()
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        found: list[Completion] = []
        with suppress(Empty):
            found.append(answers.get(timeout=left))
            while not answers.empty():
                found.append(answers.get_nowait())
        for completion in found:
            if completion.ticket == _NO_TICKET and completion.error is not None:
                raise completion.error
        unwanted = self._shared.unwanted
        if unwanted:
            unwanted.difference_update(completion.ticket for completion in found)
        return found

    def abandon(self, tickets: Collection[int]) -> None:
        """Take back the orders that no thread has taken."""
        if (
            not self._release.alive
        ):  # closed; or the interpreter ends, and its modules go
            return
        self._shared.unwanted.update(tickets)
        lost, self.interrupted = self.interrupted, True
        for order in self._take_back():
            if order.ticket in tickets:
                self._shared.unwanted.discard(order.ticket)
            else:
                self._shared.orders.put(order)
        self.interrupted = lost

    def give_up(self, ticket: int, *, again: bool) -> GivenUp:
        """Tell where the thread stands, and seat another in its place."""
        for seat in self._seats.values():
            order = seat.order
            if order is None or order.ticket != ticket:
                continue
            # The documented way to another thread's frames, its name notwithstanding.
            frame = sys._current_frames().get(seat.thread.ident or 0)  # noqa: SLF001
            stack = "".join(traceback.format_stack(frame)).rstrip()
            order.attempts += 1
            again = again and order.attempts < MOST_ATTEMPTS
            if self._part_with(seat) and again:
                self.submit([order], again=True)
            where = (
                f"thread {seat.number} was building it, and is left behind, because a "
                f"thread cannot be ended; it stands at:\n{stack}"
            )
            return GivenUp(where, order.attempts, again)
        return GivenUp(
            "no thread had begun it: all build others or start", 0, again=False
        )

    def close(self) -> None:
        """Tell all threads to leave, and wait a moment for them."""
        self.closed = True
        if self._process != os.getpid():
            return
        seats, self._seats = self._seats, {}
        for seat in seats.values():
            seat.given_up = True
            seat.answering.acquire(blocking=False)  # what it builds now is dropped
        self._release()
        with suppress(Empty):
            while True:
                self._shared.answers.get_nowait()
        # For a consumer that waits in another thread.
        closed = LoaderClosedError()
        self._shared.answers.put(Completion(_NO_TICKET, error=closed))
        deadline = time.monotonic() + _GRACE
        for seat in seats.values():
            if seat.thread is threading.current_thread() or not seat.thread.is_alive():
                continue
            seat.thread.join(max(0.0, deadline - time.monotonic()))
            if seat.thread.is_alive():
                _log.warning(
                    "thread %d still builds batch %s after the loader was closed, because "
                    "a thread cannot be ended; it leaves when the batch is built",
                    seat.number,
                    seat.order.index if seat.order is not None else "?",
                )

    def check_here(self) -> None:
        """A copy has none of the threads."""
        if self._process != os.getpid():
            raise LoaderForkedError(
                f"this loader belongs to process {self._process}, of which this one is "
                "a forked copy without its threads; make a Loader in this process"
            )

    def _seat(self, number: int) -> None:
        seat = _Seat(number)
        seat.thread = threading.Thread(
            target=_serve,
            args=(
                self._shared, seat, self._dataset, self._recipe, self._init,
                self._measure,
            ),
            name=f"feedline-{number}",
            daemon=True,
        )  # fmt: skip
        self._seats[number] = seat
        seat.thread.start()

    def _part_with(self, seat: _Seat) -> bool:
        """Seat another thread, unless this one is just answering after all."""
        if not seat.answering.acquire(blocking=False):
            return False
        seat.given_up = True
        self._seat(seat.number)
        return True

    def _take_back(self) -> list[Order]:
        """Take all orders that no thread has taken."""
        taken = []
        with suppress(Empty):
            while (order := self._shared.orders.get_nowait()) is not None:
                taken.append(order)
            self._shared.orders.put(None)  # the sign to leave is for the threads
        return taken


def _serve(
    shared: _Shared,
    seat: _Seat,
    dataset: Any,
    recipe: Recipe,
    init: Callable[[int], object] | None,
    measure: bool,
) -> None:
    """A thread's life. It holds no reference to the pool, which may die before it."""
    if init is not None:
        try:
            init(seat.number)
        except BaseException as error:  # noqa: BLE001 - raised where the epoch begins
            add_note(error, f"Raised by worker_init_fn({seat.number})")
            seat.failed = True
            shared.answers.put(Completion(_NO_TICKET, error=error))
            return
    while not seat.given_up:
        order = shared.orders.get()
        if order is None:
            shared.orders.put(None)  # for the next one
            return
        start = perf_counter_ns()
        seat.order = order  # first, and only then the look at what is unwanted
        if order.ticket in shared.unwanted:
            completion = Completion(order.ticket)
        else:
            completion = _answer(dataset, recipe, order, seat.number, measure, start)
        if not seat.answering.acquire(blocking=False):
            return
        seat.order = None  # first, and only then the answer: settle() waits for one
        shared.answers.put(completion)
        seat.answering.release()
        # Waiting for the next order must not keep this batch alive.
        del completion


def _answer(
    dataset: Any, recipe: Recipe, order: Order, worker: int, measure: bool, start: int
) -> Completion:
    try:
        built = recipe.build(dataset, order, worker)
    except SystemExit as error:
        return Completion(order.ticket, error=error)
    size = size_of(built.batch) if measure else 0
    busy = perf_counter_ns() - start
    return Completion(order.ticket, built.batch, built.error, size, busy, built.again)
