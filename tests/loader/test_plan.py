"""An epoch's order is a permutation that length, seed and epoch decide alone."""

from __future__ import annotations

import random
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline.plan import EpochPlan
from tests.utils.differential import cases


def plan(length: int | None, seed: int = 0, epoch: int = 0) -> EpochPlan:
    return EpochPlan(length, shuffle=length is not None, seed=seed, epoch=epoch)


def order(length: int, seed: int = 0, epoch: int = 0) -> list[int]:
    shuffled = plan(length, seed, epoch)
    return [shuffled.index_at(position) for position in range(length)]


def test_every_index_comes_once_for_every_short_length() -> None:
    for length in range(1, 301):
        assert sorted(order(length, seed=length)) == list(range(length)), length


@pytest.mark.parametrize("length", [1023, 1024, 1025, 2048, 65535, 65536, 65537, 65600])
def test_every_index_comes_once_around_the_edges_of_blocks(length: int) -> None:
    assert sorted(order(length)) == list(range(length))


@pytest.mark.parametrize("length", [10**6, 2**18 + 1])
def test_every_index_comes_once_in_a_long_epoch(length: int) -> None:
    seen = np.array(order(length, seed=3))
    assert np.array_equal(np.sort(seen), np.arange(length))


@pytest.mark.parametrize("length", [2**40 + 7, 2**62, 2**63 - 1])
def test_an_enormous_epoch_is_known_position_by_position(length: int) -> None:
    shuffled = plan(length)
    positions = [0, 1, 2, 1023, 1024, length // 2, length - 2, length - 1]
    seen = [shuffled.index_at(position) for position in positions]
    assert len(set(seen)) == len(positions)
    assert all(0 <= index < length for index in seen)


def test_an_index_is_a_plain_integer() -> None:
    for length in (5, 70_000):
        assert type(plan(length).index_at(2)) is int


def test_without_shuffle_the_order_is_that_of_the_indices() -> None:
    straight = EpochPlan(5, shuffle=False, seed=9, epoch=3)
    assert [straight.index_at(position) for position in range(5)] == [0, 1, 2, 3, 4]
    assert straight.length == 5


def test_an_epoch_without_end_counts_up() -> None:
    endless = EpochPlan(None, shuffle=False, seed=9, epoch=3)
    assert [endless.index_at(position) for position in (0, 1, 10**12)] == [0, 1, 10**12]
    assert endless.length is None


def test_an_empty_epoch_can_be_planned() -> None:
    assert EpochPlan(0, shuffle=True, seed=0, epoch=0).length == 0


@cases(100)
@given(
    length=st.integers(1, 2500),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**31 - 1),
    share=st.floats(0, 1),
)
def test_what_was_planned_before_any_point_and_what_is_left_after_it_is_each_index_once(
    length: int, shuffle: bool, seed: int, epoch: int, share: float
) -> None:
    before, after = (
        EpochPlan(length, shuffle=shuffle, seed=seed, epoch=epoch) for _ in range(2)
    )
    stop = int(share * length)
    first = [before.index_at(position) for position in range(stop)]
    rest = [after.index_at(position) for position in range(stop, length)]
    assert np.array_equal(np.sort(first + rest), np.arange(length))


@cases(100)
@given(
    st.sampled_from([300, 5000, 66_001]),
    st.lists(st.integers(0, 299), min_size=1, max_size=30),
    st.integers(0, 2**64 - 1),
)
def test_a_position_s_index_depends_on_no_earlier_question(
    length: int, positions: list[int], seed: int
) -> None:
    asked = plan(length, seed)
    spread = [position * (length // 300) for position in positions]
    seen = [asked.index_at(p) for p in spread]
    assert seen[-1] == plan(length, seed).index_at(spread[-1])
    assert seen == [asked.index_at(p) for p in spread]


@pytest.mark.parametrize("length", [50, 70_000])
def test_each_epoch_and_each_seed_has_an_order_of_its_own(length: int) -> None:
    plans = [
        plan(length, seed, epoch)
        for seed in (0, 1, 2**32, 2**64 - 1)
        for epoch in range(20)
    ]
    seen = {tuple(shuffled.index_at(p) for p in range(50)) for shuffled in plans}
    assert len(seen) == len(plans)


def test_a_shuffled_order_is_not_the_straight_one() -> None:
    for length in (50, 70_000):
        assert order(length)[:50] != list(range(50))


@pytest.mark.parametrize("length", [3, 4])
def test_over_many_epochs_each_order_is_as_likely_as_any_other(length: int) -> None:
    epochs = 6000
    seen = Counter(tuple(order(length, 11, epoch)) for epoch in range(epochs))
    kinds = list(permutations(range(length)))
    expected = epochs / len(kinds)
    chi2 = sum((seen[kind] - expected) ** 2 / expected for kind in kinds)
    freedom = len(kinds) - 1
    assert chi2 < freedom + 6 * (2 * freedom) ** 0.5  # six standard deviations


@pytest.mark.parametrize("length", [97, 65_537])
def test_over_many_epochs_a_batch_comes_as_often_early_as_late(length: int) -> None:
    epochs, cells = 500, 8
    seen = Counter(
        plan(length, 5, epoch).index_at(0) * cells // length for epoch in range(epochs)
    )
    expected = epochs / cells
    chi2 = sum((seen[cell] - expected) ** 2 / expected for cell in range(cells))
    assert chi2 < (cells - 1) + 6 * (2 * (cells - 1)) ** 0.5


def test_neighbours_of_a_long_epoch_are_not_neighbours_of_the_dataset() -> None:
    shuffled = np.array(order(100_000))
    near = np.abs(np.diff(shuffled)) <= 5
    assert near.sum() < 30  # ten on average


def test_planning_touches_no_global_random_state() -> None:
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()
    order(300)
    plan(70_000).index_at(3)
    after = random.getstate(), np.random.get_state()
    assert repr(after) == repr(before)


def test_the_order_does_not_depend_on_global_random_state() -> None:
    random.seed(1)
    np.random.seed(1)
    first = order(20)
    random.seed(2)
    np.random.seed(2)
    assert order(20) == first


# A run that is resumed with another release must go on in the order it began with. A
# change here is a change of every user's order: it belongs into the changelog.
@pytest.mark.parametrize(
    ("length", "seed", "epoch", "begins"),
    [
        (10, 0, 0, [9, 7, 4, 3, 8, 5, 0, 2, 1, 6]),
        (10, 7, 3, [6, 0, 5, 9, 4, 7, 1, 2, 3, 8]),
        (1000, 7, 3, [497, 767, 847, 282, 500, 122]),
        (70_000, 7, 3, [54419, 65241, 38974, 64886, 33459, 2228]),
        (10**9, 2**64 - 1, 3, [510076991, 703185559, 350598908, 244533844]),
    ],
)
def test_the_order_is_the_one_of_every_release_so_far(
    length: int, seed: int, epoch: int, begins: list[int]
) -> None:
    shuffled = plan(length, seed, epoch)
    assert [shuffled.index_at(position) for position in range(len(begins))] == begins
