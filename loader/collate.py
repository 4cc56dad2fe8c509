"""Samples to a batch: what torch's ``default_collate`` does, with arrays for tensors.

Stacking goes where the consumer will see it, so that a worker process sends the batch
without another copy.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import sys
from collections.abc import Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import numpy as np

from .inplace import empty, stack

__all__ = ["collate"]


def collate(samples: Sequence[Any]) -> Any:
    """Join samples into one batch that is made as each of them is.

    ===============================  ====================================================
    samples                          batch
    ===============================  ====================================================
    arrays                           one array, a new axis in front
    torch's tensors                  one tensor, a new axis in front
    numbers                          an array: ``float64``, ``int64``, ``bool``, or the
                                     dtype of NumPy's numbers
    strings, bytes                   a list
    mappings                         a mapping of the same keys
    tuples, named tuples, lists      the same, of as many batches
    dataclasses                      the same, field by field
    ===============================  ====================================================

    Differs from torch: tuples stay tuples and strings are always a list; dataclasses, and
    arrays of strings and objects, are joined too.

    Args:
        samples: One or more, all of one structure; the first one's decides.

    Raises:
        TypeError: They are of a type that nobody can join.
        ValueError: There is none, or arrays differ in shape, or sequences in length.

    >>> collate([(np.zeros(2), 3, "a"), (np.ones(2), 4, "b")])
    (array([[0., 0.],
           [1., 1.]]), array([3, 4]), ['a', 'b'])
    """
    if not samples:
        raise ValueError("a batch needs one sample or more, got none")
    first = samples[0]
    if isinstance(first, (str, bytes)):
        return list(samples)
    if isinstance(first, np.ndarray):
        return _checked_stack(samples)
    if isinstance(first, (bool, int, float, complex, np.generic)):
        return np.asarray(samples)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(first, torch.Tensor):
        return _stacked_tensor(samples)
    if isinstance(first, Mapping):
        return _mapping(first, samples)
    if isinstance(first, Sequence):
        return _sequence(first, samples)
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        joined = copy.copy(first)
        for field in dataclasses.fields(first):
            value = collate([getattr(sample, field.name) for sample in samples])
            object.__setattr__(joined, field.name, value)  # it may be frozen
        return joined
    raise TypeError(
        "samples must be made of arrays, tensors, numbers, strings, mappings, sequences "
        f"and dataclasses, got {type(first)!r}; pass a collate_fn that joins them"
    )


def _checked_stack(arrays: Sequence[Any]) -> Any:
    shapes = {np.shape(array) for array in arrays}
    if len(shapes) != 1:
        raise ValueError(
            "the samples of one batch must have one shape, got "
            f"{sorted(shapes)!r}; pass a collate_fn that pads or crops them"
        )
    return stack(arrays)


def _stacked_tensor(tensors: Sequence[Any]) -> Any:
    import torch

    first = tensors[0]
    # Anything that is not plain memory of one kind is left to torch.
    plain = all(
        type(t) is torch.Tensor
        and t.layout is torch.strided
        and t.device.type == "cpu"
        and (t.dtype, t.shape) == (first.dtype, first.shape)
        and not (t.requires_grad or t.is_quantized or t.is_nested)
        for t in tensors
    )
    nbytes = len(tensors) * math.prod(first.shape) * first.element_size()
    if not plain or not nbytes:
        return torch.stack(tuple(tensors))
    room = torch.from_numpy(empty(nbytes, np.uint8)).view(first.dtype)
    out = room.view(len(tensors), *first.shape)
    return torch.stack(tuple(tensors), out=out)


def _mapping(first: Mapping[Any, Any], samples: Sequence[Any]) -> Any:
    joined = {key: collate([sample[key] for sample in samples]) for key in first}
    if type(first) is dict:
        return joined
    try:
        if isinstance(first, MutableMapping):
            clone = copy.copy(first)  # it may have more than its items
            clone.update(joined)
            return clone
        return type(first)(joined)  # type: ignore[call-arg]
    except TypeError:
        return joined


def _sequence(first: Sequence[Any], samples: Sequence[Any]) -> Any:
    if any(len(sample) != len(first) for sample in samples):
        raise ValueError(
            "the samples of one batch must have one length, got "
            f"{sorted({len(sample) for sample in samples})!r}; pass a collate_fn that "
            "pads or crops them"
        )
    joined = [collate(column) for column in zip(*samples, strict=True)]
    if type(first) is list:
        return joined
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*joined)
    try:
        if isinstance(first, MutableSequence):
            clone = copy.copy(first)
            clone[:] = joined
            return clone
        return type(first)(joined)  # type: ignore[call-arg]
    except TypeError:
        return joined
