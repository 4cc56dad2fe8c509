"""Workers that do not answer."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from feedline import BatchTimeoutError, Loader
from tests import datasets
from tests.datasets import wait_until

from .test_death import expect_blocks, fork, pids

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 0.6  # seconds


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("stubborn", [False, True])
def test_a_hanging_batch_is_an_error_in_time_and_its_worker_is_replaced(
    method: Any, stubborn: bool, tmp_path: Path
) -> None:
    dataset = datasets.Slow(tmp_path, stubborn=stubborn)
    with fork(dataset, method, timeout=LIMIT) as loader:
        iterator = iter(loader)
        assert [next(iterator) for _ in range(3)] == [0, 1, 2]
        start = time.monotonic()
        with pytest.raises(BatchTimeoutError, match=r"batch 3 .*worker [01] \(pid"):
            next(iterator)
        assert LIMIT * 0.9 < time.monotonic() - start < LIMIT + 0.7
        (stuck,) = dataset.gate.arrived() - {"hanging"}
        dataset.gate.arrive("over")
        assert list(loader) == list(range(8))
        assert int(stuck) not in pids(loader)
        assert not os.path.exists(f"/proc/{stuck}")


def test_a_frozen_worker_is_an_error_in_time_that_says_so(tmp_path: Path) -> None:
    with fork(datasets.Dies(tmp_path, "SIGSTOP"), timeout=LIMIT) as loader:
        with pytest.raises(BatchTimeoutError, match="SIGSTOP") as caught:
            list(loader)
        assert caught.value.index == 7
        expect_blocks(loader, 20)


def test_a_frozen_idle_worker_does_not_hinder_the_others_or_the_end() -> None:
    with fork(datasets.Blocks(20)) as loader:
        expect_blocks(loader, 20)
        frozen = psutil.Process(pids(loader)[0])
        frozen.suspend()
        wait_until(lambda: frozen.status() == psutil.STATUS_STOPPED, "it is frozen")
        expect_blocks(loader, 20)
        start = time.monotonic()
    assert time.monotonic() - start < 1


def test_closing_does_not_wait_for_a_batch_that_hangs(tmp_path: Path) -> None:
    with fork(datasets.Slow(tmp_path, stubborn=True)) as loader:
        iterator = iter(loader)
        next(iterator)
        loader.dataset.gate.await_arrival("hanging")
        start = time.monotonic()
    assert time.monotonic() - start < 1


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
