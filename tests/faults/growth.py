"""Whether what is done many times over grows anything."""

from __future__ import annotations

import gc
import os
import threading
from typing import TYPE_CHECKING

import psutil

from tests.belongings import memory
from tests.datasets import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

MEMORY = 8 * 2**20  # bytes; what allocators do anyway


def counts() -> tuple[int, int, int]:
    """Descriptors, threads, processes."""
    return (
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
        len(psutil.Process().children(recursive=True)),
    )


def expect_no_growth(act: Callable[[], object], times: int, warm: int = 3) -> None:
    """Do something many times: no more of anything, and no more memory."""
    for _ in range(warm):
        act()
    before = counts()
    # A leak grows in every round, an allocator that finds its size in the first alone.
    grown = [grown_by(act, times)]
    while grown[-1] >= MEMORY and len(grown) < 3:
        grown.append(grown_by(act, times))
    assert grown[-1] < MEMORY, grown
    # Fewer is right too: what was dropped just before the first look may end after it.
    wait_until(
        lambda: all(now <= then for now, then in zip(counts(), before, strict=True)),
        f"no more descriptors, threads, processes than {before}",
        seconds=5,
    )


def grown_by(act: Callable[[], object], times: int) -> int:
    """Bytes by which memory grows."""
    gc.collect()
    used = memory()
    for _ in range(times):
        act()
    gc.collect()
    return memory() - used
