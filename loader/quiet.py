"""A moment at which no other thread is writing to a log.

A forked process has the locks of its parent as they were at the fork. Python makes
logging's own anew, but not the lock of the file that a handler writes to: forked while
another thread was writing there, a worker would wait for ever with its first log line.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["quiet_logs"]

_PATIENCE = 0.5  # seconds to wait for each lock


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Hold every log handler of this process.

    One that does not come free in time is let be: whoever holds it may be waiting for
    one that is held here.
    """
    with ExitStack() as held:
        # In the order in which logging itself takes them.
        for lock in (getattr(logging, "_lock", None), *_locks()):
            if lock is None or not lock.acquire(timeout=_PATIENCE):
                break
            held.callback(lock.release)
        yield


def _locks() -> list[Any]:
    handlers = (reference() for reference in getattr(logging, "_handlerList", ()))
    return [h.lock for h in handlers if h is not None and h.lock is not None]
