"""The dataset as workers must see it, one version after the other.

Hooks and the user change the dataset in the main process between epochs; workers that
live on must see what it became. At the start of an epoch the dataset is pickled with its
large arrays left out. If neither the stream nor any array's fingerprint has changed,
nothing is sent. Otherwise one version is written into the arena for all workers, and of
the arrays only those that no worker has yet: not the ones that a forked worker was born
with, nor the ones that an earlier version brought.
"""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .arena import HEADER, raw
from .codec import Writer
from .errors import DatasetEncodingError
from .pickling import REFUSALS, find_refused, pickled

if TYPE_CHECKING:
    from .arena import Arena
    from .slots import Slots

__all__ = ["Birth", "Version", "Versions", "load"]

_LARGE = 65536  # bytes; smaller arrays travel in the stream
_INHERITED = -1  # in place of a slot: the worker was born with it

Print = bytes  # names the content of one array


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What makes two states of a dataset equal."""

    body: bytes
    prints: tuple[Print, ...]


class _Stored:
    """Keeps a slot of the arena for as long as any version refers to it."""

    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one large array was written."""

    slot: int
    offset: int
    size: int
    stored: _Stored


@dataclass(frozen=True, slots=True)
class Version:
    """One state of the dataset, and where workers find it.

    Attributes:
        number: Rises with each change.
        slot: Where it is written; 0 where every worker was born with it.
        places: Where each large array was written, by content.
        stored: Keeps ``slot``.
    """

    number: int
    slot: int = 0
    places: dict[Print, _Place] = field(default_factory=dict)
    stored: _Stored | None = None


@dataclass(frozen=True, slots=True)
class Birth:
    """What a new worker starts with.

    Attributes:
        version: Number of the version that it has, or has to load.
        slot: Where it has to load it from; 0 if ``dataset`` is it.
        dataset: The forked one.
        inherited: The forked one's large arrays, by content.
    """

    version: int
    slot: int
    dataset: Any = None
    inherited: dict[Print, memoryview] = field(default_factory=dict)


class Versions:
    """Keeps workers' datasets equal to the one in the main process.

    Args:
        dataset: That one.
        slots: Where versions are written.
        forked: Whether workers are born with a copy of it.
        number: Where the numbers of versions go on from.
    """

    def __init__(
        self, dataset: Any, slots: Slots, *, forked: bool, number: int = 0
    ) -> None:
        self._dataset = dataset
        self._slots = slots
        self._forked = forked
        self._snapshot: _Snapshot | None = None
        self._looked: tuple[_Snapshot, list[memoryview]] | None = None  # before a birth
        self._common: set[Print] = set()  # what every living worker was born with
        self._first = True
        self.current = Version(number)

    def changed(self) -> bool:
        """Whether the dataset is not what the workers see, or nobody can tell."""
        try:
            return self._look()[0] != self._snapshot
        except Exception:  # noqa: BLE001 - a dataset that cannot be pickled
            return True

    def renew(self) -> bool:
        """Look at the dataset as it is now, for the epoch that begins.

        Returns:
            Whether workers that live can go on. If not, the dataset cannot be pickled,
            and only a new fork will show its state.

        Raises:
            DatasetEncodingError: It cannot be pickled, and has to be.
        """
        first, self._first = self._first, False
        try:
            snapshot, buffers = self._look()
        except Exception as error:  # whatever the dataset's own pickling raises
            if not self._forked:
                if isinstance(error, REFUSALS):
                    refused = find_refused(self._dataset, "dataset")
                    raise DatasetEncodingError(*refused) from error
                raise
            self._snapshot = None
            self.current = Version(self.current.number + 1)
            return first
        if snapshot == self._snapshot:
            return True
        born_with_it = self._forked and self._snapshot is None
        if born_with_it:
            self.current = Version(self.current.number + 1)
            self._looked = snapshot, buffers
        else:
            self._write(snapshot, buffers, self.current.number + 1)
        # Last: after an interrupt the state must not be taken for one that workers have.
        self._snapshot = snapshot
        return first if born_with_it else True

    def birth(self, *, alone: bool) -> Birth:
        """What a worker that starts now is given.

        Args:
            alone: Whether there are no other workers yet.

        Raises:
            RuntimeError: The epoch's state is gone: an array was changed in place since
                the epoch began.
        """
        current = self.current
        if not self._forked:
            return Birth(current.number, current.slot)
        if self._snapshot is None:
            return Birth(current.number, 0, self._dataset)
        snapshot, buffers = self._looked or self._look()
        self._looked = None
        inherited = dict(zip(snapshot.prints, buffers, strict=True))
        self._common = set(inherited) if alone else self._common & set(inherited)
        if snapshot == self._snapshot:
            return Birth(current.number, 0, self._dataset, inherited)
        # Someone changed the dataset in mid-epoch: not for this epoch's batches.
        gone = set(self._snapshot.prints) - set(inherited) - set(current.places)
        if gone:
            raise RuntimeError(
                "a worker had to be replaced after a large array of the dataset was "
                "changed in mid-epoch; change the dataset between epochs"
            )
        in_order = [
            inherited.get(print_, memoryview(b"")) for print_ in self._snapshot.prints
        ]
        self._write(self._snapshot, in_order, current.number)
        return Birth(current.number, self.current.slot, None, inherited)

    def _look(self) -> tuple[_Snapshot, list[memoryview]]:
        whole = pickled(
            self._dataset, smallest=_LARGE, files=True, prefer_value=not self._forked
        )
        prints: dict[Print, None] = {}
        for buffer in whole.buffers:
            print_ = hashlib.sha1(buffer, usedforsecurity=False).digest()
            while print_ in prints:  # equal arrays are not one array
                print_ += b"+"
            prints[print_] = None
        return _Snapshot(bytes(whole.body), tuple(prints)), whole.buffers

    def _write(
        self, snapshot: _Snapshot, buffers: list[memoryview], number: int
    ) -> None:
        slot = self._slots.lend()
        writer, stored = Writer(self._slots.arena, slot), _Stored()
        places: dict[Print, _Place] = {}
        table = []
        for print_, buffer in zip(snapshot.prints, buffers, strict=True):
            if print_ in self._common:
                table.append((print_, _INHERITED, 0, 0))
                continue
            place = self.current.places.get(print_) or _Place(
                slot, _copy_in(writer, buffer), buffer.nbytes, stored
            )
            places[print_] = place
            table.append((print_, place.slot, place.offset, place.size))
        size = writer.write((snapshot.body, table))
        # No batch is as large as a state may be: its memory goes back at once.
        self._slots.lease(slot, size, stored, keep=False)
        self.current = Version(number, slot, places, stored)


def load(arena: Arena, slot: int, inherited: dict[Print, memoryview]) -> Any:
    """Take a version of the dataset out of the arena, in a worker.

    What the worker writes into its arrays stays its own.

    Args:
        arena: The worker's.
        slot: Where the version lies.
        inherited: What the worker was born with.

    Raises:
        Exception: Whatever the dataset raises when it is put together.
    """
    _, at, length, _ = HEADER.unpack_from(raw(arena.view(slot, HEADER.size)))
    whole = raw(arena.private_view(slot, at + length))
    body, table = pickle.loads(whole[at : at + length])
    buffers = []
    for print_, where, offset, size in table:
        if where == _INHERITED:
            buffers.append(inherited[print_])
        elif where == slot:
            buffers.append(whole[offset : offset + size])
        else:
            other = raw(arena.private_view(where, offset + size))
            buffers.append(other[offset : offset + size])
    return pickle.loads(body, buffers=buffers)


def _copy_in(writer: Writer, buffer: memoryview) -> int:
    room = writer.place(buffer.nbytes)
    room[:] = np.frombuffer(buffer, np.uint8)
    offset = writer.offset_of(room)
    assert offset is not None
    return offset
