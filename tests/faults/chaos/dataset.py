"""Batches known by their bytes, and the faults that strike inside them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import sys
import time
from multiprocessing import parent_process
from typing import TYPE_CHECKING, Any

import numpy as np

from feedline import PyDataset, empty, get_worker_info

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.datasets import Gate

    from .script import Part

_SMALLEST = 100  # bytes
_SLOW = 0.15  # seconds
_NEVER = 300.0  # seconds; a hang ends by the loader's timeout


class Struck(Exception):
    """What a struck batch raises; cannot be rebuilt from its message."""

    def __init__(self, epoch: int, index: int) -> None:
        super().__init__(f"batch {index} of pass {epoch} was struck")
        self.index = index


class Stormy(PyDataset):
    """Every byte of a batch is a function of index, random state and the hooks' work.

    Args:
        part: What is known of it.
        gate: Where each fault leaves a sign, once; None for fair weather.
    """

    def __init__(self, part: Part, gate: Gate | None) -> None:
        super().__init__()
        self.part = part
        self.gate = gate
        self.begun = 0
        self.ended = 0
        self.offset = 0  # changed by the consumer between epochs
        self.table = np.zeros(30_000)  # changed in place by the hook
        self.may_hang = False  # whether the loader has a timeout
        self._kept: list[Any] = []  # by a worker, from one batch to a later one

    def __len__(self) -> int:
        return self.part.length

    def on_epoch_begin(self) -> None:
        self.begun += 1
        self.table[:] = self.begun

    def on_epoch_end(self) -> None:
        self.ended += 1

    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        assert info is not None
        draw = random.Random(f"{self.part.seed} {self.begun} {index}")
        array = self._array(draw)
        self._strike(index)
        state = self.begun, self.ended, self.offset, float(self.table.sum())
        drawn = int(info.rng.integers(2**62)), float(self.rng.random())
        if parent_process() is not None:  # a worker of one's own
            self._keep(array)
        part = array[::2] if draw.random() < 0.5 else array
        return {"index": index, "state": state, "drawn": drawn, "x": [part, array[:9]]}

    def _array(self, draw: random.Random) -> Any:
        largest = self.part.largest
        size = int(_SMALLEST * (largest / _SMALLEST) ** draw.random()) // 4
        array = (empty if draw.random() < 0.5 else np.empty)(size, np.uint32)
        array[:] = np.arange(size, dtype=np.uint32)
        array *= np.uint32(2654435761)
        array += np.uint32(draw.getrandbits(32))
        return array

    def _keep(self, array: Any) -> None:
        """Keep what was built in place, and look whether it is still what it was."""
        for kept, sum_ in self._kept:
            assert int(kept.sum()) == sum_, "an array that a worker kept has changed"
        if array.nbytes < 10**6:
            self._kept = [*self._kept[-3:], (array, int(array.sum()))]

    def _strike(self, index: int) -> None:
        draw = random.Random(f"strike {self.part.seed} {self.begun} {index}")
        if self.gate is None or draw.random() >= self.part.share:
            return
        kind = draw.choice(self.part.strikes)
        if parent_process() is None and kind in (
            "crash in a batch",
            "os._exit",
            "hang",
        ):
            return  # it would be the end of the soak
        if kind == "hang" and not self.may_hang:
            return
        if self.gate.arrive(f"{kind}+{self.begun}+{index}"):
            _FAULTS[kind](self.begun, index)


def _raise(epoch: int, index: int) -> None:
    raise Struck(epoch, index)


_FAULTS: dict[str, Callable[[int, int], object]] = {
    "crash in a batch": lambda *_: ctypes.string_at(0),
    "os._exit": lambda *_: os._exit(3),
    "sys.exit": lambda *_: sys.exit(3),
    "exception": _raise,
    "slow batch": lambda *_: time.sleep(_SLOW),
    "hang": lambda *_: time.sleep(_NEVER),
}


def digest(batch: Any) -> str:
    """Names a batch: its index, what it saw, every byte."""
    sum_ = hashlib.blake2b(digest_size=16)
    plain = {name: value for name, value in batch.items() if name != "x"}
    sum_.update(repr(plain).encode())
    for array in batch["x"]:
        sum_.update(repr((array.dtype, array.shape)).encode())
        sum_.update(np.ascontiguousarray(array).data)
    return sum_.hexdigest()
