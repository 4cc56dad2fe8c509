"""A batch as Keras wants it: its form, and weights of its samples by their classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ClassWeights", "described", "standard", "weighted"]


def standard(batch: Any) -> Any:
    """A dict, which is x, or a tuple of one to three parts: x, y, weights of samples.

    Raises:
        TypeError: The batch is nothing of the kind, and no array.
    """
    if isinstance(batch, list):
        batch = tuple(batch)
    if not isinstance(batch, (tuple, dict)):
        if not hasattr(batch, "shape"):
            raise _refusal(batch)
        batch = (batch,)
    if isinstance(batch, dict):
        return batch
    if not 1 <= len(batch) <= 3:
        raise _refusal(batch)
    parts = batch
    while len(parts) > 1 and parts[-1] is None:  # not given, which some backends mind
        parts = parts[:-1]
    return parts


class ClassWeights:
    """Weights of samples by the class in y.

    Args:
        given: Weight of each class, by its number.

    Raises:
        TypeError: It is no mapping from integers to numbers.
    """

    def __init__(self, given: Any) -> None:
        if not isinstance(given, Mapping):
            raise TypeError(
                f"class_weight must be a mapping from classes to weights, got {given!r}"
            )
        for name, weight in given.items():
            numbers = (int, np.integer), (int, float, np.integer, np.floating)
            if not isinstance(name, numbers[0]) or not isinstance(weight, numbers[1]):
                raise TypeError(
                    "class_weight must give numbers of classes, which are integers, a "
                    f"number each, got {name!r}: {weight!r}"
                )
        self._weights = {int(name): float(weight) for name, weight in given.items()}

    def of(self, y: Any) -> NDArray[np.floating[Any]]:
        """The weight of each sample, of shape ``(batch,)`` and Keras' default dtype.

        Args:
            y: Of shape ``(batch,)`` or ``(batch, 1)`` for numbers of classes,
                ``(batch, classes)`` for one-hot rows.

        Raises:
            ValueError: It has another shape, or is no array.
        """
        from keras import config

        array = np.asarray(None if isinstance(y, (dict, list, tuple)) else y)
        if array.ndim == 2 and array.shape[1] > 1:
            classes = array.argmax(axis=1)
        elif array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1):
            classes = np.rint(array.reshape(-1)).astype(np.int64)
        else:
            raise ValueError(
                "class_weight needs y in one array of shape (batch,), (batch, 1) or "
                f"(batch, classes), got {described(y)}"
            )
        known, places = np.unique(classes, return_inverse=True)
        weights = [self._weights.get(number, 1.0) for number in known.tolist()]
        return np.array(weights, config.floatx())[places.reshape(-1)]


def weighted(batch: Any, class_weight: ClassWeights) -> Any:
    """Append weights of the samples to a batch in its standard form.

    Raises:
        ValueError: The batch is not ``(x, y)``, or y is none of classes.
    """
    if not isinstance(batch, tuple) or len(batch) != 2:
        raise ValueError(
            f"class_weight needs batches (x, y), got {described(batch)}; weights of "
            "samples of one's own go into the batch"
        )
    return (*batch, class_weight.of(batch[1]))


def described(value: Any) -> str:
    """Its type and, where it has one, its length or shape."""
    kind = type(value).__qualname__
    if isinstance(value, tuple):
        return f"a {kind} of {len(value)}"
    shape = getattr(value, "shape", None)
    return f"a {kind}" if shape is None else f"a {kind} of shape {tuple(shape)}"


def _refusal(batch: Any) -> TypeError:
    return TypeError(
        "a batch for Keras must be an array, a dict, or a tuple (x,), (x, y) or (x, y, "
        f"sample_weight), got {described(batch)}"
    )
