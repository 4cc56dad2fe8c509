"""What stands around a loader: other iterators, threads, loaders, locks."""

from __future__ import annotations

import logging
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feedline import LoaderBusyError
from tests.datasets import (
    PATIENCE,
    Blocks,
    Nested,
    Numbers,
    Stateful,
    block,
)

from .rows import EVERYWHERE, POOLS, row
from .scene import Lost, check

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .scene import Scene


def expect_rest(batches: Iterable[Any], start: int, length: int = 20) -> None:
    """Blocks from ``start`` on, and no other."""
    due = start
    for batch in batches:
        check(batch, due)
        due += 1
    if due != length:
        raise Lost(f"the epoch has {length} batches, got {due}")


@row(
    "two interleaved iterators of one loader",
    bar="both exact (each its own epoch)",
    pools=POOLS,
    peers="EXACT | EXACT | EXACT | EXACT | EXACT",
)
def two_iterators(scene: Scene) -> None:
    with scene.loader(Blocks(20)) as loader:
        left, right = iter(loader), iter(loader)
        scene.strike()
        for due, pair in enumerate(zip(left, right, strict=True)):
            check(pair[0], due)
            check(pair[1], due)
        assert due == 19
        scene.notice()
        # One is dropped half-way, another begins, and both go on at their own pace.
        first, second = iter(loader), iter(loader)
        for due in range(5):
            check(next(first), due)
        check(next(second), 0)
        del first
        third = iter(loader)
        for due in range(4):
            check(next(third), due)
        expect_rest(second, 1)
        expect_rest(third, 4)


@row(
    "... where the dataset has hooks",
    bar="a clear error where the second epoch begins; the first is exact",
    outcome="CLEAN",
    pools=EVERYWHERE,
)
def two_iterators_with_hooks(scene: Scene) -> None:
    dataset = Stateful(20)
    with scene.loader(dataset) as loader:
        first = iter(loader)
        seen = [next(first)]
        scene.strike()
        scene.expect_error(loader, LoaderBusyError, "has hooks", at=0)
        seen += first
        assert [batch[:2] for batch in seen] == [(index, 1) for index in range(20)]
        assert (dataset.begun, dataset.ended) == (1, 1)
        assert [batch[:2] for batch in loader] == [(index, 2) for index in range(20)]


@row(
    "two loaders on one dataset",
    bar="both exact",
    pools=POOLS,
    peers="EXACT | EXACT | EXACT | EXACT | EXACT",
)
def two_loaders(scene: Scene) -> None:
    dataset = Blocks(20)
    with scene.loader(dataset) as left, scene.loader(dataset) as right:
        scene.strike()
        for due, pair in enumerate(zip(left, right, strict=True)):
            check(pair[0], due)
            check(pair[1], due)
        assert due == 19
        scene.notice()


@row(
    "four loaders at once, each in a thread of its own",
    bar="all exact",
    pools=POOLS,
    within=5.0,
)
def a_loader_in_each_thread(scene: Scene) -> None:
    def use(_: int) -> None:
        with scene.loader(Blocks(20)) as loader:
            expect_rest(loader, 0)
            expect_rest(loader, 0)

    scene.strike()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, range(4)))
    scene.notice()


@row(
    "built and used in another thread",
    bar="exact",
    pools=EVERYWHERE,
    peers="EXACT | EXACT | EXACT | EXACT | EXACT",
)
def another_thread(scene: Scene) -> None:
    def use() -> None:
        with scene.loader(Blocks(20)) as loader:
            scene.strike()
            scene.expect_blocks(loader)
            scene.expect_blocks(loader)

    with ThreadPoolExecutor(1) as other:
        other.submit(use).result(timeout=PATIENCE)


@row(
    "two threads call next() on one iterator",
    bar="each batch once, or a clear error",
    pools=EVERYWHERE,
    peers="CLEAN | HANG | HANG | HANG | CLEAN",
)
def two_threads(scene: Scene) -> None:
    def consume() -> list[int]:
        taken = []
        for batch in batches:
            check(batch, batch[0])
            taken.append(batch[0])
        return taken

    with scene.loader(Blocks(600)) as loader:
        batches = iter(loader)
        scene.strike()
        with hurried(), ThreadPoolExecutor(2) as both:
            halves = [both.submit(consume) for _ in range(2)]
            taken = [half.result(timeout=PATIENCE) for half in halves]
        scene.notice()
    if sorted(taken[0] + taken[1]) != list(range(600)):
        raise Lost


@contextmanager
def hurried() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Uneven(Numbers):
    """Batches that take their time, each another."""

    def __getitem__(self, index: int) -> Any:
        time.sleep(0.0005 * (index % 3))
        return index


@row(
    "two threads use an iterator each of one loader",
    bar="both exact",
    pools=EVERYWHERE,
    within=5.0,
)
def two_threads_two_iterators(scene: Scene) -> None:
    with (
        scene.loader(Uneven(200), max_queue_size=4) as loader,
        hurried(),
        ThreadPoolExecutor(2) as both,
    ):
        scene.strike()
        for _ in range(5):
            pair = iter(loader), iter(loader)
            assert [next(batches) for batches in pair] == [0, 0]
            rest = [both.submit(list, batches) for batches in pair]
            for batches in rest:
                assert batches.result(timeout=PATIENCE) == list(range(1, 200))
            assert list(loader) == list(range(200))
        scene.notice()


@row(
    "each item is made by a 2-worker loader inside the worker",
    bar="exact",
    pools=POOLS,
    peers="CLEAN | CLEAN | CLEAN | CLEAN | EXACT",
    within=2.0,
)
def nested(scene: Scene) -> None:
    expected = [(i, [(k, int(block(k).sum())) for k in range(5)]) for i in range(4)]
    for multiprocessing in (True, False):
        with scene.loader(Nested(multiprocessing)) as loader:
            scene.strike()
            assert list(loader) == expected
            scene.notice()


class Logging(Blocks):
    """Each batch writes to the log."""

    def __getitem__(self, index: int) -> Any:
        logging.getLogger("tests.busy").warning("batch %d", index)
        return super().__getitem__(index)


@row(
    "a parent thread logs all the time while workers fork and log",
    bar="exact, no deadlock",
    peers="EXACT | EXACT | EXACT | EXACT | EXACT",
    within=5.0,
)
def logging_thread(scene: Scene) -> None:
    log = logging.getLogger("tests.busy")
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            log.warning("busy")

    handler = logging.FileHandler(Path("/dev/null"))
    log.addHandler(handler)
    log.propagate = False
    writer = threading.Thread(target=write)
    writer.start()
    try:
        scene.strike()
        for _ in range(10 if scene.pool == "fork" else 1):
            with scene.loader(Logging(20)) as loader:
                expect_rest(loader, 0)
        scene.notice()
    finally:
        over.set()
        writer.join()
        log.removeHandler(handler)
        handler.close()


class Products(Numbers):
    """Each batch is a product of matrices."""

    def __getitem__(self, index: int) -> Any:
        import torch

        square = torch.full((300, 300), float(index))
        return index, float((square @ square)[0, 0])


@row(
    "fork after a 2-thread torch matmul",
    bar="exact, no deadlock",
    pools=("fork",),
    peers="EXACT | EXACT | EXACT | EXACT | EXACT",
    needs=("torch",),
    within=5.0,
    memory=96 * 2**20,
)
def after_a_matmul(scene: Scene) -> None:
    import torch

    torch.set_num_threads(2)
    square = torch.rand(800, 800)
    assert (square @ square).shape == (800, 800)
    scene.strike()
    with scene.loader(Products(20)) as loader:
        assert list(loader) == [(i, float(300 * i * i)) for i in range(20)]
    scene.notice()
