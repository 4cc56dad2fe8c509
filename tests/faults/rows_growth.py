"""What a loader may take: ahead of its consumer, and many times over."""

from __future__ import annotations

import time
import warnings
from itertools import islice
from typing import TYPE_CHECKING

from tests.datasets import Blocks, Reporting, wait_until

from .growth import expect_no_growth
from .rows import POOLS, row
from .scene import Lost, check

if TYPE_CHECKING:
    from .scene import Scene

# New processes take their time; of these there are fewer in each row.
LOADERS = {"threads": 1000, "fork": 30, "forkserver": 8, "spawn": 2}

DROPPED = {"threads": 50, "fork": 50, "forkserver": 6, "spawn": 2}


@row(
    "queue 10: consumer sleeps 3 s after one batch",
    bar="at most 10 made ahead",
    outcome="OK",
    pools=POOLS,
    peers="OK | OK | OK | POOR | POOR",
)
def sleeping_consumer(scene: Scene) -> None:
    dataset = Reporting(scene.folder, 40)
    with scene.loader(dataset, max_queue_size=10) as loader:
        batches = iter(loader)
        assert next(batches)[0] == 0
        wait_until(lambda: len(dataset.gate.arrived()) >= 10, "the queue is full")
        time.sleep(0.3)  # what is too much would come in a moment
        assert len(dataset.gate.arrived()) <= 11, "more than 10 beside the one taken"
        scene.strike()
        if [int(batch[0]) for batch in batches] != list(range(1, 40)):
            raise Lost
        scene.notice()


@row(
    "50 early breaks on one loader",
    bar="0 growth in fds, threads, processes, memory; each under 5 ms",
    outcome="OK",
    pools=POOLS,
    peers="POOR | OK | OK | OK | POOR",
    within=5.0,
)
def breaks(scene: Scene) -> None:
    took: list[float] = []

    def break_early() -> None:
        batches = iter(loader)
        for due in range(len(took) % 7):
            check(next(batches), due)
        start = time.perf_counter()
        del batches
        took.append(time.perf_counter() - start)

    with scene.loader(Blocks(200, 50_000)) as loader:
        scene.strike()
        expect_no_growth(break_early, times=50, warm=20)
        scene.notice()
        assert sorted(took)[len(took) // 2] < 0.005, took
        for due, batch in enumerate(islice(loader, 12)):
            check(batch, due)


@row(
    "50 loaders, dropped without close (forkserver 6, spawn 2)",
    bar="0 growth; a ResourceWarning each",
    outcome="OK",
    pools=POOLS,
    peers="OK | OK | OK | OK | POOR",
    within=15.0,
    limit=60.0,
)
def dropped(scene: Scene) -> None:
    made = 0

    def drop() -> None:
        nonlocal made
        made += 1
        batches = iter(scene.loader(Blocks(20)))
        check(next(batches), 0)

    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # What records warnings would keep the loaders that they are about.
        warnings.showwarning = lambda message, *_: said.append(str(message))
        scene.strike()
        expect_no_growth(drop, times=DROPPED[scene.pool], warm=1)
        scene.notice()
    assert len(said) == made, (len(said), made)
    assert all(text.startswith("unclosed <Loader of Blocks") for text in said), said[0]


@row(
    "1,000 loaders made, used and closed (fork 30, forkserver 8, spawn 2)",
    bar="0 growth",
    outcome="OK",
    pools=POOLS,
    within=15.0,
    limit=60.0,
)
def used(scene: Scene) -> None:
    def use() -> None:
        with scene.loader(Blocks(3)) as loader:
            for due, batch in enumerate(loader):
                check(batch, due)

    scene.strike()
    expect_no_growth(use, times=LOADERS[scene.pool], warm=1)
    scene.notice()
