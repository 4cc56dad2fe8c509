"""A batch's random state is a function of (seed, epoch, index), and leaves no trace."""

from __future__ import annotations

import random
import sys
import threading
import types
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline import get_worker_info
from feedline.seeding import (
    WorkerInfo,
    batch_key,
    building,
    kept_globals,
    own_globals,
    rekey_globals,
)
from tests.optional import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    """Give each test global generators of its own."""
    python, legacy = random.getstate(), np.random.get_state()
    tensor = None if torch is None else torch.get_rng_state()
    yield
    random.setstate(python)
    np.random.set_state(legacy)
    if torch is not None:
        torch.set_rng_state(tensor)


def draws() -> list[Any]:
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.random(),
        np.random.normal(),
        np.random.randint(0, 10**9),
        *([] if torch is None else [torch.rand(3).tolist(), torch.randn(3).tolist()]),
    ]


def normals() -> list[float]:
    """One of a pair of deviates, the other of which a generator may keep."""
    drawn = [np.random.normal(), random.gauss(0, 1)]
    return drawn if torch is None else [*drawn, torch.randn(1).item()]


def info(seed: int = 7, epoch: int = 3, index: int = 11, worker: int = 0) -> WorkerInfo:
    return WorkerInfo(worker, 4, seed, epoch, index)


def test_the_key_is_the_one_of_every_release_so_far() -> None:
    assert batch_key(7, 3, 11).hex() == "d5d00527b840de3587aae4229bbe14c4"
    assert info().seed == 3881611088512798933
    assert info().rng.integers(0, 1000, 5).tolist() == [293, 513, 406, 748, 714]


def test_every_part_of_the_key_counts() -> None:
    parts = [(s, e, i) for s in range(8) for e in range(8) for i in range(8)]
    assert len({batch_key(*part) for part in parts}) == len(parts)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**31), st.integers(0, 2**62))
def test_any_seed_epoch_and_index_have_a_key(seed: int, epoch: int, index: int) -> None:
    assert len(batch_key(seed, epoch, index)) == 16
    assert 0 <= WorkerInfo(0, 1, seed, epoch, index).seed < 2**64


def test_the_plan_s_key_of_an_epoch_is_no_batch_s() -> None:
    assert batch_key(0, 0, -1) not in {batch_key(0, 0, index) for index in range(1000)}


def test_the_same_batch_draws_the_same_whoever_builds_it() -> None:
    first = WorkerInfo(0, 0, 7, 3, 11).rng.random(50)
    second = WorkerInfo(5, 8, 7, 3, 11).rng.random(50)
    assert np.array_equal(first, second)


@pytest.mark.parametrize("other", [info(seed=8), info(epoch=4), info(index=12)])
def test_another_batch_draws_something_else(other: WorkerInfo) -> None:
    assert not np.array_equal(info().rng.random(50), other.rng.random(50))
    assert info().seed != other.seed


def test_rng_goes_on_between_two_looks_at_it() -> None:
    one = info()
    assert one.rng is one.rng
    assert one.rng.random() != one.rng.random()


def test_the_info_tells_who_builds_what() -> None:
    one = info(worker=2)
    assert (one.id, one.num_workers, one.epoch, one.index) == (2, 4, 3, 11)
    for part in ("id=2", "num_workers=4", "epoch=3", "index=11"):
        assert part in repr(one)


def test_outside_of_building_there_is_no_info() -> None:
    assert get_worker_info() is None
    one = info()
    with building(one):
        assert get_worker_info() is one
    assert get_worker_info() is None


def test_building_inside_building_puts_the_outer_one_back() -> None:
    outer, inner = info(index=1), info(index=2)
    with building(outer):
        with building(inner):
            assert get_worker_info() is inner
        assert get_worker_info() is outer
    assert get_worker_info() is None


def test_each_thread_has_an_info_of_its_own() -> None:
    seen: list[WorkerInfo | None] = []
    with building(info()):
        thread = threading.Thread(target=lambda: seen.append(get_worker_info()))
        thread.start()
        thread.join()
    assert seen == [None]


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_the_same_key_gives_every_global_generator_the_same_draws(seed: int) -> None:
    rekey_globals(seed)
    first = draws()
    draws()
    rekey_globals(seed)
    assert draws() == first
    rekey_globals(seed ^ 1)
    others = draws()
    assert all(mine != other for mine, other in zip(first, others, strict=True))


def test_a_cached_gauss_is_not_carried_into_the_next_batch() -> None:
    rekey_globals(5)
    expected = normals()
    rekey_globals(6)
    normals()
    rekey_globals(5)
    assert normals() == expected


def test_globals_go_on_as_if_nothing_had_been_built() -> None:
    rekey_globals(1)
    expected = draws()
    rekey_globals(1)
    with kept_globals(np.random.MT19937(0)):
        rekey_globals(99)
        draws()
    assert draws() == expected


def test_the_second_half_of_a_pair_of_gauss_draws_is_kept() -> None:
    np.random.seed(3)
    random.seed(3)
    expected = np.random.normal(size=2).tolist(), [random.gauss(0, 1) for _ in "ab"]
    np.random.seed(3)
    random.seed(3)
    first = np.random.normal(), random.gauss(0, 1)
    with kept_globals(np.random.MT19937(0)):
        rekey_globals(99)
        draws()
    second = np.random.normal(), random.gauss(0, 1)
    assert ([first[0], second[0]], [first[1], second[1]]) == expected


def test_globals_are_put_back_after_an_error_too() -> None:
    rekey_globals(1)
    expected = draws()
    rekey_globals(1)
    with suppress(KeyError), kept_globals(np.random.MT19937(0)):
        rekey_globals(99)
        raise KeyError
    assert draws() == expected


def test_keeping_inside_keeping_puts_everything_back() -> None:
    rekey_globals(1)
    expected = draws()
    rekey_globals(1)
    with kept_globals(np.random.MT19937(0)):
        rekey_globals(5)
        inner = np.random.random()
        rekey_globals(5)
        with kept_globals(np.random.MT19937(0)):
            rekey_globals(6)
        assert np.random.random() == inner
    assert draws() == expected


def test_draws_are_the_same_whether_globals_are_kept_or_not() -> None:
    rekey_globals(5)
    expected = draws()
    used = np.random.MT19937(0)
    for _ in range(2):  # the second time the spare has been drawn from
        with kept_globals(used):
            rekey_globals(5)
            assert draws() == expected


@pytest.fixture
def chosen() -> Iterator[np.random.PCG64]:
    """A bit generator that the user chose for numpy's global functions."""
    legacy: Any = np.random
    before = legacy.get_bit_generator()
    mine = np.random.PCG64(4)
    legacy.set_bit_generator(mine)
    yield mine
    legacy.set_bit_generator(before)


def test_a_generator_that_the_user_chose_for_numpy_is_put_back(
    chosen: np.random.PCG64,
) -> None:
    expected = np.random.Generator(np.random.PCG64(4)).random(2).tolist()
    legacy: Any = np.random
    first = np.random.random()
    with kept_globals(np.random.MT19937(0)):
        rekey_globals(5)
        draws()
    assert legacy.get_bit_generator() is chosen
    assert [first, np.random.random()] == expected


def test_the_half_of_a_pair_is_kept_for_a_chosen_generator_too(
    chosen: np.random.PCG64,
) -> None:
    start = chosen.state
    expected = np.random.normal(size=2).tolist()
    chosen.state = start
    first = np.random.normal()
    with kept_globals(np.random.MT19937(0)):
        rekey_globals(5)
        draws()
    assert [first, np.random.normal()] == expected


def test_a_worker_s_globals_can_be_set_whatever_the_user_chose(
    chosen: np.random.PCG64,
) -> None:
    own_globals()
    rekey_globals(5)
    mine = draws()
    rekey_globals(5)
    assert draws() == mine
    with kept_globals(np.random.MT19937(0)):
        rekey_globals(5)
        assert draws() == mine


@pytest.mark.parametrize(
    "stub", [None, types.ModuleType("torch")], ids=["None", "stub"]
)
def test_a_torch_that_is_not_fully_there_is_left_alone(
    stub: types.ModuleType | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", stub)
    with kept_globals(np.random.MT19937(0)):
        rekey_globals(5)
