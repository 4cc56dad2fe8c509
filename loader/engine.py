"""``Loader``: what the user iterates. Hooks, epochs, the pool, and its end."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakMethod

from .course import Course
from .dataset import has_hooks
from .default_seed import draw_seed
from .epoch import Epoch
from .errors import LoaderBusyError, LoaderClosedError, LoaderError
from .options import LoaderOptions, length_of
from .plan import EpochPlan
from .pools import make_pool
from .progress import Progress
from .stats import Counts
from .turns import Turn, Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType

    from .epoch import Handed
    from .mapped import PageLock
    from .options import OnError, OnTimeout, StartMethod
    from .pool import Pool
    from .stats import LoaderStats, Skipped

__all__ = ["Loader"]


class Loader:
    """Builds the batches of a dataset ahead and delivers each exactly once, in order.

    One pass over a loader is one epoch. Workers start with the first epoch and live until
    the loader is closed.

    Args:
        dataset: A :class:`~feedline.PyDataset`, or any object with ``__getitem__`` and
            ``__len__`` or ``num_batches``; its item is a whole batch.
        workers: Threads or processes, 0 to 1024; 0 builds in the calling thread. None
            takes the dataset's attribute of that name, or 1.
        use_multiprocessing: True for processes, False for threads. None takes the
            dataset's attribute, or False.
        start_method: ``"fork"``, ``"forkserver"`` or ``"spawn"``; None takes fork where
            there is one, but forkserver if JAX, TensorFlow or CUDA is in use in this
            process when workers start.
        max_queue_size: Most batches in flight or ready, in all, 1 or more. None takes the
            dataset's attribute, or 10.
        max_bytes: Most bytes in flight or ready, as a number or as text like ``"2GB"``.
            What is not built yet counts as much as the largest batch so far; one batch
            is always allowed, and where sizes vary, one of each worker may be too many.
            None sets no such bound.
        shuffle: Whether each epoch visits the batches in a random order of its own.
        seed: 0 to 2**64 - 1. Decides the order and every batch's random state. None
            draws one (:func:`feedline.draw_seed`), which ``loader.seed`` tells.
        in_order: False delivers each batch as soon as it is built.
        timeout: Most seconds to wait for one batch, with threads or processes; None
            waits for ever.
        on_timeout: What becomes of a batch that takes longer. ``"raise"`` ends the epoch
            with a :class:`BatchTimeoutError`. ``"replace"`` logs where its worker stands,
            replaces that worker and has another build the batch; when it has cost three
            workers, hung or dead, it raises all the same.
        on_error: ``"raise"`` raises what ``__getitem__`` raised, where the batch belongs;
            ``"skip"`` leaves the batch out, counts it, logs it and lists it in
            ``loader.skipped``, and so a batch that ended three workers.
        max_errors: Most batches of one epoch that ``on_error="skip"`` leaves out: an
            ``int``, 0 or more, is their number; a ``float``, 0.0 to 1.0, is their share of
            the epoch's batches, and needs a dataset with an end. One more is a
            :class:`SkipLimitError`. None sets no such bound.
        retries: How often a batch that raises an ``Exception`` is tried again, 0 to 100,
            each time with the same random state. The other batches go on meanwhile.
        retry_delay: Seconds, 0 to 60, that a batch waits before it is tried again; twice
            as long before each further time, 60 at the most. No worker waits with it. The
            wait counts towards ``timeout``.
        worker_init_fn: Called with the worker's number, from 0, in each new worker.

    Raises:
        TypeError, ValueError: An option is wrong, or the dataset is none.

    >>> from feedline import Loader
    >>> with Loader([10, 20, 30], workers=2) as loader:
    ...     list(loader)
    [10, 20, 30]
    """

    # Whether process pools do without what only Linux has. Tests set it.
    _portable = False

    def __init__(
        self,
        dataset: Any,
        *,
        workers: int | None = None,
        use_multiprocessing: bool | None = None,
        start_method: StartMethod | None = None,
        max_queue_size: int | None = None,
        max_bytes: int | str | None = None,
        shuffle: bool = False,
        seed: int | None = None,
        in_order: bool = True,
        timeout: float | None = None,
        on_timeout: OnTimeout = "raise",
        on_error: OnError = "raise",
        max_errors: float | None = None,
        retries: int = 0,
        retry_delay: float = 0.0,
        worker_init_fn: Callable[[int], object] | None = None,
    ) -> None:
        self._pool: Pool | None = None
        if isinstance(dataset, type):
            raise TypeError(
                f"dataset must be an object, got the class {dataset.__qualname__}; make "
                f"one: {dataset.__qualname__}(...)"
            )
        if not hasattr(dataset, "__getitem__") or isinstance(dataset, Mapping):
            raise TypeError(
                "dataset must have __getitem__(index), which returns batch 0, 1, 2, ..., "
                f"got {reprlib.repr(dataset)}"
            )

        def chosen(value: Any, name: str, default: Any) -> Any:
            return getattr(dataset, name, default) if value is None else value

        options = LoaderOptions(
            workers=chosen(workers, "workers", 1),
            use_multiprocessing=chosen(
                use_multiprocessing, "use_multiprocessing", False
            ),
            start_method=start_method,
            max_queue_size=chosen(max_queue_size, "max_queue_size", 10),
            max_bytes=max_bytes,  # type: ignore[arg-type]  # text becomes a number there
            shuffle=shuffle,
            seed=draw_seed() if seed is None else seed,
            in_order=in_order,
            timeout=timeout,
            on_timeout=on_timeout,
            on_error=on_error,
            max_errors=max_errors,
            retries=retries,
            retry_delay=retry_delay,
            worker_init_fn=worker_init_fn,
        )
        length = length_of(dataset)
        options.most_errors(length)
        if length is None and options.shuffle:
            raise ValueError(
                "shuffle=True needs a dataset with an end, got num_batches=None; leave it "
                "out"
            )
        self.dataset = dataset
        self.options = options
        self._epochs: list[Epoch] = []  # under way
        self._course = Course(
            Progress.beginning(0, seed=options.seed, shuffle=options.shuffle)
        )
        self._seed_is_given = seed is not None
        self._page_lock: PageLock | None = None
        self._counts = Counts()
        self._tickets = iter(range(2**63 - 1))  # can be pickled; a count cannot
        self._turn = Turn()
        self._closed = False

    @property
    def seed(self) -> int:
        """Behind the order and every batch's random state; give it again to repeat them."""
        return self.options.seed

    def __len__(self) -> int:
        """Batches in one epoch.

        Raises:
            TypeError: The dataset has no end.
        """
        length = length_of(self.dataset)
        if length is None:
            raise TypeError("a dataset without end (num_batches=None) has no length")
        return length

    def __iter__(self) -> Turns:
        """Begin an epoch; its first batch is asked for by the first ``next()``.

        ``on_epoch_begin`` runs before anything is built, ``on_epoch_end`` when the epoch
        was consumed to its end. If the first raises, or a Ctrl-C comes before anything is
        built, the epoch is the next one still; a hook that has run for it does not run
        again. A ``break`` is fine: what was under way is dropped. Threads may share one
        iterator, and get each batch once; while one waits, others wait.

        Raises:
            LoaderClosedError: The loader was closed.
        """
        self._check_open()
        return Turns(self._run(), self._turn, WeakMethod(self._check_here))

    @property
    def epoch(self) -> int:
        """Number of the epoch under way or, between two epochs, of the next; from 0."""
        return self._course.progress.epoch

    def state_dict(self) -> dict[str, Any]:
        """Where the consumer is: what it has received, not what was built ahead.

        Returns:
            Less than 1 KB of numbers, for JSON or pickle, from which any loader of the
            same dataset and order goes on, whatever its workers and its pool. With
            ``in_order=False`` up to ``max_queue_size`` positions more.
        """
        return self._course.progress.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another loader was: the next epoch begins in the middle of one.

        The hooks run as ever, ``on_epoch_begin`` too, in the epoch that is gone on with.
        What hooks make of the dataset in epoch after epoch is the dataset's own to keep.

        Args:
            state: What :meth:`state_dict` returned. Its seed becomes that of this loader
                if this one was given none.

        Raises:
            TypeError, ValueError: It is not such a state, or one of another order: its
                ``seed`` or ``shuffle`` differs. The loader is as it was then.
            LoaderBusyError: An epoch is under way.

        >>> from feedline import Loader
        >>> with Loader(range(5), workers=2) as loader:
        ...     batches = iter(loader)
        ...     received = next(batches), next(batches)
        ...     state = loader.state_dict()
        >>> with Loader(range(5), workers=0) as loader:
        ...     loader.load_state_dict(state)
        ...     list(loader), list(loader)
        ([2, 3, 4], [0, 1, 2, 3, 4])
        """
        self._check_open()
        progress = Progress.from_state(state)
        if any(epoch.under_way for epoch in self._epochs):
            raise LoaderBusyError(
                "a state can be loaded between two epochs, and one is under way; finish "
                "its iterator or close() it"
            )
        if progress.shuffle != self.options.shuffle:
            raise ValueError(
                f"the state is of a loader with shuffle={progress.shuffle}, got it for "
                f"one with shuffle={self.options.shuffle}; make this one like that"
            )
        if progress.seed != self.seed:
            if self._seed_is_given:
                raise ValueError(
                    f"the state is of a loader with seed={progress.seed}, got it for one "
                    f"with seed={self.seed}; leave seed out, and it is taken over"
                )
            self.options = replace(self.options, seed=progress.seed)
            if self._pool is not None:  # it builds with the seed that it was made with
                self._pool.close()
                self._pool = None
        self._course = Course(progress)

    def restart(self) -> None:
        """Take back the epoch that was begun last and left: the next one is it, whole.

        For code that had to look at a batch before the epoch could begin in earnest. All
        batches are built anew, from the dataset as it is then; ``on_epoch_begin`` has run
        for this epoch and does not run again.

        Raises:
            LoaderBusyError: An epoch is under way; close its iterator first.
            LoaderError: None was left half-way.

        >>> from feedline import Loader
        >>> with Loader(range(4), shuffle=True, seed=1) as loader:
        ...     look = iter(loader)
        ...     first = next(look)
        ...     look.close()
        ...     loader.restart()
        ...     loader.epoch, next(iter(loader)) == first
        (0, True)
        """
        self._check_open()
        if any(epoch.under_way for epoch in self._epochs):
            raise LoaderBusyError(
                "an epoch can be taken back when none is under way, and one is; finish "
                "its iterator or close() it"
            )
        latest = self._course.latest
        if latest is None:
            raise LoaderError("no epoch was left half-way that could be taken back")
        self._course = Course(latest.start, hook_has_run=True)

    def lock_pages(self, page_lock: PageLock) -> None:
        """Let the memory that worker processes write batches to be locked for a device.

        For bridges, :func:`feedline.torch.tensors` for one. Each stretch of memory is
        locked once, and is unlocked before it is given back; a batch's memory is used
        again as soon as its last array is gone, so keep that while the device reads.

        Args:
            page_lock: An object with ``lock(address, size) -> bool`` and
                ``unlock(address, size)``, both in bytes and both for whole pages.
        """
        self._page_lock = page_lock
        if self._pool is not None:
            self._pool.lock_pages(page_lock)

    @property
    def skipped(self) -> list[Skipped]:
        """The batches that ``on_error="skip"`` left out: the last 1000, oldest first.

        ``stats().skipped`` counts them all.
        """
        return list(self._counts.left_out)

    def stats(self) -> LoaderStats:
        """What this loader has done so far."""
        return self._counts.picture(
            workers=self.options.workers,
            processes=self.options.processes,
            deaths=0 if self._pool is None else self._pool.deaths,
        )

    def close(self) -> None:
        """End all workers and give back what they used. Twice is once.

        Batches that the consumer kept stay valid.
        """
        self._closed = True
        if self._pool is not None:
            self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        # Modules may be gone by now, and their names with them: hence the argument.
        pool = getattr(self, "_pool", None)
        if pool is not None and not self._closed and self.options.workers:
            warn(
                f"unclosed {self!r}; use it in a with statement, or call close()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def __repr__(self) -> str:
        options = self.options
        kind = "processes" if options.processes else "threads"
        how = f"workers={options.workers} {kind}" if options.workers else "inline"
        return f"<Loader of {type(self.dataset).__qualname__}, {how}, seed={self.seed}>"

    def _check_here(self) -> None:
        if self._pool is not None:
            self._pool.check_here()

    def _check_open(self) -> None:
        if self._closed:
            raise LoaderClosedError

    def _run(self) -> Generator[Handed, None, None]:
        self._check_open()
        dataset = self.dataset
        if self._pool is None:
            self.options = self.options.settled()
            self._pool = make_pool(
                dataset, self.options, self._turn.lock, portable=self._portable
            )
            if self._page_lock is not None:
                self._pool.lock_pages(self._page_lock)
        options = self.options
        self._epochs[:] = [epoch for epoch in self._epochs if epoch.under_way]
        alone = not self._epochs
        if alone:
            self._pool.settle(options.timeout)
            self._course = self._course.alone()
        elif has_hooks(dataset):
            raise LoaderBusyError(
                "an epoch of this loader is under way, and its dataset has hooks, which "
                "belong to one epoch at a time; finish the other iterator or close() it"
            )
        if not self._course.hook_has_run:
            _call(dataset, "on_epoch_begin")
            self._course = self._course.hooked()
        start = self._course.following
        plan = EpochPlan(
            length_of(dataset),
            shuffle=options.shuffle,
            seed=self.seed,
            epoch=start.epoch,
        )
        if start.position and plan.length != start.length:
            raise ValueError(
                f"the state that was loaded is of an epoch of {start.length} batches, "
                f"got a dataset of {plan.length}; load it with the dataset that it is of"
            )
        epoch = Epoch(start, plan, self._pool, self._tickets, options, self._counts)
        if plan.length != 0:
            self._pool.begin_epoch(alone=alone)
        self._course = self._course.begun(epoch)
        self._counts.epochs += 1
        if plan.length != 0:
            self._epochs.append(epoch)
            if not (yield from epoch.batches(self._epochs)):
                return
        _call(dataset, "on_epoch_end")
        self._course = self._course.over(epoch)


def _call(dataset: Any, hook: str) -> None:
    run = getattr(dataset, hook, None)
    if run is not None:
        run()
