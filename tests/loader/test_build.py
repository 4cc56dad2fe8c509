"""Building one batch: its random state, and what its exceptions become."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from feedline import get_worker_info
from feedline.build import Built, Recipe
from feedline.records import Order, Task
from feedline.seeding import kept_globals

if TYPE_CHECKING:
    from collections.abc import Callable


class Calls:
    """A dataset that is one function, and counts how often it is called."""

    def __init__(self, function: Callable[[int], Any]) -> None:
        self.function = function
        self.calls = 0

    def __getitem__(self, index: int) -> Any:
        self.calls += 1
        return self.function(index)


def build(function: Callable[[int], Any] | Calls, *, rekey: bool = False) -> Built:
    dataset = function if isinstance(function, Calls) else Calls(function)
    recipe = Recipe(seed=5, num_workers=3, rekey=rekey)
    return recipe.build(dataset, Order(ticket=40, index=7, epoch=2), 1)


def raising(error: BaseException) -> Callable[[int], Any]:
    def function(index: int) -> Any:
        raise error

    return function


def test_a_batch_is_what_getitem_returned() -> None:
    assert build(lambda index: [index]) == Built([7])


def test_none_is_a_batch() -> None:
    assert build(lambda index: None) == Built(None)


def test_a_task_is_built_as_its_order_is() -> None:
    recipe = Recipe(seed=5, num_workers=3, rekey=False)
    task = Task(number=1, index=7, epoch=2, slot=9, version=1, state_slot=0)
    drawn = [
        recipe.build(Calls(lambda i: get_worker_info().rng.random()), what, 1).batch  # type: ignore[union-attr]
        for what in (task, Order(ticket=40, index=7, epoch=2))
    ]
    assert drawn[0] == drawn[1]


def test_getitem_is_told_who_builds_what() -> None:
    info = build(lambda index: get_worker_info()).batch
    assert (info.id, info.num_workers, info.epoch, info.index) == (1, 3, 2, 7)
    assert get_worker_info() is None


def test_after_an_error_too_nothing_is_being_built() -> None:
    build(raising(KeyError()))
    assert get_worker_info() is None


def test_an_error_arrives_as_itself_with_a_note_of_its_place() -> None:
    wrong = KeyError("seven")
    built = build(raising(wrong))
    assert built.error is wrong
    assert built.batch is None
    assert any("__getitem__(7) in epoch 2" in note for note in wrong.__notes__)


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, GeneratorExit])
def test_a_sign_of_an_end_becomes_an_error_that_is_none(
    kind: type[BaseException],
) -> None:
    dataset = Calls(raising(kind()))
    built = build(dataset)
    assert type(built.error) is RuntimeError
    assert type(built.error.__cause__) is kind
    assert "__getitem__(7)" in str(built.error)
    assert kind.__name__ in str(built.error)
    assert not built.again


class Own(BaseException):
    pass


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Own()], ids=repr)
def test_a_base_exception_is_an_answer_and_is_not_tried_again(
    error: BaseException,
) -> None:
    built = build(raising(error))
    assert built.error is error
    assert not built.again


def test_system_exit_is_for_the_pool_to_answer() -> None:
    dataset = Calls(raising(SystemExit(3)))
    with pytest.raises(SystemExit):
        build(dataset)
    assert dataset.calls == 1
    assert get_worker_info() is None


def test_a_batch_that_raises_is_built_once_and_may_be_tried_again() -> None:
    dataset = Calls(raising(ValueError()))
    built = build(dataset)
    assert type(built.error) is ValueError
    assert (dataset.calls, built.again) == (1, True)


def test_every_attempt_begins_with_the_same_random_state() -> None:
    seen: list[tuple[float, float, float]] = []

    def flaky(index: int) -> str:
        info = get_worker_info()
        assert info is not None
        seen.append((info.rng.random(), random.random(), np.random.random()))
        if len(seen) < 3:
            raise OSError
        return "there"

    with kept_globals(np.random.MT19937(0)):
        for _ in range(3):
            build(flaky, rekey=True)
    assert seen[0] == seen[1] == seen[2]


def test_without_rekeying_the_globals_are_left_alone() -> None:
    before = random.getstate(), repr(np.random.get_state())
    build(lambda index: index)
    assert (random.getstate(), repr(np.random.get_state())) == before


def test_the_same_error_raised_twice_does_not_gather_notes() -> None:
    wrong = ValueError("one object for all batches")
    for _ in range(20):
        build(raising(wrong))
    assert len(wrong.__notes__) <= 2


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


class NoNotes(Exception):
    __notes__ = None  # type: ignore[assignment]


class Wrapper(Exception):
    """Answers to every name, as errors of remote services do."""

    def __getattr__(self, name: str) -> None:
        return None


@pytest.mark.parametrize("error", [Frozen(3), NoNotes(), Wrapper()], ids=repr)
def test_an_error_that_takes_no_notes_arrives_as_itself(error: Exception) -> None:
    assert build(raising(error)).error is error
