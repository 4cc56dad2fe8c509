"""How tasks go to workers: several at a time while batches take no time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil
import pytest

from feedline import Loader
from feedline.records import RECORD_BYTES
from tests.datasets import PATIENCE, Gate, Numbers, die, wait_until

from .test_promises import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_QUICK = 100  # batches after which the engine knows that they are quick
_LAST = range(_QUICK, _QUICK + 4)  # however portions fall, two batches are in one write


def _batches(loader: Loader) -> Iterator[int]:
    """Batches; the later ones are asked for when every worker has gone to sleep."""
    for batch in loader:
        yield batch
        if batch >= _QUICK - 20:
            wait_until(_all_sleep, "all are idle")


def _all_sleep() -> bool:
    """Whether no worker runs: each sleeps, or has ended and is not missed yet."""
    states = {worker.status() for worker in psutil.Process().children()}
    return states <= {psutil.STATUS_SLEEPING, psutil.STATUS_ZOMBIE}


class _Ending(Numbers):
    """Quick batches, and two at the end, ``first`` and the one after it."""

    def __init__(self, folder: Path, first: int) -> None:
        super().__init__(first + 2)
        self.gate = Gate(folder)
        self.first = first


class _Paired(_Ending):
    """The two are built at once or not at all."""

    def __getitem__(self, index: int) -> int:
        if index >= self.first:
            self.gate.arrive(index)
            self.gate.await_arrival(2 * self.first + 1 - index)
        return index


class _Slower(_Paired):
    """So are they here, and the one before them takes a while."""

    def __getitem__(self, index: int) -> int:
        if index == self.first - 1:
            time.sleep(0.05)
        return super().__getitem__(index)


class _Hanging(_Ending):
    """The first of the two is over when it is let."""

    def __getitem__(self, index: int) -> int:
        if index == self.first:
            self.gate.pass_through(index)
        return index


class _Deadly(_Ending):
    """The first of the two ends its worker, once."""

    def __getitem__(self, index: int) -> int:
        if index == self.first and self.gate.arrive(index):
            die("SIGKILL")
        return index


def test_tasks_of_quick_batches_go_out_in_one_write(
    writes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that one worker is woken for them, and not one for each."""
    monkeypatch.setattr("feedline.dispatch.PATIENCE", PATIENCE)
    length = 2 * _QUICK
    with Loader(Numbers(length), max_queue_size=20, **KINDS["fork"]) as loader:
        assert list(loader) == list(range(length))
    assert writes[:20] == [RECORD_BYTES] * 20  # nothing is known of them yet
    assert sum(writes) == length * RECORD_BYTES
    assert max(writes) == 8 * RECORD_BYTES  # half of what two workers leave free


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("first", _LAST)
def test_after_quick_batches_slow_ones_are_built_side_by_side(
    first: int, in_order: bool, tmp_path: Path
) -> None:
    dataset = _Paired(tmp_path, first)
    with Loader(dataset, in_order=in_order, **KINDS["fork"]) as loader:
        assert sorted(_batches(loader)) == list(range(len(dataset)))


def test_they_are_so_though_one_of_their_write_has_answered(tmp_path: Path) -> None:
    """Its answer says that they are slow, while they still lie where they lay."""
    portion = 3  # of two workers; the first time, ten are asked for
    dataset = _Slower(tmp_path, 10 + portion * _QUICK - 2)
    with Loader(dataset, **KINDS["fork"]) as loader:
        for batch in loader:
            if batch == dataset.first - 10:
                wait_until(_all_sleep, "all are idle")
            if batch == dataset.first - 9:  # the last three have been asked for
                dataset.gate.await_arrival(dataset.first)
    assert batch == len(dataset) - 1


@pytest.mark.parametrize("first", _LAST)
def test_after_quick_batches_one_that_hangs_holds_no_other_back(
    first: int, tmp_path: Path
) -> None:
    dataset = _Hanging(tmp_path, first)
    with Loader(dataset, in_order=False, **KINDS["fork"]) as loader:
        received = set()
        for batch in _batches(loader):
            received.add(batch)
            if len(received) == len(dataset) - 1:
                assert first not in received
                dataset.gate.let(first)
    assert received == set(range(len(dataset)))


@pytest.mark.parametrize("first", _LAST)
def test_a_worker_that_was_woken_for_several_may_die(
    first: int, tmp_path: Path
) -> None:
    dataset = _Deadly(tmp_path, first)
    with Loader(dataset, **KINDS["fork"]) as loader:
        assert list(_batches(loader)) == list(range(len(dataset)))
        assert loader.stats().deaths == 1
