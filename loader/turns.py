"""One loader for several threads: each call of ``next`` waits for its turn.

A generator alone refuses a second thread with a ``ValueError``, without the interpreter's
lock not even that; and a pool serves one thread at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .errors import LoaderBusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from weakref import WeakMethod

    from .epoch import Handed

__all__ = ["Turn", "Turns"]


class Turn:
    """The right to talk to one loader's pool. A copy of the loader has one of its own.

    Attributes:
        lock: Held by who has it; reentrant, so that a hook that calls ``next()`` on the
            iterator that runs it is told so instead of waiting for itself.
    """

    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def __reduce__(self) -> Any:
        return Turn, ()


class Turns(Iterator[Any]):
    """The batches of one epoch.

    Threads that share it get each batch once, in the order of their calls.

    Args:
        batches: Where they come from.
        turn: The loader's.
        check_here: Raises in a forked copy of the process, where nobody gives the turn up.
            Held weakly, so that an iterator that is over keeps no loader.
    """

    __slots__ = ("_batches", "_check_here", "_turn")

    def __init__(
        self,
        batches: Generator[Handed, None, None],
        turn: Turn,
        check_here: WeakMethod[Callable[[], None]],
    ) -> None:
        self._batches = batches
        self._turn = turn.lock
        self._check_here = check_here

    def __next__(self) -> Any:
        check_here = self._check_here()
        if check_here is not None:
            check_here()
        place = None
        try:
            with self._turn:
                places, ticket, batch = next(self._batches)
                place = places[ticket]
                del places[ticket]
        except BaseException:
            if place is not None:  # an interrupt fell in between: it is not received
                places[ticket] = place
            raise
        # Between this and the end of the with statement no signal is handled: there is no
        # call.
        return batch

    def close(self) -> None:
        """Leave the epoch: what was not received is not built any more.

        Raises:
            LoaderBusyError: Another thread waits for a batch.
        """
        if not self._turn.acquire(blocking=False):
            raise LoaderBusyError(
                "another thread waits for a batch of this loader; close() the loader"
            )
        try:
            self._batches.close()
        finally:
            self._turn.release()
