"""One epoch: plan, pool, delivery, consumer."""

from __future__ import annotations

import heapq
import inspect
import logging
import time
from collections import deque
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, TypeAlias

from .delivery import Delivery
from .errors import BatchTimeoutError, LoaderClosedError, brief
from .failures import Failures
from .pool import MOST_ATTEMPTS
from .progress import Progress
from .records import Order

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from .options import LoaderOptions
    from .plan import EpochPlan
    from .pool import Pool
    from .records import Completion
    from .stats import Counts

__all__ = ["Epoch", "Handed"]

# A batch with its place: what is outstanding, by ticket, and the batch's own ticket.
Handed: TypeAlias = tuple[dict[int, tuple[int, int]], int, Any]

_log = logging.getLogger(__name__)


class Epoch:
    """The batches of one epoch, on their way to the consumer.

    Args:
        start: Which epoch, and what of it was received before.
        plan: Which batch stands where.
        pool: Who builds them.
        tickets: Gives the number of each order; shared by all epochs of a loader.
        options: The loader's.
        counts: The loader's.
    """

    def __init__(
        self,
        start: Progress,
        plan: EpochPlan,
        pool: Pool,
        tickets: Iterator[int],
        options: LoaderOptions,
        counts: Counts,
    ) -> None:
        self.number = start.epoch
        self._running: Generator[Handed, None, bool] | None = None
        self.start = start
        self._plan = plan
        self._pool = pool
        self._tickets = tickets
        self._options = options
        self._counts = counts
        self._position = start.position
        self._missing = deque(start.missing)  # positions before that one, to come first
        self._failures = Failures(options, counts, start.epoch, plan.length)
        self._tries: dict[int, int] = {}  # by ticket: how often it was tried again
        # A heap of what is to be tried again: from which moment, ticket, last error.
        self._later: list[tuple[float, int, str]] = []
        # Orders are sent a few at a time, as far as no worker runs dry meanwhile.
        self._portion = max(1, (options.max_queue_size - 2 * options.workers) // 2)
        # ticket -> position and index, while outstanding
        self._places: dict[int, tuple[int, int]] = {}
        self._delivery = Delivery(
            options.max_queue_size,
            in_order=options.in_order,
            max_bytes=options.max_bytes,
            builders=max(1, options.workers),
        )

    def file(self, completion: Completion) -> None:
        """Take an answer, if it is to an order of this epoch."""
        if completion.ticket in self._places:
            self._counts.busy += completion.busy
            if completion.again and self._is_tried_again(completion):
                return
            if self._tries:
                self._tries.pop(completion.ticket, None)
            self._delivery.complete(completion)

    def progress(self) -> Progress:
        """What the consumer has received, and what it has not."""
        # An interrupt may have left a position in two of these places; in none, never.
        missing = {*self._missing, *(position for position, _ in self._places.values())}
        return Progress.of(
            self.number,
            self._position,
            [position for position in missing if position < self._position],
            self._plan.length,
            seed=self.start.seed,
            shuffle=self.start.shuffle,
        )

    @property
    def under_way(self) -> bool:
        """Whether someone is in the middle of iterating it.

        Asked of the generator itself: a flag of our own could be left standing by an
        interrupt.
        """
        if self._running is None:
            return False
        state = inspect.getgeneratorstate(self._running)
        return state in (inspect.GEN_RUNNING, inspect.GEN_SUSPENDED)

    def batches(self, epochs: list[Epoch]) -> Generator[Handed, None, bool]:
        """Yield every batch of the plan. To be called once.

        Each is yielded with the place that it has among what is outstanding. It has been
        received when that is deleted, which is for the caller to do, as the last thing.

        Args:
            epochs: All that are under way, this one included: the pool's answers may be
                for any of them.

        Returns:
            Whether all were received; if one was not, it is the last.

        Raises:
            Exception: What ``__getitem__`` raised, where its batch belongs.
            BatchTimeoutError: A batch took longer than the timeout.
            SkipLimitError: More batches failed than may be left out.
            LoaderClosedError: The loader was closed in between.
        """
        self._running = self._batches(epochs)
        return self._running

    def _batches(self, epochs: list[Epoch]) -> Generator[Handed, None, bool]:
        mark = perf_counter_ns()
        try:
            self._recover(epochs)
            self._fill()
            while True:
                asked = perf_counter_ns()
                # No name may hold a batch here while the next is waited for: it would
                # keep its slot of the arena.
                completion = self._next(epochs)
                now = perf_counter_ns()
                self._counts.wait += now - asked
                self._counts.elapsed += now - mark
                mark = now
                if completion is None:
                    return True
                skipped = self._is_skipped(completion)
                self._fill()
                if skipped:
                    continue
                self._counts.batches += 1
                ticket = completion.ticket
                handed = [(self._places, ticket, completion.batch)]
                del completion
                yield handed.pop()
                if ticket in self._places:
                    return False
        finally:
            completion = None  # its error's traceback holds this frame
            self._pool.abandon(set(self._places))
            self._missing.extend(position for position, _ in self._places.values())
            self._places.clear()
            self._later.clear()
            self._delivery.clear()

    def _fill(self) -> None:
        """Ask for as many batches as the bound allows, if they are worth a message."""
        if self._later:
            self._try_again()
        if self._delivery.free < self._portion:
            return
        room = self._delivery.room
        if self._plan.length is not None:
            left = len(self._missing) + self._plan.length - self._position
            room = min(room, left)
        orders = []
        for _ in range(room):
            position = self._missing[0] if self._missing else self._position
            index = self._plan.index_at(position)
            ticket = next(self._tickets)
            self._places[ticket] = position, index
            self._advance()
            self._delivery.issue(ticket)
            orders.append(Order(ticket, index, self.number))
        if orders:
            self._pool.submit(orders)

    def _advance(self) -> None:
        if self._missing:
            self._missing.popleft()
        else:
            self._position += 1

    def _next(self, epochs: list[Epoch]) -> Completion | None:
        """The next completion, or None at the end of the plan."""
        deadline = self._deadline()
        while True:
            if self._pool.closed:
                raise LoaderClosedError
            completion = self._delivery.pop()
            if completion is not None or self._delivery.idle:
                return completion
            heard = self._hear(deadline, epochs)
            if not heard and deadline is not None and time.monotonic() >= deadline:
                self._time_out()
                deadline = self._deadline()
            self._fill()

    def _hear(self, deadline: float | None, epochs: list[Epoch]) -> bool:
        """Wait for answers and file them; tell whether there were any."""
        pool = self._pool
        self._recover(epochs)
        pool.interrupted = True
        answers = pool.collect(self._next_look(deadline))
        for answer in answers:
            for epoch in epochs:
                epoch.file(answer)
        pool.interrupted = False
        return bool(answers)

    def _recover(self, epochs: list[Epoch]) -> None:
        """Make up for what an interrupt may have lost."""
        if self._pool.interrupted:
            for epoch in epochs:
                epoch.ask_again()
            self._pool.interrupted = False

    def ask_again(self) -> None:
        """Ask once more for all that has no answer: one may have been heard and lost.

        What comes twice for that is dropped the second time.
        """
        unbuilt = self._delivery.unbuilt - {ticket for _, ticket, _ in self._later}
        orders = [
            Order(ticket, index, self.number)
            for ticket, (_, index) in self._places.items()
            if ticket in unbuilt
        ]
        if orders:
            self._pool.submit(orders, again=True)

    def _deadline(self) -> float | None:
        timeout = self._options.timeout
        return None if timeout is None else time.monotonic() + timeout

    def _next_look(self, deadline: float | None) -> float | None:
        """Until when there is nothing to do but to hear answers."""
        if not self._later:
            return deadline
        due = self._later[0][0]
        return due if deadline is None else min(due, deadline)

    def _is_tried_again(self, failed: Completion) -> bool:
        tries = self._tries.get(failed.ticket, 0)
        delay = self._failures.delay(tries)
        if delay is None:
            return False
        assert failed.error is not None
        self._tries[failed.ticket] = tries + 1
        due = time.monotonic() + delay
        heapq.heappush(self._later, (due, failed.ticket, brief(failed.error)))
        return True

    def _try_again(self) -> None:
        """Ask once more for what has waited long enough after a try that failed."""
        now = time.monotonic()
        unbuilt = self._delivery.unbuilt
        orders = []
        while self._later and self._later[0][0] <= now:
            _, ticket, _ = heapq.heappop(self._later)
            if ticket in unbuilt:  # after an interrupt, it may have been built twice
                _, index = self._places[ticket]
                orders.append(Order(ticket, index, self.number))
        if orders:
            self._pool.submit(orders, again=True)

    def _is_skipped(self, completion: Completion) -> bool:
        """Whether the batch is left out; raises its error if it must not be."""
        ticket, error = completion.ticket, completion.error
        if error is None:
            return False
        _, index = self._places[ticket]
        try:
            if not self._failures.leave_out(index, error):
                raise error
        finally:
            del error, completion  # each would hold the other through the traceback
        del self._places[ticket]
        return True

    def _time_out(self) -> None:
        """Have another worker build the batch that was waited for too long, or raise."""
        timeout = self._options.timeout
        assert timeout is not None
        self._counts.timeouts += 1
        oldest = self._delivery.outstanding[0]
        _, index = self._places[oldest]
        for _, ticket, error in self._later:
            if ticket == oldest:
                where = f"it waits to be tried again after {error}"
                raise BatchTimeoutError(index, timeout, where)
        again = self._options.on_timeout == "replace"
        given_up = self._pool.give_up(oldest, again=again)
        if not given_up.again:
            raise BatchTimeoutError(index, timeout, given_up.where, given_up.attempts)
        _log.warning(
            "batch %d of epoch %d took longer than timeout=%r seconds, attempt %d of %d, "
            "and is built again; %s",
            index,
            self.number,
            timeout,
            given_up.attempts,
            MOST_ATTEMPTS,
            given_up.where,
        )
