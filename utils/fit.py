"""The reference training loop: epochs, means, a progress bar, a history.

It knows nothing of any framework: a step is a function that takes a batch, learns from
it and says how it went.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, closing
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from feedline import Loader, PyDataset

from .callbacks import Callback, checked_callbacks, tell
from .console import write
from .metrics import RunningMeans, metric_value
from .progbar import Progbar
from .training import Training

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .history import History

__all__ = ["fit"]

Step: TypeAlias = "Callable[[Any], Mapping[str, Any]]"


def fit(
    train_step: Step,
    data: Iterable[Any],
    *,
    epochs: int = 1,
    steps_per_epoch: int | None = None,
    validation_data: Iterable[Any] | None = None,
    validation_steps: int | None = None,
    test_step: Step | None = None,
    callbacks: Iterable[Any] = (),
    verbose: int = 1,
    state: Mapping[str, Any] | None = None,
) -> History:
    """Train for some epochs and tell how it went.

    Metrics are averaged over the samples of an epoch: a batch weighs as much as the
    first array found in it is long, and 1 if there is none. Before the next batch is
    asked for, the one before has been let go, so that its memory can be used again.

    Args:
        train_step: Called with each batch; learns from it and returns its metrics, a
            mapping from names to numbers.
        data: Gives the batches of one epoch each time it is iterated: a ``Loader``, a
            list. A ``PyDataset`` is given a ``Loader`` of its own.
        epochs: How many epochs there are to be, those of ``state`` included.
        steps_per_epoch: Batches that make an epoch. The next epoch goes on where the one
            before has stopped, and ``data`` begins anew where it ends; an epoch in which
            that happens is a short one. None makes an epoch of all batches; data without
            end needs a number.
        validation_data: Gone through after each epoch, with ``test_step``; its metrics
            get the prefix ``val_``.
        validation_steps: Batches of it to take, each time from its beginning; None takes
            all.
        test_step: As ``train_step``, without learning.
        callbacks: Look on, and may stop training: :class:`Callback` tells what they can
            have, any object with one of its methods is one.
        verbose: 1 draws a bar, 2 writes a line per epoch, 0 is silent.
        state: Where to go on: what ``training.state_dict()`` told a callback of a run
            that ended early. Batches of a ``Loader`` go on with the next one.

    Returns:
        The metrics and the time of every epoch, those of ``state`` included.

    Raises:
        TypeError: A step returned no mapping of names to numbers, or a callback is none.
        ValueError: A number is not as above, ``validation_data`` came without
            ``test_step``, ``state`` is of other data, a ``Loader`` has no end and no
            number of steps was given, or an epoch had no batch.

    Warns:
        UserWarning: ``data`` ended before ``steps_per_epoch`` batches; said once.

    >>> def step(batch):
    ...     return {"loss": sum(batch)}
    >>> fit(step, [[1, 2], [3, 4]], epochs=2, verbose=0)["loss"]
    [5.0, 5.0]
    """
    epochs = _count("epochs", epochs)
    if steps_per_epoch is not None:
        steps_per_epoch = _count("steps_per_epoch", steps_per_epoch)
    if validation_steps is not None:
        validation_steps = _count("validation_steps", validation_steps)
    if verbose not in (0, 1, 2):
        raise ValueError(f"verbose must be 0, 1 or 2, got {verbose!r}")
    if validation_data is not None and test_step is None:
        raise ValueError(
            "validation_data needs a test_step, got None; pass a function that takes a "
            "batch and returns its metrics"
        )
    callbacks = checked_callbacks(callbacks)
    with ExitStack() as opened:
        data = _batches(data, opened)
        if validation_data is not None:
            validation_data = _batches(validation_data, opened)
        _check_ends("steps_per_epoch", steps_per_epoch, data)
        _check_ends("validation_steps", validation_steps, validation_data)
        training = Training(data, validation_data)
        if state is not None:
            training.load_state_dict(state)
        for callback in callbacks:
            if isinstance(callback, Callback):
                callback.training = training
        stream = opened.enter_context(closing(_Stream(data, steps_per_epoch)))
        if state is not None:
            stream.go_on()
        tell(callbacks, "on_train_begin")
        while training.epoch < epochs and not training.stopped:
            if verbose:
                write(f"Epoch {training.epoch + 1}/{epochs}\n")
            training.begin_epoch()
            tell(callbacks, "on_epoch_begin", training.epoch)
            # No metric is averaged by the bar: what it is given are means already.
            bar = Progbar(stream.length, verbose=verbose, stateless_metrics=())
            with closing(bar):
                _train(training, train_step, stream, callbacks, bar)
                metrics = dict(training.means)
                if validation_data is not None and test_step is not None:
                    measured = _measure(test_step, validation_data, validation_steps)
                    metrics |= {f"val_{name}": mean for name, mean in measured}
                if bar.target is None:
                    bar.target = training.steps
                bar.update(training.steps, metrics, finalize=True)
            training.end_epoch(metrics)
            tell(callbacks, "on_epoch_end", training.epoch - 1, metrics)
        tell(callbacks, "on_train_end")
    return training.history


def _train(
    training: Training,
    step: Step,
    stream: _Stream,
    callbacks: Iterable[Any],
    bar: Progbar,
) -> None:
    """Take what is left of one epoch."""
    for batch in stream.epoch(training.steps):
        tell(callbacks, "on_batch_begin", training.steps)
        _take("train_step", step, batch, training.means)
        # The batch lends memory from its loader, which needs it for the next one.
        del batch
        training.steps += 1
        bar.update(training.steps, training.means, finalize=False)
        tell(callbacks, "on_batch_end", training.steps - 1, dict(training.means))
        if training.stopped:
            break
    if not training.steps:
        raise _nothing_in("data", stream.data)


def _measure(step: Step, data: Iterable[Any], steps: int | None) -> RunningMeans:
    """Take the batches of one round of validation."""
    means = RunningMeans()
    seen = 0
    for batch in islice(data, steps):
        _take("test_step", step, batch, means)
        del batch
        seen += 1
    if not seen:
        raise _nothing_in("validation_data", data)
    return means


def _take(name: str, step: Step, batch: Any, means: RunningMeans) -> None:
    metrics = step(batch)
    if not isinstance(metrics, Mapping):
        raise TypeError(
            f"{name} must return a mapping from metric names to numbers, such as "
            f"{{'loss': 0.5}}, got {metrics!r}"
        )
    weight = _sample_count(batch)
    for metric, value in metrics.items():
        means.add(metric, metric_value(metric, value), weight)


class _Stream:
    """The batches of one epoch after the other.

    Args:
        data: Where they come from.
        limit: Batches in an epoch; None for one whole pass over ``data``.
    """

    def __init__(self, data: Iterable[Any], limit: int | None) -> None:
        self.data = data
        self._limit = limit
        self._iterator: Iterator[Any] | None = None  # goes on from epoch to epoch
        self._received = 0  # batches of it
        self._warned = False

    @property
    def length(self) -> int | None:
        """Batches in an epoch, if that is known."""
        return _length(self.data) if self._limit is None else self._limit

    def epoch(self, taken: int) -> Iterator[Any]:
        """The batches of an epoch of which so many were taken before."""
        if self._limit is None:
            yield from self.data
            return
        asked_anew = False
        while taken < self._limit:
            iterator = self._iterator or self._begin()
            # In a list, for no name may hold a batch here: see ``fit``.
            batch = list(islice(iterator, 1))
            if batch:
                taken += 1
                self._received += 1
                yield batch.pop()
                continue
            self._iterator = None
            if taken:
                self._warn(taken)
            if taken or asked_anew:
                return
            asked_anew = True  # the data ended with the epoch before
        if self._iterator is not None and self._received == _length(self.data):
            # Past the last batch, which a loader's hooks and its state wait for.
            next(self._iterator, None)
            self.close()

    def go_on(self) -> None:
        """Be in the pass that the state of a loader is in the midst of."""
        if self._limit is not None and isinstance(self.data, Loader):
            self._begin()
            state = self.data.state_dict()
            self._received = state["position"] - len(state["missing"])

    def _begin(self) -> Iterator[Any]:
        self._iterator, self._received = iter(self.data), 0
        return self._iterator

    def close(self) -> None:
        """Leave what is half taken."""
        iterator: Any = self._iterator
        self._iterator = None
        if iterator is not self.data and hasattr(iterator, "close"):
            iterator.close()

    def _warn(self, taken: int) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"data ended after {taken} of steps_per_epoch={self._limit} batches, "
                "which makes that epoch a short one",
                UserWarning,
                stacklevel=4,
            )


def _sample_count(batch: Any) -> int:
    """Length of the first array in a batch of any nesting; 1 if there is none."""
    return _first_length(batch) or 1


def _first_length(batch: Any) -> int | None:
    shape = getattr(batch, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else None
    if isinstance(batch, Mapping):
        batch = batch.values()
    elif not isinstance(batch, (list, tuple)):
        return None
    lengths = (_first_length(part) for part in batch)
    return next((length for length in lengths if length is not None), None)


def _batches(data: Iterable[Any], opened: ExitStack) -> Iterable[Any]:
    """The data, or a loader of it: a ``PyDataset`` by itself runs no hooks."""
    if isinstance(data, PyDataset):
        return opened.enter_context(Loader(data))
    return data


def _check_ends(name: str, steps: int | None, data: Any) -> None:
    if steps is None and isinstance(data, Loader) and _length(data) is None:
        raise ValueError(
            f"{name} must say how many batches to take of data without end, got None"
        )


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:  # a generator, or a loader of a dataset without end
        return None


def _nothing_in(name: str, data: Any) -> ValueError:
    return ValueError(
        f"{name} must give batches anew each time it is iterated, as a Loader or a list "
        f"does; got none from {data!r}"
    )


def _count(name: str, value: int) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{name} must be an integer of 1 or more, got {value!r}")
    return count
