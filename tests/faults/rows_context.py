"""What stands around a loader: threads, other loaders, generators, hooks, garbage."""

from __future__ import annotations

import gc
import logging
import queue
import random
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from feedline import LoaderBusyError
from tests.datasets import (
    PATIENCE,
    Blocks,
    HookRaises,
    Nested,
    Numbers,
    Stateful,
    block,
)

from .growth import expect_no_growth
from .rows import EVERYWHERE, PROCESSES, row
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
    pools=EVERYWHERE,
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
    pools=EVERYWHERE,
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
    pools=EVERYWHERE,
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
    taken: queue.SimpleQueue[int] = queue.SimpleQueue()

    def consume() -> None:
        while True:
            try:
                batch = next(batches, None)
            except ValueError as error:
                scene.strike(times=9999)
                if "generator already executing" not in str(error):
                    raise
                continue
            if batch is None:
                return
            check(batch, batch[0])
            taken.put(batch[0])

    with scene.loader(Blocks(600)) as loader:
        batches = iter(loader)
        scene.strike()
        with hurried(), ThreadPoolExecutor(2) as both:
            for done in [both.submit(consume) for _ in range(2)]:
                done.result(timeout=PATIENCE)
        scene.notice()
    if sorted(taken.get() for _ in range(taken.qsize())) != list(range(600)):
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


@row(
    "each item is made by a 2-worker loader inside the worker",
    bar="exact",
    pools=EVERYWHERE,
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
        for _ in range(10 if scene.pool == "fork" else 2):
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


class Draws(Numbers):
    """What the global generators give, torch's too where it is there."""

    def __getitem__(self, index: int) -> Any:
        torch = sys.modules.get("torch")
        drawn = [random.random(), float(np.random.random())]
        return drawn if torch is None else [*drawn, float(torch.rand(()))]


def expect_independent_draws(scene: Scene) -> None:
    def epochs() -> list[Any]:
        with scene.loader(Draws(20), seed=7) as loader:
            return [*loader, *loader]

    scene.strike()
    drawn = epochs()
    scene.notice()
    for numbers in zip(*drawn, strict=True):
        assert len(set(numbers)) == 40, "duplicates"
    assert epochs() == drawn, "not reproducible"


@row(
    "global numpy and random RNG drawn once per item, 2 workers, 2 epochs",
    bar="0 duplicates, reproducible from the seed",
    pools=("inline", *PROCESSES),
    peers="LOSS | OK | OK | OK | OK",
    outcome="OK",
)
def global_draws(scene: Scene) -> None:
    expect_independent_draws(scene)


@row(
    "... and torch's",
    bar="the same",
    outcome="OK",
    pools=("inline", "fork"),
    peers="LOSS | OK | OK | OK | OK",
    needs=("torch",),
)
def torch_draws(scene: Scene) -> None:
    expect_independent_draws(scene)


@row(
    "a dataset of length 0",
    bar="an empty epoch, hooks run, no worker started",
    pools=EVERYWHERE,
    peers="HANG | EXACT | EXACT | EXACT | EXACT",
)
def empty(scene: Scene) -> None:
    dataset = Stateful(0)
    processes = len(psutil.Process().children(recursive=True))
    threads = threading.active_count()
    with scene.loader(dataset) as loader:
        scene.strike()
        assert [list(loader), list(loader)] == [[], []]
        scene.notice()
        assert (dataset.begun, dataset.ended) == (2, 2)
        assert len(psutil.Process().children(recursive=True)) == processes
        assert threading.active_count() == threads


@row(
    "a dataset of length 1 with 2 workers",
    bar="exact",
    pools=EVERYWHERE,
    peers="EXACT | EXACT | EXACT | EXACT | EXACT",
)
def one(scene: Scene) -> None:
    with scene.loader(Blocks(1)) as loader:
        scene.strike()
        for _ in range(3):
            scene.expect_blocks(loader, 1, at=0)


@row(
    "state set at the start of each epoch",
    bar="every batch of that epoch sees it, in every worker",
    pools=EVERYWHERE,
    peers="LOSS | LOSS | LOSS | EXACT | EXACT",
)
def state(scene: Scene) -> None:
    dataset = Stateful(20)
    with scene.loader(dataset) as loader:
        for epoch in range(4):
            dataset.large[:] = 10_000 * epoch
            scene.strike()
            seen = [batch[:5] for batch in loader]
            scene.notice()
            level = float(10_000 * epoch + 1)
            assert seen == [(i, epoch + 1, epoch, level, level) for i in range(20)]


@row(
    "on_epoch_begin raises in epoch 1",
    bar="that error; the next epoch is exact",
    outcome="CLEAN",
    pools=EVERYWHERE,
    peers="CLEAN | SKIP | SKIP | SKIP | SKIP",
)
def hook_raises(scene: Scene) -> None:
    with scene.loader(HookRaises("on_epoch_begin", epoch=1)) as loader:
        assert list(loader) == list(range(12))
        scene.strike()
        scene.expect_error(loader, LookupError, "on_epoch_begin failed", at=0)
        assert list(loader) == list(range(12))


@row(
    "half-used iterators dropped inside reference cycles, then collected",
    bar="0 growth",
    outcome="OK",
    pools=EVERYWHERE,
    peers="POOR | HANG | HANG | OK | POOR",
    within=10.0,
)
def cycles(scene: Scene) -> None:
    def tie() -> None:
        knot: list[Any] = [iter(loader)]
        knot.append(knot)
        for due in range(3):
            check(next(knot[0]), due)
        del knot
        gc.collect()

    with scene.loader(Blocks(20)) as loader:
        scene.strike()
        expect_no_growth(tie, times=50)
        expect_rest(loader, 0)
        scene.notice()


@row(
    "garbage collected at every step, cycles of iterators in it",
    bar="exact",
    pools=EVERYWHERE,
    within=5.0,
)
def collected_at_every_step(scene: Scene) -> None:
    def tie() -> None:
        knot: list[Any] = [iter(loader)]
        knot.append(knot)
        check(next(knot[0]), 0)

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        scene.strike()
        with scene.loader(Blocks(20), max_queue_size=3) as loader:
            for _ in range(3):
                tie()
                for due, batch in enumerate(loader):
                    check(batch, due)
                    if due % 5 == 0:
                        tie()
                assert due == 19
                for batch in islice(loader, 3):
                    check(batch, batch[0])
        scene.notice()
    finally:
        gc.set_threshold(*before)


@row(
    "weak references to delivered arrays",
    bar="the loader holds none of them",
    outcome="OK",
    pools=EVERYWHERE,
    peers="OK | OK | OK | POOR | POOR",
)
def weak_references(scene: Scene) -> None:
    references: list[weakref.ref[Any]] = []
    with scene.loader(Blocks(20, 20_000)) as loader:
        for index, array in loader:
            check((index, array), len(references))
            scene.strike()
            references.append(weakref.ref(array))
            del array
            assert references[-1]() is None, f"batch {index} is held"
        scene.notice()
    assert len(references) == 20


class Uneven(Numbers):
    """Batches that take their time, each another."""

    def __getitem__(self, index: int) -> Any:
        time.sleep(0.0005 * (index % 3))
        return index


@row(
    "two threads use an iterator each of one loader",
    bar="each exact, or LoaderBusyError in the one that comes second",
    pools=EVERYWHERE,
)
def two_threads_two_iterators(scene: Scene) -> None:
    def consume(batches: Iterator[Any]) -> bool:
        try:
            if list(batches) != list(range(1, 200)):
                raise Lost
        except LoaderBusyError as error:
            scene.strike(times=99)
            if "another thread is waiting" not in str(error):
                raise
            return False
        return True

    with (
        scene.loader(Uneven(200), max_queue_size=4) as loader,
        hurried(),
        ThreadPoolExecutor(2) as both,
    ):
        scene.strike()
        for _ in range(5):
            pair = iter(loader), iter(loader)
            assert [next(batches) for batches in pair] == [0, 0]
            done = [both.submit(consume, batches) for batches in pair]
            assert any(exact.result(timeout=PATIENCE) for exact in done)
            assert list(loader) == list(range(200))
        scene.notice()
