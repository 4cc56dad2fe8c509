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
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .codec import read
from .errors import (
    WorkerDiedError,
    WorkerStartError,
    add_note,
    describe_exit,
)
from .pace import PATIENCE, Pace
from .pool import MOST_ATTEMPTS, GivenUp, by_ticket
from .postmortem import start_trouble
from .records import Completion, Kind, Task
from .remote import unpack_error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .crew import Crew
    from .postmortem import WorkerEnd
    from .records import Order, Result
    from .snapshot import Version, Versions

__all__ = ["Dispatch"]

_log = logging.getLogger(__name__)

_MOST_FALSE_STARTS = 10  # workers in a row that a signal may end before they are ready


@dataclass(slots=True, eq=False)
class _Flight:
    """A task that was sent and not answered.

    Attributes:
        order: What it is to build.
        slot: Where its answer goes, unless the worker takes one that was offered to it.
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
        self._pipes = crew.pipes
        self.versions = versions
        self.deaths = 0
        self._wanted = wanted
        self._pace = Pace()
        self._sent = 0  # tasks: the number of the last one
        self._flights: dict[int, _Flight] = {}  # by number
        # Sent again because nobody seemed to have them; an answer may come all the same.
        self._limbo: dict[int, _Flight] = {}
        self._unready: dict[int, float] = {}  # workers that start, and since when
        self._reading: dict[int, Version] = {}  # the state that each worker may read
        self._false_starts = 0
        self._ended: set[int] = set()  # workers that were ended from here

    @property
    def busy(self) -> bool:
        """Whether any task has not been answered."""
        return bool(self._flights)

    def rest(self) -> None:
        """Nothing is asked for: take back what was offered to workers."""
        if not (self._flights or self._limbo):
            self.crew.slots.recall()

    @property
    def started(self) -> bool:
        """Whether any worker is ready, and is to stay."""
        return len(self._unready.keys() | self._ended) < self.crew.size

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
            self._pipes.send(tasks, self._pace.together(len(tasks)))

    def sort_out(self, orders: Iterable[Order] = ()) -> None:
        """Take back what no worker has taken, and send again what is wanted of it.

        Args:
            orders: To be sent with it, but for those whose answers will come anyway.
        """
        taken = self._take_back()
        coming = {order.ticket for order in taken}
        coming.update(flight.order.ticket for flight in self._flights.values())
        missing = [order for order in orders if order.ticket not in coming]
        self.send(sorted([*missing, *taken], key=by_ticket))

    def turn(self, deadline: float | None) -> tuple[bool, list[Completion]]:
        """Hear one thing: some answers, the end of some workers, or that they are slow.

        Args:
            deadline: ``time.monotonic()`` moment to give up at; None waits for ever.

        Returns:
            Whether there was anything before the deadline, and the orders that it ended.
        """
        until = deadline
        if self._pace.crowded and self._flights:
            soon = time.monotonic() + PATIENCE
            until = soon if deadline is None else min(soon, deadline)
        self.crew.check_here()
        self.crew.slots.reclaim()
        news = self.crew.wait(until)
        if news.ended:
            return True, self._bury(news.ended)
        if news.answers:
            return True, self._open(self._pipes.receive())
        if until == deadline:
            return False, []
        # Not so quick after all: what they cannot get to is for those who sleep.
        self._pace.slowed()
        self.sort_out()
        return True, []

    def give_up(self, ticket: int, *, again: bool, slowest_start: float) -> GivenUp:
        """End the worker that builds a batch, or all that are ready if none has begun it.

        Their ends are heard like any other, and what they had is sent again.

        Args:
            ticket: The batch's.
            again: Whether another is to build it, unless it has cost ``MOST_ATTEMPTS``.
            slowest_start: Seconds after which a worker that starts is stuck, too.
        """
        order = self._wanted.get(ticket)
        if order is None:  # an interrupt has swallowed its answer
            return GivenUp("its answer was lost", 0, again=False)
        order.attempts += 1
        again = again and order.attempts < MOST_ATTEMPTS
        if not again:
            del self._wanted[ticket]
        for worker, pid in self.crew.pids.items():
            flight = self._flights.get(self.crew.claim(worker))
            if flight is not None and flight.order.ticket == ticket:
                stack = self.crew.stack_of(worker)
                self._end(worker)
                where = f"worker {worker} (pid {pid}) was building it, at:\n{stack}"
                break
        else:
            where = "no worker had begun it: all build others, start or are stopped"
            where += self._end_stuck(slowest_start)
            if again:
                where += "; those that are ready are replaced"
                for worker in self.crew.pids.keys() - self._unready.keys():
                    self._end(worker)
        return GivenUp(where, order.attempts, again)

    def end_builders(self) -> bool:
        """End every worker that builds anything; tell whether there was one."""
        busy = [w for w in self.crew.pids if self.crew.claim(w) in self._flights]
        for worker in busy:
            self._end(worker)
        return bool(busy)

    def _end(self, worker: int) -> None:
        self.crew.kill(worker)
        self._ended.add(worker)

    def _end_stuck(self, seconds: float) -> str:
        """End the workers that have been starting for longer than that.

        Returns:
            Who they are and where they stand; empty if there are none.
        """
        latest = time.monotonic() - seconds
        told = ""
        for worker in [w for w, since in self._unready.items() if since < latest]:
            pid, stack = self.crew.pids[worker], self.crew.stack_of(worker)
            self._end(worker)
            told += f"\nworker {worker} (pid {pid}) had not started yet, at:\n{stack}"
        return told

    def _take_back(self) -> list[Order]:
        orders = []
        for task in self._pipes.take_back():
            flight = self._flights.pop(task.number)
            self.crew.slots.free(flight.slot)
            if flight.order.ticket in self._wanted:
                orders.append(flight.order)
        return orders

    def _open(self, results: list[Result]) -> list[Completion]:
        completions = []
        flights, wanted, slots = self._flights, self._wanted, self.crew.slots
        for result in results:
            if result.kind >= Kind.READY:
                self._welcome(result)
                continue
            self._pace.heard(result.busy)
            number = result.number
            flight = flights.pop(number, None) or self._limbo.pop(number)
            self._reading[result.worker] = flight.version
            if result.slot != flight.slot:
                slots.accepted(result.slot, result.worker)
                slots.free(flight.slot)
            order = wanted.pop(flight.order.ticket, None)
            if order is not None:
                completions.append(self._completion(result, order))
            elif result.kind == Kind.NO_MEMORY:
                slots.retire(result.slot)
            else:
                slots.free(result.slot, result.size, result.worker)
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
            batch = read(self.crew.slots, result.slot, result.size, result.worker)
            if result.kind != Kind.BATCH:
                error = unpack_error(batch)
                batch = None
        except Exception as failure:  # noqa: BLE001 - raised where the batch belongs
            add_note(
                failure,
                f"Raised while batch {order.index} of epoch {order.epoch} was put "
                "together in the main process",
            )
            error = failure
        again = result.kind == Kind.RAISED and isinstance(error, Exception)
        return Completion(order.ticket, batch, error, result.size, result.busy, again)

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
        while more := self._pipes.receive():
            results += more
        completions = self._open(results)
        claims = {crew.claim(worker): worker for worker in ended}
        ends = {worker: crew.bury(worker) for worker in ended}
        from_here = self._ended.intersection(ended)
        self._ended -= from_here
        for worker, end in ends.items():
            self.deaths += 1
            crew.slots.withdraw(worker)
            if worker in from_here:  # whoever ended it tells of it
                self._unready.pop(worker, None)
            else:
                self._note(worker, end, self._flights.get(crew.claim(worker)))
        for number in [n for n in self._flights if n not in living]:
            flight = self._flights.pop(number)
            if number not in claims:
                self._limbo[number] = flight
            else:
                crew.slots.retire(flight.slot)
                worker = claims[number]
                if worker not in from_here:
                    completions += self._count(flight.order, worker, ends[worker])
            if flight.order.ticket in self._wanted:
                orders.append(flight.order)
        self.hire(ended, alone=False)
        self.send(sorted(orders, key=by_ticket))
        return completions

    def _note(self, worker: int, end: WorkerEnd, flight: _Flight | None) -> None:
        """Write a worker's end down; raise if workers end before they start."""
        if self._unready.pop(worker, None):
            self._false_starts += 1
            if end.exitcode >= 0 or self._false_starts > _MOST_FALSE_STARTS:
                why = start_trouble(end, forked=self.crew.forked)
                raise WorkerStartError(worker, end.exitcode, why)
        if flight is None or flight.order.ticket not in self._wanted:
            _log.warning(
                "worker %d ended while nothing of it was waited for: %s; another takes its "
                "place",
                worker,
                end if end.exitcode == -signal.SIGKILL else describe_exit(end.exitcode),
            )
        else:
            _log.warning(
                "worker %d ended while it built batch %d of epoch %d, try %d of %d: %s%s",
                worker,
                flight.order.index,
                flight.order.epoch,
                flight.order.attempts + 1,
                MOST_ATTEMPTS,
                end,
                f"\n{end.stack}" if end.stack else "",
            )

    def _count(self, order: Order, worker: int, end: WorkerEnd) -> list[Completion]:
        """Count a worker against the batch that it died of; too many end the batch."""
        if order.ticket not in self._wanted:
            return []
        order.attempts += 1
        if order.attempts < MOST_ATTEMPTS:
            return []
        # Another thread may have dropped its epoch.
        self._wanted.pop(order.ticket, None)
        error = WorkerDiedError(
            order.index, worker, end.exitcode, order.attempts, end.stack,
            end.oom_killed, end.memory,
        )  # fmt: skip
        return [Completion(order.ticket, error=error)]
