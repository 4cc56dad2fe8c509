"""Many times over: descriptors, threads, processes and memory stay what they were."""

from __future__ import annotations

import gc
import os
import threading
import time
import warnings
from itertools import islice
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from feedline import Loader
from tests import datasets
from tests.belongings import memory
from tests.datasets import wait_until

from .test_death import expect_blocks

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS: dict[str, dict[str, Any]] = {
    "inline": {"workers": 0},
    "thread": {"workers": 2},
    "fork": {"workers": 2, "use_multiprocessing": True, "start_method": "fork"},
}
MEMORY = 8 * 2**20  # bytes; what allocators do anyway


def counts() -> tuple[int, int, int]:
    return (
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
        len(psutil.Process().children(recursive=True)),
    )


def expect_no_growth(act: Callable[[], object], times: int, warm: int = 3) -> None:
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
    gc.collect()
    used = memory()
    for _ in range(times):
        act()
    gc.collect()
    return memory() - used


@pytest.mark.parametrize("kind", KINDS)
def test_50_early_breaks_grow_nothing(kind: str) -> None:
    with Loader(datasets.Blocks(200, 50_000), **KINDS[kind]) as loader:
        number = iter(range(1000))
        expect_no_growth(
            lambda: list(islice(loader, next(number) % 7)), times=50, warm=20
        )
        assert [i for i, _ in islice(loader, 12)] == list(range(12))


def test_an_early_break_is_quick() -> None:
    with Loader(datasets.Blocks(200), **KINDS["fork"]) as loader:
        expect_blocks(loader, 200)
        took = []
        for _ in range(30):
            iterator = iter(loader)
            next(iterator)
            start = time.monotonic()
            del iterator
            took.append(time.monotonic() - start)
        assert sorted(took)[15] < 0.005


@pytest.mark.parametrize("kind", KINDS)
def test_20_exceptions_grow_nothing(kind: str) -> None:
    def fail() -> None:
        with pytest.raises(ValueError, match="outer"):
            list(loader)

    with Loader(datasets.Raises(5, "chained"), **KINDS[kind]) as loader:
        expect_no_growth(fail, times=20)
        loader.dataset.at = 99
        assert list(loader) == list(range(8))


@pytest.mark.parametrize(
    ("kind", "times", "how"),
    [
        ("thread", 1000, "close"),
        ("thread", 300, "drop"),
        ("thread", 300, "drop in mid-epoch"),
        ("fork", 50, "close"),
        ("fork", 20, "drop"),
        ("fork", 20, "drop in mid-epoch"),
    ],
)
def test_loaders_made_used_and_dropped_grow_nothing(
    kind: str, times: int, how: str
) -> None:
    dataset = datasets.Numbers(3)

    def use() -> None:
        loader = Loader(dataset, **KINDS[kind])
        iterator = iter(loader)
        assert next(iterator) == 0
        if how != "drop in mid-epoch":
            assert list(iterator) == [1, 2]
        if how == "close":
            loader.close()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        expect_no_growth(use, times, warm=10)


@pytest.mark.parametrize("kind", KINDS)
def test_iterators_and_loaders_dropped_in_reference_cycles_grow_nothing(
    kind: str,
) -> None:
    class Knot:
        pass

    def tie() -> None:
        knot: Any = Knot()
        knot.itself = knot
        knot.loader = Loader(datasets.Blocks(20), **KINDS[kind])
        knot.iterator = iter(knot.loader)
        next(knot.iterator)
        del knot
        gc.collect()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        expect_no_growth(tie, times=20)


def test_epochs_that_change_a_large_array_hold_no_more_than_a_few_states() -> None:
    large = 500_000
    with Loader(datasets.Stateful(4, large=large), **KINDS["fork"]) as loader:
        list(loader)
        expect_no_growth(lambda: list(loader), times=20)
        pool: Any = loader._pool
        used = os.fstat(pool._dispatch.crew.slots.arena.fd).st_blocks * 512
        # The one in use, the one that is written next, and what batches need.
        assert used < 3 * large * 8 + 2 * 2**20
