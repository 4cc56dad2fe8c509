"""What workers and parent tell each other without a system call: a few cells of memory.

A cell has 8 bytes, which are written at once, and one side at a time that may write it.
Between what a side did before it wrote and what the other does after it has read lie a
thousand instructions or a system call, on whose order processors agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .arena import raw

if TYPE_CHECKING:
    from .arena import Arena

__all__ = ["BOARD", "OFFERS", "Board"]

BOARD = 0  # the slot where it lies
OFFERS = 4  # slots that are offered to one worker at once

_START = 64  # bytes, behind the slot's header


class Board:
    """The board, as one process sees it.

    Args:
        arena: Where it lies.
        workers: How many there are.

    Attributes:
        claims: A cell for each worker: the number of the task that it has taken and not
            answered; 0 for none.
        offers: ``OFFERS`` cells for each worker: slots that it may use instead of its
            tasks'; 0 where there is none. The parent fills them, the worker empties them.
    """

    def __init__(self, arena: Arena, workers: int) -> None:
        end = _START + 8 * (workers + workers * OFFERS + 1)
        cells = raw(arena.reserve(BOARD, end))[_START:end].cast("q")
        self.claims = cells[:workers]
        self.offers = cells[workers:-1]
        self._leaving = cells[-1:]

    @property
    def leaving(self) -> bool:
        """Whether the parent ends the workers, and has not just died."""
        return bool(self._leaving[0])

    def leave(self) -> None:
        """Say so."""
        self._leaving[0] = 1
