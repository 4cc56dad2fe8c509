"""Batches on their way through worker processes.

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
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any

from .codec import read
from .crew import Crew
from .errors import (
    LoaderBusyError,
    WorkerDiedError,
    WorkerStartError,
    describe_exit,
)
from .pool import Pool
from .records import Completion, Kind, Task
from .remote import unpack_error
from .snapshot import Versions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from .build import Recipe
    from .options import LoaderOptions
    from .records import Order, Result
    from .snapshot import Version

__all__ = ["ProcessPool"]

_log = logging.getLogger(__name__)

_MOST_ATTEMPTS = 3  # workers that one batch may end
_MOST_FALSE_STARTS = 10  # workers in a row that a signal may end before they are ready
_GUARD = """a script needs a main guard, because each new process runs its top level:

    if __name__ == "__main__":
        main()"""


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


class ProcessPool(Pool):
    """Builds batches in worker processes that live as long as the pool.

    Args:
        dataset: The user's.
        recipe: How to build.
        options: The loader's.
        portable: True does without what only Linux has.
    """

    def __init__(
        self, dataset: Any, recipe: Recipe, options: LoaderOptions, *, portable: bool
    ) -> None:
        self._dataset = dataset
        self._recipe = recipe
        self._options = options
        self._portable = portable
        self._torn = False
        self._sent = 0  # tasks, ever: the number of the last one
        self._crew: Crew | None = None
        self._version = 0  # number of the last version of the dataset
        self._versions: Versions

    def settle(self, timeout: float | None) -> None:
        """Wait for the answers to what was sent, and drop them."""
        self._mend()
        if self._crew is None:
            return
        with self._in_one_piece():
            while self._flights:
                deadline = None if timeout is None else time.monotonic() + timeout
                heard, _ = self._turn(deadline)
                if not heard:
                    for flight in list(self._flights.values()):
                        self.give_up(flight.order.ticket)

    def begin_epoch(self, *, alone: bool) -> None:
        """Have workers that see the dataset as it is now."""
        self._mend()
        if self._crew is None:
            self._assemble()
        if not alone:
            if self._versions.changed():
                raise LoaderBusyError(
                    "the dataset was changed while an epoch of this loader is under way, "
                    "or cannot be pickled; finish or close the other iterator first"
                )
        elif not self._versions.renew():
            self._disband()
            self._assemble()
            self._versions.renew()
        if not self._here.pids:
            self._hire(range(self._here.size), alone=True)
            if self._options.start_method != "fork":
                self._await_first()

    def submit(self, orders: Sequence[Order]) -> None:
        """Send tasks to whichever worker is free first."""
        self._torn = True
        self._wanted.update([order.ticket for order in orders])
        self._send(orders)
        self._torn = False

    def collect(self, deadline: float | None) -> list[Completion]:
        """Turn the crank: hear results and deaths, and answer them."""
        self._torn = True
        heard = True
        completions: list[Completion] = []
        while heard and not completions:
            heard, completions = self._turn(deadline)
        self._torn = False
        return completions

    def abandon(self, tickets: Collection[int]) -> None:
        """Take back the tasks that no worker has taken."""
        if self._crew is None or self._crew.foreign or self._torn:
            return
        with self._in_one_piece():
            self._wanted.difference_update(tickets)
            self._send(self._take_back())

    def give_up(self, ticket: int) -> str:
        """Ask the worker where it stands, and end it."""
        self._wanted.discard(ticket)
        crew = self._here
        for worker, pid in crew.pids.items():
            flight = self._flights.get(crew.claim(worker))
            if flight is not None and flight.order.ticket == ticket:
                stack = crew.stack_of(worker)
                crew.kill(worker)
                self._given_up.add(worker)
                return f"worker {worker} (pid {pid}) was building it, at:\n{stack}"
        return "no worker had begun it"

    def close(self) -> None:
        """End the workers."""
        self.closed = True
        self._disband()

    @property
    def pids(self) -> list[int]:
        """Process numbers of the workers, in the order of their numbers."""
        if self._crew is None:
            return []
        return [pid for _, pid in sorted(self._crew.pids.items())]

    @property
    def _here(self) -> Crew:
        assert self._crew is not None
        return self._crew

    @contextmanager
    def _in_one_piece(self) -> Iterator[None]:
        """Note whether a crank's turn was cut short.

        An interrupt may fall between reading results and filing them, and what was in
        them would be waited for in vain. A new crew is then the one state that is known.
        """
        self._torn = True
        yield
        self._torn = False

    def _mend(self) -> None:
        """Part with a crew that an interrupt left in an unknown state."""
        if self._crew is not None:
            self._crew.check_here()
        if self._torn:
            self._disband()

    def _assemble(self) -> None:
        crew = Crew(self._options, self._recipe, portable=self._portable)
        self._crew = crew
        # Also at exit, before multiprocessing waits for its processes for ever.
        self._finalize = Finalize(self, crew.close, exitpriority=100)
        self._versions = Versions(
            self._dataset,
            crew.slots,
            forked=self._options.start_method == "fork",
            number=self._version,
        )
        self._flights: dict[int, _Flight] = {}  # by number
        # Sent again because nobody seemed to have them; an answer may come all the same.
        self._limbo: dict[int, _Flight] = {}
        self._wanted: set[int] = set()  # tickets that still need an answer
        self._attempts: dict[int, int] = {}  # workers that a ticket has ended
        # Workers that have not started yet, and the state that they may be reading.
        self._unready: dict[int, Version] = {}
        self._false_starts = 0
        self._given_up: set[int] = set()  # workers that were ended for being too slow

    def _disband(self) -> None:
        crew, self._crew, self._torn = self._crew, None, False
        if crew is not None:
            self._version = self._versions.current.number
            self._finalize.cancel()
            crew.close()

    def _hire(self, workers: Iterable[int], *, alone: bool = False) -> None:
        birth = self._versions.birth(alone=alone)
        for worker in workers:
            self._unready[worker] = self._versions.current
            self._here.hire(worker, birth)

    def _await_first(self) -> None:
        """Wait until a worker is ready: the clock of the first batch begins then."""
        with self._in_one_piece():
            while len(self._unready) == self._here.size:
                self._turn(None)

    def _send(self, orders: Iterable[Order]) -> None:
        version, lend = self._versions.current, self._here.slots.lend
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
            self._here.send(tasks)

    def _take_back(self) -> list[Order]:
        """The orders that no worker has taken, as far as they are wanted."""
        orders = []
        for task in self._here.take_back():
            flight = self._flights.pop(task.number)
            self._here.slots.free(flight.slot)
            if flight.order.ticket in self._wanted:
                orders.append(flight.order)
        return orders

    def _turn(self, deadline: float | None) -> tuple[bool, list[Completion]]:
        """Hear one thing.

        Returns:
            Whether there was anything before the deadline, and the orders that it ended.
        """
        results = self._here.receive()
        if results:
            return True, self._open(results)
        news = self._here.wait(deadline)
        if news.ended:
            return True, self._bury(news.ended)
        return news.answers, []

    def _open(self, results: list[Result]) -> list[Completion]:
        completions = []
        flights, wanted = self._flights, self._wanted
        for result in results:
            if result.kind >= Kind.READY:
                self._welcome(result)
                continue
            number = result.number
            flight = flights.pop(number, None) or self._limbo.pop(number)
            ticket = flight.order.ticket
            if ticket not in wanted:
                self._here.slots.free(result.slot, result.size)
                continue
            wanted.discard(ticket)
            if self._attempts:
                self._attempts.pop(ticket, None)
            completions.append(self._completion(result, flight.order))
        return completions

    def _completion(self, result: Result, order: Order) -> Completion:
        batch: Any = None
        error: BaseException | None = None
        try:
            batch = read(self._here.slots, result.slot, result.size)
            if result.kind == Kind.ERROR:
                error = unpack_error(batch)
                batch = None
        except Exception as failure:  # noqa: BLE001 - raised where the batch belongs
            failure.add_note(
                f"Raised while batch {order.index} of epoch {order.epoch} was put "
                "together in the main process"
            )
            error = failure
        return Completion(
            order.ticket, batch, error, result.size, result.busy, result.retries
        )

    def _welcome(self, result: Result) -> None:
        """Hear from a worker that has started, or could not."""
        if result.kind == Kind.FAILED:
            packed = read(self._here.slots, result.slot, result.size)
            raise unpack_error(packed)
        self._here.slots.free(result.slot)
        del self._unready[result.worker]
        self._false_starts = 0

    def _bury(self, ended: list[int]) -> list[Completion]:
        """Settle what became of the tasks of workers that have ended, and replace them."""
        crew = self._here
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
        self._hire(ended)
        self._send(sorted(orders, key=lambda order: order.ticket))
        return completions

    def _note(
        self, worker: int, exitcode: int, stack: str, flight: _Flight | None
    ) -> None:
        """Write a worker's end down; raise if workers end before they start."""
        self.deaths += 1
        how = describe_exit(exitcode)
        if self._unready.pop(worker, None) is not None:
            self._false_starts += 1
            if exitcode >= 0 or self._false_starts > _MOST_FALSE_STARTS:
                raise WorkerStartError(worker, exitcode, _GUARD)
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
        self._wanted.discard(ticket)
        del self._attempts[ticket]
        error = WorkerDiedError(order.index, worker, exitcode, attempts, stack)
        return [Completion(ticket, error=error)]
