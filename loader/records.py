"""The values that travel between the parts of the engine.

``Task`` and ``Result`` cross the two pipes as records of 32 bytes each: far below
``PIPE_BUF``, so that the kernel makes every read and every write of one atomic.
``Completion`` stays in the parent. Nobody changes one of these after it was made, but for
the ``attempts`` of an order; they are not frozen because that would triple the time to
make one, several times for each batch.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["RECORD_BYTES", "Completion", "Kind", "Order", "Result", "Task"]

RECORD_BYTES = 32

_TASK = struct.Struct("<qqiiii")  # number, index, epoch, slot, version, state slot
_RESULT = struct.Struct("<qqqiHH")  # number, size, busy, slot, worker, kind


@dataclass(slots=True)
class Order:
    """One batch that the engine asks a pool for.

    Attributes:
        ticket: Number of the request; it never repeats in the life of a loader.
        index: Which batch.
        epoch: In which epoch, from 0.
        attempts: How many workers it has cost: those that died of it or hung in it.
    """

    ticket: int
    index: int
    epoch: int
    attempts: int = 0


@dataclass(slots=True)
class Task:
    """An order on its way to a worker process.

    Attributes:
        number: Of this sending; an order that is sent again gets another.
        index: Which batch.
        epoch: In which epoch, from 0; below 2**31.
        slot: Where to put the answer, unless another is offered to the worker.
        version: Which state of the dataset to build it from.
        state_slot: Where that state lies; 0 if the worker was born with it.
    """

    number: int
    index: int
    epoch: int
    slot: int
    version: int
    state_slot: int

    def pack(self) -> bytes:
        """The 32 bytes that cross the pipe."""
        return _TASK.pack(
            self.number,
            self.index,
            self.epoch,
            self.slot,
            self.version,
            self.state_slot,
        )

    @classmethod
    def unpack(cls, record: bytes) -> Task:
        """Read what :meth:`pack` wrote."""
        return cls(*_TASK.unpack(record))


class Kind:
    """What an answer holds. Plain numbers, because an enum's cost a microsecond each."""

    BATCH: Final = 0  # the batch
    RAISED: Final = 1  # the exception that building it raised, which may be for once
    ERROR: Final = 2  # another exception, which is for good
    NO_MEMORY: Final = 3  # nothing: there was no shared memory, not even for that
    READY: Final = 4  # no answer yet: the worker has started
    FAILED: Final = 5  # the exception that kept the worker from starting


@dataclass(slots=True)
class Result:
    """A worker's answer to one task.

    Attributes:
        number: The task's.
        size: Bytes that the answer fills in its slot.
        busy: Nanoseconds spent on building and encoding it.
        slot: Where it lies.
        worker: Number of the worker, from 0; below 2**16.
        kind: What it holds, one of :class:`Kind`.
    """

    number: int
    size: int
    busy: int
    slot: int
    worker: int
    kind: int

    def pack(self) -> bytes:
        """The 32 bytes that cross the pipe."""
        return _RESULT.pack(
            self.number, self.size, self.busy, self.slot, self.worker, self.kind
        )

    @classmethod
    def unpack_all(cls, records: bytes) -> list[Result]:
        """Read any number of packed results, in the order in which they were written."""
        return [cls(*fields) for fields in _RESULT.iter_unpack(records)]


@dataclass(slots=True)
class Completion:
    """The end of one order, as the engine sees it.

    Attributes:
        ticket: The order's.
        batch: What ``__getitem__`` returned; None if it raised.
        error: What it raised; None if it returned.
        size: Bytes of the batch, 0 where nobody counted.
        busy: Nanoseconds a worker spent on it.
        again: Whether the error may be for once: building it raised an ``Exception``.
    """

    ticket: int
    batch: Any = None
    error: BaseException | None = None
    size: int = 0
    busy: int = 0
    again: bool = False
