"""Inputs, targets and weights as one batch, and back."""

from __future__ import annotations

import warnings
from typing import Any

__all__ = ["pack_x_y_sample_weight", "unpack_x_y_sample_weight"]


def pack_x_y_sample_weight(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
    """Pack inputs, targets and sample weights into one batch.

    Nothing is copied, converted or compared; only None counts as not given.

    Args:
        x: Inputs: an array, a structure of arrays, or anything else.
        y: Targets.
        sample_weight: One weight per sample. Needs ``y``.

    Returns:
        ``(x, y, sample_weight)`` or ``(x, y)``, as far as they are given. ``x`` alone is
        returned as it is, or as ``(x,)`` if it is a tuple or a list, so that its members
        are not taken for targets.

    Warns:
        UserWarning: ``sample_weight`` is given without ``y``, and so is left out.

    Differs from Keras: ``sample_weight`` without ``y`` is left out with a warning, not in
        silence.

    >>> pack_x_y_sample_weight("x", "y")
    ('x', 'y')
    >>> pack_x_y_sample_weight("x")
    'x'
    >>> pack_x_y_sample_weight(["a", "b"])
    (['a', 'b'],)
    """
    if y is not None:
        return (x, y) if sample_weight is None else (x, y, sample_weight)
    if sample_weight is not None:
        warnings.warn(
            "sample_weight is left out of the batch because there is no y, which is where "
            "it would be looked for; give y too",
            UserWarning,
            stacklevel=2,
        )
    return (x,) if isinstance(x, (tuple, list)) else x


def unpack_x_y_sample_weight(data: Any) -> tuple[Any, Any, Any]:
    """Unpack a batch into inputs, targets and sample weights.

    The inverse of :func:`pack_x_y_sample_weight`.

    Args:
        data: A tuple or list ``(x,)``, ``(x, y)`` or ``(x, y, sample_weight)``; anything
            else is ``x``.

    Returns:
        ``(x, y, sample_weight)``, None in place of what the batch does not have.

    Raises:
        ValueError: ``data`` is a tuple or list of another length.

    >>> unpack_x_y_sample_weight(("x", "y"))
    ('x', 'y', None)
    >>> unpack_x_y_sample_weight("x")
    ('x', None, None)
    """
    if not isinstance(data, (tuple, list)):
        return data, None, None
    if not 1 <= len(data) <= 3:
        raise ValueError(
            "data must be x, (x,), (x, y) or (x, y, sample_weight), got a "
            f"{type(data).__qualname__} of {len(data)}; pack_x_y_sample_weight makes one"
        )
    x, y, sample_weight = (*data, None, None)[:3]
    return x, y, sample_weight
