"""Build in place: arrays that lie, from the start, where the consumer will see them.

Inside ``__getitem__`` of a worker process :func:`empty` and :func:`stack` take memory of
the slot that the batch goes to, so that a batch made of it is sent without a copy.
Everywhere else, and in threads that ``__getitem__`` starts, they are as ``np.empty`` and
``np.stack``.
What the user's code keeps of such an array beyond its batch stays what it was: the worker
finds it out and parts it from the slot. Only a process that ``__getitem__`` forks, and that
outlives the batch, must not read on.
"""

from __future__ import annotations

import math
import operator
import os
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .seeding import get_worker_info

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from .seeding import WorkerInfo

__all__ = ["SMALLEST", "Room", "Site", "empty", "stack"]

SMALLEST = 4096  # bytes; below, a copy is cheaper than a view
_ALIGNMENT = 64  # bytes; as the slots' own


class Room(Protocol):
    """The slot of one batch, as far as it is built in place."""

    def place(self, size: int) -> NDArray[np.uint8]:
        """Room for ``size`` bytes."""


class Site:
    """Where one worker process builds in place: now in this slot, now in that.

    Attributes:
        room: The slot of the batch that is being built; None between batches.
    """

    __slots__ = ("_info", "_owner", "room")

    def __init__(self) -> None:
        self.room: Room | None = None
        self._info: WorkerInfo | None = None
        self._owner = _here()

    def open(self) -> None:
        """Be what :func:`empty` asks for room, in this thread."""
        _site.set(self)

    def begin(self, info: WorkerInfo) -> None:
        """Begin a batch.

        Args:
            info: What :func:`feedline.get_worker_info` tells meanwhile. A loader inside
                ``__getitem__`` makes that another one, and its batches lie elsewhere.
        """
        self._info = info

    def place(self, size: int) -> NDArray[np.uint8] | None:
        """Room for ``size`` bytes, for the batch that is being built and no other.

        Returns:
            None in any thread and process but the worker's, and for any other batch.
        """
        if self.room is None or self._info is not get_worker_info():
            return None
        return self.room.place(size) if self._owner == _here() else None


_site: ContextVar[Site | None] = ContextVar("feedline_site", default=None)


def empty(shape: int | Sequence[int], dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """Make an array, uninitialised, in the memory that the consumer will see.

    A batch that contains it, a part of it, a transpose or a tensor over it is sent without
    a copy. Made and used like that of ``np.empty``. Everywhere but inside ``__getitem__``
    of a worker process it lies in memory of its own. From 4 KB on it begins at a multiple
    of 64 bytes, as JAX wants it that is not to copy.

    Args:
        shape: One integer, or one for each axis.
        dtype: Of the elements. Python objects are never built in place.

    Raises:
        MemoryError: There is not enough shared memory.
        TypeError, ValueError: ``np.empty`` would refuse the shape or the dtype.

    >>> batch = empty((2, 3), "float32")
    >>> batch[:] = 7
    >>> batch.sum()
    np.float32(42.0)
    """
    kind = np.dtype(dtype)
    sizes = _sizes(shape)
    nbytes = math.prod(sizes) * kind.itemsize
    if nbytes < SMALLEST or min(sizes) < 0 or kind.hasobject:
        return np.empty(shape, kind)
    site = _site.get()
    room = None if site is None else site.place(nbytes)
    return np.ndarray(sizes, kind, _aligned(nbytes) if room is None else room)


def stack(arrays: Iterable[ArrayLike]) -> NDArray[Any]:
    """Stack arrays along a new first axis, in the memory that the consumer will see.

    ``np.stack``, and its dtype, into an array made by :func:`empty`.

    Args:
        arrays: One or more, of one shape: arrays, numbers, torch's CPU tensors.

    Raises:
        MemoryError: There is not enough shared memory.
        ValueError: There is none, or their shapes differ.

    >>> stack([np.zeros(3), np.ones(3)]).shape
    (2, 3)
    """
    parts = [np.asarray(array) for array in arrays]
    if len({part.shape for part in parts}) != 1:
        return np.stack(parts)
    # What numpy joins them to; np.result_type disagrees about some.
    joined = np.concatenate([np.empty(0, part.dtype) for part in parts])
    out = empty((len(parts), *parts[0].shape), joined.dtype)
    return np.stack(parts, out=out)


def _aligned(size: int) -> NDArray[np.uint8]:
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % _ALIGNMENT
    return memory[start : start + size]


def _sizes(shape: int | Sequence[int]) -> tuple[int, ...]:
    try:
        return (operator.index(shape),)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        return tuple(map(operator.index, shape))  # type: ignore[arg-type]


def _here() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()
