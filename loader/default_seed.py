"""The seed of what was given none, and of every global generator.

A loader without a seed draws one here: a fresh one, or the next of the stream that
:func:`set_random_seed` began.
"""

from __future__ import annotations

import operator
import random
import secrets
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .seeding import kept_globals

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SeedStream", "draw_seed", "import_framework", "set_random_seed"]


class SeedStream:
    """The seeds of what was given none, one after the other.

    Attributes:
        origin: What they derive from; None for fresh ones.
    """

    __slots__ = ("_bits", "origin")

    def __init__(self, origin: int | None) -> None:
        self.origin = origin
        self._bits: Callable[[int], int] = secrets.randbits
        if origin is not None:
            # The prefix keeps the stream apart from the global one of the same seed.
            self._bits = random.Random(f"feedline {origin}").getrandbits

    def draw(self) -> int:
        """The next seed, below 2**64."""
        return self._bits(64)


# Of the whole process, as are the global generators that it is set together with.
_stream = SeedStream(None)


def draw_seed() -> int:
    """Draw a seed for something that was given none.

    Returns:
        A number below 2**64: the next of the stream that :func:`set_random_seed` began.
        Before its first call a fresh one, for which no global generator is read.

    >>> set_random_seed(7)
    >>> seeds = draw_seed(), draw_seed()
    >>> seeds[0] == seeds[1]
    False
    >>> set_random_seed(7)
    >>> seeds == (draw_seed(), draw_seed())
    True
    """
    return _stream.draw()


def set_random_seed(seed: int) -> None:
    """Seed every global generator, and whatever is given no seed from now on.

    Seeded are ``random``, ``numpy.random``, and of torch, TensorFlow and Keras those that
    are imported; torch and TensorFlow also when feedline is what imports them, later. JAX
    has no global generator, and ``numpy.random.default_rng()`` stays fresh.

    A ``Loader`` without ``seed`` takes the next of a stream of seeds that begins anew here.
    So two loaders differ from each other, and a program that makes the same ones in the
    same order repeats them.

    Differs from Keras: a bad seed changes nothing; there, part of the state is lost.
    Differs from Keras: integers of NumPy, and all else that is an index, are accepted.
    Differs from Keras: torch is seeded under every backend of Keras.
    Differs from Keras: nothing is imported; there, TensorFlow is if it is installed.

    Args:
        seed: 0 to 2**32 - 1. ``True`` is 1 and ``False`` is 0.

    Raises:
        ValueError: ``seed`` is not an integer, or is out of range.

    >>> set_random_seed(7)
    >>> first = random.random()
    >>> set_random_seed(7)
    >>> random.random() == first
    True
    """
    global _stream
    number = _checked_seed(seed)
    import numpy.random

    random.seed(number)
    numpy.random.seed(number)
    for seed_framework in _FRAMEWORKS.values():
        seed_framework(number)
    _begin_keras_anew(number)
    _stream = SeedStream(number)


def import_framework(name: str) -> Any:
    """Import a framework where feedline needs one that the user may not have imported.

    What this brings into the process for the first time is seeded, if
    :func:`set_random_seed` was called before. Keras needs no seed then: its generator
    derives from ``random`` when it is first used. The import itself, in which some of
    them draw numbers, leaves the global generators as they were.

    Args:
        name: ``"torch"``, ``"tensorflow"``, ``"keras"``, ``"jax"``.
    """
    import numpy.random

    missing = [known for known in _FRAMEWORKS if known not in sys.modules]
    with kept_globals(numpy.random.MT19937(0)):
        framework = import_module(name)
    if _stream.origin is not None:
        for new in missing:
            _FRAMEWORKS[new](_stream.origin)
    return framework


def _checked_seed(seed: Any) -> int:
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**32:
        raise ValueError(f"seed must be an integer from 0 to 2**32 - 1, got {seed!r}")
    return number


# A module may be None, a stub or half imported: then it has no generator to seed.


def _seed_torch(seed: int) -> None:
    torch: Any = sys.modules.get("torch")
    if hasattr(torch, "manual_seed"):
        torch.manual_seed(seed)


def _seed_tensorflow(seed: int) -> None:
    tensorflow: Any = sys.modules.get("tensorflow")
    if hasattr(tensorflow, "random"):
        tensorflow.random.set_seed(seed)


_FRAMEWORKS = {"torch": _seed_torch, "tensorflow": _seed_tensorflow}


def _begin_keras_anew(seed: int) -> None:
    """Make Keras' own generator begin anew."""
    keras: Any = sys.modules.get("keras")
    if not hasattr(keras, "utils"):
        return
    tracker = sys.modules.get("keras.src.backend.common.global_state")
    if tracker is not None and _is_installed_only("tensorflow"):
        # Keras' function would import TensorFlow, which takes seconds. Without its
        # generator Keras makes one, from ``random``.
        tracker.set_global_attribute("global_random_seed", seed)
        tracker.set_global_attribute("global_seed_generator", None)
    else:
        keras.utils.set_random_seed(seed)


def _is_installed_only(name: str) -> bool:
    return name not in sys.modules and find_spec(name) is not None
