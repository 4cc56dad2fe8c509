"""What a worker process sets for itself: signals, its end, threads, freed memory."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import sys
from contextlib import suppress
from multiprocessing import parent_process

__all__ = [
    "STACK_SIGNAL",
    "keep_memory",
    "leave_with_parent",
    "limit_threads",
    "set_signals",
]

# Makes a worker write its Python frames into its trace file, even when it hangs in C.
STACK_SIGNAL = (
    signal.SIGRTMAX - 3 if hasattr(signal, "SIGRTMAX") else int(signal.SIGUSR2)
)

# Of glibc's mallopt(3), and the variables by which the user sets the same.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MALLOC_VARIABLES = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}
_MOST_KEPT = 2**28  # bytes of freed memory
_LARGEST_KEPT = 2**27  # bytes of one array


def set_signals(trace: int) -> None:
    """Leave Ctrl-C to the parent, end on SIGTERM, and write frames when asked or crashing.

    Args:
        trace: Descriptor that frames are written to.
    """
    # Ctrl-C reaches the whole process group: the parent alone answers it. What the parent
    # does on other signals is not for its forked copies to repeat.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    faulthandler.enable(trace, all_threads=False)
    faulthandler.register(STACK_SIGNAL, trace, all_threads=False)


def leave_with_parent(parent: int | None, litter: str | None) -> None:
    """Wait for the parent's end, and leave. Runs in a thread of its own.

    Args:
        parent: Descriptor that becomes readable then; None takes multiprocessing's.
        litter: A socket that the parent would have removed, with its folder.
    """
    process = parent_process()
    if parent is not None:
        end = parent
    elif process is not None:
        end = process.sentinel
    else:
        return
    watch = select.poll()
    watch.register(end, select.POLLIN)
    watch.poll()
    if litter is not None:
        with suppress(OSError):
            os.unlink(litter)
        with suppress(OSError):
            os.rmdir(os.path.dirname(litter))
    os._exit(1)


def limit_threads() -> None:
    """One thread of compiled code for each worker, unless the user chose otherwise.

    More would compete with the other workers for the same cores.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
    limits = sys.modules.get("threadpoolctl")
    if limits is not None:
        limits.threadpool_limits(1)


def keep_memory() -> None:
    """Keep the memory of large arrays for the next batch, unless the user chose otherwise.

    glibc gives a block of more than 32 MB back as soon as it is freed, and to touch as much
    new memory takes as long as to copy it.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc" in tunables or not _MALLOC_VARIABLES.isdisjoint(os.environ):
        return
    with suppress(ImportError, OSError, AttributeError):  # another C library
        import ctypes

        libc = ctypes.CDLL(None)
        # Old versions refuse the first; the second alone would make things worse.
        if libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT):
            libc.mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
