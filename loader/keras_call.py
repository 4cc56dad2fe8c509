"""What Keras' user gave beside our data, and Keras passes over without a word.

Keras hands ``y``, ``sample_weight``, ``class_weight``, ``shuffle`` and ``batch_size`` of a
call to nobody when the data is an adapter, and offers no hook to hear of them. They can
only be seen in the frames of the call itself, where it asks for the number of batches.
In a Keras that is made differently nothing is found here, and nothing happens.
"""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any

from .keras_batches import described

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["check_call"]

_METHODS = ("fit", "evaluate", "predict")
_DEPTH = 4  # frames from the one that asks for the length up to the method
_INSTEAD = {
    "y": "let it be the second part of each batch",
    "sample_weight": "let it be the third part of each batch",
    "class_weight": "give it to as_keras(..., class_weight=...)",
}


def check_call(data: object, *, shuffles: bool, endless: bool) -> None:
    """Refuse, or warn of, what would be passed over. Called by what Keras calls.

    Args:
        data: What Keras was given as ``x``, or in ``validation_data``.
        shuffles: Whether it does.
        endless: Whether its epochs have no end.

    Raises:
        ValueError: The call has a ``y``, a ``sample_weight`` or a ``class_weight``; or
            data without end comes without a number of steps.
    """
    asking = inspect.currentframe()
    for _ in range(2):  # and no name for this frame, which would keep itself alive
        asking = asking and asking.f_back
    if asking is None or asking.f_locals.get("x") is not data:
        return
    for name, instead in _INSTEAD.items():
        value = asking.f_locals.get(name)
        if value is not None:
            shown = repr(value) if name == "class_weight" else described(value)
            raise ValueError(
                f"{name} does not reach data made by as_keras, got {shown}; {instead}"
            )
    if endless and asking.f_locals.get("steps_per_epoch", 1) is None:
        raise ValueError(
            "a dataset without end needs a number of steps, got None; give "
            "steps_per_epoch to fit, validation_steps, or steps to evaluate and predict"
        )
    method, given = _method(asking, data)
    size = given.get("batch_size")
    if size is not None:
        _warn(
            f"{method}(batch_size={size!r}) is passed over", "the dataset makes batches"
        )
    if method == "fit" and given.get("shuffle", shuffles) != shuffles:
        _warn(
            f"fit(shuffle={given['shuffle']!r}) is passed over",
            "the loader shuffles"
            if shuffles
            else "as_keras(dataset, shuffle=True) or Loader(dataset, shuffle=True) "
            "shuffles, fit(shuffle=False) says that the order is meant",
        )
    if method == "predict" and shuffles:
        _warn("predictions come in the loader's order", "it shuffles")


def _method(frame: FrameType | None, data: object) -> tuple[str, dict[str, Any]]:
    """The method of the model that was called with the data, and its arguments."""
    for _ in range(_DEPTH):
        if frame is None:
            break
        arguments = frame.f_locals
        if frame.f_code.co_name in _METHODS and arguments.get("x") is data:
            return frame.f_code.co_name, arguments
        frame = frame.f_back
    return "", {}


def _warn(what: str, why: str) -> None:
    warnings.warn(f"{what}: {why}", stacklevel=2)
