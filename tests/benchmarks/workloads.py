"""The batches that every contestant builds.

Where there is something to copy, each batch is made by copying prepared source arrays,
which is part of the work. Each carries its index; the consumer checks the sum, so that a
lost or repeated batch fails the run.
"""

from __future__ import annotations

import time
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

import feedline
from feedline import PyDataset

__all__ = ["Arrays", "Decoded", "InPlace", "Nested", "Pure", "Waiting", "Workload"]


class Workload(PyDataset):
    """Batches of one kind.

    Args:
        batches: In an epoch, long enough that its start does not show.
    """

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches

    def __len__(self) -> int:
        return self.batches

    def stamp_of(self, batch: Any) -> float:
        """The index that a batch carries."""
        return float(batch[0].reshape(-1)[0])


class Arrays(Workload):
    """A float32 array of one shape, and as many int64 labels as it has rows."""

    def __init__(self, batches: int, *shape: int) -> None:
        super().__init__(batches)
        self.x = np.ones(shape, np.float32)
        self.y = np.arange(shape[0])

    def __getitem__(self, index: int) -> Any:
        x = self.x.copy()
        x.reshape(-1)[0] = index
        return x, self.y.copy()


class InPlace(Arrays):
    """The same batches, built where the consumer will see them."""

    def __getitem__(self, index: int) -> Any:
        x = feedline.empty(self.x.shape, self.x.dtype)
        x[:] = self.x
        x.reshape(-1)[0] = index
        return x, self.y.copy()


class Nested(Workload):
    """A dict of 20 arrays of mixed dtype, and strings: 200 KB."""

    def __init__(self, batches: int) -> None:
        super().__init__(batches)
        dtypes = ("f4", "f8", "i2", "i4", "u1")
        self.parts = {
            f"part {number}": np.ones(10_000 // np.dtype(dtype).itemsize, dtype)
            for number, dtype in enumerate(dtypes * 4)
        }
        self.names = [f"sample {number}" for number in range(32)]

    def __getitem__(self, index: int) -> Any:
        parts = {name: part.copy() for name, part in self.parts.items()}
        return {**parts, "names": list(self.names), "index": index}

    def stamp_of(self, batch: Any) -> float:
        return float(batch["index"])


class Decoded(Workload):
    """32 photographs, read from JPEG files and resized to 200 x 200."""

    def __init__(self, batches: int) -> None:
        super().__init__(batches)
        self.files = _photographs()

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        x = np.empty((32, 200, 200, 3), np.uint8)
        for row in range(32):
            with Image.open(BytesIO(self.files[row % len(self.files)])) as image:
                x[row] = np.asarray(image.resize((200, 200)))
        return x, np.array([index])

    def stamp_of(self, batch: Any) -> float:
        return float(batch[1][0])


class Waiting(Workload):
    """Each batch waits 10 ms, one in a hundred 200 ms, as for a disk or a network."""

    def seconds(self, index: int) -> float:
        """How long a batch waits."""
        return 0.2 if index % 100 == 50 else 0.01

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.seconds(index))
        return np.array([index]), np.array([index])


class Pure(Workload):
    """About 5 ms of arithmetic in pure Python, which holds the interpreter's lock."""

    def __init__(self, batches: int) -> None:
        super().__init__(batches)
        start = time.perf_counter()
        _sum_of_squares(100_000)
        self.count = int(100_000 * 0.005 / (time.perf_counter() - start))

    def __getitem__(self, index: int) -> Any:
        return np.array([index]), np.array([_sum_of_squares(self.count)])


def _sum_of_squares(count: int) -> int:
    return sum(number * number % 7 for number in range(count))


@cache
def _photographs() -> list[bytes]:
    """Two photographs of 640 x 427 pixels, which scikit-learn carries."""
    from sklearn import datasets

    folder = Path(datasets.__file__).parent / "images"
    return [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
