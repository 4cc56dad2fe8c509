"""A worker ends, or is loaded down, at every moment of its life."""

from __future__ import annotations

import gc
import mmap
import os
import random
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

import feedline
from feedline import WorkerStartError, worker
from tests.datasets import Blocks, block

from .rows import EVERYWHERE, POOLS, row
from .rows_deaths import REDONE, TOLD, expect_redone, kill_this
from .scene import Armed, Scene, Struck, check, check_all, kill_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


END = b"the end"


@row("a worker killed while it encodes batch 7", bar=REDONE, pools=("fork", "spawn"))
def while_encoding(scene: Scene) -> None:
    expect_redone(scene, Armed(scene, kill_this), "SIGKILL")


def cut_short(scene: Scene) -> Any:
    """An array over a file that has become shorter: who reads it whole gets a SIGBUS."""
    path = scene.folder / "file"
    path.write_bytes(bytes(2**22))
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
        file.truncate(2**21)
    return np.frombuffer(mapped, np.uint8)


class CutShort(Blocks):
    """Batch 7 cannot be copied beyond its half; once."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(20)
        self.scene = scene

    def __getitem__(self, index: int) -> Any:
        if index == 7 and self.scene.strike():
            return index, cut_short(self.scene)
        return super().__getitem__(index)


@row(
    "... while it copies it into shared memory, half way (SIGBUS)",
    bar=TOLD,
    pools=("fork", "spawn"),
)
def while_copying(scene: Scene) -> None:
    expect_redone(scene, CutShort(scene), "SIGBUS", "in write")


class InPlace(Blocks):
    """Batches built in place; whoever builds the 7th is killed half way, once."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(20)
        self.scene = scene

    def __getitem__(self, index: int) -> Any:
        right = block(index)
        array = feedline.empty(right.shape, right.dtype)
        array[:1000] = right[:1000]
        if index == 7 and self.scene.strike():
            kill_this()
        array[1000:] = right[1000:]
        return index, array


@row("... while it builds it in place", bar=REDONE, pools=("fork", "spawn"))
def while_in_place(scene: Scene) -> None:
    expect_redone(scene, InPlace(scene), "SIGKILL")


@row(
    "`worker_init_fn` ends every worker (`os._exit(5)`)",
    bar="one WorkerStartError with the exit code and where to look, no restart loop",
    outcome="CLEAN",
)
def in_init(scene: Scene) -> None:
    def init(number: int) -> None:
        scene.strike()
        os._exit(5)

    with scene.loader(Blocks(20), worker_init_fn=init) as loader:
        words = r"worker [01] did not start: .* code 5; .*worker_init_fn"
        error = scene.expect_error(loader, WorkerStartError, words, at=0)
        assert error.exitcode == 5


@row(
    "... is killed in every worker",
    bar="one WorkerStartError with the signal, no restart loop",
    outcome="CLEAN",
    within=8.0,
    limit=40.0,
    pools=("fork", "spawn"),
)
def killed_in_init(scene: Scene) -> None:
    def init(number: int) -> None:
        scene.strike()
        kill_this()

    with scene.loader(Blocks(20), worker_init_fn=init) as loader:
        words = r"worker [01] did not start: .*SIGKILL"
        scene.expect_error(loader, WorkerStartError, words, at=0)


@row("... is killed in the first worker", bar="another is started; all batches exact")
def once_in_init(scene: Scene) -> None:
    def init(number: int) -> None:
        if scene.strike():
            kill_this()

    with scene.loader(Blocks(20), worker_init_fn=init) as loader:
        scene.expect_blocks(loader, at=0)
        scene.expect_blocks(loader)
        assert loader.stats().deaths <= 1
    assert scene.strikes == 1


class Fatal(Blocks):
    """Kills the first process that unpickles it."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(20)
        self.scene = scene

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.scene.strike():
            kill_this()


@row(
    "a worker killed while it unpickles the dataset, before it is ready",
    bar="another is started; all batches exact",
    pools=("forkserver", "spawn"),
)
def while_unpickling(scene: Scene) -> None:
    with scene.loader(Fatal(scene)) as loader:
        scene.expect_blocks(loader, at=0)
        scene.expect_blocks(loader)
    assert scene.strikes == 1


@row(
    "a worker killed at every line of its main loop, one loader for each",
    bar=REDONE,
    pools=("fork",),
    within=20.0,
    limit=60.0,
)
def at_every_line(scene: Scene) -> None:
    lines = count_lines(scene)
    assert lines > 50
    for line in range(lines):

        def fatal(seen: int, line: int = line) -> None:
            if seen == line and scene._stamp(f"fault-{line}"):
                kill_this()

        with traced(fatal), scene.loader(Blocks(6, 10)) as loader:
            check_all(loader, 6)
            check_all(loader, 6)
            assert loader.stats().deaths <= 1
    scene.notice()
    assert scene.strikes == lines


def count_lines(scene: Scene) -> int:
    """How many lines a lone worker runs for an epoch of 3 batches."""
    told = scene.folder / "lines"

    def tell(seen: int) -> None:
        told.write_text(str(seen))

    with traced(tell), scene.loader(Blocks(3, 10), workers=1) as loader:
        check_all(loader, 3)
    return int(told.read_text())


@contextmanager
def traced(on_line: Callable[[int], None]) -> Iterator[None]:
    """Have forked workers call a function before each line of their room."""
    room = worker.main.__code__.co_filename

    def main(setup: Any) -> None:
        lines = count()

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if frame.f_code.co_filename != room:
                return None
            if event == "line":
                on_line(next(lines))
            return trace

        sys.settrace(trace)
        worker.main(setup)

    with mock.patch("feedline.crew.main", main):
        yield


@row(
    "workers start after random delays, and are killed after random ones, 10 loaders",
    bar=REDONE,
    pools=("fork",),
    within=5.0,
)
def random_delays(scene: Scene) -> None:
    draws = random.Random(1)
    for _ in range(10):
        delays = [draws.uniform(0, 0.03) for _ in range(2)]

        def wait(number: int, delays: list[float] = delays) -> None:
            time.sleep(delays[number])

        with scene.loader(Blocks(20, 10), worker_init_fn=wait) as loader:
            iterator = iter(loader)
            check(next(iterator), 0)
            time.sleep(draws.uniform(0, 0.03))
            scene.strike(times=10)
            kill_all(loader)
            for due, batch in enumerate(iterator, 1):
                check(batch, due)
            assert due == 19
            check_all(loader, 20)
    scene.notice()
    assert scene.strikes == 10


@row(
    "a worker writes 50 MB to stdout and 50 MB to stderr, which are pipes",
    bar="exact; what it wrote arrives whole",
)
def flood(scene: Scene) -> None:
    def write() -> None:
        for _ in range(800):
            for fd in (1, 2):
                os.write(fd, bytes(65536))

    with counting_output() as total, scene.loader(Struck(scene, write)) as loader:
        scene.expect_blocks(loader)
    assert sum(total) == 2 * 800 * 65536


@contextmanager
def counting_output() -> Iterator[list[int]]:
    """Count what this process and its children write to stdout and stderr."""
    out, into = os.pipe()
    kept = os.dup(1), os.dup(2)
    total: list[int] = []

    def drain() -> None:
        # Not to the end of the pipe: Python's own helper processes hold it, too.
        while not (text := os.read(out, 2**20)).endswith(END):
            total.append(len(text))
        total.append(len(text) - len(END))

    for fd in (1, 2):
        os.dup2(into, fd)
    os.close(into)
    reader = threading.Thread(target=drain)
    reader.start()
    try:
        yield total
    finally:
        os.write(1, END)
        for fd in (1, 2):
            os.dup2(kept[fd - 1], fd)
            os.close(kept[fd - 1])
        reader.join()
        os.close(out)


@row(
    "the user's code starts and awaits a process of its own in every batch",
    bar="exact; a worker's child is not taken for a worker",
    pools=POOLS,
)
def own_processes(scene: Scene) -> None:
    class Asking(Blocks):
        def __getitem__(self, index: int) -> Any:
            scene.strike()
            said = subprocess.run(
                ["/bin/echo", str(index)], capture_output=True, check=True
            )
            assert int(said.stdout) == index
            return super().__getitem__(index)

    with scene.loader(Asking(20)) as loader:
        scene.expect_blocks(loader)
        assert loader.stats().deaths == 0


@row(
    "garbage is collected between any two steps (`gc.set_threshold(1)`)",
    bar="exact, with breaks and kept batches",
    pools=EVERYWHERE,
    within=3.0,
)
def garbage(scene: Scene) -> None:
    class Collecting(Blocks):
        def __getitem__(self, index: int) -> Any:
            gc.set_threshold(1)
            return super().__getitem__(index)

    before = gc.get_threshold()
    gc.set_threshold(1)
    scene.strike()
    try:
        with scene.loader(Collecting(10)) as loader:
            for _ in zip(range(3), loader, strict=False):
                pass
            kept = list(loader)
            scene.expect_blocks(loader, 10)
            for due, batch in enumerate(kept):
                check(batch, due)
    finally:
        gc.set_threshold(*before)
