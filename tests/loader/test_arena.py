"""One file, cut into slots that have the memory that was reserved."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from feedline.arena import Arena
from tests.loader.arenas import MB, PAGE, fill, memory

if TYPE_CHECKING:
    from types import FrameType


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
