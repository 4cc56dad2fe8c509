"""The random state of one batch, and where code inside ``__getitem__`` reads it.

Every batch has a key made of (seed, epoch, index) and of nothing else. From it come the
``rng`` of that batch, in every pool, and the state of the global generators (``random``,
``numpy.random`` and, once imported, ``torch``) where they can be given one: in worker
processes and in the calling thread. Threads share the global generators, so that code
which must be reproducible in threads draws from ``rng``.
"""

from __future__ import annotations

import hashlib
import random
import struct
import sys
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "WorkerInfo",
    "batch_key",
    "building",
    "get_worker_info",
    "kept_globals",
    "own_globals",
    "rekey_globals",
]

_KEY = struct.Struct("<QQQ")
_MASK = 2**64 - 1


def batch_key(seed: int, epoch: int, index: int) -> bytes:
    """The 16 bytes from which all randomness of a batch derives."""
    fields = _KEY.pack(seed & _MASK, epoch & _MASK, index & _MASK)
    return hashlib.blake2b(fields, digest_size=16).digest()


class WorkerInfo:
    """Who is building which batch.

    Attributes:
        id: Number of the worker, from 0; 0 in the calling thread.
        num_workers: How many there are; 0 in the calling thread.
        epoch: The epoch, from 0.
        index: Index of the batch.
        loader_seed: The loader's seed, below 2**64.
        seed: A number below 2**64 that belongs to this batch alone: the same for the
            same (loader seed, epoch, index), whoever builds it.
    """

    __slots__ = (
        "_key", "_rng", "epoch", "id", "index", "loader_seed", "num_workers", "seed",
    )  # fmt: skip

    def __init__(
        self, worker: int, num_workers: int, seed: int, epoch: int, index: int
    ) -> None:
        self.id = worker
        self.num_workers = num_workers
        self.epoch = epoch
        self.index = index
        self.loader_seed = seed
        self._key = batch_key(seed, epoch, index)
        self.seed = int.from_bytes(self._key[:8], "little")
        self._rng: np.random.Generator | None = None

    @property
    def rng(self) -> np.random.Generator:
        """The generator of this batch; made at the first look."""
        if self._rng is None:
            from numpy.random import Generator, Philox

            self._rng = Generator(Philox(key=int.from_bytes(self._key, "little")))
        return self._rng

    def __repr__(self) -> str:
        return (
            f"WorkerInfo(id={self.id}, num_workers={self.num_workers}, "
            f"epoch={self.epoch}, index={self.index}, seed={self.seed})"
        )


_current: ContextVar[WorkerInfo | None] = ContextVar("feedline_worker", default=None)


def get_worker_info() -> WorkerInfo | None:
    """Tell the code inside ``__getitem__`` which batch it builds, and as which worker.

    Returns:
        None outside a loader.

    >>> get_worker_info() is None
    True
    """
    return _current.get()


class building:
    """Makes ``info`` what :func:`get_worker_info` tells, in this thread, for a while.

    A class, because a generator would set the traceback of what passes through, and a
    frozen exception refuses that.
    """

    __slots__ = ("_info", "_token")

    _token: Token[WorkerInfo | None]

    def __init__(self, info: WorkerInfo) -> None:
        self._info = info

    def __enter__(self) -> None:
        self._token = _current.set(self._info)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


def rekey_globals(seed: int) -> None:
    """Set the global generators of this process.

    Args:
        seed: Below 2**64.
    """
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch = _torch_generator()
    if torch is not None:
        torch.manual_seed(seed & (_MASK >> 1))


def own_globals() -> None:
    """Make sure, in a worker process, that the global generators can be set."""
    import numpy.random

    legacy = numpy.random.mtrand
    if not isinstance(legacy.get_bit_generator(), numpy.random.MT19937):
        legacy.set_bit_generator(numpy.random.MT19937(0))


@contextmanager
def kept_globals(spare: np.random.MT19937) -> Iterator[None]:
    """Put the global generators back afterwards as they were before.

    Args:
        spare: Stands in for numpy's global bit generator meanwhile. An exchange of
            generators is quicker than saving and restoring a state.
    """
    import numpy.random

    legacy = numpy.random.mtrand
    python = random.getstate()
    torch = _torch_generator()
    tensor = None if torch is None else torch.get_state()
    own, state = legacy.get_bit_generator(), numpy.random.get_state(legacy=False)
    legacy.set_bit_generator(spare)
    try:
        yield
    finally:
        legacy.set_bit_generator(own)
        if state[
            "has_gauss"
        ]:  # the second of a pair of normal deviates, kept for later
            numpy.random.set_state(state)
        random.setstate(python)
        if torch is not None:
            torch.set_state(tensor)


def _torch_generator() -> Any:
    """Torch's CPU generator if torch is imported, and whole.

    Not ``torch.manual_seed``, which would also queue work for CUDA.
    """
    return getattr(sys.modules.get("torch"), "default_generator", None)
