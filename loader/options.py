"""What the user may choose, checked once, frozen."""

from __future__ import annotations

import logging
import math
import sys
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from .checks import boolean, byte_count, integer, one_of, seconds, share_or_count

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "LONGEST_DELAY",
    "LoaderOptions",
    "OnError",
    "OnTimeout",
    "StartMethod",
    "length_of",
]

StartMethod = Literal["fork", "forkserver", "spawn"]
OnError = Literal["raise", "skip"]
OnTimeout = Literal["raise", "replace"]

_log = logging.getLogger(__name__)

_MOST_WORKERS = 1024
_MOST_RETRIES = 100
_LONGEST = 10**6  # seconds; what poll() can wait is not much more
LONGEST_DELAY = 60  # seconds between two tries of one batch


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
        on_timeout: What happens to a batch that takes longer.
        on_error: What happens to a batch that raises.
        max_errors: Most batches of an epoch that are left out, as a count or, if it is a
            ``float``, as a share of its batches; None for no such bound.
        retries: How often a batch that raises an ``Exception`` is tried again first.
        retry_delay: Seconds before that, doubled each time.
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
    on_timeout: OnTimeout = "raise"
    on_error: OnError = "raise"
    max_errors: int | float | None = None
    retries: int = 0
    retry_delay: float = 0.0
    worker_init_fn: Callable[[int], object] | None = None

    def __post_init__(self) -> None:
        def keep(name: str, check: Callable[..., Any], *rules: Any) -> None:
            # The value is frozen for everyone else.
            object.__setattr__(self, name, check(name, getattr(self, name), *rules))

        keep(
            "workers",
            integer,
            0,
            _MOST_WORKERS,
            "0 builds batches in the calling thread",
        )
        keep("use_multiprocessing", boolean)
        keep(
            "max_queue_size",
            integer,
            1,
            None,
            "it is the number of batches in flight or ready, in all",
        )
        keep("max_bytes", byte_count)
        keep("shuffle", boolean)
        keep("seed", integer, 0, 2**64 - 1, "None draws a fresh one")
        keep("in_order", boolean)
        if self.timeout is not None:
            keep("timeout", seconds, False, _LONGEST, "None waits for ever")
        keep("on_timeout", one_of, get_args(OnTimeout))
        keep("on_error", one_of, get_args(OnError))
        if self.max_errors is not None:
            keep(
                "max_errors", share_or_count, "3 is a count, 0.1 a share of an epoch's"
            )
        keep("retries", integer, 0, _MOST_RETRIES, "0 never tries again")
        keep("retry_delay", seconds, True, LONGEST_DELAY, "0 tries again at once")
        if self.worker_init_fn is not None and not callable(self.worker_init_fn):
            raise TypeError(
                "worker_init_fn must be a function of the worker's number or None, got "
                f"{self.worker_init_fn!r}"
            )
        self._check_company()
        object.__setattr__(self, "start_method", self._checked_start_method())

    @property
    def processes(self) -> bool:
        """Whether batches are built in worker processes."""
        return self.use_multiprocessing and self.workers > 0

    def most_errors(self, length: int | None) -> int | None:
        """How many batches of an epoch may be left out; None for any number.

        Args:
            length: Batches in the epoch; None for one without end.

        Raises:
            ValueError: It has no end, and ``max_errors`` is a share.
        """
        if not isinstance(self.max_errors, float):
            return self.max_errors
        if length is None:
            raise ValueError(
                f"max_errors={self.max_errors!r} is a share of an epoch's batches, and "
                "the dataset has no end (num_batches=None); give a number of batches"
            )
        return math.floor(self.max_errors * length + 1e-9)  # 0.29 of 100 is 29

    def _check_company(self) -> None:
        """Refuse options that would do nothing without another."""
        if self.on_timeout != "raise" and self.timeout is None:
            raise ValueError(
                f"on_timeout={self.on_timeout!r} is for batches that take longer than "
                "timeout, got timeout=None; give a number of seconds"
            )
        if self.max_errors is not None and self.on_error != "skip":
            raise ValueError(
                f"max_errors={self.max_errors!r} bounds how many batches are left out, "
                "and none is; add on_error='skip' or leave it out"
            )
        if self.retry_delay and not self.retries:
            raise ValueError(
                f"retry_delay={self.retry_delay!r} is for batches that are tried again, "
                "got retries=0; add retries=3 or leave it out"
            )

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
    return integer("num_batches", length, 0, None, "None means that it has no end")
