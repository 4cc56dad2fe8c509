"""Shared memory: one anonymous file, cut into slots.

The file has no name, so that nothing is left when its last process ends, and it is not
charged to ``/dev/shm``. It is sparse: a slot takes as much memory as was written there. One
descriptor serves any number of batches.
"""

from __future__ import annotations

import gc
import mmap
import os
import struct
import tempfile
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from .mapped import Mapped, punch_hole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .mapped import PageLock

__all__ = ["HEADER", "Arena", "raw"]

HEADER = struct.Struct("<qqqq")  # allocated bytes; body at, body size; buffers

_SIZES = (2**62, 2**53, 2**43)  # bytes; the largest sparse file that the system allows
_MOST_STRIDE = 2**40  # bytes from slot to slot
_LEAST_SLOTS = 2**13
_MOST_MAPPED = 1024  # slots mapped at once, of those that nobody views


def raw(array: Any) -> memoryview:
    """The bytes of an array; numpy's type stubs call it no buffer before Python 3.12."""
    return memoryview(array)


def _own(memory: NDArray[np.uint8]) -> None:
    """Write to each page of a private mapping, which makes it a copy."""
    pages = memory[:: mmap.PAGESIZE]
    pages[...] = pages.copy()


class Arena:
    """The file, as one process sees it.

    Args:
        fd: The file. Whoever made the arena closes it.
        stride: Bytes from slot to slot: the largest batch there can be.
        capacity: How many slots there can be; only their keeper asks.

    Attributes:
        page_lock: Locks the memory of what is read here, if it is set.
    """

    page_lock: PageLock | None = None

    def __init__(self, fd: int, stride: int, capacity: int = _LEAST_SLOTS) -> None:
        self.fd = fd
        self.stride = stride
        self.capacity = capacity
        self._mapped: dict[int, NDArray[np.uint8]] = {}
        self._private: list[tuple[weakref.ref[Any], int]] = []  # mappings, bytes used

    @classmethod
    def create(cls, *, anonymous: bool = hasattr(os, "memfd_create")) -> Arena:
        """Make the file.

        Args:
            anonymous: True for memory, False for an unlinked file in the temporary
                folder, where the system has no anonymous ones.
        """
        if anonymous:
            fd = os.memfd_create("feedline", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile(prefix="feedline-") as file:
                fd = os.dup(file.fileno())
        refusal = OSError()
        for size in _SIZES:
            try:
                os.ftruncate(fd, size)
            except OSError as error:
                refusal = error
                continue
            stride = min(_MOST_STRIDE, size // _LEAST_SLOTS)
            return cls(fd, stride, size // stride)
        os.close(fd)
        refusal.add_note(
            "worker processes need a temporary folder that allows sparse files of 8 TiB; "
            "load in threads (use_multiprocessing=False)"
        )
        raise refusal

    def view(self, slot: int, size: int) -> NDArray[np.uint8]:
        """At least the first ``size`` bytes of a slot, shared with all processes."""
        array = self._mapped.get(slot)
        if array is None or len(array) < size:
            if len(self._mapped) >= _MOST_MAPPED:
                self._mapped.clear()
            array = self._mapped[slot] = self._map(slot, size, private=False)
        return array

    def anchor(self, slot: int, size: int) -> NDArray[np.uint8]:
        """An array over the slot that every array made from it keeps alive.

        The base of an array over a part of another is whatever that other one lies over,
        as far down as there are arrays. This one lies over no array.
        """
        array = self.view(slot, size)
        mapped: Any = array.base
        if self.page_lock is not None:
            (allocated,) = struct.unpack_from("<q", raw(array))
            mapped.lock(self.page_lock, allocated)
        return np.asarray(mapped)

    def private_view(self, slot: int, size: int) -> NDArray[np.uint8]:
        """The first ``size`` bytes; what is written there stays in this process.

        What is *read* there is the slot's until :meth:`detach`.
        """
        array = self._map(slot, size, private=True)
        self._private.append((weakref.ref(array.base), size))
        return array

    def detach(self) -> None:
        """Make private views that someone still holds independent of their slots."""
        if any(mapping() is not None for mapping, _ in self._private):
            gc.collect()  # held by nothing but a cycle is not held
        for mapping, size in self._private:
            if (held := mapping()) is not None:
                _own(np.asarray(held)[:size])
        self._private.clear()

    def part(self, slot: int, anchor: NDArray[np.uint8], size: int) -> None:
        """Make a mapping that someone still holds independent of its slot.

        No one who reads there meanwhile sees anything but what was there before.

        Args:
            slot: Its number; nobody else may write there yet.
            anchor: One of :meth:`anchor`'s.
            size: Bytes of it that are in use.

        Raises:
            MemoryError: There is none for the copy.
        """
        mapped: Any = anchor.base
        mapped.part(self.fd, slot * self.stride)
        _own(anchor[:size])
        self.forget(slot)

    def forget(self, slot: int) -> None:
        """Drop the mapping of a slot; arrays over it keep theirs."""
        self._mapped.pop(slot, None)

    def reserve(self, slot: int, size: int) -> NDArray[np.uint8]:
        """Make sure that ``size`` bytes of a slot have memory behind them.

        Writing to a hole when memory is short would end the process with SIGBUS.

        Returns:
            A view of them.

        Raises:
            MemoryError: There is no memory, or the batch is larger than a slot can be.
        """
        if size > self.stride:
            raise MemoryError(
                f"a batch may have {self.stride} bytes at the most, got {size}; make "
                "batches smaller"
            )
        if slot not in self._mapped:  # looking at a hole needs memory too
            self._allocate(slot, 0, HEADER.size)
        array = self.view(slot, size)
        (allocated,) = struct.unpack_from("<q", raw(array))
        if allocated < size:
            size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
            self._allocate(slot, allocated, size)
            struct.pack_into("<q", raw(array), 0, size)
        return array

    def punch(self, slot: int) -> None:
        """Give a slot's memory back to the kernel; it reads as zeros from then on."""
        punch_hole(self.fd, slot * self.stride, self.stride)

    def close(self) -> None:
        """Close the descriptor; arrays over the memory stay valid."""
        self._mapped.clear()
        os.close(self.fd)

    def _allocate(self, slot: int, start: int, end: int) -> None:
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(self.fd, slot * self.stride + start, end - start)
        except OSError as error:
            raise MemoryError(
                f"no shared memory for a batch of {end} bytes: {error.strerror}; lower "
                "max_queue_size or the batch size, or keep fewer batches"
            ) from error

    def _map(self, slot: int, size: int, *, private: bool) -> NDArray[np.uint8]:
        # A power of two, so that growing batches are mapped anew a few times at most.
        room = max(mmap.ALLOCATIONGRANULARITY, 1 << (size - 1).bit_length())
        mapping = Mapped(
            self.fd, slot * self.stride, min(room, self.stride), private=private
        )
        return np.asarray(mapping)
