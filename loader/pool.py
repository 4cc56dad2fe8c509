"""What every pool promises, and the pool without workers.

A pool builds what it is asked for and says when that is done. Order, the bound, hooks,
seeds and counting live above it, once. Every call comes from the consumer's thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from contextvars import copy_context
from dataclasses import dataclass
from time import monotonic, perf_counter_ns, sleep
from typing import TYPE_CHECKING, Any

from .records import Completion
from .seeding import kept_globals

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from .build import Recipe
    from .mapped import PageLock
    from .records import Order

__all__ = [
    "MOST_ATTEMPTS",
    "GivenUp",
    "InlinePool",
    "Pool",
    "by_ticket",
    "size_of",
]

MOST_ATTEMPTS = 3  # workers that one batch may cost


@dataclass(frozen=True, slots=True)
class GivenUp:
    """What came of giving a batch up.

    Attributes:
        where: Who was building it, and where it stood.
        attempts: Workers that it has cost.
        again: Whether another builds it now.
    """

    where: str
    attempts: int
    again: bool


class Pool(ABC):
    """Builds batches.

    The life of an epoch: ``settle``, then hooks may run; ``begin_epoch``; ``submit`` and
    ``collect`` in turns; ``abandon`` where it ends early. ``close`` at any time.
    """

    closed = False
    interrupted = False  # whether an answer or an order may have been lost

    @property
    def deaths(self) -> int:
        """Workers that ended and were replaced."""
        return 0

    @abstractmethod
    def settle(self, timeout: float | None) -> None:
        """Wait until no batch of an abandoned epoch is being built any more.

        Args:
            timeout: Seconds after which a worker that still builds one is given up;
                None waits for ever.
        """

    @abstractmethod
    def begin_epoch(self, *, alone: bool) -> None:
        """Have workers, and show them the dataset as it is now.

        Args:
            alone: Whether no other epoch is under way.

        Raises:
            LoaderBusyError: One is, and the dataset has changed since.
            DatasetEncodingError: It cannot be sent to them.
            WorkerStartError: They end before they are ready.
            Exception: Whatever ``worker_init_fn`` raises.
        """

    @abstractmethod
    def submit(self, orders: Sequence[Order], *, again: bool = False) -> None:
        """Ask for batches. Never waits.

        Args:
            orders: In the order in which they are to be begun.
            again: Whether they were asked for before. They are older than most of what
                nobody has begun, and take their places among it, by ticket. Any of them
                may still be on its way.
        """

    @abstractmethod
    def collect(self, deadline: float | None) -> list[Completion]:
        """Wait for answers.

        Args:
            deadline: ``time.monotonic()`` moment to give up at; None waits for ever.

        Returns:
            One or more, of any epoch, in the order in which they were finished; none if
            the deadline came first.
        """

    @abstractmethod
    def abandon(self, tickets: Collection[int]) -> None:
        """Nobody wants these any more. What has not begun never will. Never waits."""

    @abstractmethod
    def give_up(self, ticket: int, *, again: bool) -> GivenUp:
        """Part with the worker of a batch that takes too long.

        Args:
            ticket: The batch's.
            again: Whether another worker is to build it, unless it has cost
                ``MOST_ATTEMPTS``.
        """

    def check_here(self) -> None:
        """Refuse to work in a forked copy of the process, where the pool cannot.

        Raises:
            LoaderForkedError: This is one.
        """
        return

    def lock_pages(self, page_lock: PageLock) -> None:
        """Have batches in memory that a device can read, where memory is the pool's own."""
        return

    @abstractmethod
    def close(self) -> None:
        """End all workers. Twice is once."""


class InlinePool(Pool):
    """Builds each batch in the calling thread when it is asked for.

    The global random generators are set for the batch and put back after it, so that
    batches are those of worker processes and the caller's own draws are undisturbed.

    Args:
        dataset: The user's.
        recipe: How to build.
        measure: Whether completions tell their batch's size.
    """

    def __init__(self, dataset: Any, recipe: Recipe, *, measure: bool) -> None:
        from numpy.random import MT19937

        self._dataset = dataset
        self._recipe = recipe
        self._measure = measure
        self._orders: deque[Order] = deque()
        self._spare = MT19937(0)

    def settle(self, timeout: float | None) -> None:
        """Forget what was asked for; nothing is ever being built between two calls."""
        self._orders.clear()

    def begin_epoch(self, *, alone: bool) -> None:
        """The dataset is the consumer's own."""

    def submit(self, orders: Sequence[Order], *, again: bool = False) -> None:
        """Note what to build."""
        self._orders.extend(orders)
        if again:
            once = {order.ticket: order for order in self._orders}
            self._orders = deque(sorted(once.values(), key=by_ticket))

    def collect(self, deadline: float | None) -> list[Completion]:
        """Build one batch. The deadline cannot interrupt it; a Ctrl-C does."""
        if not self._orders:
            assert deadline is not None  # what is asked for waits for its next try
            sleep(max(0.0, deadline - monotonic()))
            return []
        order = self._orders.popleft()
        start = perf_counter_ns()
        with kept_globals(self._spare):
            # In a context of its own: an interrupt may leave one as it is.
            built = copy_context().run(self._recipe.build, self._dataset, order, 0)
        if isinstance(built.error, KeyboardInterrupt):
            raise built.error  # for whoever runs this, whosever batch it is
        return [
            Completion(
                order.ticket,
                built.batch,
                built.error,
                size_of(built.batch) if self._measure else 0,
                perf_counter_ns() - start,
                built.again,
            )
        ]

    def abandon(self, tickets: Collection[int]) -> None:
        """Forget what was to be built."""
        self._orders = deque(o for o in self._orders if o.ticket not in tickets)

    def give_up(self, ticket: int, *, again: bool) -> GivenUp:
        """Say that nothing is begun before it is waited for."""
        return GivenUp("nobody had begun it", 0, again=False)

    def close(self) -> None:
        """Forget everything."""
        self.closed = True
        self._orders.clear()


def by_ticket(order: Order) -> int:
    """The key by which orders stand in the order of asking."""
    return order.ticket


def size_of(batch: Any) -> int:
    """Bytes of the arrays, tensors and strings in nested containers; 1 at the least."""
    if isinstance(batch, dict):
        return max(1, sum(map(size_of, batch.values())))
    if isinstance(batch, (list, tuple)):
        return max(1, sum(map(size_of, batch)))
    if isinstance(batch, (bytes, bytearray, str)):
        return max(1, len(batch))
    return max(1, int(getattr(batch, "nbytes", 1)))
