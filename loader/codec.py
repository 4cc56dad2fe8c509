"""Batch to slot and back.

A slot holds: a header, buffers at multiples of 64 bytes, the table of the buffers, the
pickle stream. A small batch has no buffers, so that all of it fits in the first page. What
comes back are arrays over the slot itself; an anchor that they all keep alive tells the
arena when the last of them is gone.
"""

from __future__ import annotations

import gc
import pickle
import struct
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from .arena import HEADER, raw
from .inplace import SMALLEST
from .pickling import pickled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .arena import Arena
    from .slots import Slots

__all__ = ["Writer", "read"]

_START = 64  # bytes; the header, and the alignment of every buffer


class Writer:
    """Writes one object into one slot. A worker's; the parent's for a dataset's state.

    Args:
        arena: Where the slot lies.
        slot: Its number; lent or offered to this writer.
    """

    def __init__(self, arena: Arena, slot: int) -> None:
        self._arena = arena
        self._slot = slot
        self._top = _START
        # What rooms were given of: the slot, as it was mapped then. Every array made in a
        # room keeps its anchor alive.
        self._anchors: list[NDArray[np.uint8]] = []

    def place(self, size: int) -> NDArray[np.uint8]:
        """Room for ``size`` bytes in the slot; a buffer made there is not copied again."""
        offset = self._advance(size)
        mapping = self._arena.reserve(self._slot, self._top).base
        if not self._anchors or self._anchors[-1].base is not mapping:
            self._anchors.append(np.asarray(mapping))
        return self._anchors[-1][offset : offset + size]

    def offset_of(self, room: NDArray[np.uint8] | memoryview) -> int | None:
        """Where in the slot memory lies that :meth:`place` gave; None for any other."""
        if not self._anchors:
            return None
        place = self._find(_address(room), room.nbytes)
        return None if place is None else place[1]

    def restart(self) -> None:
        """Begin again at the top of the slot."""
        self.release()
        self._top = _START

    def release(self) -> None:
        """Part what was placed, and is still held by someone, from the slot.

        To be called before anyone else may write there.

        Raises:
            MemoryError: There is none for the copy; the slot must not be used again.
        """
        if not self._anchors:
            return
        anchors = [weakref.ref(anchor) for anchor in self._anchors]
        self._anchors.clear()
        for generation in (1, 2):  # the young ones take no time
            if any(anchor() is not None for anchor in anchors):
                gc.collect(generation)  # held by nothing but a cycle is not held
        for anchor in anchors:
            if (held := anchor()) is not None:
                self._arena.part(self._slot, held, min(self._top, len(held)))

    def write(self, value: Any) -> int:
        """Put ``value`` into the slot.

        Returns:
            The bytes that it fills.

        Raises:
            PicklingError, TypeError, AttributeError: It cannot be pickled.
            MemoryError: There is not enough shared memory.
        """
        whole = pickled(value, smallest=SMALLEST, place=self.place, home=self._home)
        table: list[int] = []
        missing = []
        for buffer in whole.buffers:
            offset = self.offset_of(buffer)
            if offset is None:
                offset = self._advance(buffer.nbytes)
                missing.append((offset, buffer))
            table += (offset, buffer.nbytes)
        packed = struct.pack(f"<{len(table)}q", *table)
        at = self._advance(len(packed) + len(whole.body)) + len(packed)
        array = self._arena.reserve(self._slot, self._top)
        for offset, buffer in missing:
            array[offset : offset + buffer.nbytes] = np.frombuffer(buffer, np.uint8)
        page = raw(array)
        page[at - len(packed) : at] = packed
        page[at : at + len(whole.body)] = whole.body
        allocated = HEADER.unpack_from(page)[0]
        HEADER.pack_into(page, 0, allocated, at, len(whole.body), len(table) // 2)
        return self._top

    def _home(self, address: int, size: int) -> NDArray[np.uint8] | None:
        place = self._find(address, size)
        return None if place is None else place[0][place[1] : place[1] + size]

    def _find(self, address: int, size: int) -> tuple[NDArray[np.uint8], int] | None:
        for anchor in self._anchors:
            offset = address - _address(anchor)
            if 0 <= offset <= len(anchor) - size:
                return anchor, offset
        return None

    def _advance(self, size: int) -> int:
        offset = self._top
        self._top = offset + -(-size // _START) * _START
        return offset


def read(slots: Slots, slot: int, size: int, writer: int | None = None) -> Any:
    """Take what a worker wrote out of a lent slot.

    The slot is free again when the object's last view of it is gone, at once if it has
    none.

    Args:
        slots: Its keeper.
        slot: Its number.
        size: What :meth:`Writer.write` returned.
        writer: The worker that may use the slot again. One without arrays is too small for
            that to matter.

    Raises:
        Exception: Whatever the object raises when it is put together.
    """
    whole = raw(slots.arena.view(slot, size))
    _, at, length, count = HEADER.unpack_from(whole)
    if not count:
        try:
            return pickle.loads(whole[at : at + length])
        finally:
            del whole  # no mapping may be left of memory that is given back
            slots.free(slot, size)
    anchor = slots.arena.anchor(slot, size)
    whole = raw(anchor)[:size]
    if slots.leased >= slots.most_leased:
        whole = memoryview(bytearray(whole))  # the consumer keeps very many
        del anchor  # and its mapping
        slots.free(slot, size, writer)
    else:
        slots.lease(slot, size, anchor, writer)
        del anchor
    table = struct.unpack_from(f"<{2 * count}q", whole, at - 16 * count)
    buffers = [
        whole[offset : offset + nbytes]
        for offset, nbytes in zip(table[::2], table[1::2], strict=True)
    ]
    return pickle.loads(whole[at : at + length], buffers=buffers)


def _address(memory: NDArray[np.uint8] | memoryview) -> int:
    if isinstance(memory, memoryview):
        memory = np.frombuffer(memory, np.uint8)
    address: int = memory.__array_interface__["data"][0]
    return address
