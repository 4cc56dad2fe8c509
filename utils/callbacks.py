"""What looks on while training runs, and may end it."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .training import Training

__all__ = ["HOOKS", "Callback", "EarlyStopping", "checked_callbacks", "tell"]

HOOKS = (
    "on_train_begin",
    "on_train_end",
    "on_epoch_begin",
    "on_epoch_end",
    "on_batch_begin",
    "on_batch_end",
)
_MODES = ("auto", "min", "max")
_BETTER_HIGH = ("acc", "auc", "precision", "recall", "f1", "iou")


class Callback:
    """Looks on while :func:`feedline.utils.fit` trains. Override what is of interest.

    An exception in a hook ends training, and comes out of ``fit``.

    Attributes:
        training: The run that it looks at: ``training.stop()`` ends it,
            ``training.state_dict()`` is what it can be resumed from.

    >>> from feedline.utils import fit
    >>> class Note(Callback):
    ...     def on_epoch_end(self, epoch, logs):
    ...         print(epoch, logs)
    >>> _ = fit(lambda b: {"loss": b}, [2, 4], epochs=2, verbose=0, callbacks=[Note()])
    0 {'loss': 3.0}
    1 {'loss': 3.0}
    """

    training: Training

    def on_train_begin(self) -> None:
        """Before the first epoch."""

    def on_train_end(self) -> None:
        """After the last one, unless training ended by an exception."""

    def on_epoch_begin(self, epoch: int) -> None:
        """Before the first batch of an epoch, which is counted from 0."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """After an epoch and its validation; ``logs`` are its metrics."""

    def on_batch_begin(self, batch: int) -> None:
        """Before a training step; batches are counted from 0 in each epoch."""

    def on_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        """After a training step; ``logs`` are the epoch's means so far."""


class EarlyStopping(Callback):
    """Ends training when a metric has not become better for a while.

    As ``keras.callbacks.EarlyStopping``, but that a metric which is not there is an
    error, and that keeping and restoring the model is up to two functions.

    Args:
        monitor: Name of the metric.
        min_delta: By how much it must be better to count as better.
        patience: Epochs without that, after which training ends.
        mode: "min" or "max" is better. "auto" is "max" for names with ``acc``, ``auc``,
            ``precision``, ``recall``, ``f1`` or ``iou`` in them, and "min" for others.
        baseline: What has to be beaten for the count of epochs to begin anew.
        start_from_epoch: Epochs before this one do not count.
        save: Called whenever the metric is better; returns what :attr:`restore` needs.
        restore: Called with that of the best epoch when training is over, early or not.

    Attributes:
        best: Best value so far; None before the first.
        best_epoch: Its epoch, from 0.

    Raises:
        ValueError: An argument is not as above; or, in training, ``monitor`` names no
            metric.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        mode: str = "auto",
        *,
        baseline: float | None = None,
        start_from_epoch: int = 0,
        save: Callable[[], Any] | None = None,
        restore: Callable[[Any], object] | None = None,
    ) -> None:
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {_MODES!r}, got {mode!r}")
        if patience < 0 or start_from_epoch < 0:
            raise ValueError(
                "patience and start_from_epoch must be 0 or more, got "
                f"{patience!r} and {start_from_epoch!r}"
            )
        if (save is None) != (restore is None):
            raise ValueError(
                f"save and restore must be given together, got {save!r} and {restore!r}"
            )
        if mode == "auto":
            mode = "max" if any(part in monitor for part in _BETTER_HIGH) else "min"
        self.monitor = monitor
        self.patience = patience
        self.baseline = baseline
        self.start_from_epoch = start_from_epoch
        self._better = operator.lt if mode == "min" else operator.gt
        self._margin = -abs(min_delta) if mode == "min" else abs(min_delta)
        self._save, self._restore = save, restore
        self._begin()
        self._goes_on = False

    def _begin(self) -> None:
        self.best: float | None = None
        self.best_epoch = 0
        self._waited = 0
        self._stopped = False
        self._kept: Any = None

    def on_train_begin(self) -> None:
        """Forget an earlier run, unless it is one to go on with."""
        if not self._goes_on:
            self._begin()
        self._goes_on = False
        if self._stopped:
            self.training.stop()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Look at the metric."""
        if self.monitor not in logs:
            raise ValueError(
                f"monitor must be one of {list(logs)!r}, got {self.monitor!r}"
            )
        value = logs[self.monitor]
        if epoch < self.start_from_epoch:
            return
        self._waited += 1
        if self._beats(self.best, value):
            self.best, self.best_epoch = value, epoch
            if self._save is not None:
                self._kept = self._save()
            if self._beats(self.baseline, value):
                self._waited = 0
            return
        if self._waited >= self.patience and epoch > 0:
            self._stopped = True
            self.training.stop()

    def on_train_end(self) -> None:
        """Put the best model back, however training ended."""
        if self._restore is not None and self.best is not None:
            self._restore(self._kept)

    def state_dict(self) -> dict[str, Any]:
        """What it has seen, to be kept with the state of the training.

        Take it in a callback that comes after this one, so that it has seen the epoch.
        What ``save`` returned is in it.
        """
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "waited": self._waited,
            "stopped": self._stopped,
            "kept": self._kept,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned when training begins."""
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self._waited, self._stopped = state["waited"], state["stopped"]
        self._kept = state["kept"]
        self._goes_on = True

    def _beats(self, reference: float | None, value: float) -> bool:
        if reference is None:
            return not math.isnan(value)
        return bool(self._better(value - self._margin, reference))


def checked_callbacks(callbacks: Iterable[Any]) -> tuple[Any, ...]:
    """The callbacks, each of which has a hook.

    Raises:
        TypeError: One has none, or a method with the name of a hook that there is not.
    """
    given = tuple(callbacks)
    for callback in given:
        named = {name for name in dir(callback) if name.startswith("on_")}
        if isinstance(callback, type) or not named.intersection(HOOKS):
            raise TypeError(
                f"a callback must be an object with one of {HOOKS!r}, got {callback!r}"
            )
        if unknown := sorted(named.difference(HOOKS)):
            raise TypeError(
                f"a callback's hooks must be of {HOOKS!r}, got {unknown!r} in "
                f"{callback!r}, which nothing would call"
            )
    return given


def tell(
    callbacks: Iterable[Any], hook: str, *facts: int | Mapping[str, float]
) -> None:
    """Call a hook of those that have it."""
    for callback in callbacks:
        run = getattr(callback, hook, None)
        if run is not None:
            run(*facts)
