"""One iterator for several threads: each call of ``next`` waits for its turn.

A generator alone refuses a second thread with a ``ValueError``, and without the
interpreter's lock it does not even do that.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .errors import LoaderBusyError

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Turns"]


class Turns(Iterator[Any]):
    """The batches of one epoch.

    Threads that share it get each batch once, in the order of their calls.

    Args:
        batches: Where they come from.
    """

    __slots__ = ("_batches", "_turn")

    def __init__(self, batches: Generator[Any, None, None]) -> None:
        self._batches = batches
        # Held by nobody else; reentrant, so that a hook that calls next() on the iterator
        # that runs it is told so instead of waiting for itself.
        self._turn = threading.RLock()

    def __next__(self) -> Any:
        with self._turn:
            return next(self._batches)

    def close(self) -> None:
        """Leave the epoch: what was not received is not built any more.

        Raises:
            LoaderBusyError: Another thread waits for a batch.
        """
        if not self._turn.acquire(blocking=False):
            raise LoaderBusyError(
                "another thread waits for a batch of this iterator; close() the loader"
            )
        try:
            self._batches.close()
        finally:
            self._turn.release()
