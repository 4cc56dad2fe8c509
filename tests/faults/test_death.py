"""Workers that end while they should not: every batch comes all the same."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from feedline import Loader
from tests import datasets
from tests.datasets import block, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from feedline.options import StartMethod


class PortableLoader(Loader):
    _portable = True


def fork(dataset: Any, method: StartMethod = "fork", **options: Any) -> Loader:
    chosen = {"workers": 2, **options}
    return Loader(dataset, use_multiprocessing=True, start_method=method, **chosen)


def expect_blocks(loader: Loader, length: int) -> None:
    seen = []
    for index, array in loader:
        assert array.tobytes() == block(index).tobytes()
        seen.append(index)
    assert seen == list(range(length))


def pids(loader: Loader) -> list[int]:
    pool: Any = loader._pool
    found: list[int] = pool.pids
    return found


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # killed before, and about to be replaced
        os.kill(pid, signal.SIGKILL)


def kill_all(loader: Loader) -> None:
    for pid in pids(loader):
        kill(pid)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_portable_path_replaces_workers_too(method: str, tmp_path: Path) -> None:
    with PortableLoader(
        datasets.Dies(tmp_path, "SIGKILL"),
        workers=2,
        use_multiprocessing=True,
        start_method=method,  # type: ignore[arg-type]
    ) as loader:
        expect_blocks(loader, 20)
        kill_all(loader)
        expect_blocks(loader, 20)


def test_a_batch_that_always_ends_its_worker_can_be_skipped(tmp_path: Path) -> None:
    dataset = datasets.Dies(tmp_path, "SIGKILL", times=99)
    with fork(dataset, on_error="skip") as loader:
        assert [index for index, _ in loader] == [i for i in range(20) if i != 7]
        assert loader.stats().skipped == 1


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_all_workers_killed_between_two_epochs_are_replaced(
    method: StartMethod,
) -> None:
    dataset = datasets.Stateful(8)
    with fork(dataset, method) as loader:
        list(loader)
        kill_all(loader)
        dataset.large[:] = 77
        level = 78.0
        assert [batch[:5] for batch in loader] == [
            (index, 2, 1, level, level) for index in range(8)
        ]


def test_all_workers_killed_at_once_in_mid_epoch_are_replaced() -> None:
    with fork(datasets.Blocks(60), workers=4) as loader:
        seen = []
        for index, array in loader:
            assert array.tobytes() == block(index).tobytes()
            seen.append(index)
            if index in (5, 25, 59):
                kill_all(loader)
        assert seen == list(range(60))
        expect_blocks(loader, 60)


def test_idle_workers_killed_in_mid_epoch_are_replaced(tmp_path: Path) -> None:
    dataset = datasets.Reporting(tmp_path)
    with fork(dataset, max_queue_size=1) as loader:
        iterator = iter(loader)
        seen = [int(next(iterator)[0])]
        for _ in range(5):
            answers_are_there(loader)
            kill_all(loader)  # all idle: the one answer is in the pipe
            seen += [int(next(iterator)[0]) for _ in range(2)]
        seen += [int(batch[0]) for batch in iterator]
        assert seen == list(range(24))


def answers_are_there(loader: Loader) -> None:
    pool: Any = loader._pool
    wait_until(
        lambda: pool._dispatch.crew.wait(time.monotonic()).answers, "an answer is there"
    )


def test_workers_killed_just_after_they_returned_a_big_batch_lose_nothing() -> None:
    size = 4_000_000  # 32 MB
    with fork(datasets.Blocks(5, size), max_queue_size=1) as loader:
        for expected, (index, array) in enumerate(loader):
            if index in (0, 2):
                answers_are_there(loader)
                kill_all(loader)
            assert index == expected
            assert array.tobytes() == block(index, size).tobytes()
            del array
        assert expected == 4


def test_a_replacement_sees_the_state_with_which_the_epoch_began() -> None:
    """Whatever the user changes in the dataset while the epoch goes on."""
    dataset = datasets.Blocks(40, 500)
    with fork(dataset) as loader:
        sizes = []
        for index, array in loader:
            sizes.append(len(array))
            if index == 3:
                dataset.size = 999
                kill_all(loader)
        assert sizes == [500] * 40
        assert [len(array) for _, array in loader] == [999] * 40


class Levels(datasets.Numbers):
    """Tells the level of a large array that the user changes."""

    def __init__(self) -> None:
        super().__init__(40)
        self.large = block(0, 50_000) * 0

    def __getitem__(self, index: int) -> Any:
        return int(self.large.min()), int(self.large.max())


def test_a_replacement_finds_the_arrays_that_were_sent_when_the_epoch_began() -> None:
    dataset = Levels()
    with fork(dataset) as loader:
        assert list(loader) == [(0, 0)] * 40
        dataset.large[:] = 1  # is sent to the workers that live
        seen = []
        for number, batch in enumerate(loader):
            seen.append(batch)
            if number == 3:
                dataset.large[:] = 2  # too early, and not for this epoch
                kill_all(loader)
        assert seen == [(1, 1)] * 40
        assert list(loader) == [(2, 2)] * 40


def test_a_worker_killed_again_and_again_by_others_never_loses_a_batch() -> None:
    with fork(datasets.Blocks(200)) as loader:
        seen = []
        for index, _ in loader:
            seen.append(index)
            if index % 10 == 5:
                kill(pids(loader)[index // 10 % 2])
        assert seen == list(range(200))
        assert loader.stats().deaths >= 10
