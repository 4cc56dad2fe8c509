"""Batch to slot and back.

A slot holds: a header, buffers at multiples of 64 bytes, the table of the buffers, the
pickle stream. A small batch has no buffers, so that all of it fits in the first page. What
comes back are arrays over the slot itself; an anchor that they all keep alive tells the
arena when the last of them is gone.
"""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from .arena import HEADER, raw
from .pickling import pickled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .arena import Arena, Slots

__all__ = ["Writer", "read"]

_START = 64  # bytes; the header, and the alignment of every buffer
_SMALLEST = 4096  # bytes; below, a copy is cheaper than a view


class Writer:
    """Writes one object into one slot. A worker's; the parent's for a dataset's state.

    Args:
        arena: Where the slot lies.
        slot: Its number; lent to this writer.
    """

    def __init__(self, arena: Arena, slot: int) -> None:
        self._arena = arena
        self._slot = slot
        self._top = _START
        # address -> offset, and the room itself, whose address no one else may get
        self._placed: dict[int, tuple[int, NDArray[np.uint8]]] = {}

    def place(self, size: int) -> NDArray[np.uint8]:
        """Room for ``size`` bytes in the slot; a buffer made there is not copied again."""
        offset = self._advance(size)
        room = self._arena.reserve(self._slot, self._top)[offset : offset + size]
        self._placed[_address(room)] = offset, room
        return room

    def offset_of(self, room: NDArray[np.uint8]) -> int:
        """Where in the slot a room of :meth:`place` begins."""
        return self._placed[_address(room)][0]

    def write(self, value: Any) -> int:
        """Put ``value`` into the slot.

        Returns:
            The bytes that it fills.

        Raises:
            PicklingError, TypeError, AttributeError: It cannot be pickled.
            MemoryError: There is not enough shared memory.
        """
        whole = pickled(value, smallest=_SMALLEST, place=self.place)
        table: list[int] = []
        missing = []
        for buffer in whole.buffers:
            if self._placed and (address := _address(buffer)) in self._placed:
                offset = self._placed[address][0]
            else:
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

    def _advance(self, size: int) -> int:
        offset = self._top
        self._top = offset + -(-size // _START) * _START
        return offset


def read(slots: Slots, slot: int, size: int) -> Any:
    """Take what a worker wrote out of a lent slot.

    The slot is free again when the object's last view of it is gone, at once if it has
    none.

    Args:
        slots: Its keeper.
        slot: Its number.
        size: What :meth:`Writer.write` returned.

    Raises:
        Exception: Whatever the object raises when it is put together.
    """
    anchor = slots.arena.anchor(slot, size)
    whole = raw(anchor)[:size]
    _, at, length, count = HEADER.unpack_from(whole)
    if not count:
        try:
            return pickle.loads(whole[at : at + length])
        finally:
            slots.free(slot, size)
    if slots.leased >= slots.most_leased:
        whole = memoryview(bytearray(whole))  # the consumer keeps very many
        slots.free(slot, size)
    else:
        slots.lease(slot, size, anchor)
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
