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
    from collections.abc import Iterator
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
    called = _method(asking, data)
    if called is None:
        return
    for words in _passed_over(called.f_code.co_name, called.f_locals, shuffles):
        _warn(words, called)


def _passed_over(method: str, given: dict[str, Any], shuffles: bool) -> Iterator[str]:
    size = given.get("batch_size")
    if size is not None:
        yield (
            f"{method}(batch_size={size!r}) is passed over: the dataset makes batches; "
            "leave it out"
        )
    if method == "fit" and given.get("shuffle", shuffles) != shuffles:
        why = (
            "the loader shuffles; leave it out"
            if shuffles
            else "as_keras(dataset, shuffle=True) or Loader(dataset, shuffle=True) "
            "shuffles, fit(shuffle=False) says that the order is meant"
        )
        yield f"fit(shuffle={given['shuffle']!r}) is passed over: {why}"
    if method == "predict" and shuffles:
        yield (
            "predictions come in the order in which the loader shuffles; give predict one "
            "that was made with shuffle=False"
        )


def _method(frame: FrameType | None, data: object) -> FrameType | None:
    """Where the method of the model runs that was called with the data."""
    for _ in range(_DEPTH):
        if frame is None:
            break
        if frame.f_code.co_name in _METHODS and frame.f_locals.get("x") is data:
            return frame
        frame = frame.f_back
    return None


def _warn(words: str, called: FrameType) -> None:
    """Warn where the user's code calls Keras: Keras wraps its methods in others."""
    place = called
    while _is_keras(place) and place.f_back is not None:
        place = place.f_back
    warnings.warn_explicit(
        words,
        UserWarning,
        place.f_code.co_filename,
        place.f_lineno,
        place.f_globals.get("__name__"),
        place.f_globals.setdefault("__warningregistry__", {}),
    )


def _is_keras(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "keras"
