"""``to_categorical``: class labels to one-hot rows.

A drop-in for ``keras.utils.to_categorical``. NumPy's labels are read, checked and written
a piece at a time: besides the result, memory of one piece is needed and no more.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .kinds import is_tensorflow, tensor_namespace, tensorflow_like

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["to_categorical"]

_PIECE = 2**16  # labels; a piece and what is made of it fit into a core's cache


def to_categorical(x: Any, num_classes: int | None = None) -> Any:
    """Turn class labels into one-hot rows.

    Args:
        x: Labels in ``[0, num_classes)``, shape ``(...)`` or ``(..., 1)``: an array, a
            tensor of torch, JAX, TensorFlow, CuPy, or what ``numpy.array`` takes. Floats
            are truncated, text is read as integers.
        num_classes: Length of a row, 1 or more. None, or 0, takes the largest label plus
            one.

    Returns:
        Shape ``(..., num_classes)``; one 1 in each row, and zeros. Of a tensor a tensor of
        the same library on the same device, of anything else a new ``numpy.ndarray``. The
        dtype is the one that ``zeros`` has in that library: float64 in NumPy, float32 in
        torch, JAX and TensorFlow unless they were told otherwise.

    Differs from Keras: a negative label is refused; there, it counts from the last class.
    Differs from Keras: tensors obey the rules of arrays; there, torch's give int64, need
    ``num_classes``, and have rows of zeros for negative labels.

    Raises:
        IndexError: A label is negative, not finite, or not below ``num_classes``.
        TypeError: ``num_classes`` is not an integer, or ``x`` holds no numbers.
        ValueError: ``num_classes`` is negative, or None although there are no labels; or
            ``x`` is ragged, or text that is no number.

    >>> to_categorical([0, 2])
    array([[1., 0., 0.],
           [0., 0., 1.]])
    """
    if is_tensorflow(x):
        rows = _rows_of_array(np.asarray(x), num_classes, np.float32)
        return tensorflow_like(x, rows)
    xp = tensor_namespace(x)
    if xp is not None:
        return _rows_of_tensor(xp, x, num_classes)
    labels = x if isinstance(x, np.ndarray) else np.array(x, np.int64)
    return _rows_of_array(np.asarray(labels), num_classes, np.float64)


def _rows_of_array(
    labels: NDArray[Any], num_classes: Any, dtype: type[np.floating[Any]]
) -> NDArray[Any]:
    labels = labels.reshape(_squeezed(labels.shape))
    classes = _class_count(num_classes, labels.size)
    if classes is None:
        classes = 1 + max(int(piece.max()) for _, piece in _pieces(labels, None))
    rows = np.zeros((*labels.shape, classes), dtype)
    flat = rows.reshape(-1)
    row_starts = np.arange(min(_PIECE, labels.size)) * classes
    for start, piece in _pieces(labels, classes):
        flat[start * classes :][row_starts[: piece.size] + piece] = 1
    return rows


def _pieces(
    labels: NDArray[Any], classes: int | None
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """The labels in C order, piece by piece, checked, each with the position it starts at.

    A piece is overwritten by the next one.
    """
    start = 0
    pieces: Any = np.nditer(
        labels,
        flags=["external_loop", "buffered", "refs_ok", "zerosize_ok"],
        op_dtypes=[np.dtype(np.int64)],
        casting="unsafe",
        order="C",
        buffersize=_PIECE,
    )
    for piece in pieces:
        if piece.min() < 0 or (classes is not None and piece.max() >= classes):
            wrong = (piece < 0) | (piece >= (np.inf if classes is None else classes))
            position = start + int(wrong.argmax())
            _refuse(labels.flat[position], position, labels.shape, classes)
        yield start, piece
        start += piece.size


def _rows_of_tensor(xp: Any, x: Any, num_classes: Any) -> Any:
    from array_api_compat import device

    labels = xp.reshape(x, _squeezed(x.shape))
    classes = _class_count(num_classes, math.prod(labels.shape))
    index, real = labels, xp.isdtype(labels.dtype, "real floating")
    if real:
        # -1 stands for what no integer does, such as nan, which could become any.
        index = xp.where(xp.abs(labels) < 2.0**31, labels, -xp.ones_like(labels))
    index = xp.astype(index, xp.arange(1).dtype)
    good = index >= 0
    if classes is not None:
        good = good & (index < classes)
    if not bool(xp.all(good)):
        wrong = xp.reshape(xp.logical_not(good), (-1,))
        position = int(xp.argmax(xp.astype(wrong, index.dtype)))
        label = (float if real else int)(xp.reshape(labels, (-1,))[position])
        _refuse(label, position, labels.shape, classes)
    if classes is None:
        classes = int(xp.max(index)) + 1
    every_class = xp.arange(classes, dtype=index.dtype, device=device(x))
    return xp.astype(index[..., None] == every_class, xp.zeros(1).dtype)


def _squeezed(shape: Any) -> tuple[int, ...]:
    """The shape without its last dimension, if that is of length 1 and not the only one."""
    return tuple(shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape)


def _class_count(num_classes: Any, label_count: int) -> int | None:
    """``num_classes``, checked; None if the labels decide."""
    if not num_classes:
        if not label_count:
            raise ValueError(
                f"num_classes must be given if there are no labels, got {num_classes!r}"
            )
        return None
    try:
        classes = operator.index(num_classes)
    except TypeError:
        classes = None
    if classes is None or isinstance(num_classes, bool):
        raise TypeError(f"num_classes must be an integer or None, got {num_classes!r}")
    if classes < 0:
        raise ValueError(
            f"num_classes must be 1 or more, got {num_classes!r}; None takes the largest "
            "label plus one"
        )
    return classes


def _refuse(
    label: Any, position: int, shape: tuple[int, ...], classes: int | None
) -> NoReturn:
    value = label.item() if hasattr(label, "item") else label
    place = ", ".join(str(index) for index in np.unravel_index(position, shape))
    below = "" if classes is None else f" and below num_classes={classes}"
    raise IndexError(f"labels must be 0 or more{below}, got {value!r} at [{place}]")
