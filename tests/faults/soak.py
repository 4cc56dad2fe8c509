"""Deliver batches while workers are killed at random moments, and check every byte.

Half of the kills come from another thread, at any moment; half from the consumer, between
two batches. Hooks change the dataset in every epoch, so that a replacement must join the
running epoch with its state.

Run it: ``python tests/faults/soak.py --kills 500 --start-method fork --workers 2``.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import random
import re
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import psutil

from feedline import Loader, PyDataset, WorkerDiedError, get_worker_info
from feedline.options import StartMethod

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SMALLEST, LARGEST = 100, 4_000_000  # bytes
# Mean seconds between two kills: starting anew takes so much longer than forking.
PAUSES = {"fork": 0.05, "forkserver": 0.8, "spawn": 0.8}


class Soaked(PyDataset):
    """Batches of mixed sizes whose every byte is a function of epoch and index."""

    def __init__(self, seed: int, length: int = 60) -> None:
        super().__init__()
        self.seed = seed
        self.length = length
        self.epoch = -1
        self.closed_epochs = 0
        self.table = np.zeros(50_000)  # changed in place by the hook

    def __len__(self) -> int:
        return self.length

    def on_epoch_begin(self) -> None:
        self.epoch += 1
        self.table[:] = self.epoch

    def on_epoch_end(self) -> None:
        self.closed_epochs += 1

    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        assert info is not None
        state = self.epoch, self.closed_epochs, float(self.table.sum())
        return index, state, info.rng.integers(2**62), self.content(self.epoch, index)

    def content(self, epoch: int, index: int) -> Any:
        """The array of a batch; half of them strided, so that both paths are taken."""
        draw = random.Random(f"{self.seed} {epoch} {index}")
        size = int(SMALLEST * (LARGEST / SMALLEST) ** draw.random()) // 4
        array = np.arange(size, dtype=np.uint32) * np.uint32(2654435761)
        array += np.uint32(draw.getrandbits(32))
        return array[::2] if draw.random() < 0.5 else array


@dataclass
class Summary:
    """What a soak did and found."""

    start_method: str
    workers: int
    seed: int
    kills_between: int = 0
    kills_any_time: int = 0
    deaths: int = 0
    epochs: int = 0
    batches: int = 0
    megabytes: float = 0.0
    given_up: int = 0  # batches that our own kills hit three times
    worst_stall: float = 0.0  # seconds
    seconds: float = 0.0
    left_behind: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.kills_between + self.kills_any_time

    def __str__(self) -> str:
        left = ", ".join(self.left_behind) or "nothing"
        return (
            f"{self.start_method}, {self.workers} workers, seed {self.seed}: "
            f"{self.kills} kills ({self.kills_any_time} at any time, "
            f"{self.kills_between} between batches), {self.deaths} deaths heard, "
            f"{self.epochs} epochs, {self.batches} batches and "
            f"{self.megabytes:.0f} MB all right, {self.given_up} given up, "
            f"worst stall {self.worst_stall * 1000:.0f} ms, {self.seconds:.1f} s, "
            f"left behind: {left}"
        )


def soak(start_method: StartMethod, *, workers: int, kills: int, seed: int) -> Summary:
    """Kill that many workers.

    Raises:
        AssertionError: A batch was not what it had to be.
    """
    random_ = random.Random(seed)
    summary = Summary(start_method, workers, seed)
    dataset = Soaked(seed)
    before = _belongings()
    start = time.monotonic()
    with (
        Loader(
            dataset,
            workers=workers,
            use_multiprocessing=True,
            start_method=start_method,
            max_queue_size=6,
            shuffle=True,
            seed=seed,
        ) as loader,
        _killer(summary, kills // 2, random.Random(seed + 1)) as at_any_time,
    ):
        between = kills - kills // 2
        while at_any_time.is_alive() or summary.kills_between < between:
            _one_epoch(loader, dataset, summary, random_, between)
        _one_epoch(loader, dataset, summary, random_, between)
        summary.deaths = loader.stats().deaths
    del loader
    summary.seconds = time.monotonic() - start
    summary.left_behind = _beyond(before)
    return summary


def _one_epoch(
    loader: Loader,
    dataset: Soaked,
    summary: Summary,
    random_: random.Random,
    kills: int,
) -> None:
    iterator = iter(loader)
    seen: list[int] = []
    share = 0.1 if summary.start_method == "fork" else 0.03
    while True:
        asked = time.monotonic()
        try:
            batch = next(iterator, None)
        except WorkerDiedError as error:
            assert error.exitcode == -signal.SIGKILL  # noqa: PT017 - ours alone
            summary.given_up += 1
            break
        finally:
            summary.worst_stall = max(summary.worst_stall, time.monotonic() - asked)
        if batch is None:
            assert sorted(seen) == list(range(len(dataset))), seen
            break
        index, state, _, array = batch
        seen.append(index)
        table = float(dataset.epoch) * len(dataset.table)
        expected = dataset.epoch, dataset.closed_epochs, table
        assert state == expected, f"batch {index}: state {state}, not {expected}"
        right = dataset.content(dataset.epoch, index)
        assert array.dtype == right.dtype, (index, array.dtype)
        assert np.array_equal(array, right), f"batch {index} of {expected} is wrong"
        summary.batches += 1
        summary.megabytes += array.nbytes / 1e6
        if summary.kills_between < kills and random_.random() < share:
            summary.kills_between += _kill_one(random_)
    summary.epochs += 1


@contextmanager
def _killer(
    summary: Summary, kills: int, random_: random.Random
) -> Iterator[threading.Thread]:
    over = threading.Event()

    def run() -> None:
        while summary.kills_any_time < kills:
            pause = random_.uniform(0, 2 * PAUSES[summary.start_method])
            if over.wait(pause):
                return
            summary.kills_any_time += _kill_one(random_)

    thread = threading.Thread(target=run, name="killer")
    thread.start()
    try:
        yield thread
    finally:
        over.set()
        thread.join()


def _kill_one(random_: random.Random) -> int:
    workers = _workers()
    if not workers:
        return 0
    with suppress(ProcessLookupError):
        os.kill(random_.choice(workers), signal.SIGKILL)
        return 1
    return 0


def _workers() -> list[int]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            line = " ".join(child.cmdline())
            helper = "resource_tracker" in line or "multiprocessing.forkserver" in line
            # A served worker has its server's command line, and is one level below.
            alive = child.status() != psutil.STATUS_ZOMBIE
            if alive and not (helper and child.ppid() == os.getpid()):
                found.append(child.pid)
    return found


def _belongings() -> tuple[int, int, set[int]]:
    gc.collect()
    maps = Path("/proc/self/maps").read_text()
    mapped = len(re.findall("memfd:feedline", maps))
    return len(os.listdir("/proc/self/fd")), mapped, set(_workers())


def _beyond(before: tuple[int, int, set[int]]) -> list[str]:
    descriptors, mapped, workers = _belongings()
    left = []
    # The two helpers that Python keeps to its end hold a descriptor each here.
    if descriptors > before[0] + 2:
        left.append(f"{descriptors - before[0]} descriptors")
    if mapped > before[1]:
        left.append(f"{mapped - before[1]} mappings")
    if more := workers - before[2]:
        left.append(f"processes {sorted(more)}")
    return left


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--start-method", choices=get_args(StartMethod), default="fork")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # a line for each death
    summary = soak(
        chosen.start_method,
        workers=chosen.workers,
        kills=chosen.kills,
        seed=chosen.seed,
    )
    sys.stdout.write(f"{summary}\n")
    return 1 if summary.left_behind else 0


if __name__ == "__main__":
    sys.exit(main())
