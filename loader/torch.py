"""Batches for PyTorch: tensors over the memory that workers wrote, and a ``DataLoader``.

Imported by whoever needs it (``import feedline.torch``). torch itself is imported on use.
"""

from __future__ import annotations

import copy
import dataclasses
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.utils.data import DataLoader

    from feedline import Loader

__all__ = ["Tensors", "as_dataloader", "as_tensors", "tensors"]


def as_tensors(batch: Any) -> Any:
    """Turn the arrays of a batch into tensors over the same memory.

    Dicts, lists, tuples, named tuples and dataclasses are kept, all else is left as it
    is: strings, objects, numbers of Python, tensors, arrays of a dtype that torch has
    not. NumPy's numbers become tensors without axes. Copied are only arrays that a tensor
    cannot share: read-only ones, ones with a negative stride or in another byte order.

    Args:
        batch: Whatever a dataset returns.

    >>> import numpy as np
    >>> as_tensors({"x": np.zeros((2, 3), "float32"), "names": ["a", "b"]})
    {'x': tensor([[0., 0., 0.],
            [0., 0., 0.]]), 'names': ['a', 'b']}
    """
    if type(batch) in (np.ndarray, np.memmap):
        return _tensor(batch)
    if isinstance(batch, np.generic):
        return _tensor(np.array(batch))
    if type(batch) is tuple:
        return tuple(map(as_tensors, batch))
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(as_tensors, batch))
    if type(batch) is list:
        return [as_tensors(part) for part in batch]
    if isinstance(batch, dict):
        changed = {key: as_tensors(part) for key, part in batch.items()}
        if type(batch) is dict:
            return changed
        mapping = copy.copy(batch)  # it may have more than its items
        mapping.update(changed)
        return mapping
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        clone = copy.copy(batch)
        for field in dataclasses.fields(batch):
            value = as_tensors(getattr(batch, field.name))
            object.__setattr__(clone, field.name, value)  # it may be frozen
        return clone
    return batch


def tensors(loader: Loader) -> Tensors:
    """Let a loader's batches come as tensors (:func:`as_tensors`).

    A tensor lies over the memory that a worker process wrote. That is not used again
    before the last tensor over it is gone.

    Args:
        loader: Stays yours to close.

    >>> from feedline import Loader, from_samples
    >>> with Loader(from_samples([1.5, 2.5, 3.5], 2)) as loader:
    ...     for batch in tensors(loader):
    ...         print(batch)
    tensor([1.5000, 2.5000], dtype=torch.float64)
    tensor([3.5000], dtype=torch.float64)
    """
    return Tensors(loader)


class Tensors:
    """The batches of a loader as tensors; one pass is one epoch of the loader.

    Attributes:
        loader: Builds the batches.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        """Batches in one epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """Begin an epoch of the loader."""
        # A loop of our own would hold each batch, and its memory, while the next is made.
        return map(as_tensors, self.loader)


def as_dataloader(loader: Loader, *, distributed: bool = False) -> DataLoader[Any]:
    """Make a ``torch.utils.data.DataLoader`` out of a loader.

    For code that insists on one: Lightning, accelerate's ``prepare``, trainers. Each pass
    is an epoch of the loader, with the loader's workers; batches come as by
    :func:`tensors`. As torch sees it, it has an iterable dataset of ``len(loader)``
    batches (``batch_size=None``, ``num_workers=0``), so that nothing puts a sampler of its
    own in place of the loader's order. torch's global generator is not drawn from.

    Args:
        loader: Stays yours to close.
        distributed: Whether it may be iterated in a process group of several. True says
            that its dataset is this process's share of the batches, or that one process
            reads for all (accelerate's ``dispatch_batches=True``). Otherwise every process
            would train on every batch, and iterating raises a ``RuntimeError``.

    >>> from feedline import Loader, from_samples
    >>> with Loader(from_samples(range(10), 4)) as loader:
    ...     batches = as_dataloader(loader)
    ...     len(batches), list(batches)[-1]
    (3, tensor([8, 9]))
    """
    import torch
    from torch.utils.data import DataLoader

    return DataLoader(
        _epochs_class()(loader, distributed=distributed),
        batch_size=None,
        collate_fn=as_tensors,
        generator=torch.Generator(),
    )


def _tensor(array: np.ndarray[Any, Any]) -> Any:
    import torch

    if array.dtype.kind not in "biufc":
        return array
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    try:
        return torch.from_numpy(array)
    except TypeError:  # torch has no such dtype
        return array


@cache
def _epochs_class() -> Any:
    from torch import distributed as group
    from torch.utils.data import IterableDataset, get_worker_info

    class Epochs(IterableDataset[Any]):  # type: ignore[misc]  # a torch without types
        """What a ``DataLoader`` iterates: the batches of a loader's next epoch.

        Attributes:
            loader: Builds the batches.
        """

        def __init__(self, loader: Loader, *, distributed: bool) -> None:
            self.loader = loader
            self.distributed = distributed

        def __len__(self) -> int:
            return len(self.loader)

        def __iter__(self) -> Iterator[Any]:
            if get_worker_info() is not None:
                raise RuntimeError(
                    "the loader has workers of its own; leave num_workers of the "
                    "DataLoader at 0"
                )
            several = group.is_available() and group.is_initialized()
            several = several and group.get_world_size() > 1
            if several and not self.distributed:
                raise RuntimeError(
                    f"each of {group.get_world_size()} processes would train on every "
                    "batch; give each a loader over its own share of the batches and say "
                    "as_dataloader(loader, distributed=True)"
                )
            return iter(self.loader)

    return Epochs
