"""Goes through a loader, epoch by epoch, as often as Keras means to.

Keras' calls do not tell what they are for. Whatever the backend::

    fit, evaluate    length  begin  iterator <0>  length  end    a look, to build the model
                     length  length  end                         no look: it is built
                     begin  iterator <0> <1> <2>  iterator  end  each epoch
    predict          length  begin  iterator <0> <1> <2>  iterator  end

It asks for iterators that it does not use; it leaves an epoch that is stopped without a
word; where it counts steps, it goes on with one iterator from epoch to epoch. What tells
is the length: asked for right before the end of an epoch, it means that all begins anew;
right before the beginning of one, that it may only be a look.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from .errors import LoaderBusyError, LoaderClosedError, LoaderError
from .keras_batches import standard, weighted
from .options import length_of
from .plan import EpochPlan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .engine import Loader
    from .keras_batches import ClassWeights

__all__ = ["Passes"]

_LOOKED_AT = 2  # batches that Keras looks at, at the most, before it begins anew
_END = object()


class _Pass:
    """One epoch of the loader on its way to Keras.

    Attributes:
        batches: The loader's.
        taken: How many Keras has.
        over: Whether these are all that it wants of this epoch.
        look: Whether it may be a look only.
    """

    __slots__ = ("batches", "look", "over", "taken")

    def __init__(self, batches: Any, *, look: bool) -> None:
        self.batches = batches
        self.taken = 0
        self.over = False
        self.look = look


class Passes:
    """The passes of one loader.

    Args:
        loader: Whose epochs.
        class_weight: Weights of the classes; None gives none.
    """

    def __init__(self, loader: Loader, class_weight: ClassWeights | None) -> None:
        self._loader = loader
        self._class_weight = class_weight
        self._running: _Pass | None = None  # the last one begun, until it has ended
        self._stream: Any = None  # for take()
        self._asked = False  # for the length, and for nothing since
        self._begun = False  # whether the last hook was that of a beginning
        self._look = False  # whether a pass that begins now may be one
        self._failure: BaseException | None = None

    def length(self) -> int | None:
        """Batches in an epoch, None if it has no end. Keras asks before it begins anew.

        Raises:
            ValueError: There are none.
        """
        self._asked = True
        length = self._length()
        if length == 0:
            raise ValueError(
                f"a dataset for Keras must have a batch, got {self._loader!r} with "
                "num_batches=0"
            )
        return length

    def begin(self) -> None:
        """Hear that an epoch of Keras' begins."""
        self._look, self._asked, self._begun = self._asked, False, True
        self._raise_failure()

    def end(self) -> None:
        """Hear that an epoch of Keras' ends, or that all begins anew."""
        anew = self._asked
        self._asked = self._look = self._begun = False
        self._raise_failure()
        running = self._running
        if running is None:
            return
        running.look = running.look and anew
        if anew or self._is_complete(running):
            self._leave()

    def used_up(self) -> None:
        """Hear that an iterator is asked for, which also happens when one is used up."""
        running = self._running
        if running is not None and running.taken == self._length():
            running.over = True

    def one(self) -> Iterator[Any]:
        """One epoch, which begins with the first ``next()``.

        Raises:
            LoaderBusyError: Another one was begun meanwhile.
            TypeError, ValueError: A batch is not as Keras wants it.
        """
        self._leave()
        mine = self._running = _Pass(iter(self._loader), look=self._look)
        try:
            while (batch := next(mine.batches, _END)) is not _END:
                mine.taken += 1
                self._asked = False
                ready = [self._ready(batch)]
                # No name may hold a batch here: it would keep its memory.
                del batch
                yield ready.pop()
                self._check_current(mine)
            mine.over = True
        except BaseException as error:
            if self._running is mine and not (
                isinstance(error, GeneratorExit) and self._is_complete(mine)
            ):
                self._leave()
            raise

    def look_at(self, count: int) -> list[Any]:
        """The first batches of the next epoch, which stays whole.

        Args:
            count: How many, if there are as many.
        """
        asked, self._look = self._asked, True
        length = self._length()
        looking = self.one()
        found = list(islice(looking, count if length is None else min(count, length)))
        looking.close()  # type: ignore[attr-defined]
        self._asked, self._look = asked, False
        return found

    def take(self) -> Any:
        """The next batch, for who has no iterators: in the next epoch after the last."""
        if self._running is None or self._is_complete(self._running):
            self._look = self._look or not self._begun
            self._stream = self.one()
        return next(self._stream)

    def fail(self, error: BaseException) -> None:
        """Keep what went wrong where Keras cannot be told; its next hook raises it."""
        self._failure = error

    def close(self) -> None:
        """Give back what was built ahead for an epoch that was left."""
        with suppress(LoaderClosedError):
            self._leave()

    def _length(self) -> int | None:
        return length_of(self._loader.dataset)

    def _is_complete(self, running: _Pass) -> bool:
        # A look at all there is has not been trained on.
        return running.over or (not running.look and running.taken == self._length())

    def _check_current(self, mine: _Pass) -> None:
        if self._running is not mine and not mine.over:
            raise LoaderBusyError(
                "this epoch was left when another use of the same data began; give each "
                "use, training and validation, an as_keras of its own"
            )

    def _leave(self) -> None:
        """End the epoch under way: it is complete, was a look, or was stopped."""
        running, self._running = self._running, None
        if running is None:
            return
        if self._is_complete(running):
            running.over = True
            next(running.batches, None)  # there is none, and on_epoch_end runs
            return
        running.batches.close()
        if running.look and running.taken <= _LOOKED_AT:
            with suppress(LoaderError):  # closed by now, or in other use
                self._loader.restart()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _ready(self, batch: Any) -> Any:
        try:
            batch = standard(batch)
            if self._class_weight is None:
                return batch
            return weighted(batch, self._class_weight)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{self._where()}: {error}") from error

    def _where(self) -> str:
        """Which batch was received last."""
        state = self._loader.state_dict()
        if state["missing"] or not self._loader.options.in_order:
            return f"a batch of epoch {state['epoch']}"
        plan = EpochPlan(
            state["length"],
            shuffle=state["shuffle"],
            seed=state["seed"],
            epoch=state["epoch"],
        )
        return f"batch {plan.index_at(state['position'] - 1)} of epoch {state['epoch']}"
