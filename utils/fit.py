"""The reference training loop: epochs, means, a progress bar, a history.

It knows nothing of any framework: a step is a function that takes a batch, learns from
it and says how it went.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from feedline import Loader, PyDataset

from .console import write
from .metrics import RunningMeans, metric_value
from .progbar import Progbar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["History", "fit"]

Step: TypeAlias = "Callable[[Any], Mapping[str, Any]]"


@dataclass(frozen=True, slots=True, repr=False)
class History(Mapping[str, list[float]]):
    """What training did, epoch by epoch: a mapping from a metric's name to its values.

    Attributes:
        epochs: The epochs' numbers, from 1.
        metrics: By name, one value for each epoch: the mean over its samples. An epoch
            in which no batch had the metric has nan.
        seconds: How long each epoch took, validation included.

    >>> History([1, 2], {"loss": [0.9, 0.1]}, [2.0, 1.5])["loss"]
    [0.9, 0.1]
    """

    epochs: list[int] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def __getitem__(self, name: str) -> list[float]:
        try:
            return self.metrics[name]
        except KeyError:
            raise KeyError(f"{name!r} was not measured; {list(self)!r} were") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def __repr__(self) -> str:
        said = [f"{len(self.epochs)} epochs in {sum(self.seconds):.1f} s"]
        said += [f"{name} {v[0]:.4g} -> {v[-1]:.4g}" for name, v in self.items()]
        return f"History({', '.join(said)})"


def fit(
    train_step: Step,
    data: Iterable[Any],
    *,
    epochs: int = 1,
    validation_data: Iterable[Any] | None = None,
    test_step: Step | None = None,
    verbose: int = 1,
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
        epochs: How often to go through ``data``.
        validation_data: Gone through after each epoch, with ``test_step``; its metrics
            get the prefix ``val_``.
        test_step: As ``train_step``, without learning.
        verbose: 1 draws a bar, 2 writes a line per epoch, 0 is silent.

    Returns:
        The metrics and the time of every epoch.

    Raises:
        TypeError: A step returned no mapping of names to numbers.
        ValueError: ``epochs`` or ``verbose`` is not as above, ``validation_data`` came
            without ``test_step``, or an epoch had no batch.

    >>> def step(batch):
    ...     return {"loss": sum(batch)}
    >>> fit(step, [[1, 2], [3, 4]], epochs=2, verbose=0)["loss"]
    [5.0, 5.0]
    """
    epochs = _checked(epochs, verbose, validation_data, test_step)
    history = History()
    with ExitStack() as opened:
        data = _batches(data, opened)
        if validation_data is not None:
            validation_data = _batches(validation_data, opened)
        for epoch in range(1, epochs + 1):
            began = time.monotonic()
            if verbose:
                write(f"Epoch {epoch}/{epochs}\n")
            # No metric is averaged by the bar: what it is given are means already.
            bar = Progbar(_length(data), verbose=verbose, stateless_metrics=())
            with closing(bar):
                metrics, seen = _one_pass("data", data, "train_step", train_step, bar)
                if validation_data is not None and test_step is not None:
                    measured, _ = _one_pass(
                        "validation_data", validation_data, "test_step", test_step
                    )
                    metrics |= {f"val_{name}": v for name, v in measured.items()}
                if bar.target is None:
                    bar.target = seen
                bar.update(seen, metrics, finalize=True)
            _record(history, metrics, time.monotonic() - began)
    return history


def _one_pass(
    data_name: str,
    data: Iterable[Any],
    step_name: str,
    step: Step,
    bar: Progbar | None = None,
) -> tuple[dict[str, float], int]:
    """Take every batch of one epoch; return the metrics' means and the batches seen."""
    means = RunningMeans()
    seen = 0
    for batch in data:
        metrics = step(batch)
        if not isinstance(metrics, Mapping):
            raise TypeError(
                f"{step_name} must return a mapping from metric names to numbers, such "
                f"as {{'loss': 0.5}}, got {metrics!r}"
            )
        weight = _sample_count(batch)
        # The batch lends memory from its loader, which needs it for the next one.
        del batch
        for name, value in metrics.items():
            means.add(name, metric_value(name, value), weight)
        seen += 1
        if bar is not None:
            bar.update(seen, means, finalize=False)
    if not seen:
        raise ValueError(
            f"{data_name} must give batches anew each time it is iterated, as a Loader "
            f"or a list does; got none from {data!r}"
        )
    return dict(means), seen


def _record(history: History, metrics: dict[str, float], seconds: float) -> None:
    """Add an epoch; nan stands where it, or an epoch before it, lacks a metric."""
    before = len(history.epochs)
    for name in metrics:
        history.metrics.setdefault(name, [float("nan")] * before)
    for name, values in history.metrics.items():
        values.append(metrics.get(name, float("nan")))
    history.epochs.append(before + 1)
    history.seconds.append(seconds)


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


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:  # a generator, or a loader of a dataset without end
        return None


def _checked(
    epochs: int, verbose: int, validation_data: object, test_step: object
) -> int:
    try:
        count = operator.index(epochs)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"epochs must be an integer of 1 or more, got {epochs!r}")
    if verbose not in (0, 1, 2):
        raise ValueError(f"verbose must be 0, 1 or 2, got {verbose!r}")
    if validation_data is not None and test_step is None:
        raise ValueError(
            "validation_data needs a test_step, got None; pass a function that takes a "
            "batch and returns its metrics"
        )
    return count
