"""How tasks go to workers: several at a time while batches take no time."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from feedline import Loader
from feedline.board import OFFERS, Board
from feedline.dispatch import Dispatch, _Flight
from feedline.records import RECORD_BYTES, Kind, Order, Result
from feedline.slots import Slots
from feedline.snapshot import Version
from tests.datasets import PATIENCE, Blocks, Gate, Numbers, block, die, wait_until

from .test_promises import KINDS, PROCESSES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from feedline.arena import Arena

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


class _Mortal(Blocks):
    """Arrays; every twentieth batch ends its worker, once."""

    def __init__(self, folder: Path, length: int) -> None:
        super().__init__(length)
        self.gate = Gate(folder)

    def __getitem__(self, index: int) -> Any:
        if index % 20 == 19 and self.gate.arrive(index):
            die("SIGKILL")
        return super().__getitem__(index)


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Slots that workers have used because they were offered to them."""
    slots: list[int] = []
    accept = Slots.accepted

    def noting(self: Slots, slot: int, writer: int) -> None:
        slots.append(slot)
        accept(self, slot, writer)

    monkeypatch.setattr(Slots, "accepted", noting)
    return slots


def _slots_of(loader: Any) -> Slots:
    slots: Slots = loader._pool._dispatch.crew.slots
    return slots


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", PROCESSES)
def test_workers_write_where_they_wrote_lately(
    accepted: list[int], kind: str, workers: int
) -> None:
    dataset = Blocks(300)
    with Loader(dataset, **KINDS[kind] | {"workers": workers}) as loader:
        for epoch in range(2):
            for number, (index, numbers) in enumerate(loader):
                assert index == number
                assert (numbers == block(number)).all()
            assert len(accepted) > 20 * (epoch + 1)
            slots = _slots_of(loader)
            # In flight, kept by this loop, offered, and where workers start.
            assert slots._made <= 10 + 2 + (OFFERS + 1) * workers


def test_workers_may_die_while_they_write_where_they_wrote_lately(
    accepted: list[int], tmp_path: Path
) -> None:
    with Loader(_Mortal(tmp_path, 200), **KINDS["fork"]) as loader:
        for number, (index, numbers) in enumerate(loader):
            assert index == number
            assert (numbers == block(number)).all()
        assert loader.stats().deaths == 10
        slots = _slots_of(loader)
        assert all(slots._offers[cell] == slot for slot, cell in slots._offered.items())
        assert sum(map(len, slots._empty)) + len(slots._offered) == 2 * OFFERS
        accepted.clear()
        assert len(list(map(len, loader))) == 200
        assert len(accepted) > 20


@pytest.mark.parametrize("wanted", [True, False])
def test_a_slot_without_memory_is_given_to_nobody(arena: Arena, wanted: bool) -> None:
    board = Board(arena, 1)
    slots = Slots(arena, 4, board.offers)
    crew: Any = SimpleNamespace(slots=slots, pipes=None)
    order = Order(0, 5, 0)
    dispatch = Dispatch(crew, None, {0: order} if wanted else {})  # type: ignore[arg-type]
    slot = slots.lend()
    dispatch._flights[1] = _Flight(order, slot, Version(1))
    ended = dispatch._open([Result(1, 0, 0, slot, 0, Kind.NO_MEMORY)])
    assert [type(completion.error) for completion in ended] == [MemoryError] * wanted
    assert not any(board.offers)
    assert slot not in [slots.lend() for _ in range(10)]
