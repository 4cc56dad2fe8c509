"""Mapped memory: a stretch of a file, for as long as any array lies over it.

Mappings are made with the C library's ``mmap``, because Python's own keeps a duplicate of
the descriptor for each.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from typing import Any, Protocol

__all__ = ["Mapped", "PageLock", "punch_hole"]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
    ctypes.c_long,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
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
        sharing = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED
        address = _mmap(None, size, sharing, fd, offset)
        self._pages = _Pages(address, size)
        weakref.finalize(self, self._pages.give_back).atexit = False
        self.__array_interface__ = {
            "data": (address, False),
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
        private = mmap.MAP_PRIVATE | _FIXED
        _mmap(self._pages.address, self._pages.size, private, fd, offset)


class _Pages:
    """What must be given back when a mapping ends, however it ends."""

    __slots__ = ("_locked", "_locked_in", "_unlock", "address", "size")

    def __init__(self, address: int, size: int) -> None:
        self.address = address
        self.size = size
        self._locked = 0
        self._locked_in = 0  # the process; its forked copies have no lock
        self._unlock: Any = None

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

    def give_back(self) -> None:
        self.unlock()
        _libc.munmap(self.address, self.size)


def _mmap(at: int | None, size: int, flags: int, fd: int, offset: int) -> int:
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    address: int | None = _libc.mmap(at, size, protection, flags, fd, offset)
    if address is None or address == ctypes.c_void_p(-1).value:
        code = ctypes.get_errno()
        raise MemoryError(
            f"cannot map {size} bytes of shared memory: {os.strerror(code)}; each batch "
            "that is kept is a mapping: keep fewer, or copies of them"
        )
    return address


def punch_hole(fd: int, offset: int, size: int) -> None:
    """Give the memory behind a stretch of a file back; it reads as zeros from then on."""
    if hasattr(_libc, "fallocate"):
        _libc.fallocate(fd, _PUNCH, offset, size)
