"""``normalize``: arrays scaled to norm 1.

A drop-in for ``keras.utils.normalize``. What is divided by its norm was divided by its
largest magnitude before, so that no square on the way is too large or too small.
"""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any

import numpy as np

from .kinds import is_tensorflow, tensor_namespace, tensorflow_like

__all__ = ["normalize"]


def normalize(
    x: Any, axis: int | tuple[int, ...] | None = -1, order: float | None = 2
) -> Any:
    """Divide by the norm, along an axis or over several.

    What has norm zero stays as it is. Infinite values become nan and make the finite ones
    around them zero; a nan makes nan of all around it.

    Args:
        x: An array of numbers; a tensor of torch, JAX, TensorFlow, CuPy; or a list.
        axis: Along which vectors have a norm. A tuple of axes takes one norm over all of
            them, None over the whole array.
        order: Of the norm: ``(sum of |x| ** order) ** (1 / order)``. Infinity takes the
            largest magnitude, minus infinity the smallest, 0 the number of elements that
            are not zero. None is 2.

    Returns:
        A new array of the shape, library and device of ``x``; a list gives a
        ``numpy.ndarray``, and subclasses of it are kept. Floating and complex dtypes are
        kept; integers and bools become what ``zeros`` has in that library: float64 in
        NumPy, float32 in torch, JAX and TensorFlow unless they were told otherwise.

    Differs from Keras: ``axis=0`` is right; there, it gives an error or wrong numbers.
    Differs from Keras: a 1-D array keeps its shape; there, (n,) becomes (1, n).
    Differs from Keras: several axes have the norm of all their elements; there, a matrix
    norm and a wrong shape, or an error.
    Differs from Keras: values too large or too small to be squared are normalized too.
    Differs from Keras: lists give a NumPy array; there, a tensor.
    Differs from Keras: tensors obey the rules of arrays; there, only whole orders from 1,
    and norms under 1e-7 count as 1e-7.

    Raises:
        numpy.exceptions.AxisError: ``axis`` is not an axis of ``x``. It is a ValueError
            and an IndexError.
        TypeError: ``x`` does not hold numbers, or ``axis`` is not an integer.
        ValueError: ``order`` is not a real number, ``axis`` names one twice or none, or
            ``x`` is ragged.

    >>> normalize([[3.0, 4.0], [0.0, 0.0]])
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    order = _checked_order(order)
    if is_tensorflow(x):
        return _normalized_tensorflow(x, axis, order)
    xp = tensor_namespace(x)
    if xp is not None:
        return _normalized(xp, x, axis, order)
    from array_api_compat import numpy as xp

    x = x if isinstance(x, np.ndarray) else np.asarray(x)
    with np.errstate(all="ignore"):
        return np.asanyarray(_normalized(xp, x, axis, order))


def _normalized(xp: Any, x: Any, axis: Any, order: float) -> Any:
    dtype = _result_dtype(xp, x)
    axis = _checked_axis(axis, x.ndim)
    if 0 in x.shape:
        return xp.astype(x, dtype)
    half = xp.isdtype(dtype, "real floating") and xp.finfo(dtype).bits < 32
    work = xp.astype(x, xp.float32 if half else dtype, copy=False)
    plain = np.asarray(work) if isinstance(work, np.ndarray) else work
    # The norm of order 0 counts, and does not shrink with what it counts.
    scale = _scale(xp, plain, axis, order) if order else xp.ones_like(plain)
    scaled = plain / scale
    # Of magnitudes, because dividing made nan of a complex infinity's other part.
    norm = xp.linalg.vector_norm(xp.abs(scaled), axis=axis, keepdims=True, ord=order)
    if plain is not work:
        scaled = work / scale  # a subclass, whose operators are its own
    result = scaled / xp.where(norm == 0, xp.ones_like(norm), norm)
    return xp.astype(result, dtype, copy=False)


def _scale(xp: Any, x: Any, axis: Any, order: float) -> Any:
    """The magnitude that decides the norm; 1 where there is none to divide by."""
    if xp.isdtype(x.dtype, "complex floating"):
        magnitude = xp.maximum(xp.abs(xp.real(x)), xp.abs(xp.imag(x)))
    else:
        magnitude = xp.abs(x)
    extreme = xp.min if order < 0 else xp.max
    scale = extreme(magnitude, axis=axis, keepdims=True)
    usable = xp.isfinite(scale) & (scale > 0)
    return xp.where(usable, scale, xp.ones_like(scale))


def _normalized_tensorflow(x: Any, axis: Any, order: float) -> Any:
    array = np.asarray(x)
    # bfloat16 is none of NumPy's own, and integers become what TensorFlow's zeros are.
    if array.dtype.kind in "biuV":
        array = array.astype(np.float32)
    result = normalize(array, axis, order)
    if x.dtype.is_floating:
        result = result.astype(x.dtype.as_numpy_dtype)
    return tensorflow_like(x, result)


def _result_dtype(xp: Any, x: Any) -> Any:
    if xp.isdtype(x.dtype, ("real floating", "complex floating")):
        return x.dtype
    if xp.isdtype(x.dtype, ("bool", "integral")):
        return xp.zeros(1).dtype
    raise TypeError(f"x must hold numbers, got dtype {x.dtype!r}")


def _checked_axis(axis: Any, ndim: int) -> int | tuple[int, ...] | None:
    """The axis or axes counted from 0; None for all of them."""
    if axis is None:
        return None
    given = axis if isinstance(axis, tuple) else (axis,)
    axes = []
    for one in given:
        number = operator.index(one)
        if not -ndim <= number < ndim:
            raise np.exceptions.AxisError(
                f"axis must be from {-ndim} to {ndim - 1} for an array of {ndim} "
                f"dimensions, got {axis!r}; None takes the norm over the whole array"
            )
        axes.append(number % ndim)
    if not axes or len(set(axes)) < len(axes):
        raise ValueError(
            f"axis must name at least one axis and none twice, got {axis!r}; None takes "
            "the norm over the whole array"
        )
    return axes[0] if len(axes) == 1 else tuple(axes)


def _checked_order(order: Any) -> float:
    if order is None:
        return 2
    if not isinstance(order, Real):
        # No TypeError, because Keras raises this.
        raise ValueError(  # noqa: TRY004
            f"order must be a real number or None, got {order!r}"
        )
    return float(order)
