"""The task pipe: what is written is taken back in the same order, whatever its size."""

from __future__ import annotations

import os
import select
from contextlib import closing

import pytest

from feedline.pipes import Pipes
from feedline.records import RECORD_BYTES, Task

_MORE_THAN_FITS = 5000  # tasks; a pipe holds 64 KB


def _tasks(number: int) -> list[Task]:
    return [Task(index, index, 0, 1, 0, 0) for index in range(number)]


@pytest.mark.parametrize("together", [1, 3, 1000])
@pytest.mark.parametrize("number", [0, 1, 100, _MORE_THAN_FITS])
def test_tasks_are_taken_back_in_the_order_of_sending(
    together: int, number: int
) -> None:
    tasks = _tasks(number)
    with closing(Pipes()) as pipes:
        pipes.send(tasks, together)
        assert pipes.take_back() == tasks
        assert pipes.take_back() == []


@pytest.mark.parametrize("together", [1, 3, 1000])
def test_what_found_no_room_follows_when_there_is_some(together: int) -> None:
    """A worker reads one task at a time, whatever the writes were."""
    tasks = _tasks(_MORE_THAN_FITS)
    with closing(Pipes()) as pipes:
        pipes.send(tasks, together)
        read = []
        for number in range(_MORE_THAN_FITS):
            read.append(Task.unpack(os.read(pipes.tasks, RECORD_BYTES)))
            if number % 1000 == 999:
                pipes.send(())
        assert read == tasks


def test_a_write_is_never_too_large_to_be_whole(writes: list[int]) -> None:
    """Of a larger one, another process could see a part."""
    with closing(Pipes()) as pipes:
        pipes.send(_tasks(1000), 1000)
    assert max(writes) == select.PIPE_BUF
    assert sum(writes) == 1000 * RECORD_BYTES
