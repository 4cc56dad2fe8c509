"""A dataset or a loader, as ``fit``, ``evaluate`` and ``predict`` of Keras 3 take data.

Keras takes an object of its own private ``DataAdapter`` class as it is. Of that, whatever
the backend, it uses a length, two hooks, and one iterator for each epoch; what they mean
is told in ``keras_passes.py``. The dataset's own hooks are run by the loader, once for
each epoch.

Where that private class is gone, the same passes go through Keras' public ``PyDataset``.
"""

from __future__ import annotations

import weakref
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from . import Loader
from .default_seed import import_framework
from .keras_batches import ClassWeights
from .keras_call import check_call
from .keras_passes import Passes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["as_keras"]


def as_keras(
    data: Any, *, class_weight: Mapping[int, float] | None = None, **options: Any
) -> Any:
    """Make of a dataset or a loader what Keras trains, evaluates and predicts with.

    ``model.fit(as_keras(dataset, workers=4, shuffle=True), epochs=3)`` trains on three
    epochs of a loader, each batch once and in its order, under every backend. The loader
    shuffles, not ``fit``. Training and validation each need one of their own.

    Batches are arrays, or tuples ``(x,)``, ``(x, y)`` or ``(x, y, sample_weight)`` whose
    parts may be nested; a dict is x.

    Args:
        data: What a :class:`feedline.Loader` is made of: a ``PyDataset`` of feedline or
            of Keras, or another object with ``__getitem__`` and ``__len__`` or
            ``num_batches``. Or a loader, which stays yours to close.
        class_weight: Weight of the samples of each class, by the class's number; 1 for
            those that are not named. Batches must be ``(x, y)``, with y of shape
            ``(batch,)`` or ``(batch, 1)`` for numbers of classes, ``(batch, classes)``
            for one-hot rows.
        **options: Of the loader that is made: ``workers``, ``use_multiprocessing``,
            ``shuffle``, ``seed`` and so on.

    Returns:
        An object for the arguments ``x`` and ``validation_data``, and a context manager.
        ``loader`` is its loader. ``close()`` gives back what was built ahead for an epoch
        that was stopped and, if the loader was made here, ends its workers; they also end
        with the object itself.

    Raises:
        TypeError: ``data`` is none of the above, an option is unknown or comes with a
            loader, or ``class_weight`` is no mapping from integers to numbers.
        ValueError: An option is wrong.

    In training:
        TypeError: A batch is none of the above; the error names its index and its type.
        ValueError: ``class_weight`` was given, and a batch is not ``(x, y)``. Or the call
            has a ``y``, ``sample_weight`` or ``class_weight`` of its own, which Keras
            would pass over.
        UserWarning: So it passes over a ``shuffle`` that is not what the loader does, and
            a ``batch_size``.
    """
    weights = None if class_weight is None else ClassWeights(class_weight)
    if isinstance(data, Loader) and options:
        raise TypeError(
            f"a loader has options of its own, got {sorted(options)!r} beside one; give "
            "them to Loader(...), or the dataset to as_keras"
        )
    keras = import_framework("keras")
    loader = data if isinstance(data, Loader) else Loader(data, **options)
    passes = Passes(loader, weights)
    made = _adapter(passes) or _dataset_class(keras)(passes)
    made.loader = loader
    if loader is not data:
        made.end_workers = weakref.finalize(made, loader.close)
    return made


class _Closing:
    """What is made here is closed, or left to itself.

    Attributes:
        loader: Whose batches it gives.
        passes: Through the loader.
    """

    loader: Loader
    passes: Passes
    end_workers: Any = None  # where the loader was made here

    def close(self) -> None:
        """Give back what was built ahead; end the workers of a loader that is ours."""
        self.passes.close()
        if self.end_workers is not None:
            self.end_workers()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _adapter(passes: Passes) -> Any:
    """What Keras takes as it is; None if this Keras takes no such thing."""
    try:
        from keras.src.trainers.data_adapters import get_data_adapter
        from keras.src.trainers.data_adapters.data_adapter import DataAdapter
    except ImportError:
        return None
    made = _adapter_class(DataAdapter)(passes)
    try:
        return made if get_data_adapter(made) is made else None
    except ValueError:  # from a Keras that knows its own adapters alone
        return None


@cache
def _adapter_class(base: Any) -> Any:
    class LoaderAdapter(_Closing, base):  # type: ignore[misc]
        """Gives Keras the passes."""

        batch_size = has_partial_batch = partial_batch_size = None

        def __init__(self, passes: Passes) -> None:
            self.passes = passes

        @property
        def num_batches(self) -> int | None:
            length = self.passes.length()
            check_call(
                self, shuffles=self.loader.options.shuffle, endless=length is None
            )
            return length

        def on_epoch_begin(self) -> None:
            self.passes.begin()

        def on_epoch_end(self) -> None:
            self.passes.end()

        def get_numpy_iterator(self) -> Iterator[Any]:
            self.passes.used_up()
            return map(_arrays, self.passes.one())

        get_jax_iterator = get_numpy_iterator

        def get_torch_dataloader(self) -> Iterator[Any]:
            # As a train_step of one's own finds them on this backend.
            self.passes.used_up()
            return map(_tensors, self.passes.one())

        def get_tf_dataset(self) -> Any:
            return _tensorflow_dataset(self.passes)

    return LoaderAdapter


@cache
def _dataset_class(keras: Any) -> Any:
    class LoaderDataset(_Closing, keras.utils.PyDataset):  # type: ignore[misc]
        """Gives Keras the passes, whichever index it asks for."""

        def __init__(self, passes: Passes) -> None:
            super().__init__()
            self.passes = passes

        @property
        def num_batches(self) -> int | None:
            self.passes.used_up()
            return self.passes.length()

        def on_epoch_begin(self) -> None:
            self.passes.begin()

        def on_epoch_end(self) -> None:
            self.passes.end()

        def __getitem__(self, index: int) -> Any:
            return self.passes.take()

    return LoaderDataset


def _arrays(batch: Any) -> Any:
    """The batch with arrays where it has tensors of another library."""
    from keras import ops, tree

    def array(part: Any) -> Any:
        known = part is None or isinstance(part, np.ndarray) or ops.is_tensor(part)
        return part if known else np.asarray(part)

    return tree.map_structure(array, batch)


def _tensors(batch: Any) -> Any:
    from keras import ops, tree

    return tree.map_structure(
        lambda part: None if part is None else ops.convert_to_tensor(part), batch
    )


def _tensorflow_dataset(passes: Passes) -> Any:
    """A ``tf.data.Dataset`` of the passes; each iterator of it is one."""
    import tensorflow as tf

    def batches() -> Iterator[Any]:
        try:
            yield from map(_with_tuples, passes.one())
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - raised by Keras' next hook:
            # TensorFlow would make an error of its own of it
            passes.fail(error)

    def spec(*parts: Any) -> Any:
        arrays = [np.asarray(part) for part in parts]
        shapes = [array.shape for array in arrays]
        if len(set(map(len, shapes))) > 1 or not shapes[0]:
            raise ValueError(
                f"TensorFlow needs arrays of one rank, 1 or more, got shapes {shapes!r}; "
                "give each part of a batch an axis of samples"
            )
        # The number of samples may change, and whatever was seen to.
        fixed = [
            sizes[0] if len(set(sizes)) == 1 else None
            for sizes in zip(*shapes, strict=True)
        ]
        return tf.TensorSpec([None, *fixed[1:]], arrays[0].dtype)

    looked_at = map(_with_tuples, passes.look_at(2))
    signature = tf.nest.map_structure(spec, *looked_at)
    # The loader is ahead already. TensorFlow's own threads, ahead of the training too,
    # would take batches that belong to the next epoch.
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return dataset.with_options(options)


def _with_tuples(batch: Any) -> Any:
    """``tf.data`` would make one tensor of each list."""
    if isinstance(batch, dict):
        return {name: _with_tuples(part) for name, part in batch.items()}
    if isinstance(batch, list) or type(batch) is tuple:
        return tuple(map(_with_tuples, batch))
    return batch
