"""Random draws, lengths, hooks, and garbage."""

from __future__ import annotations

import gc
import random
import sys
import threading
import weakref
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from tests.datasets import (
    Blocks,
    HookRaises,
    Numbers,
    Stateful,
    wait_until,
)

from .growth import expect_no_growth
from .rows import EVERYWHERE, POOLS, PROCESSES, row
from .scene import check

if TYPE_CHECKING:
    from .scene import Scene


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
    pools=("fork",),
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
    pools=POOLS,
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
        expect_no_growth(tie, times=20)
        scene.notice()
        scene.expect_blocks(loader)


@row(
    "garbage collected at every step, cycles of iterators in it",
    bar="exact",
    pools=POOLS,
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
            # The thread that built it may be just about to drop it.
            wait_until(lambda: references[-1]() is None, f"batch {index} is dropped")
        scene.notice()
    assert len(references) == 20
