"""``split_dataset``: one dataset becomes two, by index.

A drop-in for ``keras.utils.split_dataset``, with one implementation for every framework.
What is here is pure arithmetic: how long the halves are and which sample goes where. What
a half is, and how it reads, is in ``views``.
"""

from __future__ import annotations

import random
import sys
from array import array
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from feedline import draw_seed

from .views import samples_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["split_dataset"]

_Size: TypeAlias = "float | np.integer[Any] | np.floating[Any]"


def split_dataset(
    dataset: Any,
    left_size: _Size | None = None,
    right_size: _Size | None = None,
    shuffle: bool = False,
    seed: float | str | bytes | np.integer[Any] | None = None,
    *,
    preferred_backend: str | None = None,
) -> tuple[Any, Any]:
    """Split a dataset into a left and a right half.

    The halves are views: they know which samples are theirs and read each when it is
    asked for. Nothing is read or copied to split, however large the dataset is. A change
    of the source shows in its halves.

    Args:
        dataset: An array (NumPy, torch, JAX, TensorFlow, h5py, ...) whose samples lie
            along its first axis; a list, tuple or dict of arrays of equal length, nested
            as deep as you like; a ``PyDataset``; a ``tf.data.Dataset``; or any object with
            ``__len__`` and ``__getitem__``, such as a torch dataset or a list of file
            names.
        left_size: What the left half takes: a number of samples, an integer of 1 to
            ``n - 1``, or a fraction, a float between 0 and 1, both excluded. A fraction
            becomes ``round(fraction * n)`` samples. None takes what the right one leaves.
        right_size: The same for the right half. If both leave samples over, these are the
            ones in the middle of the order, and belong to neither.
        shuffle: Whether the samples are dealt in a random order. If not, the left half is
            the head of the dataset and the right half its tail.
        seed: Behind that order, which is that of
            ``random.Random(seed).shuffle(list(range(n)))``. None draws a fresh one,
            or the next of the stream that :func:`feedline.set_random_seed` began. Not used
            without ``shuffle``.
        preferred_backend: Accepted so that code written for Keras runs; the halves are the
            same whatever it is.

    Returns:
        The left and the right half. Each has ``len()``, indices (negative ones too),
        slices, iteration and ``cardinality()``, and goes into a :class:`feedline.Loader`
        as it is. A sample of an array is ``array[i]``; one of a list or tuple of arrays is
        a tuple; one of a dict is a dict; any other dataset's is what it returns.

        The halves of a ``PyDataset``, or of an object with its ``num_batches`` or hooks,
        are themselves ``PyDataset``; the sizes count batches. Each epoch of either half
        runs the hooks of the source, whose state they share. ``self.rng`` of the source
        is keyed by (seed, epoch, index in the half).

        The halves of a ``tf.data.Dataset`` are two more, which have no indices and go on
        as any other does. If its last step is ``batch``, the sizes count samples, and the
        halves are batched as it was. A sample is read from it once, when either half
        first needs it, and kept in memory. One that does not know its length is read
        whole at once.

    Raises:
        TypeError: The dataset has no length or no indices, a size is no number, or the
            seed is nothing that ``random.Random`` takes.
        ValueError: No size is given; one is out of its bounds, or comes to no sample; both
            are more than there is; arrays differ in length; the dataset is empty or has no
            end.

    Differs from Keras: the halves are views of this one kind on every backend, not
        ``tf.data.Dataset`` or ``torch.utils.data.Subset`` by backend.
    Differs from Keras: ``shuffle=False`` keeps the order on the torch backend too.
    Differs from Keras: no global random state is read, set or advanced.
    Differs from Keras: dicts, nests, tensors, lists of samples and any object with a length
        and indices are split too.
    Differs from Keras: NumPy integers and floats are sizes, and NumPy integers seeds.
    Differs from Keras: sizes that leave samples over are no error on the torch backend.
    Differs from Keras: integers keep their type, also in an array of one dimension.
    Differs from Keras: ``tf.data.Dataset`` of text, of ragged or sparse tensors, of samples
        that differ in shape, and of uneven batches are split too.

    >>> import numpy as np
    >>> left, right = split_dataset(np.arange(10), left_size=0.8)
    >>> int(left.cardinality()), int(right.cardinality())
    (8, 2)
    >>> [int(sample) for sample in right]
    [8, 9]
    >>> left, right = split_dataset(list("abcde"), right_size=2, shuffle=True, seed=3)
    >>> list(left), list(right)
    (['a', 'c', 'd'], ['e', 'b'])
    """
    if _is_tensorflow_dataset(dataset):
        from .tfdata import tensorflow_samples_of

        length, half = tensorflow_samples_of(dataset)
    else:
        length, half = samples_of(dataset)
    left, right = _lengths(length, left_size, right_size)
    order = _shuffled(length, seed) if shuffle else range(length)
    return half(order[:left]), half(order[length - right :])


def _is_tensorflow_dataset(dataset: Any) -> bool:
    tensorflow = sys.modules.get("tensorflow")
    data = getattr(tensorflow, "data", None)  # none in a module half imported
    return data is not None and isinstance(dataset, data.Dataset)


def _lengths(
    total: int, left_size: _Size | None, right_size: _Size | None
) -> tuple[int, int]:
    """How many of ``total`` samples each half gets."""
    if left_size is None and right_size is None:
        raise ValueError("left_size or right_size must be given, got None for both")
    left, right = _number("left_size", left_size), _number("right_size", right_size)
    if total < 1:
        raise ValueError("dataset must have samples to split, got an empty one")
    if isinstance(left, float) and isinstance(right, float) and left + right > 1:
        raise ValueError(
            f"left_size + right_size must be at most 1, got {left_size!r} and "
            f"{right_size!r}; leave one out to give it the rest"
        )
    left_length = _length("left_size", left, total)
    right_length = _length("right_size", right, total)
    if left_length is None:
        left_length = total - (right_length or 0)
    if right_length is None:
        right_length = total - left_length
    if left_length + right_length > total:
        raise ValueError(
            f"left_size={left_size!r} and right_size={right_size!r} come to "
            f"{left_length} and {right_length} samples, but there are {total}; leave one "
            "out to give it the rest"
        )
    if not left_length or not right_length:
        raise ValueError(
            f"each half must get a sample, got {left_length} and {right_length} of "
            f"{total} for left_size={left_size!r} and right_size={right_size!r}"
        )
    return left_length, right_length


def _number(name: str, size: Any) -> int | float | None:
    if size is None:
        return None
    if isinstance(size, np.floating):
        # As it was written: float(np.float32(0.8)) is more than 0.8.
        return float(str(size))
    if isinstance(size, (int, np.integer)) and not isinstance(size, bool):
        return int(size)
    if isinstance(size, float):
        return size
    raise TypeError(
        f"{name} must be an integer, a float or None, got {size!r}; an integer counts "
        "samples, a float is a fraction of them"
    )


def _length(name: str, size: float | None, total: int) -> int | None:
    if size is None:
        return None
    if isinstance(size, int):
        if not 0 < size < total:
            raise ValueError(
                f"{name} as an integer must be from 1 to {total - 1} of {total} samples, "
                f"got {size!r}"
            )
        return size
    if not 0 < size < 1:
        raise ValueError(
            f"{name} as a float must be between 0 and 1, got {size!r}; an integer counts "
            "samples"
        )
    return round(size * total)


def _shuffled(length: int, seed: Any) -> NDArray[np.signedinteger[Any]]:
    if seed is None:
        seed = draw_seed()
    elif isinstance(seed, np.integer):
        seed = int(seed)
    try:
        generator = random.Random(seed)
    except TypeError:
        raise TypeError(
            f"seed must be a number, text, bytes or None, got {seed!r}"
        ) from None
    # Shuffled as a list would be, in a tenth of its memory.
    order = array("i" if length <= 2**31 else "q", range(length))
    generator.shuffle(order)
    return np.frombuffer(order, order.typecode)
