"""A ``tf.data.Dataset``, which can only be iterated, as samples with indices.

Everything here is TensorFlow's public interface, but for one attribute that tells how a
dataset was batched. TensorFlow was imported by whoever has such a dataset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .views import Indices

__all__ = ["tensorflow_samples_of"]


def tensorflow_samples_of(dataset: Any) -> tuple[int, Callable[[Indices], Any]]:
    """Find out what the samples of a ``tf.data.Dataset`` are.

    Returns:
        How many there are, and what makes a ``tf.data.Dataset`` of some of them.

    Raises:
        ValueError: It has no end.
    """
    import tensorflow as tf

    batch_size = getattr(dataset, "_batch_size", None)
    if batch_size is not None:
        dataset = dataset.unbatch()
    # A cache that is read by index goes on from where it was, and so draws each sample
    # from the source once: a source that shuffles anew in each pass would otherwise show
    # samples of the one half in the other.
    samples = dataset.cache()
    length = int(samples.cardinality())
    if length == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            f"dataset must have an end, got {dataset!r}; dataset.take(n) gives it one"
        )
    if length == tf.data.UNKNOWN_CARDINALITY:
        length = _counted(samples)

    def sample(index: Any) -> Any:
        return tf.data.experimental.at(samples, index)

    def half(indices: Indices) -> Any:
        if isinstance(indices, range):
            own = tf.data.Dataset.range(indices.start, indices.stop)
        else:
            own = tf.data.Dataset.from_tensor_slices(indices).map(
                lambda index: tf.cast(index, tf.int64)
            )
        part = own.map(sample)
        return part if batch_size is None else part.batch(batch_size)

    return length, half


def _counted(samples: Any) -> int:
    """The number of samples in a cache of unknown length, all of which this reads."""
    import tensorflow as tf

    def exists(index: int) -> bool:
        try:
            tf.data.experimental.at(samples, index)
        except tf.errors.OutOfRangeError:
            return False
        return True

    beyond = 1
    while exists(beyond - 1):
        beyond *= 2
    inside = beyond // 2
    while inside < beyond - 1:
        middle = (inside + beyond) // 2
        if exists(middle - 1):
            inside = middle
        else:
            beyond = middle
    return inside
