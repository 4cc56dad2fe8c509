"""What workers do between two batches: they stand in line for a task."""

from __future__ import annotations

import multiprocessing
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psutil
import pytest

from feedline import Loader
from feedline.records import RECORD_BYTES
from feedline.worker import _next_record, _queue_up
from tests.datasets import Gate, Numbers, wait_until

from .test_promises import KINDS, PROCESSES

if TYPE_CHECKING:
    from pathlib import Path

_WORKERS = 3


def _idle(number: int, tasks: int, tasks_in: int, here: int) -> None:
    """Say who is in the line, before each wait."""
    os.close(tasks_in)
    line = _queue_up(tasks)
    os.write(here, bytes([number]))
    while _next_record(tasks, line):
        os.write(here, bytes([number]))


def test_of_idle_workers_the_same_one_is_woken_each_time() -> None:
    """Its caches are warm; woken in turn, each would meet cold ones."""
    fork = multiprocessing.get_context("fork")
    with ExitStack() as ends:
        tasks, tasks_in = os.pipe()
        heard, here = os.pipe()
        for end in (tasks, heard, here):
            ends.callback(os.close, end)
        os.set_blocking(tasks, False)
        workers = []
        with ExitStack() as until_the_end:
            until_the_end.callback(os.close, tasks_in)
            for number in range(_WORKERS):
                worker = fork.Process(
                    target=_idle, args=(number, tasks, tasks_in, here)
                )
                worker.start()
                workers.append(worker)
                assert os.read(heard, 1) == bytes([number])
            for _ in range(20):
                wait_until(
                    lambda: (
                        {psutil.Process(worker.pid).status() for worker in workers}
                        == {psutil.STATUS_SLEEPING}
                    ),
                    "all are idle",
                )
                os.write(tasks_in, bytes(RECORD_BYTES))
                assert os.read(heard, 1) == bytes([0])
        for worker in workers:
            worker.join(10)
            assert worker.exitcode == 0
            worker.close()


class _Together(Numbers):
    """From the second epoch on, its first batches are built at once or not at all."""

    def __init__(self, folder: Path, together: int) -> None:
        super().__init__(3 * together)
        self.gate = Gate(folder)
        self.together = together
        self.epoch = -1

    def on_epoch_begin(self) -> None:
        self.epoch += 1

    def __getitem__(self, index: int) -> int:
        if self.epoch and index < self.together:
            self.gate.arrive(f"{self.epoch}-{index}")
            everyone = {f"{self.epoch}-{each}" for each in range(self.together)}
            wait_until(lambda: self.gate.arrived() >= everyone, "all build")
        return index


@pytest.mark.parametrize("kind", ["thread", *PROCESSES])
def test_workers_that_were_idle_all_begin_when_there_is_work_for_all(
    kind: str, tmp_path: Path
) -> None:
    options = KINDS[kind] | {"workers": _WORKERS, "max_queue_size": 8 * _WORKERS}
    with Loader(_Together(tmp_path, _WORKERS), **options) as loader:
        for _ in range(4):
            assert list(loader) == list(range(3 * _WORKERS))


@pytest.mark.parametrize("trouble", [AttributeError, OSError])
def test_without_the_kernels_line_workers_wait_in_a_crowd(
    trouble: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise trouble

    monkeypatch.setattr("select.epoll", refuse)
    with Loader(range(20), **KINDS["fork"]) as loader:
        for _ in range(2):
            assert list(loader) == list(range(20))
