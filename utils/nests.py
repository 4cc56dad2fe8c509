"""Arrays in lists, tuples and dicts, read together."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Nest", "is_array", "is_nest", "samples_along"]


class Nest:
    """Arrays in a structure; a sample has the same structure.

    Args:
        arrays: A list, tuple, named tuple or mapping of arrays, or of more of these. The
            samples have tuples in place of lists.

    Raises:
        TypeError: An array has no axis.
        ValueError: There is no array, something else in place of one, or the arrays have
            different numbers of samples.

    >>> nest = Nest({"x": np.array([[1, 2], [3, 4]]), "y": [np.array([0.5, 0.25])]})
    >>> sample = nest[1]
    >>> len(nest), sample["x"].tolist(), float(sample["y"][0])
    (2, [3, 4], 0.25)
    """

    def __init__(self, arrays: Any) -> None:
        self._arrays = _normalized(arrays)
        lengths = {
            path: samples_along(leaf, path) for path, leaf in _leaves(arrays, "dataset")
        }
        if not lengths:
            raise ValueError(f"dataset must have an array in it, got {arrays!r}")
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{path} has {n}" for path, n in lengths.items())
            raise ValueError(
                f"all arrays must have the same number of samples, but {counts}"
            )
        self._length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        return _sample(self._arrays, index)


def is_nest(dataset: Any) -> bool:
    """Whether ``dataset`` is a structure of arrays, rather than a list of samples.

    A list or tuple is one if it has arrays or more structures in it: lists, tuples and
    mappings there are taken for columns that should have been arrays, not for samples.

    >>> is_nest([np.zeros(3), np.ones(3)]), is_nest(["a.png", "b.png"])
    (True, False)
    """
    if isinstance(dataset, (list, tuple)):
        kinds = set(map(type, dataset))  # few, however many samples there are
        return not kinds or any(
            is_array(kind) or issubclass(kind, (list, tuple, Mapping)) for kind in kinds
        )
    return isinstance(dataset, Mapping)


def is_array(kind: type) -> bool:
    """Whether objects of a type are arrays: of NumPy, torch, JAX, TensorFlow, h5py, ..."""
    # A pandas frame has a shape too, but its index is a label.
    if issubclass(kind, np.generic) or hasattr(kind, "iloc"):
        return False
    return hasattr(kind, "shape") and hasattr(kind, "__getitem__")


def samples_along(array: Any, name: str) -> int:
    """The number of samples of an array, which lie along its first axis.

    Raises:
        TypeError: It has no axis.
    """
    if not len(array.shape):
        raise TypeError(f"{name} must have an axis of samples, got {array!r}")
    return int(array.shape[0])


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The arrays of a structure, each with where it is.

    Raises:
        ValueError: There is something else in place of an array.
    """
    if isinstance(node, Mapping):
        for key, part in node.items():
            yield from _leaves(part, f"{path}[{key!r}]")
    elif isinstance(node, (list, tuple)):
        for i, part in enumerate(node):
            yield from _leaves(part, f"{path}[{i}]")
    elif is_array(type(node)):
        yield path, node
    else:
        raise ValueError(
            f"{path} must be an array, got {reprlib.repr(node)}; np.asarray(...) makes "
            "one of a column, and an object with __len__ and __getitem__ can hold samples "
            "of any kind"
        )


def _normalized(node: Any) -> Any:
    """The structure with nothing but tuples and dicts."""
    if isinstance(node, Mapping):
        return {key: _normalized(part) for key, part in node.items()}
    if isinstance(node, (list, tuple)):
        return _tuple_like(node, [_normalized(part) for part in node])
    return node


def _sample(node: Any, index: int) -> Any:
    if isinstance(node, dict):
        return {key: _sample(part, index) for key, part in node.items()}
    if isinstance(node, tuple):
        return _tuple_like(node, [_sample(part, index) for part in node])
    return node[index]


def _tuple_like(node: Any, parts: list[Any]) -> tuple[Any, ...]:
    named: Any = type(node)
    return named(*parts) if hasattr(node, "_fields") else tuple(parts)
