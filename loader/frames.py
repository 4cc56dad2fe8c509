"""Where a worker process stands: the Python frames that it leaves or is asked for.

The other end is ``faulthandler`` in the worker. It writes in a signal's handler: also while
the worker hangs in C with the interpreter's lock held.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress

from .process_settings import STACK_SIGNAL
from .worker import main

__all__ = ["frames_left", "frames_now"]

_LAST_WORDS = 1.0  # seconds that a stuck worker has for telling where it stands
_PAUSE = 0.05  # seconds of silence after which it has told everything
_READ_BYTES = 65536  # what a pipe holds, at the most, by default


def frames_left(trace: int) -> str:
    """The frames that a worker left when it ended; empty if it left none.

    Args:
        trace: Descriptor that never blocks, from which they are read.
    """
    return _own_frames(_read_all(trace))


def frames_now(pid: int, trace: int) -> str:
    """Ask a worker for its frames.

    Args:
        pid: Its process number; 0 for one that has none any more.
        trace: As for :func:`frames_left`.

    Returns:
        The frames, or why there are none.
    """
    if not pid or _is_stopped(pid):
        return "  the process is stopped by a signal (SIGSTOP)"
    with suppress(ProcessLookupError):
        os.kill(pid, STACK_SIGNAL)
    watch = select.poll()
    watch.register(trace, select.POLLIN)
    text, patience = b"", _LAST_WORDS
    while watch.poll(patience * 1000) and (more := _read_all(trace)):
        text, patience = text + more, _PAUSE
    return _own_frames(text) or "  it did not answer the request for its frames"


def _is_stopped(pid: int) -> bool:
    import psutil

    with suppress(psutil.Error):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False


def _read_all(trace: int) -> bytes:
    text = b""
    with suppress(BlockingIOError):
        while more := os.read(trace, _READ_BYTES):
            text += more
    return text


def _own_frames(text: bytes) -> str:
    """The frames of the user's code, without the worker's own below them."""
    lines = text.decode(errors="replace").splitlines()
    kept = []
    for line in lines:
        if main.__code__.co_filename in line:
            break
        if line.startswith("  File"):
            kept.append(line)
    return "\n".join(kept)
