"""Who has which slot of the arena: slots are lent, leased, offered and reused.

::

    FREE ──lend()──▶ LENT ──lease()──▶ LEASED ──last view dies──▶ FREE
                     ▲  │                                          │ one too many, or
          accepted() │  └──free()──▶ FREE                          ▼ far too large
                     │                                            COLD (no memory)
                  OFFERED ◀── instead of FREE, if a worker has room for it
                     └──withdraw(), recall()──▶ FREE

*Lent*, one worker may write a slot; *leased*, the consumer has views of it; *offered*, the
worker that wrote it last may use it instead of the one that its next task brings, because
it is still in that worker's caches; *free*, nobody touches it, but its memory stays warm,
because touching new memory costs twenty times as much as reusing old; *cold*, its memory
went back to the kernel. Slots are numbered from 1; slot 0 is the board, where they are
offered.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from .board import BOARD, OFFERS

if TYPE_CHECKING:
    from .arena import Arena
    from .board import Board

__all__ = ["Offers", "Slots"]

_SWEEP = 16  # batches after which another offer is looked at first
_NO_OFFERS = memoryview(b"")


class Offers:
    """The slots that are offered to one worker: its side of them.

    Args:
        board: Where.
        worker: Its number.
    """

    def __init__(self, board: Board, worker: int) -> None:
        self._cells = board.offers[worker * OFFERS :][:OFFERS]
        self._taken = 0

    def take(self) -> int:
        """Take one of them, mostly the one offered last; 0 if there is none."""
        slots = self._cells.tolist()
        if not any(slots):
            return 0
        # Each comes up now and then: none keeps memory that batches need no more.
        times, rest = divmod(self._taken, _SWEEP)
        cell = 0 if rest else times % OFFERS
        while not slots[cell]:
            cell = (cell + 1) % OFFERS
        self._cells[cell] = 0
        self._taken += 1
        return slots[cell]


class _Lease(weakref.ref[Any]):
    """Watches the object that every view of a slot keeps alive."""

    __slots__ = ("keep", "size", "slot", "writer")

    slot: int
    size: int
    writer: int | None
    keep: bool


class Slots:
    """Who has which slot: the parent's side of the arena.

    Args:
        arena: Where they lie.
        spare: How many free slots keep their memory, and how many are offered, each at the
            most.
        offers: The board's cells where slots are offered to workers; none by default.
    """

    def __init__(
        self, arena: Arena, spare: int, offers: memoryview = _NO_OFFERS
    ) -> None:
        self.arena = arena
        # The kernel maps no more than 65,530 areas for one process, by default.
        self.most_leased = min(16384, arena.capacity // 2)
        self._spare = spare
        self._made = BOARD
        self._offers = offers
        self._offered: dict[int, int] = {}  # slot -> cell
        # Of each worker, the cells that are known to be empty. They are filled from the
        # last one down, so that of those that are filled the first was offered last.
        self._empty = [
            list(range(start, start + OFFERS))
            for start in range(0, len(offers), OFFERS)
        ]
        self._free: list[int] = []  # the warmest last
        self._cold: list[int] = []
        self._leases: dict[int, _Lease] = {}
        self._returned: deque[_Lease] = deque()
        self._held: dict[int, int] = {}  # slot -> bytes of memory behind it
        self._typical = 0.0  # bytes of a batch; forgets slowly

    @property
    def leased(self) -> int:
        """How many slots the consumer has views of."""
        return len(self._leases) - len(self._returned)

    def lend(self) -> int:
        """Take a slot for one writer.

        Raises:
            MemoryError: All that there can be are taken.
        """
        self.reclaim()
        for shelf in (self._free, self._cold):
            if shelf:
                return shelf.pop()
        if self._made + 1 >= self.arena.capacity:
            raise MemoryError(
                f"all {self.arena.capacity} slots of shared memory are taken; keep fewer "
                "batches, or copies of them"
            )
        self._made += 1
        return self._made

    def lease(
        self,
        slot: int,
        size: int,
        anchor: object,
        writer: int | None = None,
        *,
        keep: bool = True,
    ) -> None:
        """Keep a lent slot until ``anchor`` dies, and then take it back.

        Args:
            slot: Its number.
            size: Bytes that were written.
            anchor: What every user of the slot keeps alive.
            writer: The worker that wrote it, if one did.
            keep: Whether the memory is worth keeping for the next batch.
        """
        # Runs wherever the last view dies: in any thread, between any two bytecodes,
        # perhaps while this very object is busy. An append is safe there, a lock is not.
        lease = _Lease(anchor, self._returned.append)
        lease.slot, lease.size, lease.writer, lease.keep = slot, size, writer, keep
        self._leases[slot] = lease

    def free(self, slot: int, size: int = 0, writer: int | None = None) -> None:
        """Take a lent slot back.

        Args:
            slot: Its number.
            size: Bytes that were written, where it is known.
            writer: The worker that wrote it, if one did. It is in that one's caches.
        """
        if size:
            self._typical = max(float(size), self._typical * 0.97)
        held = self._held[slot] = max(size, self._held.get(slot, 0))
        # What is far too large by now goes, and the coldest if there are too many: one
        # giant batch, or many that were kept and released, must not hold memory for ever.
        most = 4 * self._typical + 2**20
        if held > most:
            self._cool(slot)
        elif (
            writer is not None
            and self._empty[writer]
            and len(self._offered) < self._spare
        ):
            cell = self._offered[slot] = self._empty[writer].pop()
            self._offers[cell] = slot
        else:
            self._free.append(slot)
        free = self._free
        if free and (len(free) > self._spare or self._held[free[0]] > most):
            self._cool(free.pop(0))

    def accepted(self, slot: int, writer: int) -> None:
        """Hear that a worker has used a slot that was offered to it; it is lent now."""
        self._empty[writer].append(self._offered.pop(slot))

    def withdraw(self, writer: int) -> None:
        """Take back what was offered to a worker that has ended, or has nothing to do."""
        for slot, cell in list(self._offered.items()):
            if cell // OFFERS != writer:
                continue
            del self._offered[slot]
            self._empty[writer].append(cell)
            if self._offers[cell]:
                self._offers[cell] = 0
                self.free(slot)
            else:  # taken; something that the worker has left behind may write there
                self.retire(slot)
        self._empty[writer].sort()

    def recall(self) -> None:
        """Take back all that is offered. No worker may have a task meanwhile.

        One that is not woken any more takes nothing, and would hold it for ever.
        """
        for writer in range(len(self._empty)):
            self.withdraw(writer)

    def retire(self, slot: int) -> None:
        """Give the memory of a slot back; without :meth:`free`, it is not used again."""
        self._held.pop(slot, None)
        self.arena.forget(slot)
        self.arena.punch(slot)

    def reclaim(self) -> None:
        """Take back what the consumer has dropped."""
        while self._returned:
            lease = self._returned.popleft()
            del self._leases[lease.slot]
            if lease.keep:
                self.free(lease.slot, lease.size, lease.writer)
            else:
                self._cool(lease.slot)

    def _cool(self, slot: int) -> None:
        self.retire(slot)
        self._cold.append(slot)
