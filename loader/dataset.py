"""``PyDataset``: what the user writes.

A dataset's item is a whole batch. Nothing here loads ahead; that is the
:class:`feedline.Loader`'s work. The class behaves as ``keras.utils.PyDataset`` does when
it is used by hand, so that code written for that one runs unchanged.
"""

from __future__ import annotations

import warnings
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from .seeding import get_worker_info

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PyDataset", "has_hooks"]


class _BatchRng:
    """Gives ``self.rng``; an attribute of that name set by a subclass hides it."""

    def __get__(
        self, instance: PyDataset | None, owner: type[PyDataset]
    ) -> np.random.Generator:
        info = get_worker_info()
        return np.random.default_rng() if info is None else info.rng


class PyDataset:
    """A dataset whose items are whole batches.

    Override ``__getitem__`` and ``__len__`` (or the property ``num_batches``, for a
    dataset without end). The three arguments are kept as given and are what a
    :class:`feedline.Loader` uses unless it is told otherwise.

    Args:
        workers: Threads or processes that build batches. With this class's meaning of
            old, 1 without multiprocessing is one background thread in a ``Loader``.
        use_multiprocessing: True for worker processes, False for threads.
        max_queue_size: Most batches in flight or ready at any moment.

    Attributes:
        rng: Inside ``__getitem__`` in a loader, a ``numpy.random.Generator`` keyed by
            (seed, epoch, index): the same draws for the same batch whatever the workers
            and the pool. Elsewhere a fresh, unseeded one.

    >>> class Squares(PyDataset):
    ...     def __len__(self):
    ...         return 3
    ...
    ...     def __getitem__(self, index):
    ...         return index**2
    >>> list(Squares())
    [0, 1, 4]
    """

    rng = _BatchRng()

    def __init__(
        self,
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
    ) -> None:
        self._workers = workers
        self._use_multiprocessing = use_multiprocessing
        self._max_queue_size = max_queue_size

    @property
    def workers(self) -> int:
        """Threads or processes that build batches."""
        self._have_settings()
        return self._workers

    @workers.setter
    def workers(self, value: int) -> None:
        self._workers = value

    @property
    def use_multiprocessing(self) -> bool:
        """True for worker processes, False for threads."""
        self._have_settings()
        return self._use_multiprocessing

    @use_multiprocessing.setter
    def use_multiprocessing(self, value: bool) -> None:
        self._use_multiprocessing = value

    @property
    def max_queue_size(self) -> int:
        """Most batches in flight or ready at any moment."""
        self._have_settings()
        return self._max_queue_size

    @max_queue_size.setter
    def max_queue_size(self, value: int) -> None:
        self._max_queue_size = value

    def _have_settings(self) -> None:
        """Install the defaults in an object whose class forgot ``super().__init__()``."""
        defaults = {"_workers": 1, "_use_multiprocessing": False, "_max_queue_size": 10}
        missing = defaults.keys() - self.__dict__.keys()
        if not missing:
            return
        self.__dict__.update({name: defaults[name] for name in missing})
        warnings.warn(
            f"{type(self).__qualname__}.__init__ did not call super().__init__(**kwargs); "
            "workers=1, use_multiprocessing=False and max_queue_size=10 are assumed",
            UserWarning,
            stacklevel=3,
        )

    def __getitem__(self, index: int) -> Any:
        """Return batch ``index``, whole.

        Args:
            index: From 0 to ``num_batches - 1``; without end if there is no end.

        Raises:
            NotImplementedError: The subclass does not define it.
        """
        raise NotImplementedError(
            f"{type(self).__qualname__} must define __getitem__(index), which returns "
            "one whole batch"
        )

    @property
    def num_batches(self) -> int | None:
        """Batches in one epoch; None for a dataset without end.

        By default ``len(self)``. Override it as a *property*.

        Raises:
            NotImplementedError: The class has neither this nor ``__len__``.
        """
        if hasattr(self, "__len__"):
            return len(self)
        raise NotImplementedError(
            f"{type(self).__qualname__} must define __len__ or the property num_batches"
        )

    def on_epoch_begin(self) -> None:
        """Called once before each epoch, in the main process."""

    def on_epoch_end(self) -> None:
        """Called once after each epoch that was consumed whole, in the main process."""

    def __iter__(self) -> Iterator[Any]:
        """Build the batches one after the other, here and now: no workers, no hooks."""
        try:
            length = self.num_batches
        except NotImplementedError:
            length = None
        for index in count() if length is None else range(length):
            yield self[index]


def has_hooks(dataset: Any) -> bool:
    """Tell whether a hook would do anything: ``PyDataset``'s own, empty ones do not.

    Args:
        dataset: Any object.

    >>> has_hooks(PyDataset())
    False
    """
    for name in ("on_epoch_begin", "on_epoch_end"):
        hook = getattr(type(dataset), name, None)
        if hook is not None and hook is not getattr(PyDataset, name):
            return True
    return False
