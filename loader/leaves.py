"""A batch with its leaves changed. Pure."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["rebuilt"]


def rebuilt(batch: Any, change: Callable[[Any], Any]) -> Any:
    """Make the same structure with what ``change`` makes of each leaf.

    Dicts, lists, tuples, named tuples and dataclasses are structure; all else is a leaf.

    >>> rebuilt({"x": (1, 2), "y": [3]}, lambda leaf: leaf * 10)
    {'x': (10, 20), 'y': [30]}
    """
    if type(batch) is tuple:
        return tuple(rebuilt(part, change) for part in batch)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(rebuilt(part, change) for part in batch))
    if type(batch) is list:
        return [rebuilt(part, change) for part in batch]
    if isinstance(batch, dict):
        changed = {key: rebuilt(part, change) for key, part in batch.items()}
        if type(batch) is dict:
            return changed
        mapping = copy.copy(batch)  # it may have more than its items
        mapping.update(changed)
        return mapping
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        clone = copy.copy(batch)
        for field in dataclasses.fields(batch):
            value = rebuilt(getattr(batch, field.name), change)
            object.__setattr__(clone, field.name, value)  # it may be frozen
        return clone
    return change(batch)
