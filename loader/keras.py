"""A loader, as ``model.fit``, ``evaluate`` and ``predict`` of Keras 3 take their data.

Keras takes an object of its own private ``DataAdapter`` class as it is. Of that, whatever
the backend, it uses a length, two hooks, and one iterator for each epoch; and it

* asks for iterators that it never uses, so that one begins when its first batch is asked
  for, and not before;
* looks at the first batch or two to build the model, throws the iterator away, and begins
  again. A pass that is left so early is therefore taken back: the next one is the same
  epoch, begun once, and its batches are built anew from the dataset as it is then;
* calls its hooks more or less often than epochs begin and end. The dataset's hooks are run
  by the loader, once for each epoch, and Keras' calls mean nothing.

Where that private class is gone, the same passes go through Keras' public ``PyDataset``.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from . import Loader, LoaderError
from .default_seed import import_framework

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["as_keras"]

_LOOKED_AT = 2  # batches that Keras looks at, at the most, before it begins anew
_END = object()


def as_keras(loader: Loader, *, class_weight: Mapping[int, float] | None = None) -> Any:
    """Make of a loader what Keras trains, validates, evaluates and predicts with.

    ``model.fit(as_keras(loader), epochs=3)`` trains on three epochs of the loader, each
    batch once and in its order, under every backend, with any workers. The loader
    shuffles, not ``fit``: what ``fit(shuffle=...)`` says is not looked at by Keras then.
    Neither is ``fit(class_weight=...)``; give it here.

    Batches are arrays, or tuples ``(x,)``, ``(x, y)`` or ``(x, y, sample_weight)`` whose
    parts may be nested; a dict is x.

    Args:
        loader: Stays yours: close it when Keras is done with it.
        class_weight: Weight of the samples of each class, by the class's number; 1 for
            those that are not named. Batches must be ``(x, y)``, with y of shape
            ``(batch,)`` or ``(batch, 1)`` for numbers of classes, ``(batch, classes)``
            for one-hot rows.

    Returns:
        An object for the arguments ``x`` and ``validation_data``.

    Raises:
        TypeError: ``loader`` is none, or ``class_weight`` is no mapping from integers to
            numbers.

    In training:
        TypeError: A batch is none of the above; the error names its type.
        ValueError: ``class_weight`` was given, and a batch is not ``(x, y)``.
    """
    if not isinstance(loader, Loader):
        raise TypeError(
            f"loader must be a feedline.Loader, got {loader!r}; Loader(dataset, ...) "
            "makes one"
        )
    passes = _Passes(loader, _checked_weights(class_weight))
    keras = import_framework("keras")
    try:
        from keras.src.trainers.data_adapters.data_adapter import DataAdapter
    except ImportError:
        return _public_dataset(keras, passes)
    return _adapter(DataAdapter, passes)


class _Pass:
    """One epoch on its way to Keras.

    Attributes:
        batches: The loader's.
        taken: How many Keras has.
        over: Whether these are all that it wants of this epoch.
    """

    __slots__ = ("batches", "over", "taken")

    def __init__(self, batches: Any) -> None:
        self.batches = batches
        self.taken = 0
        self.over = False


class _Passes:
    """Goes through a loader, epoch by epoch, as often as Keras begins to.

    Args:
        loader: The loader.
        class_weight: Weights of the classes, by number; None gives none.
    """

    def __init__(self, loader: Loader, class_weight: dict[int, float] | None) -> None:
        self._loader = loader
        self._class_weight = class_weight
        self._running: _Pass | None = None  # the last one begun, until it has ended

    @property
    def length(self) -> int | None:
        """Batches in an epoch; None if it has no end."""
        try:
            return len(self._loader)
        except TypeError:
            return None

    def next_is_wanted(self) -> None:
        """Hear that Keras asks for an iterator, which it also does when one is used up."""
        if self._running is not None and self._running.taken == self.length:
            self._running.over = True

    def part(self) -> None:
        """Hear that an epoch of Keras' begins or ends; end the loader's if it is over."""
        running = self._running
        if running is not None and running.over:
            self._running = None
            next(running.batches, None)  # there is none, and on_epoch_end runs

    def one(self) -> Iterator[Any]:
        """One epoch, which begins with the first ``next()``."""
        self.part()
        if self._running is not None:  # Keras may hold on to it, and not go on with it
            self._running.batches.close()
        mine = self._running = _Pass(iter(self._loader))
        try:
            while (batch := next(mine.batches, _END)) is not _END:
                mine.taken += 1
                standard = [self._standard(batch)]
                # No name may hold a batch here: it would keep its memory.
                del batch
                yield standard.pop()
            mine.over = True
        except GeneratorExit:
            if self._running is mine and not mine.over and mine.taken <= _LOOKED_AT:
                self._running = None
                mine.batches.close()
                with suppress(LoaderError):  # closed by now, or in other use
                    self._loader.restart()
            raise

    def look_at(self, count: int) -> list[Any]:
        """The first batches of the next epoch, which stays whole."""
        looking = self.one()
        found = list(islice(looking, count))
        looking.close()  # type: ignore[attr-defined]
        return found

    def _standard(self, batch: Any) -> Any:
        if isinstance(batch, list):
            batch = tuple(batch)
        if not isinstance(batch, (tuple, dict)):
            if not hasattr(batch, "shape"):
                raise _refusal(batch)
            batch = (batch,)
        if isinstance(batch, tuple) and not 1 <= len(batch) <= 3:
            raise _refusal(batch)
        if self._class_weight is None:
            return batch
        if not isinstance(batch, tuple) or len(batch) != 2:
            raise ValueError(
                "class_weight needs batches (x, y), got "
                f"{_described(batch)}; weights of samples of one's own go into the batch"
            )
        return (*batch, _weights_of(batch[1], self._class_weight))


def _adapter(base: Any, passes: _Passes) -> Any:
    class LoaderAdapter(base):  # type: ignore[misc]
        """Gives Keras the passes."""

        batch_size = has_partial_batch = partial_batch_size = None

        @property
        def num_batches(self) -> int | None:
            return passes.length

        def on_epoch_begin(self) -> None:
            passes.part()

        on_epoch_end = on_epoch_begin

        def get_numpy_iterator(self) -> Iterator[Any]:
            passes.next_is_wanted()
            return passes.one()

        get_jax_iterator = get_numpy_iterator

        def get_torch_dataloader(self) -> Iterator[Any]:
            # As a train_step of one's own finds them on this backend.
            return map(_tensors, self.get_numpy_iterator())

        def get_tf_dataset(self) -> Any:
            return _tensorflow_dataset(passes)

    return LoaderAdapter()


def _tensors(batch: Any) -> Any:
    from keras import ops, tree

    return tree.map_structure(
        lambda part: None if part is None else ops.convert_to_tensor(part), batch
    )


def _tensorflow_dataset(passes: _Passes) -> Any:
    """A ``tf.data.Dataset`` of the passes; each iterator of it is one."""
    import tensorflow as tf

    def spec(*parts: Any) -> Any:
        arrays = [np.asarray(part) for part in parts]
        shapes = [array.shape for array in arrays]
        if len(set(map(len, shapes))) > 1 or not shapes[0]:
            raise ValueError(
                f"TensorFlow needs arrays of one rank, 1 or more, got shapes {shapes!r}"
            )
        # The number of samples may change, and whatever was seen to.
        fixed = [
            sizes[0] if len(set(sizes)) == 1 else None
            for sizes in zip(*shapes, strict=True)
        ]
        return tf.TensorSpec([None, *fixed[1:]], arrays[0].dtype)

    looked_at = passes.look_at(_LOOKED_AT)
    if not looked_at:
        raise ValueError(
            "the loader must have a batch for TensorFlow to look at, got none"
        )
    signature = tf.nest.map_structure(spec, *looked_at)
    return tf.data.Dataset.from_generator(passes.one, output_signature=signature)


def _public_dataset(keras: Any, passes: _Passes) -> Any:
    class LoaderDataset(keras.utils.PyDataset):  # type: ignore[misc]
        """Gives Keras the passes, whichever index it asks for."""

        def __init__(self) -> None:
            super().__init__()
            self._pass: Any = None

        @property
        def num_batches(self) -> int | None:
            return passes.length

        def on_epoch_begin(self) -> None:
            if self._pass is not None:
                passes.next_is_wanted()
                self._pass.close()
                self._pass = None
            passes.part()

        on_epoch_end = on_epoch_begin

        def __getitem__(self, index: int) -> Any:
            if self._pass is None:
                self._pass = passes.one()
            return next(self._pass)

    return LoaderDataset()


def _checked_weights(given: Any) -> dict[int, float] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise TypeError(
            f"class_weight must be a mapping from classes to weights, got {given!r}"
        )
    for name, weight in given.items():
        numbers = (int, np.integer), (int, float, np.integer, np.floating)
        if not isinstance(name, numbers[0]) or not isinstance(weight, numbers[1]):
            raise TypeError(
                "class_weight must give numbers of classes, which are integers, a number "
                f"each, got {name!r}: {weight!r}"
            )
    return {int(name): float(weight) for name, weight in given.items()}


def _weights_of(y: Any, class_weight: dict[int, float]) -> NDArray[np.float32]:
    array = np.asarray(y)
    if array.ndim == 2 and array.shape[1] > 1:
        classes = array.argmax(axis=1)
    elif array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1):
        classes = np.rint(array.reshape(-1)).astype(np.int64)
    else:
        raise ValueError(
            "class_weight needs y of shape (batch,), (batch, 1) or (batch, classes), got "
            f"{_described(y)}"
        )
    weights = [class_weight.get(int(number), 1.0) for number in classes]
    return np.array(weights, np.float32)


def _refusal(batch: Any) -> TypeError:
    return TypeError(
        "a batch for Keras must be an array, a dict, or a tuple (x,), (x, y) or (x, y, "
        f"sample_weight), got {_described(batch)}"
    )


def _described(batch: Any) -> str:
    kind = type(batch).__qualname__
    if isinstance(batch, tuple):
        return f"a {kind} of {len(batch)}"
    shape = getattr(batch, "shape", None)
    return f"a {kind}" if shape is None else f"a {kind} of shape {tuple(shape)}"
