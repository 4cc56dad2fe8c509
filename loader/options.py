"""What the user may choose, checked once, frozen."""

from __future__ import annotations

import logging
import operator
import sys
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LoaderOptions", "OnError", "StartMethod", "length_of"]

StartMethod = Literal["fork", "forkserver", "spawn"]
OnError = Literal["raise", "skip"]

_log = logging.getLogger(__name__)

_MOST_WORKERS = 1024
_MOST_RETRIES = 100
_LONGEST = 10**6  # seconds; what poll() can wait is not much more
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderOptions:
    """How to load. Every value was checked when this was made.

    Attributes:
        workers: Threads or processes; 0 builds in the calling thread.
        use_multiprocessing: True for processes, False for threads.
        start_method: How processes start; None where there are none, and where it is
            chosen when they do (:meth:`settled`).
        max_queue_size: Most batches in flight or ready.
        max_bytes: Most bytes in flight or ready; None for no such bound.
        shuffle: Whether each epoch visits the batches in a random order.
        seed: Behind the order and every batch's random state; below 2**64.
        in_order: Whether batches come in the order of the plan.
        timeout: Seconds to wait for one batch; None waits for ever.
        on_error: What happens to a batch that raises.
        retries: How often a batch that raises an ``Exception`` is tried again first.
        worker_init_fn: Called with the worker's number in each new worker.
    """

    workers: int = 1
    use_multiprocessing: bool = False
    start_method: StartMethod | None = None
    max_queue_size: int = 10
    max_bytes: int | None = None
    shuffle: bool = False
    seed: int = 0
    in_order: bool = True
    timeout: float | None = None
    on_error: OnError = "raise"
    retries: int = 0
    worker_init_fn: Callable[[int], object] | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # the value is frozen for everyone else
        set_(
            self,
            "workers",
            _integer(
                "workers",
                self.workers,
                0,
                _MOST_WORKERS,
                "0 builds batches in the calling thread",
            ),
        )
        set_(
            self,
            "max_queue_size",
            _integer(
                "max_queue_size",
                self.max_queue_size,
                1,
                None,
                "it is the number of batches in flight or ready, in all",
            ),
        )
        set_(
            self,
            "seed",
            _integer("seed", self.seed, 0, 2**64 - 1, "None draws a fresh one"),
        )
        set_(
            self,
            "retries",
            _integer("retries", self.retries, 0, _MOST_RETRIES, "0 never tries again"),
        )
        for name in ("use_multiprocessing", "shuffle", "in_order"):
            set_(self, name, _boolean(name, getattr(self, name)))
        set_(self, "max_bytes", _byte_count(self.max_bytes))
        set_(self, "timeout", _seconds(self.timeout))
        if self.on_error not in get_args(OnError):
            raise ValueError(
                f"on_error must be 'raise' or 'skip', got {self.on_error!r}"
            )
        if self.worker_init_fn is not None and not callable(self.worker_init_fn):
            raise TypeError(
                "worker_init_fn must be a function of the worker's number or None, got "
                f"{self.worker_init_fn!r}"
            )
        set_(self, "start_method", self._checked_start_method())

    @property
    def processes(self) -> bool:
        """Whether batches are built in worker processes."""
        return self.use_multiprocessing and self.workers > 0

    def _checked_start_method(self) -> StartMethod | None:
        known = get_args(StartMethod)
        if self.start_method is not None and self.start_method not in known:
            raise ValueError(
                "start_method must be 'fork', 'forkserver', 'spawn' or None, got "
                f"{self.start_method!r}"
            )
        if self.start_method is not None and not self.use_multiprocessing:
            raise ValueError(
                f"start_method={self.start_method!r} is for worker processes; add "
                "use_multiprocessing=True or leave it out"
            )
        if not self.processes or self.start_method is None:
            return None
        if self.start_method not in (here := _start_methods_here()):
            raise ValueError(
                f"start_method={self.start_method!r} does not exist on this system; it "
                f"has {here!r}"
            )
        return self.start_method

    def settled(self) -> LoaderOptions:
        """The same with a start method, chosen by what is in use in this process now."""
        if not self.processes or self.start_method is not None:
            return self
        here = _start_methods_here()
        method: StartMethod = "fork" if "fork" in here else "spawn"
        if method == "fork" and "forkserver" in here and (why := _unforkable_runtime()):
            _say_once(f"worker processes start by forkserver, because {why}")
            method = "forkserver"
        return replace(self, start_method=method)


def _start_methods_here() -> list[str]:
    import multiprocessing

    return multiprocessing.get_all_start_methods()


def _unforkable_runtime() -> str:
    """What a fork of this process would break, if there is anything."""
    bridge: Any = sys.modules.get("jax._src.xla_bridge")
    if getattr(bridge, "backends_are_initialized", bool)():
        return "JAX is in use here, whose threads do not survive a fork"
    context: Any = sys.modules.get("tensorflow.python.eager.context")
    if getattr(getattr(context, "_context", None), "_initialized", False):
        return "TensorFlow is in use here, whose threads do not survive a fork"
    torch: Any = sys.modules.get("torch")
    if getattr(getattr(torch, "cuda", None), "is_initialized", bool)():
        return "CUDA is in use here, which does not survive a fork"
    return ""


@cache
def _say_once(words: str) -> None:
    _log.info(words)


def length_of(dataset: Any) -> int | None:
    """The number of batches in an epoch of ``dataset``; None for one without end.

    ``num_batches`` wins over ``__len__`` where an object has both.

    Raises:
        TypeError: The dataset has neither, or it is no integer.
        ValueError: It is negative.
    """
    try:
        length = dataset.num_batches
    except (AttributeError, NotImplementedError) as error:
        if isinstance(error, AttributeError) and hasattr(type(dataset), "num_batches"):
            raise  # the property's own failure: its words say more
        if not hasattr(type(dataset), "__len__"):
            raise TypeError(
                f"a dataset must have __len__ or num_batches, got {type(dataset)!r}; "
                "num_batches = None means that it has no end"
            ) from None
        length = len(dataset)
    if length is None:
        return None
    if callable(length):
        raise TypeError(
            f"num_batches must be an integer or None, got the method {length!r}; put "
            "@property above it"
        )
    return _integer("num_batches", length, 0, None, "None means that it has no end")


def _integer(name: str, value: Any, low: int, high: int | None, remedy: str) -> int:
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


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    numbers = (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, numbers):
        raise TypeError(f"timeout must be a number of seconds or None, got {value!r}")
    if not 0 < value <= _LONGEST:
        raise ValueError(
            f"timeout must be positive and finite, at most {_LONGEST} seconds, got "
            f"{value!r}; None waits for ever"
        )
    return float(value)


def _byte_count(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, str):
        return _integer("max_bytes", value, 1, None, "None sets no bound")
    digits = value.strip().upper().rstrip("KMGTB ")
    unit = value.strip().upper()[len(digits) :].strip()
    try:
        count = int(float(digits) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        count = 0
    if count < 1:
        raise ValueError(
            "max_bytes must be a number of bytes or text such as '2GB', 1 or more, got "
            f"{value!r}; None sets no bound"
        )
    return count
