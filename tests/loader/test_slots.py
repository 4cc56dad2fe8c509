"""Slots are lent, leased, offered and reused; leased bytes stay what they were."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
import weakref
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)
from numpy.lib.stride_tricks import as_strided, sliding_window_view

from feedline.arena import Arena
from feedline.board import BOARD, OFFERS, Board
from feedline.slots import Offers, Slots
from tests.loader.arenas import MB, PAGE, fill, memory
from tests.optional import needs_torch, torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray


@pytest.fixture
def slots(arena: Arena) -> Slots:
    return Slots(arena, spare=4)


def leased(slots: Slots, size: int = PAGE, value: int = 7) -> NDArray[np.uint8]:
    """The anchor of a slot that was lent, filled and leased."""
    slot = slots.lend()
    fill(slots.arena, slot, size, value)
    anchor = slots.arena.anchor(slot, size)
    slots.lease(slot, size, anchor)
    return anchor


def test_slots_are_numbered_from_one_because_zero_is_the_board(slots: Slots) -> None:
    assert [slots.lend() for _ in range(3)] == [1, 2, 3]
    assert BOARD == 0


def test_a_lent_slot_is_lent_to_nobody_else(slots: Slots) -> None:
    lent = [slots.lend() for _ in range(100)]
    assert len(set(lent)) == 100


def test_the_slot_freed_last_is_lent_first_because_it_is_warm(slots: Slots) -> None:
    first, second = slots.lend(), slots.lend()
    slots.free(first)
    slots.free(second)
    assert [slots.lend(), slots.lend(), slots.lend()] == [second, first, 3]


def test_views_outlive_the_arena() -> None:
    arena = Arena.create()
    slots = Slots(arena, spare=4)
    anchor = leased(slots, MB, 5)
    arena.close()
    del slots, arena
    gc.collect()
    assert (anchor[8:MB] == 5).all()
    anchor[:] = 6


def test_a_slot_is_leased_while_its_anchor_lives_and_no_longer(slots: Slots) -> None:
    anchor = leased(slots)
    assert slots.leased == 1
    assert slots.lend() == 2
    del anchor
    assert slots.leased == 0
    assert slots.lend() == 1


VIEWS: dict[str, Callable[[Any], Any]] = {
    "slice": lambda a: a[3:],
    "slice of a slice": lambda a: a[3:][5:][::2],
    "one element view": lambda a: a[5:6].reshape(()),
    "reshape": lambda a: a.reshape(2, -1)[1],
    "transpose": lambda a: a.reshape(2, -1).T,
    "other dtype": lambda a: a[:8].view("f8"),
    "structured field": lambda a: a.view([("a", "u1"), ("b", "u1")])["b"],
    "real part": lambda a: a[:64].view("c16").imag,
    "ravel": lambda a: a.reshape(2, -1).ravel(),
    "new axis": lambda a: a[None, :, None],
    "squeeze": lambda a: np.squeeze(a[None]),
    "split": lambda a: np.split(a, 4)[2],
    "broadcast": lambda a: np.broadcast_to(a[:4], (3, 4)),
    "strided": lambda a: as_strided(a, (3, 3), (1, 1)),
    "window": lambda a: sliding_window_view(a, 3),
    "flat": lambda a: a.flat,
    "asarray": np.asarray,
    "frombuffer": lambda a: np.frombuffer(memoryview(a), np.uint8)[2:],
    "ndarray": lambda a: np.ndarray((4,), "<i4", memoryview(a), 16),
    "memoryview": lambda a: memoryview(a),
    "part of a memoryview": lambda a: memoryview(a)[5:9].cast("B")[1:],
    "pickle buffer": lambda a: pickle.PickleBuffer(a),
    "masked": lambda a: np.ma.masked_array(a, copy=False),
    "recarray": lambda a: a[:8].view([("a", "i4")]).view(np.recarray),
    "interface": lambda a: np.asarray(Holder(a)),
    "dlpack": lambda a: np.from_dlpack(a),
    "ctypes": lambda a: np.ctypeslib.as_ctypes(a),
    "iterator": lambda a: iter(a.reshape(2, -1)),
    "bound method": lambda a: a.sum,
    "closure": lambda a: lambda: a,
    "cycle": lambda a: cycle_of(a),
}
TENSORS: dict[str, Callable[[Any], Any]] = {
    "tensor": lambda a: torch.from_numpy(a),
    "view": lambda a: torch.from_numpy(a)[4:].view(torch.int16).reshape(2, -1),
    "storage": lambda a: torch.from_numpy(a).untyped_storage(),
    "and back": lambda a: torch.from_numpy(a)[4:].numpy(),
    "detached": lambda a: torch.from_numpy(a).detach(),
    "dlpack": lambda a: torch.from_dlpack(a),
}


class Holder:
    def __init__(self, array: NDArray[np.uint8]) -> None:
        self.array = array
        self.__array_interface__ = array.__array_interface__


def cycle_of(array: NDArray[np.uint8]) -> list[Any]:
    ring: list[Any] = [array]
    ring.append(ring)
    return ring


@pytest.mark.parametrize("kind", VIEWS)
def test_any_view_keeps_the_slot_and_its_death_gives_it_back(kind: str) -> None:
    expect_kept_by(VIEWS[kind])


@needs_torch
@pytest.mark.parametrize("kind", TENSORS)
def test_any_tensor_keeps_the_slot_and_its_death_gives_it_back(kind: str) -> None:
    expect_kept_by(TENSORS[kind])


def expect_kept_by(make: Callable[[Any], Any]) -> None:
    arena = Arena.create()
    slots = Slots(arena, spare=4)
    anchor = leased(slots, 4096)
    view = make(anchor)
    del anchor
    gc.collect()
    assert slots.leased == 1
    assert slots.lend() == 2
    del view
    gc.collect()
    assert slots.leased == 0
    assert slots.lend() == 1
    arena.close()


def test_copies_do_not_hold_the_slot(slots: Slots) -> None:
    anchor = leased(slots, PAGE, 9)
    copies = [
        pickle.loads(pickle.dumps(anchor)),
        copy.deepcopy(anchor),
        anchor.copy(),
        anchor + 1,
        anchor[[1, 2, 3]],
        np.array(anchor),
        bytes(anchor),
        anchor.tolist(),
    ]
    del anchor
    assert slots.leased == 0
    assert copies[0][100] == 9


def test_a_lease_may_end_in_another_thread(slots: Slots) -> None:
    box = [leased(slots)]
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    assert slots.leased == 0
    assert slots.lend() == 1


def test_leases_that_end_while_the_keeper_works_are_not_lost(slots: Slots) -> None:
    """A collection may run the callbacks in the middle of any call."""
    for _ in range(60):
        rings = [cycle_of(leased(slots)) for _ in range(3)]
        del rings
    gc.collect()
    slots.lend()
    assert slots.leased == 0
    assert slots.lend() <= 4 * 60


def test_the_keeper_may_go_before_its_leases() -> None:
    arena = Arena.create()
    slots = Slots(arena, spare=4)
    anchor = leased(slots)
    watch = weakref.ref(slots)
    del slots
    gc.collect()
    assert watch() is None
    arena.close()
    assert anchor[100] == 7
    del anchor


def test_five_thousand_kept_leases_take_one_descriptor() -> None:
    arena = Arena.create()
    slots = Slots(arena, spare=4)
    before = len(os.listdir("/proc/self/fd"))
    kept = []
    for number in range(5000):
        slot = slots.lend()
        arena.reserve(slot, 64)[32:40] = np.frombuffer(
            number.to_bytes(8, "little"), np.uint8
        )
        anchor = arena.anchor(slot, 64)
        slots.lease(slot, 64, anchor)
        kept.append(anchor)
        del anchor
    assert len(os.listdir("/proc/self/fd")) == before
    assert slots.leased == 5000
    for number, anchor in enumerate(kept):
        assert int.from_bytes(bytes(anchor[32:40]), "little") == number
    del anchor
    kept.clear()
    assert slots.leased == 0
    arena.close()


def test_kept_batches_that_are_dropped_give_their_memory_back(slots: Slots) -> None:
    before = memory(slots.arena)
    kept = [leased(slots, MB) for _ in range(50)]
    assert memory(slots.arena) - before >= 50 * MB
    kept.clear()
    slots.free(slots.lend(), MB)
    assert memory(slots.arena) - before <= 6 * MB  # four spare ones stay warm


def test_the_coldest_slot_goes_first(slots: Slots) -> None:
    lent = [slots.lend() for _ in range(6)]
    for slot in lent:
        fill(slots.arena, slot, MB, slot)
    for slot in lent:
        slots.free(slot, MB)
    held = [slot for slot in lent if slots.arena.view(slot, MB)[MB - 1] == slot]
    assert held == lent[2:]
    assert [slots.lend() for _ in range(6)] == [6, 5, 4, 3, 2, 1]


def test_one_giant_batch_does_not_hold_its_memory_for_ever(slots: Slots) -> None:
    giant = slots.lend()
    fill(slots.arena, giant, 64 * MB, 1)
    slots.free(giant, 64 * MB)
    for _ in range(300):
        slot, other = slots.lend(), slots.lend()
        for number in (slot, other):
            fill(slots.arena, number, PAGE, 1)
            slots.free(number, PAGE)
    assert memory(slots.arena) <= 4 * MB


def test_a_steady_consumer_s_slots_stay_warm(slots: Slots) -> None:
    for _ in range(200):
        lent = [slots.lend() for _ in range(4)]
        for slot in lent:
            slots.arena.reserve(slot, MB)
            slots.free(slot, MB)
    assert memory(slots.arena) >= 4 * MB
    assert slots.lend() <= 4


def test_when_all_slots_are_taken_it_says_how_many_there_are(arena: Arena) -> None:
    slots = Slots(Arena(arena.fd, arena.stride, capacity=4), spare=4)
    lent = [slots.lend() for _ in range(3)]
    with pytest.raises(MemoryError, match="all 4 slots of shared memory are taken"):
        slots.lend()
    slots.free(lent[1])
    assert slots.lend() == lent[1]


def test_a_retired_slot_is_empty_and_never_lent_again(slots: Slots) -> None:
    slot = slots.lend()
    fill(slots.arena, slot, MB, 5)
    slots.retire(slot)
    assert memory(slots.arena) <= 4 * PAGE
    assert slot not in [slots.lend() for _ in range(20)]


class Offering:
    """The keeper of an arena and what one worker, of two, sees of its offers."""

    def __init__(self, arena: Arena) -> None:
        self.board = Board(arena, 2)
        self.slots = Slots(arena, 4, self.board.offers)
        self.offers = Offers(self.board, 1)

    def written(self, size: int = PAGE) -> int:
        """A slot that the worker has written, from what it was offered or lent."""
        slot = self.offers.take()
        if slot:
            self.slots.accepted(slot, 1)
        else:
            slot = self.slots.lend()
        fill(self.slots.arena, slot, size, 1)
        return slot

    def offered(self, count: int, size: int = PAGE, worker: int = 1) -> list[int]:
        """Slots that a worker has written, in the order in which they are offered to it."""
        lent = [self.slots.lend() for _ in range(count)]
        for slot in lent:
            fill(self.slots.arena, slot, size, 1)
            self.slots.free(slot, size, worker)
        return lent


@pytest.fixture
def offering(arena: Arena) -> Iterator[Offering]:
    made = Offering(arena)
    yield made
    vars(made).clear()  # its mapping of the board


def test_what_the_consumer_drops_is_offered_to_its_writer_and_nobody_else(
    offering: Offering,
) -> None:
    slots = offering.slots
    slot = slots.lend()
    fill(slots.arena, slot, PAGE, 7)
    anchor = slots.arena.anchor(slot, PAGE)
    slots.lease(slot, PAGE, anchor, 1)
    slots.reclaim()
    assert offering.offers.take() == 0
    del anchor
    slots.reclaim()
    assert Offers(offering.board, 0).take() == 0
    assert slots.lend() != slot
    assert offering.offers.take() == slot
    assert offering.offers.take() == 0


def test_what_was_accepted_is_lent_and_can_be_offered_again(offering: Offering) -> None:
    for _ in range(50):
        slot = offering.written()
        offering.slots.free(slot, PAGE, 1)
    assert slot == 1


def test_the_slot_offered_last_is_taken_first_mostly(offering: Offering) -> None:
    lent = offering.offered(3)
    taken = []
    for _ in range(200):
        taken.append(offering.written())
        offering.slots.free(taken[-1], PAGE, 1)
    assert set(taken) == set(lent)
    again = sum(slot == last for last, slot in pairwise(taken))
    assert again > 150


def test_no_more_are_offered_than_there_are_cells(offering: Offering) -> None:
    lent = offering.offered(OFFERS + 2)
    assert [offering.slots.lend() for _ in range(2)] == lent[: OFFERS - 1 : -1]
    assert {offering.offers.take() for _ in range(OFFERS + 1)} == {0, *lent[:OFFERS]}


def test_an_offer_that_was_taken_makes_no_room_until_it_is_heard_of(
    offering: Offering,
) -> None:
    lent = [offering.slots.lend() for _ in range(OFFERS + 2)]
    for slot in lent[:OFFERS]:
        offering.slots.free(slot, PAGE, 1)
    taken = offering.offers.take()
    offering.slots.free(lent[-1], PAGE, 1)
    assert offering.slots.lend() == lent[-1]
    offering.slots.accepted(taken, 1)
    offering.slots.free(lent[-2], PAGE, 1)
    assert offering.offers.take() == lent[-2]


def test_what_a_worker_that_has_ended_had_not_taken_is_lent_again(
    offering: Offering,
) -> None:
    slots = offering.slots
    lent = offering.offered(3, MB)
    taken = offering.offers.take()
    slots.withdraw(0)  # another
    assert sum(slot > 0 for slot in offering.board.offers) == 2
    slots.withdraw(1)
    assert memory(slots.arena) <= 2 * MB + 4 * PAGE
    again = [slots.lend() for _ in range(4)]
    assert taken not in again
    assert set(lent) - {taken} < set(again)
    assert Offers(offering.board, 1).take() == 0
    slots.free(lent[0], MB, 1)  # to the one in its place
    assert Offers(offering.board, 1).take() == lent[0]


def test_giant_slots_that_are_offered_do_not_hold_their_memory_for_ever(
    offering: Offering,
) -> None:
    slots = offering.slots
    for size, batches in (16 * MB, 5), (PAGE, 300):
        kept = []
        for _ in range(batches):
            kept.append(offering.written(size))
            if len(kept) == 3:
                slots.free(kept.pop(0), size, 1)
        for slot in kept:
            slots.free(slot, size, 1)
        if size > PAGE:
            assert memory(slots.arena) >= 3 * size
    assert memory(slots.arena) <= 4 * MB


def test_giant_slots_offered_to_a_worker_that_sleeps_are_called_back(
    offering: Offering,
) -> None:
    slots = offering.slots
    offering.offered(3, 16 * MB, worker=0)
    for _ in range(300):
        slots.free(offering.written(), PAGE, 1)
    slots.recall()
    assert not any(offering.board.offers)
    for _ in range(8):
        slots.free(offering.written(), PAGE, 1)
    assert memory(slots.arena) <= MB


def test_no_more_are_offered_than_may_be_spare(arena: Arena) -> None:
    board = Board(arena, 9)
    slots = Slots(arena, 3, board.offers)
    for worker, slot in enumerate([slots.lend() for _ in range(9)]):
        slots.free(slot, PAGE, worker)
    assert sum(slot > 0 for slot in board.offers) == 3
    slots.recall()
    assert not any(board.offers)


def test_after_a_death_the_slot_offered_last_is_still_taken_first(
    offering: Offering,
) -> None:
    for _ in range(2):
        lent = offering.offered(3)
        assert [offering.offers.take() for _ in lent] == lent[::-1]
        offering.slots.withdraw(1)
        offering.offers = Offers(offering.board, 1)


class Keeping(RuleBasedStateMachine):
    """Whatever is lent, leased, offered and dropped: leased bytes stay what they were."""

    lent = Bundle("lent")
    taken = Bundle("taken")  # by a worker, which the keeper has not heard of
    kept = Bundle("kept")

    @initialize(spare=st.integers(0, 3))
    def begin(self, spare: int) -> None:
        self.arena = Arena.create()
        self.board = Board(self.arena, 2)
        self.slots = Slots(self.arena, spare, self.board.offers)
        self.offers = {worker: Offers(self.board, worker) for worker in range(2)}
        self.out: set[int] = set()
        self.building: dict[int, list[int]] = {0: [], 1: []}  # slots taken, by worker
        self.held: dict[int, tuple[list[Any], int, int]] = {}  # slot -> views
        self.stamp = 0

    @rule(target=lent)
    def lend(self) -> int:
        slot = self.slots.lend()
        assert slot not in self.board.offers.tolist()
        return self.expect_nobodys(slot)

    def expect_nobodys(self, slot: int) -> int:
        assert slot not in self.out
        assert slot not in self.held
        self.out.add(slot)
        return slot

    @rule(target=taken, worker=st.integers(0, 1))
    def take_an_offer(self, worker: int) -> Any:
        slot = self.offers[worker].take()
        if not slot:
            return multiple()
        self.building[worker].append(slot)
        return self.expect_nobodys(slot), worker

    @rule(target=lent, task=consumes(taken))
    def hear_of_it(self, task: tuple[int, int]) -> Any:
        slot, worker = task
        if slot not in self.building[worker]:
            return multiple()  # the worker has ended
        self.building[worker].remove(slot)
        self.slots.accepted(slot, worker)
        return slot

    @rule(worker=st.integers(0, 1))
    def end_a_worker(self, worker: int) -> None:
        self.building[worker].clear()
        self.slots.withdraw(worker)
        self.offers[worker] = Offers(self.board, worker)
        assert self.offers[worker].take() == 0

    @rule()
    def reclaim(self) -> None:
        self.slots.reclaim()

    @rule()
    def call_all_back(self) -> None:
        if not any(self.building.values()):
            self.slots.recall()
            assert not any(self.board.offers)

    @rule(
        target=kept,
        slot=consumes(lent),
        size=st.sampled_from([16, 100, 4096, 5000, 70_000, 300_000]),
        kind=st.sampled_from(["array", "part", "tensor", "memoryview"]),
        writer=st.sampled_from([None, 0, 1]),
    )
    def write_and_lease(
        self, slot: int, size: int, kind: str, writer: int | None
    ) -> int:
        self.stamp = self.stamp % 255 + 1
        fill(self.arena, slot, size, self.stamp)
        anchor = self.arena.anchor(slot, size)
        self.slots.lease(slot, size, anchor, writer)
        view: Any = anchor[8:size]
        if kind == "part":
            view = view[: size // 2].reshape(1, -1)
        elif kind == "tensor" and torch is not None:
            view = torch.from_numpy(view)
        elif kind == "memoryview":
            view = memoryview(view)
        self.out.discard(slot)
        self.held[slot] = [view], self.stamp, size
        return slot

    @rule(
        slot=consumes(lent),
        size=st.sampled_from([0, 16, 5000, 3_000_000]),
        writer=st.sampled_from([None, 0, 1]),
    )
    def free(self, slot: int, size: int, writer: int | None) -> None:
        if size:
            fill(self.arena, slot, size, 255)
        self.out.discard(slot)
        self.slots.free(slot, size, writer)

    @rule(slot=consumes(lent))
    def retire(self, slot: int) -> None:
        self.slots.retire(slot)

    @rule(slot=consumes(kept))
    def drop(self, slot: int) -> None:
        del self.held[slot]

    @rule(slot=kept)
    def swap_the_view_for_a_view_of_it(self, slot: int) -> None:
        views, _, _ = self.held[slot]
        views[0] = np.asarray(views[0]).reshape(-1)[:5]

    @rule(target=lent, count=st.integers(1, 5))
    def lend_many(self, count: int) -> Any:
        return multiple(*[self.lend() for _ in range(count)])

    @invariant()
    def every_leased_byte_is_intact(self) -> None:
        for views, stamp, _ in getattr(self, "held", {}).values():
            assert (np.asarray(views[0]) == stamp).all()

    @invariant()
    def as_many_are_leased_as_are_held(self) -> None:
        if hasattr(self, "slots"):
            assert self.slots.leased == len(self.held)

    def teardown(self) -> None:
        if hasattr(self, "slots"):
            self.held.clear()
            self.slots.lend()
            assert self.slots.leased == 0
            self.arena.close()


Keeping.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestKeeping = Keeping.TestCase
