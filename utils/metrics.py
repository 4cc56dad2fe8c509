"""One number out of what a step returned, and means of many."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

__all__ = ["RunningMeans", "metric_value"]


def metric_value(name: str, value: Any) -> float:
    """The value of a metric as one number.

    Args:
        name: The metric, for the error message.
        value: A number, a NumPy, torch or JAX scalar, or an array or (nested) list of
            numbers, of which the mean is taken; that of an empty one is nan.

    Raises:
        TypeError: ``value`` is none of these.

    >>> metric_value("loss", [0, 1, 2])
    1.0
    """
    if isinstance(value, Real):
        return float(value)
    if hasattr(value, "detach"):  # a torch tensor, wherever it lies
        value = value.detach().cpu().double()
    array = _real_array(value)
    if array is None:
        raise TypeError(
            f"metric {name!r} must be a number or an array of numbers, got {value!r}"
        )
    with np.errstate(all="ignore"):  # inf - inf is nan, which will be seen
        return float(array.mean()) if array.size else float("nan")


def _real_array(value: Any) -> NDArray[np.float64] | None:
    try:
        array = np.asarray(value)
        # Text, dates, complex numbers and None all have some conversion to float.
        return None if array.dtype.kind in "OSUMmc" else array.astype(np.float64)
    except (TypeError, ValueError):
        return None


class RunningMeans:
    """Weighted means by name, in the order in which the names first came."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}  # name: weighted sum, weight

    def add(self, name: str, value: float, weight: float) -> None:
        """Take ``value`` into the mean ``weight`` times."""
        # Added to -0.0, every number stays what it is; added to 0.0, -0.0 does not.
        total, weights = self._sums.get(name, (-0.0, 0.0))
        self._sums[name] = (total + value * weight, weights + weight)

    def replace(self, name: str, value: float) -> None:
        """Forget what was added: the mean is ``value``, of weight 1."""
        self._sums[name] = (value, 1.0)

    def state(self) -> dict[str, list[float]]:
        """Sums and weights, in plain data."""
        return {name: list(pair) for name, pair in self._sums.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Iterable[float]]) -> Self:
        """What :meth:`state` told."""
        means = cls()
        for name, (total, weights) in state.items():
            means._sums[name] = (total, weights)
        return means

    def __iter__(self) -> Iterator[tuple[str, float]]:
        for name, (total, weights) in self._sums.items():
            yield name, total / weights
