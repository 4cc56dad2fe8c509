"""Batches for PyTorch: tensors over the memory that workers wrote, and a ``DataLoader``.

Imported by whoever needs it (``import feedline.torch``). torch itself is imported on use.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .device import (
    CudaCopies,
    CudaPageLock,
    checked_prefetch,
    copied_ahead,
    moved,
    usable,
)
from .leaves import rebuilt

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
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
    return rebuilt(batch, _as_tensor)


def tensors(
    loader: Loader, *, device: torch.device | str | None = None, prefetch: int = 1
) -> Tensors:
    """Let a loader's batches come as tensors (:func:`as_tensors`), on a device if wished.

    A tensor lies over the memory that a worker process wrote. That is not used again
    before the last tensor over it is gone.

    With a CUDA device, the memory that worker processes write to is page-locked, each
    stretch once, so that batches are copied to the device from where the worker wrote
    them, while the device computes. The memory is not used again before its copy is
    complete. To other devices batches are copied one by one.

    Args:
        loader: Stays yours to close.
        device: Where the tensors shall be; None leaves them where they are.
        prefetch: How many batches more are on their way to a CUDA device, 0 or more.

    Raises:
        TypeError, ValueError: ``device`` is none that torch can use here, or
            ``prefetch`` is wrong.

    >>> from feedline import Loader, from_samples
    >>> with Loader(from_samples([1.5, 2.5, 3.5], 2)) as loader:
    ...     for batch in tensors(loader):
    ...         print(batch)
    tensor([1.5000, 2.5000], dtype=torch.float64)
    tensor([3.5000], dtype=torch.float64)
    """
    return Tensors(loader, device, prefetch)


class Tensors:
    """The batches of a loader as tensors; one pass is one epoch of the loader.

    Attributes:
        loader: Builds the batches.
        device: Where the tensors are; None for where they were built.
    """

    def __init__(
        self, loader: Loader, device: torch.device | str | None, prefetch: int
    ) -> None:
        self.loader = loader
        self.device = usable(device)
        self._prefetch = checked_prefetch(prefetch)
        self._handed_over: dict[str, Any] | None = None
        if self._ahead:
            loader.lock_pages(CudaPageLock())

    def __len__(self) -> int:
        """Batches in one epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """Begin an epoch of the loader."""
        if self._ahead:
            return self._copied_ahead()
        # A loop of our own would hold each batch, and its memory, while the next is made.
        batches = map(as_tensors, self.loader)
        return batches if self.device is None else map(self._moved, batches)

    def state_dict(self) -> dict[str, Any]:
        """Where the consumer is, as :meth:`feedline.Loader.state_dict` tells it.

        Batches that are on their way to a device are not the consumer's yet.
        """
        return self._handed_over or self.loader.state_dict()

    @property
    def _ahead(self) -> bool:
        return self.device is not None and self.device.type == "cuda"

    def _moved(self, batch: Any) -> Any:
        return rebuilt(batch, lambda leaf: moved(leaf, self.device))

    def _copied_ahead(self) -> Iterator[Any]:
        copies = CudaCopies(self.device)
        batches = copied_ahead(self._stated(), copies, self._prefetch)
        yield from map(self._received, batches)
        self._handed_over = None

    def _received(self, stated: tuple[dict[str, Any], Any]) -> Any:
        self._handed_over, batch = stated
        return batch

    def _stated(self) -> Iterator[tuple[dict[str, Any], Any]]:
        return (
            (self.loader.state_dict(), batch) for batch in map(as_tensors, self.loader)
        )


def as_dataloader(
    loader: Loader, *, distributed: bool = False, pin_memory: bool = False
) -> DataLoader[Any]:
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
        pin_memory: Whether torch copies each batch to memory that is page-locked, for
            trainers that then copy it to a CUDA device while others compute. Where the
            loop is yours, ``tensors(loader, device="cuda")`` does without that copy.

    Raises:
        ValueError: ``pin_memory`` is true, and torch finds no CUDA device.

    >>> from feedline import Loader, from_samples
    >>> with Loader(from_samples(range(10), 4)) as loader:
    ...     batches = as_dataloader(loader)
    ...     len(batches), list(batches)[-1]
    (3, tensor([8, 9]))
    """
    import torch
    from torch.utils.data import DataLoader

    if pin_memory and not torch.cuda.is_available():
        raise ValueError(
            "pin_memory=True needs a CUDA device, and torch finds none here; leave it out"
        )
    return DataLoader(
        _epochs_class()(loader, distributed=distributed),
        batch_size=None,
        collate_fn=as_tensors,
        generator=torch.Generator(),
        pin_memory=pin_memory,
    )


def _as_tensor(leaf: Any) -> Any:
    if type(leaf) in (np.ndarray, np.memmap):
        return _tensor(leaf)
    if isinstance(leaf, np.generic):
        return _tensor(np.array(leaf))
    return leaf


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
