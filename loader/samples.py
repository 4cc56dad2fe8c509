"""Batches of single samples: any list of them, in an order that is new in each epoch.

No framework is needed, and none is excluded: a list, an array, a map-style dataset of
torch, anything with ``__getitem__`` and ``__len__``.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .checks import integer
from .collate import collate
from .dataset import PyDataset
from .plan import Permutation
from .seeding import batch_key, get_worker_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    # Indices of all samples, and where each batch begins and ends among them.
    _Drawn: TypeAlias = tuple[NDArray[np.int64] | list[Any], NDArray[np.int64]]

__all__ = ["from_samples"]

_OF_SAMPLES = -2  # in place of an index, in the key of an epoch's order of samples


def from_samples(
    samples: Any,
    batch_size: int | None = None,
    *,
    shuffle: bool = False,
    drop_last: bool = False,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    sampler: Iterable[Any] | None = None,
    batch_sampler: Iterable[Sequence[Any]] | None = None,
    workers: int = 1,
    use_multiprocessing: bool = False,
    max_queue_size: int = 10,
) -> PyDataset:
    """Make a dataset of batches from something that gives single samples.

    Args:
        samples: Anything with ``__getitem__(index)`` and ``__len__``, such as a list, an
            array or a map-style torch dataset. ``__getitems__(indices)`` is preferred
            where there is one.
        batch_size: Samples in a batch, 1 or more. Not with ``batch_sampler``.
        shuffle: Whether each epoch of a :class:`feedline.Loader` visits the samples in a
            random order of its own, which its seed and the epoch decide, and neither the
            workers nor the pool. Takes no memory that grows with the number of samples.
            Outside a loader the samples come in their own order.
        drop_last: Whether a last batch with fewer samples is left out.
        collate_fn: Joins a list of samples; None takes :func:`feedline.collate`.
        sampler: Gives the indices of one epoch, in order. Iterated once an epoch, in the
            main process; its ``set_epoch``, if it has one, is for you to call.
        batch_sampler: The same, with a sequence of indices for each batch.
        workers: As for :class:`feedline.PyDataset`.
        use_multiprocessing: As for :class:`feedline.PyDataset`.
        max_queue_size: As for :class:`feedline.PyDataset`.

    Raises:
        TypeError, ValueError: An argument is wrong, or two exclude each other.

    >>> from feedline import Loader
    >>> batches = from_samples([1, 2, 3, 4, 5], 2)
    >>> with Loader(batches) as loader:
    ...     [batch.tolist() for batch in loader]
    [[1, 2], [3, 4], [5]]
    """
    if not hasattr(samples, "__getitem__"):
        raise TypeError(f"samples must have __getitem__(index), got {type(samples)!r}")
    if not hasattr(samples, "__len__") and sampler is None and batch_sampler is None:
        raise TypeError(
            f"samples must have __len__, got {type(samples)!r}; give a sampler, or write "
            "a PyDataset for samples that cannot be counted"
        )
    _exclude(shuffle=shuffle, sampler=sampler)
    _exclude(
        batch_sampler=batch_sampler,
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        sampler=sampler,
    )
    if collate_fn is not None and not callable(collate_fn):
        raise TypeError(f"collate_fn must be callable, got {collate_fn!r}")
    size = (
        1
        if batch_sampler is not None
        else integer(
            "batch_size", batch_size, 1, None, "it is the number of samples in a batch"
        )
    )
    settings = {
        "workers": workers,
        "use_multiprocessing": use_multiprocessing,
        "max_queue_size": max_queue_size,
    }
    join = collate if collate_fn is None else collate_fn
    if sampler is None and batch_sampler is None:
        order = _Order(size, shuffle=shuffle, drop_last=drop_last)
        return _Batches(samples, join, order, **settings)
    return _SampledBatches(
        samples, join, sampler, batch_sampler, size, drop_last, **settings
    )


def _exclude(**options: Any) -> None:
    """Refuse the first option if any of the others is given, too."""
    (first, value), *others = options.items()
    if value is None or value is False:
        return
    for name, other in others:
        if other is not None and other is not False:
            raise ValueError(
                f"{first} and {name} exclude each other, got {value!r} and {other!r}; "
                "give one of them"
            )


class _Order:
    """Which samples make up which batch, worked out where it is asked."""

    def __init__(self, size: int, *, shuffle: bool, drop_last: bool) -> None:
        self._size = size
        self._shuffle = shuffle
        self._drop_last = drop_last
        self._known: tuple[tuple[int, int, int], Permutation] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_known": None}  # what was worked out is no state

    def length(self, count: int) -> int:
        """Batches of ``count`` samples."""
        return _number_of_batches(count, self._size, drop_last=self._drop_last)

    def of_batch(self, index: int, count: int) -> list[int]:
        """The samples of one batch, of ``count`` samples in all."""
        start = index * self._size
        stop = min(start + self._size, count)
        info = get_worker_info()
        if not self._shuffle or info is None:
            return list(range(start, stop))
        whole = info.loader_seed, info.epoch, count
        known = self._known
        if known is None or known[0] != whole:
            key = batch_key(info.loader_seed, info.epoch, _OF_SAMPLES)
            known = self._known = whole, Permutation(count, key)
        return known[1].at(start, stop).tolist()


class _Batches(PyDataset):
    """Batches of samples whose order is arithmetic."""

    def __init__(
        self,
        samples: Any,
        join: Callable[[list[Any]], Any],
        order: Any,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.samples = samples
        self._join = join
        self._order = order

    def __len__(self) -> int:
        length: int = self._order.length(len(self.samples))
        return length

    def __getitem__(self, index: int) -> Any:
        index = _checked_index(index, len(self))
        return self._joined(self._order.of_batch(index, len(self.samples)))

    def _joined(self, indices: list[Any]) -> Any:
        fetch = getattr(self.samples, "__getitems__", None)
        if fetch is not None:
            return self._join(fetch(indices))
        return self._join([self.samples[index] for index in indices])


class _SampledBatches(_Batches):
    """Batches of samples whose order a sampler gives, once an epoch."""

    def __init__(
        self,
        samples: Any,
        join: Callable[[list[Any]], Any],
        sampler: Iterable[Any] | None,
        batch_sampler: Iterable[Sequence[Any]] | None,
        size: int,
        drop_last: bool,
        **settings: Any,
    ) -> None:
        super().__init__(samples, join, None, **settings)
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self._size = size
        self._drop_last = drop_last
        self._drawn: _Drawn | None = None
        self._ahead = False  # whether it was drawn for an epoch that has not begun

    def __getstate__(self) -> dict[str, Any]:
        # Workers get what was drawn; the samplers stay where they are iterated.
        return self.__dict__ | {"sampler": None, "batch_sampler": None}

    def on_epoch_begin(self) -> None:
        """Draw the order of the epoch."""
        if not self._ahead:
            self._draw()
        self._ahead = False

    def __len__(self) -> int:
        sampler: Any = (
            self.sampler if self.batch_sampler is None else self.batch_sampler
        )
        if self._drawn is None and hasattr(sampler, "__len__"):
            count = len(sampler)
            return count if sampler is self.batch_sampler else self._cut(count)
        return len(self._drawn_now()[1]) - 1

    def __getitem__(self, index: int) -> Any:
        flat, bounds = self._drawn_now()
        index = _checked_index(index, len(bounds) - 1)
        part = flat[bounds[index] : bounds[index + 1]]
        return self._joined(part if isinstance(part, list) else part.tolist())

    def _drawn_now(self) -> _Drawn:
        """What was drawn; for one who asks before the first epoch, that one's."""
        if self._drawn is None:
            self._draw()
            self._ahead = True
        assert self._drawn is not None
        return self._drawn

    def _draw(self) -> None:
        if self.batch_sampler is not None:
            batches = [list(batch) for batch in self.batch_sampler]
            flat = list(chain.from_iterable(batches))
            bounds = np.cumsum([0, *map(len, batches)])
        elif self.sampler is not None:
            flat = list(self.sampler)
            ends = np.arange(self._cut(len(flat)) + 1) * self._size
            bounds = np.minimum(ends, len(flat))
        else:
            raise RuntimeError(
                "a copy of a dataset of samples has no sampler; make another one with "
                "from_samples"
            )
        plain = all(type(index) is int for index in flat)
        self._drawn = np.array(flat, np.int64) if plain else flat, bounds

    def _cut(self, count: int) -> int:
        return _number_of_batches(count, self._size, drop_last=self._drop_last)


def _number_of_batches(count: int, size: int, *, drop_last: bool) -> int:
    full, rest = divmod(count, size)
    return full + (rest > 0 and not drop_last)


def _checked_index(index: int, length: int) -> int:
    if not -length <= index < length:
        raise IndexError(f"there are {length} batches, got index {index!r}")
    return index % length
