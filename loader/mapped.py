"""Mapped memory: a stretch of a file, for as long as any array lies over it.

The stretch is put in the place of memory that Python's own ``mmap`` owns. That one unmaps
it in the end, and from its first moment there is nothing that an interrupt could lose. By
itself Python's ``mmap`` would keep a duplicate of the descriptor for each mapping.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any, Protocol

import numpy as np

__all__ = ["Mapped", "PageLock", "punch_hole"]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
    ctypes.c_long,
]  # fmt: skip
_FIXED = 0x10  # MAP_FIXED: replace what is mapped there, in one step
_PUNCH = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
if hasattr(_libc, "fallocate"):
    _libc.fallocate.argtypes = [
        ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long,
    ]  # fmt: skip


class PageLock(Protocol):
    """Keeps memory where it is, so that a device can read it by itself."""

    def lock(self, address: int, size: int) -> bool:
        """Lock memory; False where that cannot be."""

    def unlock(self, address: int, size: int) -> None:
        """Undo a ``lock`` that was true. Never raises; runs in any thread."""


class Mapped:
    """Mapped memory that lives as long as any array over it.

    Args:
        fd: The file.
        offset: Where in it the stretch begins.
        size: Its bytes.
        private: Whether what is written there stays in this process.

    Raises:
        MemoryError: It cannot be mapped.
    """

    __slots__ = ("__array_interface__", "__weakref__", "_pages")

    def __init__(self, fd: int, offset: int, size: int, *, private: bool) -> None:
        self._pages = _Pages(size)
        sharing = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED
        self._pages.become(sharing, fd, offset)
        self.__array_interface__ = {
            "data": (self._pages.address, False),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }

    def lock(self, page_lock: PageLock, size: int) -> None:
        """Lock the first ``size`` bytes until the memory is unmapped.

        No device may be reading there.
        """
        self._pages.lock(page_lock, size)

    def part(self, fd: int, offset: int) -> None:
        """Put a private mapping of a stretch in the place of this shared one.

        Raises:
            MemoryError: It cannot be mapped.
        """
        self._pages.become(mmap.MAP_PRIVATE, fd, offset)


class _Pages:
    """Addresses that are unmapped when this is gone, and what lies there."""

    _locked = 0  # bytes
    _locked_in = 0  # the process; its forked copies have no lock
    _unlock: Any = None

    def __init__(self, size: int) -> None:
        try:
            self._owner = mmap.mmap(-1, size, mmap.MAP_PRIVATE, mmap.PROT_READ)
        except OSError as error:
            raise _refusal(size, error.errno) from error
        data = np.frombuffer(self._owner, np.uint8).__array_interface__["data"]
        self.address: int = data[0]
        self.size = size

    def become(self, sharing: int, fd: int, offset: int) -> None:
        """Map a stretch of a file there, in one step."""
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        flags = sharing | _FIXED
        at = _libc.mmap(self.address, self.size, protection, flags, fd, offset)
        if at != self.address:
            raise _refusal(self.size, ctypes.get_errno())

    def lock(self, page_lock: PageLock, size: int) -> None:
        if size <= self._locked:
            return
        self.unlock()
        if page_lock.lock(self.address, size):
            self._locked, self._locked_in = size, os.getpid()
            self._unlock = page_lock.unlock

    def unlock(self) -> None:
        if self._locked and self._locked_in == os.getpid():
            self._unlock(self.address, self._locked)
        self._locked = 0

    def __del__(self) -> None:
        self.unlock()


def _refusal(size: int, code: int | None) -> MemoryError:
    return MemoryError(
        f"cannot map {size} bytes of shared memory: {os.strerror(code or 0)}; each batch "
        "that is kept is a mapping: keep fewer, or copies of them"
    )


def punch_hole(fd: int, offset: int, size: int) -> None:
    """Give the memory behind a stretch of a file back; it reads as zeros from then on."""
    if hasattr(_libc, "fallocate"):
        _libc.fallocate(fd, _PUNCH, offset, size)
