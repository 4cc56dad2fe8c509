"""The kinds of tensors that are tested here, each made from a NumPy array.

JAX and TensorFlow start threads, after which this process should not fork, as other tests
do. They are tested in processes of their own, for which FEEDLINE_TENSORS names them.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KINDS", "THREADED", "Kind"]

_HERE = os.environ.get("FEEDLINE_TENSORS", "torch strict").split()

# Installed, but not for this process.
THREADED = [name for name in ("jax", "tensorflow") if find_spec(name) is not None]


@dataclass(frozen=True, slots=True)
class Kind:
    """Tensors of one library.

    Attributes:
        name: Of the library.
        make: Makes one from an array.
        zeros: Name of the dtype that the library's ``zeros`` has.
        dtypes: Names of the floating dtypes that it has.
    """

    name: str
    make: Callable[[Any], Any]
    zeros: str
    dtypes: tuple[str, ...]

    def dtype_of(self, tensor: Any) -> str:
        """Name of a tensor's dtype."""
        text = getattr(tensor.dtype, "name", None) or str(tensor.dtype)
        return text.rpartition(".")[2]

    def array_of(self, tensor: Any) -> Any:
        """A tensor as an array; bfloat16, which NumPy lacks, as float32."""
        if self.dtype_of(tensor) == "bfloat16":
            tensor = self.cast(tensor, "float32")
        if self.name == "array_api_strict":
            return np.from_dlpack(tensor).copy()
        return np.asarray(tensor)

    def cast(self, tensor: Any, dtype: str) -> Any:
        """A tensor with another dtype."""
        library: Any = importlib.import_module(self.name)
        if self.name == "tensorflow":
            return library.cast(tensor, dtype)
        if self.name == "torch":
            return tensor.to(getattr(library, dtype))
        return library.astype(tensor, getattr(library, dtype))


def _kinds() -> dict[str, Kind]:
    floats = ("float32", "float64")
    halves = ("float16", "bfloat16")
    rows = [
        ("torch", "torch", "tensor", "float32", halves + floats),
        ("jax", "jax.numpy", "asarray", "float32", (*halves, "float32")),
        ("strict", "array_api_strict", "asarray", "float64", floats),
        ("tensorflow", "tensorflow", "constant", "float32", halves + floats),
    ]
    kinds = {}
    for short, module, maker, zeros, dtypes in rows:
        if short in _HERE and find_spec(module.partition(".")[0]) is not None:
            make = getattr(importlib.import_module(module), maker)
            kinds[short] = Kind(module, make, zeros, dtypes)
    return kinds


KINDS = _kinds()
