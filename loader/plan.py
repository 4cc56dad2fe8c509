"""Which batch stands at which position of which epoch. Pure arithmetic.

A position's index is a function of (length, seed, epoch) and of nothing drawn before, so
that any position can be asked for at once, on any machine, after any restart. No global
random state is read or touched.
"""

from __future__ import annotations

import numpy as np

from .seeding import batch_key

__all__ = ["EpochPlan", "Permutation"]

_BLOCK = 1024  # positions worked out together, for numpy's sake
_SORTED_LENGTH = 2**16  # up to here one sort gives the whole order
_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class EpochPlan:
    """The order of one epoch.

    Args:
        length: Number of batches; None for an epoch without end.
        shuffle: Whether the order is a random permutation. Needs a length.
        seed: Of the loader.
        epoch: Number of the epoch, from 0; each has a permutation of its own.

    >>> [EpochPlan(4, shuffle=False, seed=0, epoch=0).index_at(k) for k in range(4)]
    [0, 1, 2, 3]
    >>> plan = EpochPlan(4, shuffle=True, seed=0, epoch=0)
    >>> sorted(plan.index_at(k) for k in range(4))
    [0, 1, 2, 3]
    """

    def __init__(
        self, length: int | None, *, shuffle: bool, seed: int, epoch: int
    ) -> None:
        self.length = length
        self._block: list[int] = []
        self._block_start = -1
        self._permutation = (
            Permutation(length, batch_key(seed, epoch, -1))
            if shuffle and length
            else None
        )

    def index_at(self, position: int) -> int:
        """The batch at ``position``, which is 0 or more and below the length."""
        if self._permutation is None:
            return position
        start = position - position % _BLOCK
        if start != self._block_start:
            stop = min(start + _BLOCK, self._permutation.length)
            self._block = self._permutation.at(start, stop).tolist()
            self._block_start = start
        return self._block[position - start]


class Permutation:
    """A random order of ``range(length)`` that is known piece by piece.

    Short ones are the order of as many hashes, sorted. Long ones would cost memory and a
    pause that way; they are a Feistel network over the next power of four, which permutes
    that range without a table, walked on wherever it leaves ``range(length)``.

    Args:
        length: 1 or more.
        key: 16 bytes that decide the order.
    """

    def __init__(self, length: int, key: bytes) -> None:
        self.length = length
        keys = np.frombuffer(key, np.uint64)
        self._keys = _scramble(np.arange(_ROUNDS, dtype=np.uint64) + keys[0]) ^ keys[1]
        self._half = np.uint64(max(1, ((length - 1).bit_length() + 1) // 2))
        self._table: np.ndarray[tuple[int], np.dtype[np.intp]] | None = None
        if length <= _SORTED_LENGTH:
            hashes = _scramble(np.arange(length, dtype=np.uint64) ^ self._keys[0])
            self._table = np.argsort(hashes, kind="stable")

    def at(self, start: int, stop: int) -> np.ndarray[tuple[int], np.dtype[np.generic]]:
        """The indices at positions ``start`` to ``stop - 1``."""
        if self._table is not None:
            return self._table[start:stop]
        values = self._cross(np.arange(start, stop, dtype=np.uint64))
        while (outside := values >= self.length).any():
            values[outside] = self._cross(values[outside])
        return values

    def _cross(
        self, values: np.ndarray[tuple[int], np.dtype[np.uint64]]
    ) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        mask = (np.uint64(1) << self._half) - np.uint64(1)
        left, right = values >> self._half, values & mask
        for key in self._keys:
            left, right = right, left ^ (_scramble(right ^ key) & mask)
        return left << self._half | right


def _scramble(
    values: np.ndarray[tuple[int], np.dtype[np.uint64]],
) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014), on each value."""
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
