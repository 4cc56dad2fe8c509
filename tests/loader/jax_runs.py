"""What happens to batches in a process that uses JAX, told to ``test_jax`` as JSON.

A process of its own, because JAX minds forks where it was used.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from feedline import Loader, PyDataset, empty

if TYPE_CHECKING:
    from collections.abc import Callable

WAYS: dict[str, dict[str, Any]] = {
    "inline": {"workers": 0},
    "threads": {"workers": 2},
    "processes": {"workers": 2, "use_multiprocessing": True},
}
LENGTH = 6


class Made(PyDataset):
    """Batches that a function makes of their indices."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        super().__init__()
        self.make = make

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


def full(index: int, shape: Any = (64, 64), dtype: str = "float32") -> Any:
    return np.full(shape, index, dtype)


def in_place(index: int) -> Any:
    array = empty((64, 64), np.float32)
    array[:] = index
    return array


def fortran(index: int) -> Any:
    return np.asfortranarray(full(index))


def nested(index: int) -> Any:
    return {
        "images": full(index, (3, 33, 17), "uint8").repeat(3, axis=0),
        "pair": (full(index, (1025,)), full(index, (2, 2049), "int16")),
    }


BATCHES: dict[str, Callable[[int], Any]] = {
    "float32": full,
    "float16": partial(full, dtype="float16"),
    "int32": partial(full, dtype="int32"),
    "uint8": partial(full, dtype="uint8"),
    "bool": partial(full, dtype="bool"),
    "nested": nested,
    "in place": in_place,
    "4096 bytes": partial(full, shape=(1024,)),
    "float64": partial(full, dtype="float64"),
    "int64": partial(full, dtype="int64"),
    "fortran": fortran,
}


def shared(make: Callable[[int], Any], way: str) -> list[bool]:
    """Of each array, whether JAX lays its own over the same memory."""
    import jax

    found = []
    with Loader(Made(make), **WAYS[way]) as loader:
        for batch in loader:
            there = jax.tree.leaves(jax.device_put(batch))
            for array, copy in zip(jax.tree.leaves(batch), there, strict=True):
                found.append(array.ctypes.data == copy.unsafe_buffer_pointer())
    return found


def kept() -> list[list[float]]:
    """What JAX's arrays hold when slots were written again and again, and are gone."""
    import jax

    with Loader(Made(full), max_queue_size=1, **WAYS["processes"]) as loader:
        arrays = [jax.device_put(batch) for batch in loader]
        for _ in range(3):
            list(map(jax.device_put, loader))
        meanwhile = [float(array.mean()) for array in arrays]
    return [meanwhile, [float(array.mean()) for array in arrays]]


def dispatched() -> list[float]:
    """What computations found that were under way when their batch was dropped."""
    import jax

    @jax.jit
    def slow(square: Any) -> Any:
        rolled = jax.lax.fori_loop(0, 20, lambda _, x: x @ square / 512, square)
        return 0 * rolled.sum() + square.mean()

    make = partial(full, shape=(512, 512))
    found = []
    with Loader(Made(make), max_queue_size=1, **WAYS["processes"]) as loader:
        for _ in range(2):
            found += [slow(jax.device_put(batch)) for batch in loader]
    return [float(value) for value in found]


def started(early: Loader) -> dict[str, Any]:
    """How processes start once JAX is in use, and what is said about it.

    Args:
        early: Was made before.
    """
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("feedline")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    seen = []
    for loader in (early, Loader(Made(full), **WAYS["processes"])):
        with loader:
            seen.append([int(batch[0, 0]) for batch in loader])
    asked = Loader(Made(full), start_method="fork", **WAYS["processes"])
    return {
        "methods": [early.options.start_method, loader.options.start_method],
        "seen": seen,
        "said": said,
        "asked for": asked.options.start_method,
    }


def main() -> None:
    import jax

    warnings.simplefilter("error")  # JAX warns of a fork
    early = Loader(Made(full), **WAYS["processes"])
    jax.devices()
    found: dict[str, Any] = {"started": started(early)}
    for name, make in BATCHES.items():
        found[name] = shared(make, "processes")
    for way in WAYS:
        found[f"in place {way}"] = shared(in_place, way)
    found["kept"] = kept()
    found["dispatched"] = dispatched()
    sys.stdout.write(json.dumps(found) + "\n")
