"""The batches that every contestant builds.

Each is made by copying prepared source arrays, which is part of the work, and is stamped
with its index; the consumer checks the sum of the stamps, so that a lost or repeated
batch fails the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import feedline
from feedline import PyDataset

__all__ = ["WORKLOADS", "InPlace", "Stamped", "Workload", "stamp_of"]


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the table.

    Attributes:
        name: What the row is called.
        shape: Of the float32 array in each batch; as many int64 labels go with it.
        batches: In an epoch, long enough that its start does not show.
    """

    name: str
    shape: tuple[int, ...]
    batches: int


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("small", (32, 8), 3000),
        Workload("mid", (64, 3, 64, 64), 300),
        Workload("big", (64, 3, 224, 224), 40),
    )
}


class Stamped(PyDataset):
    """The batches of one workload."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.workload = workload
        self.batches = workload.batches
        self.x = np.ones(workload.shape, np.float32)
        self.y = np.arange(workload.shape[0])

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> Any:
        x = self.x.copy()
        x.reshape(-1)[0] = index
        return x, self.y.copy()


class InPlace(Stamped):
    """The same batches, built where the consumer will see them."""

    def __getitem__(self, index: int) -> Any:
        x = feedline.empty(self.x.shape, self.x.dtype)
        x[:] = self.x
        x.reshape(-1)[0] = index
        return x, self.y.copy()


def stamp_of(batch: Any) -> float:
    """The index that a batch carries."""
    return float(batch[0].reshape(-1)[0])
