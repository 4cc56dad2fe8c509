"""A part of a dataset, as a view by index.

A view holds the source itself and the indices that are its own: a range, or a compact
array of integers. It reads when it is asked and keeps nothing, so that it costs the same
for any source, may be used in any thread, and travels to worker processes as the source
does: an array mapped from a file goes as the file's name.
"""

from __future__ import annotations

import operator
import reprlib
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeAlias, overload

from feedline import PyDataset, has_hooks

from .nests import Nest, is_array, is_nest, samples_along

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Batches", "Indices", "View", "samples_of"]

Indices: TypeAlias = "range | NDArray[np.signedinteger[Any]]"


class View:
    """Some samples of a source, in an order of their own.

    Args:
        source: Whatever ``source[i]`` gives sample ``i`` of.
        indices: The samples' indices in the source.

    >>> view = View("abcdef", range(1, 6, 2))
    >>> list(view), view[-1], len(view[1:])
    (['b', 'd', 'f'], 'f', 2)
    """

    def __init__(self, source: Any, indices: Indices) -> None:
        self._source = source
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def cardinality(self) -> int:
        """The number of samples, as ``tf.data.Dataset`` has it."""
        return len(self)

    @overload
    def __getitem__(self, index: slice) -> Self: ...
    @overload
    def __getitem__(self, index: int) -> Any: ...
    def __getitem__(self, index: int | slice) -> Any:
        """Read one sample, or take a slice as a view of this one.

        Raises:
            IndexError: There is no such sample.
        """
        length = len(self)
        if isinstance(index, slice):
            return type(self)(self, range(length)[index])
        position = operator.index(index)
        if not -length <= position < length:
            raise IndexError(
                f"index must be from {-length} to {length - 1}, got {index!r}"
            )
        return self._source[int(self._indices[position])]

    def __iter__(self) -> Iterator[Any]:
        """Read the samples one after the other, here and now."""
        for index in self._indices:
            yield self._source[int(index)]

    def __repr__(self) -> str:
        return f"<{len(self)} samples of {type(self._source).__qualname__}>"


class Batches(View, PyDataset):
    """Some batches of a dataset of batches, as a dataset of its own.

    Args:
        source: The dataset. Its ``workers``, ``use_multiprocessing`` and
            ``max_queue_size`` are taken over, and can then be set for each part alone.
        indices: The batches' indices in the source.
    """

    def __init__(self, source: Any, indices: Indices) -> None:
        View.__init__(self, source, indices)
        PyDataset.__init__(
            self,
            workers=getattr(source, "workers", 1),
            use_multiprocessing=getattr(source, "use_multiprocessing", False),
            max_queue_size=getattr(source, "max_queue_size", 10),
        )

    def __repr__(self) -> str:
        return f"<{len(self)} batches of {type(self._source).__qualname__}>"


class _HookedBatches(Batches):
    """Batches whose source has hooks.

    A class of its own, because a loader with hooks runs one epoch at a time, and one
    without is not to be bound by that.
    """

    def on_epoch_begin(self) -> None:
        """Run the source's hook."""
        _run_hook(self._source, "on_epoch_begin")

    def on_epoch_end(self) -> None:
        """Run the source's hook."""
        _run_hook(self._source, "on_epoch_end")


def samples_of(dataset: Any) -> tuple[int, Callable[[Indices], View]]:
    """Find out what the samples of a dataset are.

    Returns:
        How many there are, and what makes a view of some of them.

    Raises:
        TypeError, ValueError: See :func:`feedline.utils.split_dataset`.
    """
    if _has_batches(dataset):
        kind = _HookedBatches if has_hooks(dataset) else Batches
        return _number_of_batches(dataset), partial(kind, dataset)
    if is_nest(dataset):
        nest = Nest(dataset)
        return len(nest), partial(View, nest)
    if is_array(type(dataset)):
        return samples_along(dataset, "dataset"), partial(View, dataset)
    _check_map_style(dataset)
    return len(dataset), partial(View, dataset)


def _has_batches(dataset: Any) -> bool:
    """Whether an object is a dataset of batches, as a loader knows them."""
    hooks = ("on_epoch_begin", "on_epoch_end")
    return not isinstance(dataset, type) and (
        isinstance(dataset, PyDataset)
        or any(hasattr(type(dataset), hook) for hook in hooks)
        or hasattr(dataset, "num_batches")
    )


def _run_hook(dataset: Any, name: str) -> None:
    hook = getattr(dataset, name, None)
    if hook is not None:
        hook()


def _number_of_batches(dataset: Any) -> int:
    try:
        number = dataset.num_batches
    except (AttributeError, NotImplementedError):
        _check_map_style(dataset)
        number = len(dataset)
    if number is None:
        raise ValueError(
            "dataset must have an end, got num_batches=None of "
            f"{type(dataset).__qualname__}"
        )
    return operator.index(number)


def _check_map_style(dataset: Any) -> None:
    kind = type(dataset)
    torch_data: Any = sys.modules.get("torch.utils.data")
    streams = () if torch_data is None else torch_data.IterableDataset
    if isinstance(dataset, streams):
        remedy = "an IterableDataset has no indices"
    elif hasattr(kind, "iloc"):
        remedy = "to_numpy() makes an array of it"
    elif isinstance(dataset, (str, bytes)):
        remedy = "text is no dataset"
    elif isinstance(dataset, type):
        remedy = f"make an object of it: {dataset.__qualname__}(...)"
    elif hasattr(kind, "__len__") and hasattr(kind, "__getitem__"):
        return
    else:
        remedy = "list(...) makes a dataset of what can only be iterated"
    raise TypeError(
        "dataset must be arrays, or an object with __len__ and __getitem__(index), got "
        f"{reprlib.repr(dataset)}; {remedy}"
    )
