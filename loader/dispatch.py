"""Batches on their way through one crew of worker processes.

Of every task sent it is known where it is: in the pipe, claimed by a worker, or answered.
When a worker ends, three looks in this order settle what became of each task: take back
what no worker has taken; read what the living have claimed; read all answers. A worker
answers before it drops its claim, so that what none of the three shows was lost, and is
sent again with a fresh slot. A worker caught between taking and claiming makes the same
batch a second time; answers after the first are dropped. A slot whose writer may still
live is not used again before its answer comes.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .codec import read
from .errors import (
    WorkerDiedError,
    WorkerStartError,
    add_note,
    describe_exit,
    likely_cause,
)
from .records import Completion, Kind, Task
from .remote import unpack_error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .crew import Crew
    from .records import Order, Result
    from .snapshot import Version, Versions

__all__ = ["Dispatch"]

_log = logging.getLogger(__name__)

_MOST_ATTEMPTS = 3  # workers that one batch may end
_MOST_FALSE_STARTS = 10  # workers in a row that a signal may end before they are ready
_GUARD = """a script needs a main guard, because each new process runs its top level:

    if __name__ == "__main__":
        main()

if it has one, what the worker wrote to stderr says more"""


@dataclass(slots=True, eq=False)
class _Flight:
    """A task that was sent and not answered.

    Attributes:
        order: What it is to build.
        slot: Where its answer goes.
        version: The state it is to be built from, kept for as long as it may be read.
    """

    order: Order
    slot: int
    version: Version


class Dispatch:
    """Sends orders to a crew, and hears what became of them.

    Args:
        crew: The workers; :meth:`hire` makes them.
        versions: The dataset as they must see it.
        wanted: Orders that still need an answer, by ticket. The pool adds and removes;
            an order that is answered is removed here.
    """

    def __init__(
        self, crew: Crew, versions: Versions, wanted: dict[int, Order]
    ) -> None:
        self.crew = crew
        self.versions = versions
        self.deaths = 0
        self._wanted = wanted
        self._sent = 0  # tasks: the number of the last one
        self._flights: dict[int, _Flight] = {}  # by number
        # Sent again because nobody seemed to have them; an answer may come all the same.
        self._limbo: dict[int, _Flight] = {}
        self._attempts: dict[int, int] = {}  # workers that a ticket has ended
        self._unready: dict[int, float] = {}  # workers that start, and since when
        self._reading: dict[int, Version] = {}  # the state that each worker may read
        self._false_starts = 0
        self._given_up: set[int] = set()  # workers that were ended for being too slow

    @property
    def busy(self) -> bool:
        """Whether any task has not been answered."""
        return bool(self._flights)

    @property
    def started(self) -> bool:
        """Whether any worker is ready, and is to stay."""
        return len(self._unready.keys() | self._given_up) < self.crew.size

    def hire(self, workers: Iterable[int], *, alone: bool) -> None:
        """Start workers.

        Args:
            workers: Their numbers.
            alone: Whether there are no others yet.
        """
        birth = self.versions.birth(alone=alone)
        for worker in workers:
            self._unready[worker] = time.monotonic()
            self._reading[worker] = self.versions.current
            self.crew.hire(worker, birth)

    def send(self, orders: Iterable[Order]) -> None:
        """Put orders into the task pipe."""
        version, lend = self.versions.current, self.crew.slots.lend
        tasks = []
        for order in orders:
            self._sent += 1
            slot = lend()
            self._flights[self._sent] = _Flight(order, slot, version)
            tasks.append(
                Task(
                    self._sent, order.index, order.epoch, slot,
                    version.number, version.slot,
                )
            )  # fmt: skip
        if tasks:
            self.crew.send(tasks)

    def sort_out(self) -> None:
        """Take back what no worker has taken, and send again what is wanted of it."""
        self.send(self._take_back())

    def turn(self, deadline: float | None) -> tuple[bool, list[Completion]]:
        """Hear one thing: some answers, or the end of some workers.

        Args:
            deadline: ``time.monotonic()`` moment to give up at; None waits for ever.

        Returns:
            Whether there was anything before the deadline, and the orders that it ended.
        """
        news = self.crew.wait(deadline)
        if news.answers:
            return True, self._open(self.crew.receive())
        if news.ended:
            return True, self._bury(news.ended)
        return False, []

    def give_up(self, ticket: int) -> str | None:
        """End the worker that builds a batch.

        Returns:
            Who it was and where it stood; None if no worker has begun the batch.
        """
        for worker, pid in self.crew.pids.items():
            flight = self._flights.get(self.crew.claim(worker))
            if flight is not None and flight.order.ticket == ticket:
                stack = self.crew.stack_of(worker)
                self.crew.kill(worker)
                self._given_up.add(worker)
                return f"worker {worker} (pid {pid}) was building it, at:\n{stack}"
        return None

    def give_up_all(self) -> bool:
        """End every worker that builds anything; tell whether there was one."""
        tickets = {flight.order.ticket for flight in self._flights.values()}
        ended = [ticket for ticket in tickets if self.give_up(ticket)]
        return bool(ended)

    def end_stuck(self, seconds: float) -> str:
        """End the workers that have been starting for longer than that.

        Returns:
            Who they are and where they stand; empty if there are none.
        """
        latest = time.monotonic() - seconds
        told = ""
        for worker in [w for w, since in self._unready.items() if since < latest]:
            pid, stack = self.crew.pids[worker], self.crew.stack_of(worker)
            self.crew.kill(worker)
            self._given_up.add(worker)
            told += f"\nworker {worker} (pid {pid}) had not started yet, at:\n{stack}"
        return told

    def _take_back(self) -> list[Order]:
        orders = []
        for task in self.crew.take_back():
            flight = self._flights.pop(task.number)
            self.crew.slots.free(flight.slot)
            if flight.order.ticket in self._wanted:
                orders.append(flight.order)
        return orders

    def _open(self, results: list[Result]) -> list[Completion]:
        completions = []
        flights, wanted = self._flights, self._wanted
        for result in results:
            if result.kind >= Kind.READY:
                self._welcome(result)
                continue
            number = result.number
            flight = flights.pop(number, None) or self._limbo.pop(number)
            self._reading[result.worker] = flight.version
            order = wanted.pop(flight.order.ticket, None)
            if order is None:
                self.crew.slots.free(result.slot, result.size)
                continue
            if self._attempts:
                self._attempts.pop(order.ticket, None)
            completions.append(self._completion(result, order))
        return completions

    def _completion(self, result: Result, order: Order) -> Completion:
        batch: Any = None
        error: BaseException | None = None
        if result.kind == Kind.NO_MEMORY:
            self.crew.slots.retire(result.slot)
            error = MemoryError(
                f"no shared memory is left for batch {order.index} of epoch "
                f"{order.epoch}: lower workers, max_queue_size or the batch size"
            )
            return Completion(order.ticket, error=error)
        try:
            batch = read(self.crew.slots, result.slot, result.size)
            if result.kind == Kind.ERROR:
                error = unpack_error(batch)
                batch = None
        except Exception as failure:  # noqa: BLE001 - raised where the batch belongs
            add_note(
                failure,
                f"Raised while batch {order.index} of epoch {order.epoch} was put "
                "together in the main process",
            )
            error = failure
        return Completion(
            order.ticket, batch, error, result.size, result.busy, result.retries
        )

    def _welcome(self, result: Result) -> None:
        """Hear from a worker that has started, or could not."""
        if result.kind == Kind.FAILED:
            packed = read(self.crew.slots, result.slot, result.size)
            raise unpack_error(packed)
        self.crew.slots.free(result.slot)
        self._unready.pop(result.worker, None)
        self._false_starts = 0

    def _bury(self, ended: list[int]) -> list[Completion]:
        """Settle what became of the tasks of workers that have ended, and replace them."""
        crew = self.crew
        orders = self._take_back()
        living = {crew.claim(w) for w in crew.pids if w not in ended}
        results = []
        while more := crew.receive():
            results += more
        completions = self._open(results)
        claims = {crew.claim(worker): worker for worker in ended}
        exits = {worker: crew.bury(worker) for worker in ended}
        for worker, (exitcode, stack) in exits.items():
            self._note(worker, exitcode, stack, self._flights.get(crew.claim(worker)))
        for number in [n for n in self._flights if n not in living]:
            flight = self._flights.pop(number)
            if number not in claims:
                self._limbo[number] = flight
            else:
                crew.slots.retire(flight.slot)
                worker = claims[number]
                completions += self._count(flight.order, worker, *exits[worker])
            if flight.order.ticket in self._wanted:
                orders.append(flight.order)
        self.hire(ended, alone=False)
        self.send(sorted(orders, key=lambda order: order.ticket))
        return completions

    def _note(
        self, worker: int, exitcode: int, stack: str, flight: _Flight | None
    ) -> None:
        """Write a worker's end down; raise if workers end before they start."""
        self.deaths += 1
        how = describe_exit(exitcode)
        if self._unready.pop(worker, None) and worker not in self._given_up:
            self._false_starts += 1
            if exitcode >= 0 or self._false_starts > _MOST_FALSE_STARTS:
                raise WorkerStartError(worker, exitcode, self._start_trouble(exitcode))
        if worker in self._given_up:
            self._given_up.discard(worker)  # a BatchTimeoutError tells of it
        elif flight is None or flight.order.ticket not in self._wanted:
            _log.warning("worker %d ended: %s; another takes its place", worker, how)
        else:
            _log.warning(
                "worker %d ended while it built batch %d of epoch %d, try %d of %d: %s%s",
                worker,
                flight.order.index,
                flight.order.epoch,
                self._attempts.get(flight.order.ticket, 0) + 1,
                _MOST_ATTEMPTS,
                how,
                f"\n{stack}" if stack else "",
            )

    def _start_trouble(self, exitcode: int) -> str:
        if exitcode < 0:
            return likely_cause(exitcode)
        if exitcode == 1 and not self.crew.forked:
            return _GUARD
        return (
            "something ends the process before its first batch: look at worker_init_fn "
            "and at how the dataset is unpickled"
        )

    def _count(
        self, order: Order, worker: int, exitcode: int, stack: str
    ) -> list[Completion]:
        """Count a worker against the batch that it died of; too many end the batch."""
        ticket = order.ticket
        if ticket not in self._wanted:
            return []
        attempts = self._attempts[ticket] = self._attempts.get(ticket, 0) + 1
        if attempts < _MOST_ATTEMPTS:
            return []
        del self._wanted[ticket], self._attempts[ticket]
        error = WorkerDiedError(order.index, worker, exitcode, attempts, stack)
        return [Completion(ticket, error=error)]
