"""Which library an array belongs to, so that the result belongs to it too.

array-api-compat knows torch, JAX, CuPy and whatever keeps to the array API standard.
TensorFlow does not keep to it: its tensors are computed as NumPy arrays.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["is_tensorflow", "tensor_namespace", "tensorflow_like"]


def tensor_namespace(x: Any) -> Any | None:
    """The array API of the library that a tensor belongs to.

    Returns:
        None for what NumPy takes: its own arrays, lists, numbers.

    >>> tensor_namespace([1, 2]) is None
    True
    """
    if isinstance(x, (np.ndarray, np.generic)):
        return None
    from array_api_compat import array_namespace, is_array_api_obj

    return array_namespace(x) if is_array_api_obj(x) else None


def is_tensorflow(x: Any) -> bool:
    """Whether ``x`` is a tensor or a variable of TensorFlow."""
    tensorflow: Any = sys.modules.get("tensorflow")
    return hasattr(tensorflow, "is_tensor") and bool(tensorflow.is_tensor(x))


def tensorflow_like(x: Any, array: NDArray[Any]) -> Any:
    """An array as a tensor of TensorFlow, on the device of ``x``."""
    tensorflow: Any = sys.modules["tensorflow"]
    with tensorflow.device(x.device):
        return tensorflow.convert_to_tensor(array)
