"""Puts completions back into order and keeps the bound. Pure: no thread, no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .records import Completion

__all__ = ["Delivery"]


class Delivery:
    """The orders of one epoch that are on their way or ready.

    Args:
        limit: Most orders outstanding: asked for and not yet delivered.
        in_order: True delivers in the order of asking, False in that of completion.
        max_bytes: Most bytes outstanding; None for no such bound. What is not built yet
            is taken to be as large as the largest seen. One order is always allowed.
        builders: How many orders can be built at once. With ``max_bytes`` no more are
            unbuilt, so that sizes that nobody expects exceed it by one batch of each
            builder at the most.

    >>> from feedline.records import Completion
    >>> delivery = Delivery(limit=2, in_order=True)
    >>> delivery.issue(7), delivery.issue(8)
    (None, None)
    >>> delivery.complete(Completion(8))
    >>> delivery.pop() is None
    True
    >>> delivery.complete(Completion(7))
    >>> delivery.pop().ticket, delivery.pop().ticket
    (7, 8)
    """

    def __init__(
        self,
        limit: int,
        *,
        in_order: bool,
        max_bytes: int | None = None,
        builders: int = 1,
    ) -> None:
        self._limit = limit
        self._in_order = in_order
        self._max_bytes = max_bytes
        self._builders = builders
        self._outstanding: dict[int, None] = {}  # tickets, oldest first
        self._ready: dict[int, Completion] = {}  # first completed first
        self._ready_bytes = 0
        self._largest: int | None = None  # bytes, of any batch so far

    @property
    def outstanding(self) -> list[int]:
        """Tickets asked for and not delivered, oldest first."""
        return list(self._outstanding)

    @property
    def unbuilt(self) -> set[int]:
        """Tickets asked for and not answered."""
        return self._outstanding.keys() - self._ready.keys()

    @property
    def idle(self) -> bool:
        """Whether everything that was asked for has been delivered."""
        return not self._outstanding

    @property
    def free(self) -> int:
        """How many orders may be issued now, as far as their number goes."""
        return self._limit - len(self._outstanding)

    @property
    def room(self) -> int:
        """How many orders may be issued now."""
        free = self.free
        if self._max_bytes is None or free <= 0:
            return free
        least = 0 if self._outstanding else 1
        if self._largest is None:  # no size is known before the first answer
            return least
        building = len(self._outstanding) - len(self._ready)
        left = self._max_bytes - self._ready_bytes - building * self._largest
        idle = self._builders - building
        return max(least, min(free, idle, left // max(1, self._largest)))

    def issue(self, ticket: int) -> None:
        """Take a ticket into account that is being asked for."""
        self._outstanding[ticket] = None

    def complete(self, completion: Completion) -> None:
        """File an answer; one that nobody waits for (any more) is dropped."""
        if (
            completion.ticket not in self._outstanding
            or completion.ticket in self._ready
        ):
            return
        self._ready[completion.ticket] = completion
        self._ready_bytes += completion.size
        if completion.error is None:
            self._largest = max(self._largest or 0, completion.size)

    def pop(self) -> Completion | None:
        """The completion to deliver next, or None while it is still being built."""
        first = self._outstanding if self._in_order else self._ready
        ticket = next(iter(first), None)
        if ticket is None or ticket not in self._ready:
            return None
        del self._outstanding[ticket]
        completion = self._ready.pop(ticket)
        self._ready_bytes -= completion.size
        return completion

    def clear(self) -> None:
        """Forget all that was asked for, and drop what was ready."""
        self._outstanding.clear()
        self._ready.clear()
        self._ready_bytes = 0
