"""Slots are lent, leased and reused; leased bytes stay what they were."""

from __future__ import annotations

import copy
import errno
import gc
import os
import pickle
import sys
import threading
import weakref
from contextlib import suppress
from pathlib import Path
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

from feedline.arena import BOARD, Arena, Slots
from tests.optional import needs_torch, torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from numpy.typing import NDArray

MB = 2**20
PAGE = 4096


@pytest.fixture(params=["anonymous", "file"])
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    made = Arena.create(anonymous=request.param == "anonymous")
    yield made
    made.close()


@pytest.fixture
def slots(arena: Arena) -> Slots:
    return Slots(arena, spare=4)


def memory(arena: Arena) -> int:
    """Bytes that the file really has."""
    return os.fstat(arena.fd).st_blocks * 512


def fill(arena: Arena, slot: int, size: int, value: int) -> None:
    arena.reserve(slot, size)[8:size] = value  # the first 8 bytes are the arena's


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


def test_what_one_view_writes_every_view_reads(arena: Arena) -> None:
    fill(arena, 3, 5000, 9)
    other = Arena(os.dup(arena.fd), arena.stride)
    try:
        assert other.view(3, 5000)[4999] == 9
        other.view(3, 5000)[4999] = 8
        assert arena.view(3, 5000)[4999] == 8
        assert arena.anchor(3, 5000)[4999] == 8
    finally:
        other.close()


def test_slots_do_not_overlap(arena: Arena) -> None:
    for slot in (1, 2, 3, 100):
        fill(arena, slot, 3 * PAGE, slot)
    for slot in (1, 2, 3, 100):
        assert (arena.view(slot, 3 * PAGE)[8 : 3 * PAGE] == slot).all()
        assert len(arena.view(slot, 3 * PAGE)) >= 3 * PAGE


def test_a_slot_that_grows_keeps_its_data_and_its_old_views(arena: Arena) -> None:
    fill(arena, 1, 100, 5)
    old = arena.view(1, 100)
    for size in (PAGE, 3 * PAGE, MB, 9 * MB):
        grown = arena.reserve(1, size)
        assert len(grown) >= size
        assert (grown[8:100] == 5).all()
        grown[size - 1] = 6
    assert (old[8:100] == 5).all()
    old[50] = 9
    assert arena.view(1, 9 * MB)[50] == 9


def test_reserved_bytes_have_memory_behind_them_before_they_are_written(
    arena: Arena,
) -> None:
    before = memory(arena)
    arena.reserve(1, 8 * MB)
    assert memory(arena) - before >= 8 * MB


def test_looking_at_a_slot_takes_no_memory(arena: Arena) -> None:
    before = memory(arena)
    assert arena.view(5, 64 * MB)[:PAGE].sum() == 0
    assert memory(arena) - before <= 2 * PAGE


def test_reserving_more_than_a_slot_can_be_is_a_memory_error(arena: Arena) -> None:
    with pytest.raises(MemoryError, match=str(arena.stride + 1)):
        arena.reserve(1, arena.stride + 1)


def test_no_memory_is_a_memory_error_and_not_a_signal(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fill(arena, 1, PAGE, 5)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(MemoryError, match=r"batch of .* bytes: No space left"):
            arena.reserve(1, MB)
    # What failed has not been noted as done.
    arena.reserve(1, MB)[MB - 1] = 1
    assert (arena.view(1, PAGE)[8:PAGE] == 5).all()


def test_memory_is_there_without_being_reserved_where_that_does_not_exist(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    arena.reserve(1, MB)[MB - 1] = 1
    assert arena.view(1, MB)[MB - 1] == 1


def test_a_mapping_that_fails_is_a_memory_error() -> None:
    arena = Arena(fd=2**20, stride=2**40)
    with pytest.raises(MemoryError, match="cannot map"):
        arena.view(1, PAGE)


def test_punching_really_gives_the_memory_back(arena: Arena) -> None:
    before = memory(arena)
    fill(arena, 1, 16 * MB, 5)
    assert memory(arena) - before >= 16 * MB
    arena.punch(1)
    assert memory(arena) - before <= 4 * PAGE


def test_a_punched_slot_can_be_reserved_again(arena: Arena) -> None:
    fill(arena, 1, MB, 5)
    arena.forget(1)
    arena.punch(1)
    before = memory(arena)
    again = arena.reserve(1, MB)
    assert memory(arena) - before >= MB
    assert again[8:MB].max() == 0


def test_what_is_written_to_a_private_view_stays_there(arena: Arena) -> None:
    fill(arena, 1, PAGE, 5)
    private = arena.private_view(1, PAGE)
    assert (private[8:PAGE] == 5).all()
    private[8:PAGE] = 6
    assert (arena.view(1, PAGE)[8:PAGE] == 5).all()
    assert (arena.private_view(1, PAGE)[8:PAGE] == 5).all()
    assert (private[8:PAGE] == 6).all()


def test_the_board_has_a_signed_cell_for_each_worker(arena: Arena) -> None:
    board = arena.board(1024)
    assert len(board) == 1024
    for worker in range(1024):
        board[worker] = -worker if worker % 2 else 2**62 + worker
    other = Arena(os.dup(arena.fd), arena.stride)
    try:
        seen = other.board(1024)
        assert seen[3] == -3
        assert seen[1022] == 2**62 + 1022
    finally:
        other.close()


def mappings() -> int:
    """Mappings of any arena in this process."""
    return Path("/proc/self/maps").read_text().count("memfd:feedline")


def test_dropped_views_are_unmapped() -> None:
    before = mappings()
    arena = Arena.create()
    views = [arena.view(1, size) for size in (PAGE, MB, 8 * MB)]
    views.append(arena.private_view(1, PAGE))
    assert mappings() - before >= 4
    views.clear()
    arena.forget(1)
    assert mappings() == before
    arena.close()


def test_an_interrupt_at_any_moment_of_mapping_loses_no_mapping(arena: Arena) -> None:
    arena.reserve(1, PAGE)
    arena.forget(1)
    before = mappings()
    left = 0

    def interrupt(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        code = frame.f_code
        if not code.co_filename.endswith("mapped.py") or code.co_name == "__del__":
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if not left:
                raise KeyboardInterrupt
        return interrupt

    tracer = sys.gettrace()
    # Python 3.12 traces no opcode until some frame has asked for it.
    sys._getframe().f_trace_opcodes = True
    for moment in range(1, 1000):
        left = moment
        with suppress(KeyboardInterrupt):
            sys.settrace(interrupt)
            try:
                arena.view(1, PAGE)
            finally:
                sys.settrace(tracer)
        if left > 0:
            assert moment > 50
            return
        assert mappings() == before, f"moment {moment}"
    raise AssertionError("the moments never end")


def test_slots_that_nobody_views_do_not_use_up_the_mappings() -> None:
    before = mappings()
    arena = Arena.create()
    kept = arena.view(1, PAGE)
    kept[8:] = 5
    for slot in range(2, 3000):
        arena.view(slot, 10)
    assert mappings() - before <= 1100
    assert (kept[8:] == 5).all()
    arena.view(1, PAGE)[9] = 6
    assert kept[9] == 6
    arena.close()


@pytest.mark.parametrize("anonymous", [True, False])
def test_an_arena_that_cannot_be_made_leaves_no_descriptor(
    anonymous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, size: int) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "ftruncate", refuse)
    with pytest.raises(OSError, match="sparse file"):
        Arena.create(anonymous=anonymous)
    assert set(os.listdir("/proc/self/fd")) == before


def test_the_file_has_no_name_and_is_not_inherited_by_programs(arena: Arena) -> None:
    assert "(deleted)" in os.readlink(f"/proc/self/fd/{arena.fd}")
    assert not os.get_inheritable(arena.fd)


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


class Keeping(RuleBasedStateMachine):
    """Whatever is lent, leased, freed and dropped: leased bytes stay what they were."""

    lent = Bundle("lent")
    kept = Bundle("kept")

    @initialize(spare=st.integers(0, 3))
    def begin(self, spare: int) -> None:
        self.arena = Arena.create()
        self.slots = Slots(self.arena, spare=spare)
        self.out: set[int] = set()
        self.held: dict[int, tuple[list[Any], int, int]] = {}  # slot -> views
        self.stamp = 0

    @rule(target=lent)
    def lend(self) -> int:
        slot = self.slots.lend()
        assert slot not in self.out
        assert slot not in self.held
        self.out.add(slot)
        return slot

    @rule(
        target=kept,
        slot=consumes(lent),
        size=st.sampled_from([16, 100, 4096, 5000, 70_000, 300_000]),
        kind=st.sampled_from(["array", "part", "tensor", "memoryview"]),
    )
    def write_and_lease(self, slot: int, size: int, kind: str) -> int:
        self.stamp = self.stamp % 255 + 1
        fill(self.arena, slot, size, self.stamp)
        anchor = self.arena.anchor(slot, size)
        self.slots.lease(slot, size, anchor)
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

    @rule(slot=consumes(lent), size=st.sampled_from([0, 16, 5000, 3_000_000]))
    def free(self, slot: int, size: int) -> None:
        if size:
            fill(self.arena, slot, size, 255)
        self.out.discard(slot)
        self.slots.free(slot, size)

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
