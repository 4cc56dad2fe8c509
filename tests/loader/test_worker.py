"""What a worker does between two batches: it stands in line for a task."""

from __future__ import annotations

import multiprocessing
import os
from contextlib import ExitStack

import psutil

from feedline.records import RECORD_BYTES
from feedline.worker import _next_record, _queue_up
from tests.datasets import wait_until

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
