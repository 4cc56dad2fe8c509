"""Worker processes: one crew after the other, if need be.

Mostly one crew serves all epochs. Another takes its place when an interrupt fell between
reading results and filing them, so that nobody knows what was in them; and, for a forked
dataset that cannot be pickled, at each epoch. What was wanted and not answered is then
asked for again.
"""

from __future__ import annotations

import time
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any

from .crew import Crew
from .dispatch import Dispatch
from .errors import LoaderBusyError, LoaderClosedError
from .pool import GivenUp, Pool
from .snapshot import Versions
from .starting import undisturbed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from threading import RLock

    from .build import Recipe
    from .mapped import PageLock
    from .options import LoaderOptions
    from .records import Completion, Order

__all__ = ["ProcessPool"]

_LEAVING = 5.0  # seconds for another thread to see that the workers are gone
_SLOWEST_START = 60.0  # seconds that workers may take to start, if there is a timeout


class _Step:
    """Is done as a whole, or torn: cut short by an interrupt or an error.

    Attributes:
        torn: Whether the last one is, or is under way.
    """

    __slots__ = ("torn",)

    def __init__(self) -> None:
        self.torn = False

    def __enter__(self) -> None:
        self.torn = True

    def __exit__(self, kind: object, *_: object) -> None:
        self.torn = kind is not None


class ProcessPool(Pool):
    """Builds batches in worker processes that live as long as the pool.

    Args:
        dataset: The user's.
        recipe: How to build.
        options: The loader's.
        turn: Held by whoever talks to this pool.
        portable: True does without what only Linux has.
    """

    def __init__(
        self,
        dataset: Any,
        recipe: Recipe,
        options: LoaderOptions,
        turn: RLock,
        *,
        portable: bool,
    ) -> None:
        self._dataset = dataset
        self._recipe = recipe
        self._options = options
        self._turn = turn
        self._portable = portable
        self._forked = options.start_method == "fork"
        self._wanted: dict[int, Order] = {}  # by ticket
        self._dispatch: Dispatch | None = None
        self._finalize: Finalize | None = None
        self._step = _Step()
        self._version = 0  # number of the last version of the dataset
        self._buried = 0  # deaths in crews that are gone
        self._page_lock: PageLock | None = None

    @property
    def deaths(self) -> int:
        """Workers that ended and were replaced."""
        return self._buried + (self._dispatch.deaths if self._dispatch else 0)

    @property
    def pids(self) -> list[int]:
        """Process numbers of the workers, in the order of their numbers."""
        if self._dispatch is None:
            return []
        return [pid for _, pid in sorted(self._dispatch.crew.pids.items())]

    def settle(self, timeout: float | None) -> None:
        """Wait for the answers to what was sent, and drop them."""
        self._wanted.clear()
        self.check_here()
        if self._step.torn:
            self._disband()
        dispatch = self._dispatch
        if dispatch is None:
            return
        with self._step:
            while dispatch.busy:
                deadline = None if timeout is None else time.monotonic() + timeout
                heard, _ = dispatch.turn(deadline)
                if not heard and not dispatch.end_builders():
                    self._disband()
                    return
            dispatch.rest()

    def begin_epoch(self, *, alone: bool) -> None:
        """Have workers that see the dataset as it is now."""
        self.check_here()
        if not alone:
            if self._whole().versions.changed():
                raise LoaderBusyError(
                    "the dataset was changed while an epoch of this loader is under way, "
                    "or cannot be pickled; finish or close the other iterator first"
                )
            return
        if self._step.torn:
            self._disband()
        dispatch = self._dispatch or self._assemble()
        if not dispatch.versions.renew():
            self._disband()
            dispatch = self._assemble()
            dispatch.versions.renew()
        with self._step:
            self._start(dispatch)

    def submit(self, orders: Sequence[Order], *, again: bool = False) -> None:
        """Send tasks to whichever worker is free first."""
        dispatch = self._whole()
        with self._step:
            if again:
                for order in orders:
                    self._wanted.setdefault(order.ticket, order)
                dispatch.sort_out(orders)
            else:
                self._wanted.update([(order.ticket, order) for order in orders])
                dispatch.send(orders)

    def collect(self, deadline: float | None) -> list[Completion]:
        """Turn the crank: hear results and deaths, and answer them."""
        dispatch = self._whole()
        heard = True
        completions: list[Completion] = []
        with self._step:
            while heard and not completions:
                if self.closed:
                    raise LoaderClosedError
                heard, completions = dispatch.turn(deadline)
        return completions

    def abandon(self, tickets: Collection[int]) -> None:
        """Take back the tasks that no worker has taken."""
        for ticket in tickets:
            self._wanted.pop(ticket, None)
        if not self._turn.acquire(blocking=False):
            return  # another thread is at it; what is left there is built for nobody
        try:
            dispatch = self._dispatch
            if dispatch is None or dispatch.crew.gone or self._step.torn:
                return
            with self._step:
                dispatch.sort_out()
        finally:
            self._turn.release()

    def give_up(self, ticket: int, *, again: bool) -> GivenUp:
        """Ask the worker where it stands, and end it."""
        dispatch = self._whole()
        with self._step:
            return dispatch.give_up(
                ticket, again=again, slowest_start=self._slowest_start
            )

    def lock_pages(self, page_lock: PageLock) -> None:
        """Lock each slot once, when a batch whose arrays lie there is first read."""
        self._page_lock = page_lock
        if self._dispatch is not None:
            self._dispatch.crew.slots.arena.page_lock = page_lock

    def close(self) -> None:
        """End the workers."""
        self.closed = True
        self._disband()

    def check_here(self) -> None:
        """The workers, and the memory of batches, are the parent's."""
        if self._dispatch is not None:
            self._dispatch.crew.pipes.check_here()

    def _whole(self) -> Dispatch:
        """The dispatch, in a known state, in the middle of an epoch."""
        if self._dispatch is not None and not self._step.torn:
            return self._dispatch
        if self.closed:
            raise LoaderClosedError
        # An interrupt ended another epoch than the one that goes on.
        self.check_here()
        self._disband()
        with self._step:
            dispatch = self._assemble()
            dispatch.versions.renew()
            self._start(dispatch)
            dispatch.send(list(self._wanted.values()))
        return dispatch

    def _assemble(self) -> Dispatch:
        with undisturbed():
            crew = Crew(self._options, self._recipe, portable=self._portable)
            crew.slots.arena.page_lock = self._page_lock
            # Also at exit, before multiprocessing waits for its processes for ever.
            self._finalize = Finalize(
                self, _close, args=(crew, self._turn), exitpriority=100
            )
            versions = Versions(
                self._dataset, crew.slots, forked=self._forked, number=self._version
            )
            self._dispatch = dispatch = Dispatch(crew, versions, self._wanted)
        if self.closed:  # meanwhile, or before; from here on, close() sees the crew
            self._disband()
            raise LoaderClosedError
        return dispatch

    def _start(self, dispatch: Dispatch) -> None:
        """Have workers; the clock of the first batch begins when one of them is ready."""
        if not dispatch.crew.pids:
            dispatch.hire(range(self._options.workers), alone=True)
        deadline = None
        if self._options.timeout is not None:
            deadline = time.monotonic() + self._slowest_start
        heard = not self._forked
        while heard and not dispatch.started:
            heard, _ = dispatch.turn(deadline)

    @property
    def _slowest_start(self) -> float:
        return max(_SLOWEST_START, self._options.timeout or 0)

    def _disband(self) -> None:
        """End the crew, if there is one. What was interrupted is done by the next call."""
        dispatch = self._dispatch
        if dispatch is not None:
            self._step.torn = True
            _close(dispatch.crew, self._turn)
            if not (dispatch.crew.closed or dispatch.crew.pipes.foreign):
                return  # another thread is at it for long
            if self._finalize is not None:
                self._finalize.cancel()
            self._version = dispatch.versions.current.number
            if self._dispatch is dispatch:
                self._dispatch = None
                self._buried += dispatch.deaths
        self._step.torn = False


def _close(crew: Crew, turn: RLock) -> None:
    """Close a crew when no thread is in the middle of using its descriptors.

    One that is waits for workers, and so their end lets it go.
    """
    if crew.pipes.foreign:
        return
    crew.leaving = True
    if not turn.acquire(blocking=False):
        crew.kill_all()
        if not turn.acquire(timeout=_LEAVING):
            return
    try:
        crew.close()
    finally:
        turn.release()
