"""Two functions, the same arguments: what each returned or raised."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import HealthCheck, seed, settings

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["cases", "generated", "outcome"]

_SEED = 20260729  # of all generated inputs, so that a run can be repeated

# Multiplies the number of generated inputs, for a run that takes its time.
_MULTIPLIER = int(os.environ.get("FEEDLINE_EXAMPLES", "1"))


def generated(count: int, **more: Any) -> settings:
    """So many generated inputs, or runs of a state machine."""
    return settings(
        max_examples=count * _MULTIPLIER,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        **more,
    )


def cases(count: int) -> Callable[[Any], Any]:
    """How a differential test generates its inputs: so many, and always the same."""
    chosen = generated(count)
    return lambda test: seed(_SEED)(chosen(test))


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a call returned, or the type of what it raised; warnings are no part of it."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return function(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
            return type(error)
