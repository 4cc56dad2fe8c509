"""What is measured in a process of its own: ``python -m tests.benchmarks.children``."""

from __future__ import annotations

import os
import resource
import sys
import time
from contextlib import suppress
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from .peers import CONTESTANTS, Terms
from .workloads import Arrays, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DELIVERED", "FAULTS", "KEPT", "NAMES", "SHARED", "STARTED"]

DELIVERED, FAULTS, KEPT, NAMES, SHARED, STARTED = (
    "delivered", "faults", "kept", "names", "shared", "started",
)  # fmt: skip
_SIZES: dict[str, tuple[int, ...]] = {
    "small": (32, 8), "mid": (64, 3, 64, 64), "kept": (2000,),
}  # fmt: skip
_WARM, _COUNTED = 10_000, 1000  # batches, twenty epochs and two
_WINDOWS = 3  # in each of which faults are counted


class _Rows(Workload):
    """Batches of rows of an array of 2 GB."""

    def __init__(self) -> None:
        super().__init__(500)
        self.data = np.ones((500, 2**20), np.float32)

    def __getitem__(self, index: int) -> Any:
        row = self.data[index, :1000] * 1
        self.data[index].sum()  # every page is read
        return row, np.array([index])


class _Names(Workload):
    """A million file names, all of which are looked at in an epoch."""

    def __init__(self, kind: str) -> None:
        super().__init__(100)
        names = [f"images/{number:07d}.jpg" for number in range(10**6)]
        self.names: Any = names if kind == "list" else np.array(names)

    def __getitem__(self, index: int) -> Any:
        mine = self.names[index::100]
        return np.array([index]), np.array(
            [sum(name.endswith("7.jpg") for name in mine)]
        )


def delivered(size: str, who: str, batches: int) -> str:
    """Go through one epoch."""
    with CONTESTANTS[who](Arrays(batches, *_SIZES[size]), Terms()) as epoch:
        for batch in epoch():
            del batch
    return "done"


def faults(size: str, who: str, _: int) -> str:
    """Page faults of this process for each batch, after some to warm up."""
    with CONTESTANTS[who](Arrays(500, *_SIZES[size]), Terms()) as epoch:
        batches = chain.from_iterable(epoch() for _ in repeat(None))
        counts = []
        # What counts them is to be warm, too.
        for number in (_WARM, _COUNTED, *repeat(_COUNTED, _WINDOWS)):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for batch in islice(batches, number):
                float(batch[0].sum())
                del batch
            after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            counts.append((after - before) / number)
    return " ".join(map(str, counts[-_WINDOWS:]))


def started(size: str, who: str, times: int) -> str:
    """Milliseconds until a first epoch's first batch is there, some times over."""
    took = []
    for _ in range(times):
        with CONTESTANTS[who](Arrays(10, *_SIZES[size]), Terms()) as epoch:
            start = time.perf_counter()
            batches = iter(epoch())
            next(batches)
            took.append((time.perf_counter() - start) * 1e3)
            for batch in batches:
                del batch
    return " ".join(map(str, took))


def shared(_: str, who: str, workers: int) -> str:
    """By how much the memory of all processes grows with workers, in percent."""
    dataset = _Rows()
    before = _pss()
    most = 0
    with CONTESTANTS[who](dataset, Terms(workers)) as epoch:
        for number, batch in enumerate(epoch()):
            del batch
            if number % 100 == 99:
                most = max(most, _pss())
    return str((most / before - 1) * 100)


def names(kind: str, who: str, workers: int) -> str:
    """How many MB of memory workers add over three epochs."""
    dataset = _Names(kind)
    before = most = _pss()
    with CONTESTANTS[who](dataset, Terms(workers)) as epoch:
        for _ in range(3):
            for number, batch in enumerate(epoch()):
                del batch
                if number == 50:
                    most = max(most, _pss())
    return str((most - before) / 1e6)


def kept(size: str, who: str, batches: int) -> str:
    """How many descriptors are open when every batch of an epoch is kept."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    with CONTESTANTS[who](Arrays(batches, *_SIZES[size]), Terms()) as epoch:
        everything = list(epoch())
        if [int(batch[0][0]) for batch in everything] != list(range(batches)):
            raise AssertionError("a batch was lost, repeated or overwritten")
        return str(len(os.listdir("/proc/self/fd")))


def _pss() -> int:
    here = psutil.Process()
    total = 0
    for process in [here, *here.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # Keras ends its pool after each epoch
            total += process.memory_full_info().pss
    return total


_CHILDREN: dict[str, Callable[[str, str, int], str]] = {
    DELIVERED: delivered, FAULTS: faults, SHARED: shared, NAMES: names, KEPT: kept,
    STARTED: started,
}  # fmt: skip

if __name__ == "__main__":
    what, size_, who_, number_ = sys.argv[1:]
    print(_CHILDREN[what](size_, who_, int(number_)))
