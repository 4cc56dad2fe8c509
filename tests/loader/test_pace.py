"""How many tasks one worker is woken for."""

from __future__ import annotations

import pytest

from feedline.pace import Pace

_QUICK, _SLOW = 50_000, 200_000_000  # nanoseconds


def _known(busy: int, answers: int = 500) -> Pace:
    pace = Pace()
    for _ in range(answers):
        pace.heard(busy)
    return pace


def test_until_something_is_known_each_task_wakes_a_worker() -> None:
    pace = Pace()
    assert pace.together(10) == 1
    assert not pace.crowded


@pytest.mark.parametrize(
    ("busy", "together"), [(60_000, 33), (300_000, 6), (900_000, 2), (1_100_000, 1)]
)
def test_one_worker_is_woken_for_two_milliseconds_of_work(
    busy: int, together: int
) -> None:
    pace = _known(busy)
    assert pace.together(1000) == together
    assert pace.crowded == (together > 1)
    assert pace.together(1) == 1


def test_one_slow_batch_among_quick_ones_is_forgotten_within_a_hundred() -> None:
    pace = _known(_QUICK)
    pace.heard(_SLOW)
    assert pace.together(10) == 1
    for _ in range(100):
        pace.heard(_QUICK)
    assert pace.together(10) == 10


def test_tasks_that_wait_for_one_worker_do_so_whatever_the_pace_is_by_now() -> None:
    pace = _known(_QUICK)
    pace.together(10)
    pace.heard(_SLOW)
    assert pace.together(10) == 1
    assert pace.crowded


def test_workers_that_do_not_answer_are_slow_until_they_do() -> None:
    pace = _known(_QUICK)
    pace.together(10)
    pace.slowed()
    assert not pace.crowded
    assert pace.together(10) == 1
    for _ in range(20):
        pace.heard(_QUICK)
    assert pace.together(10) > 1


def test_slow_workers_that_do_not_answer_are_no_quicker_for_that() -> None:
    pace = _known(_SLOW)
    pace.slowed()
    for _ in range(20):
        pace.heard(_QUICK)
    assert pace.together(10) == 1
