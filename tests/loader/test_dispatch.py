"""How tasks go to workers: several at a time while batches take no time."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from feedline import Loader
from feedline.records import RECORD_BYTES
from tests.datasets import PATIENCE, Gate, Numbers, wait_until

from .test_promises import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LEARNT = 100  # batches after which the engine knows that they are quick


def test_tasks_of_quick_batches_go_out_in_one_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that one worker is woken for them, and not one for each."""
    sizes = []
    write = os.write

    def noting(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(fd, data)

    monkeypatch.setattr("os.write", noting)
    monkeypatch.setattr("feedline.dispatch._PATIENCE", PATIENCE)
    length = 2 * _LEARNT
    with Loader(Numbers(length), max_queue_size=20, **KINDS["fork"]) as loader:
        assert list(loader) == list(range(length))
    assert sizes[:20] == [RECORD_BYTES] * 20  # nothing is known of them yet
    assert sum(sizes) == length * RECORD_BYTES
    assert max(sizes) == 8 * RECORD_BYTES  # half of what two workers leave free


def _batches(loader: Loader) -> Iterator[int]:
    """Batches; the later ones are asked for when every worker has gone to sleep."""
    for batch in loader:
        yield batch
        if batch >= _LEARNT - 20:
            wait_until(_all_sleep, "all are idle")


def _all_sleep() -> bool:
    workers = psutil.Process().children()
    return all(worker.status() == psutil.STATUS_SLEEPING for worker in workers)


class _Pairs(Numbers):
    """Quick batches, and at the end two that are built at once or not at all."""

    def __init__(self, folder: Path, first: int) -> None:
        super().__init__(first + 2)
        self.gate = Gate(folder)
        self.first = first

    def __getitem__(self, index: int) -> int:
        if 0 <= index - self.first < 2:
            self.gate.arrive(index)
            self.gate.await_arrival(2 * self.first + 1 - index)
        return index


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("first", range(_LEARNT, _LEARNT + 4))
def test_after_quick_batches_slow_ones_are_built_side_by_side(
    first: int, in_order: bool, tmp_path: Path
) -> None:
    dataset = _Pairs(tmp_path, first)
    with Loader(dataset, in_order=in_order, **KINDS["fork"]) as loader:
        assert sorted(_batches(loader)) == list(range(len(dataset)))


class _Slower(Numbers):
    """Quick batches, and three at the end; the first of them takes a while."""

    def __init__(self, folder: Path) -> None:
        super().__init__(10 + 3 * _LEARNT)  # ten at once, and then three at a time
        self.gate = Gate(folder)
        self.first = self.length - 3

    def __getitem__(self, index: int) -> int:
        if index == self.first:
            time.sleep(0.05)
        if index > self.first:
            self.gate.arrive(index)
            self.gate.await_arrival(2 * self.first + 3 - index)
        return index


def test_slow_batches_are_built_side_by_side_though_one_has_answered(
    tmp_path: Path,
) -> None:
    """Its answer says that they are slow, while others still lie where they lay."""
    dataset = _Slower(tmp_path)
    with Loader(dataset, **KINDS["fork"]) as loader:
        for batch in loader:
            if batch == dataset.first - 9:
                wait_until(_all_sleep, "all are idle")
            if batch == dataset.first - 8:  # the three have been asked for
                dataset.gate.await_arrival(dataset.first + 1)
    assert batch == len(dataset) - 1


class _Last(Numbers):
    """The last batch but one is over when all others were received."""

    def __init__(self, folder: Path, last: int) -> None:
        super().__init__(last + 2)
        self.gate = Gate(folder)
        self.last = last

    def __getitem__(self, index: int) -> int:
        if index == self.last:
            self.gate.pass_through(index)
        return index


@pytest.mark.parametrize("last", range(_LEARNT, _LEARNT + 4))
def test_after_quick_batches_one_that_hangs_holds_no_other_back(
    last: int, tmp_path: Path
) -> None:
    dataset = _Last(tmp_path, last)
    with Loader(dataset, in_order=False, **KINDS["fork"]) as loader:
        received = set()
        for batch in _batches(loader):
            received.add(batch)
            if len(received) == len(dataset) - 1:
                assert last not in received
                dataset.gate.let(last)
    assert received == set(range(len(dataset)))
