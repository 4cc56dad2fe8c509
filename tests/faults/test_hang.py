"""Workers that do not answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from feedline import BatchTimeoutError, Loader
from tests import datasets

from .test_death import fork

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 0.6  # seconds


def test_a_hanging_thread_is_left_behind_and_replaced(tmp_path: Path) -> None:
    dataset = datasets.Slow(tmp_path)
    with Loader(dataset, workers=2, timeout=LIMIT) as loader:
        with pytest.raises(BatchTimeoutError, match="hang_here"):
            list(loader)
        iterator = iter(loader)
        assert [next(iterator) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(BatchTimeoutError):
            next(iterator)
        dataset.gate.arrive("over")
        assert list(loader) == list(range(8))


def test_a_worker_stuck_in_an_abandoned_batch_does_not_stop_the_next_epoch(
    tmp_path: Path,
) -> None:
    dataset = datasets.Slow(tmp_path, at=3)
    with fork(dataset, timeout=LIMIT) as loader:
        iterator = iter(loader)
        next(iterator)
        dataset.gate.await_arrival("hanging")
        del iterator
        dataset.at = 99
        start = time.monotonic()
        assert list(loader) == list(range(8))
        assert time.monotonic() - start < LIMIT + 1.5
