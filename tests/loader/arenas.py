"""What tests do to an arena from outside."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feedline.arena import Arena

__all__ = ["MB", "PAGE", "fill", "memory"]

MB = 2**20
PAGE = 4096


def memory(arena: Arena) -> int:
    """Bytes that the file really has."""
    return os.fstat(arena.fd).st_blocks * 512


def fill(arena: Arena, slot: int, size: int, value: int) -> None:
    arena.reserve(slot, size)[8:size] = value  # the first 8 bytes are the arena's
