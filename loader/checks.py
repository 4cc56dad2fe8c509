"""What the value of an option must be, and the words that refuse any other."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

__all__ = [
    "boolean",
    "byte_count",
    "integer",
    "one_of",
    "seconds",
    "share_or_count",
]

_REAL = (int, float, np.integer, np.floating)
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def integer(name: str, value: Any, low: int, high: int | None, remedy: str) -> int:
    """An integer of any library, from ``low`` to ``high``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}; {remedy}")
    if number < low or (high is not None and number > high):
        bounds = f"{low} or more" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be {bounds}, got {value!r}; {remedy}")
    return number


def boolean(name: str, value: Any) -> bool:
    """True or False, NumPy's too."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def one_of(name: str, value: Any, known: tuple[str, ...]) -> str:
    """One of a few words."""
    if value not in known:
        words = " or ".join(map(repr, known))
        raise ValueError(f"{name} must be {words}, got {value!r}")
    return str(value)


def seconds(name: str, value: Any, zero: bool, most: int, remedy: str) -> float:
    """A number of seconds up to ``most``, and 0 if that is allowed."""
    if isinstance(value, bool) or not isinstance(value, _REAL):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}; {remedy}")
    if not (value >= 0 if zero else value > 0) or value > most:
        least = "0 or more" if zero else "positive"
        raise ValueError(
            f"{name} must be {least} and finite, at most {most} seconds, got {value!r}; "
            f"{remedy}"
        )
    return float(value)


def share_or_count(name: str, value: Any, remedy: str) -> int | float:
    """An integer is a count, 0 or more; a number with a point a share, 0.0 to 1.0."""
    if not isinstance(value, (float, np.floating)):
        return integer(name, value, 0, None, remedy)
    if not 0 <= value <= 1:
        raise ValueError(
            f"{name} as a share must be from 0.0 to 1.0, got {value!r}; {remedy}"
        )
    return float(value)


def byte_count(name: str, value: Any) -> int | None:
    """Bytes, as a number or as text like ``"2GB"``; None sets no bound."""
    if value is None:
        return None
    if not isinstance(value, str):
        return integer(name, value, 1, None, "None sets no bound")
    digits = value.strip().upper().rstrip("KMGTB ")
    unit = value.strip().upper()[len(digits) :].strip()
    try:
        count = int(float(digits) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        count = 0
    if count < 1:
        raise ValueError(
            f"{name} must be a number of bytes or text such as '2GB', 1 or more, got "
            f"{value!r}; None sets no bound"
        )
    return count
