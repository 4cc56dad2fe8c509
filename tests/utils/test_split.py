"""Which sample goes where."""

from __future__ import annotations

import importlib.util
import inspect
import pickle
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline.utils import split_dataset
from tests.utils.differential import cases

from .sizes import (
    Outcome,
    by_the_rules,
    head_and_tail,
    in_numpy,
    pairs,
    sizes,
    totals_and_pairs,
)

SEEDS = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(), st.binary()
)


class Counting:
    """Tells which samples were read."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        assert type(index) is int
        self.read.append(index)
        return index * 10


def halves_or_error(split: Any, *arguments: Any) -> Any:
    try:
        return split(*arguments)
    except (TypeError, ValueError) as error:
        return type(error)


def lengths_or_error(dataset: Any, left: Any, right: Any) -> Outcome:
    halves = halves_or_error(split_dataset, dataset, left, right)
    if isinstance(halves, type):
        return halves
    return len(halves[0]), len(halves[1])


@cases(2000)
@given(totals_and_pairs(0, 200))
def test_sizes_come_to_what_keras_rules_say(case: tuple[int, tuple[Any, Any]]) -> None:
    total, (left, right) = case
    expected = by_the_rules(total, left, right)
    assert lengths_or_error(range(total), left, right) == expected
    if isinstance(expected, tuple):
        halves = split_dataset(range(total), left, right)
        assert tuple(map(list, halves)) == head_and_tail(range(total), expected)


@cases(500)
@given(totals_and_pairs(0, 200))
def test_numpy_scalars_are_sizes_like_python_s(
    case: tuple[int, tuple[Any, Any]],
) -> None:
    total, (left, right) = case
    assert lengths_or_error(
        range(total), in_numpy(left), in_numpy(right)
    ) == lengths_or_error(range(total), left, right)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.longdouble])
def test_a_fraction_in_any_precision_is_the_one_that_was_written(kind: Any) -> None:
    left, right = split_dataset(range(1000), kind("0.8"), kind("0.2"))
    assert (len(left), len(right)) == (800, 200)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64, np.uint64])
def test_a_count_may_be_of_any_integer_type(kind: Any) -> None:
    left, right = split_dataset(range(10), kind(3))
    assert (len(left), len(right)) == (3, 7)


@cases(1000)
@given(st.integers(2, 300), SEEDS, st.data())
def test_a_seed_gives_the_documented_order(
    total: int, chosen: Any, data: st.DataObject
) -> None:
    order = list(range(total))
    random.Random(chosen).shuffle(order)
    left, right = data.draw(pairs(total))
    expected = by_the_rules(total, left, right)
    if isinstance(expected, tuple):
        halves = split_dataset(range(total), left, right, True, chosen)
        assert tuple(map(list, halves)) == head_and_tail(order, expected)


def test_a_seed_of_numpy_s_is_the_same_seed() -> None:
    for chosen in (np.int64(-3), np.uint8(7)):
        ours = split_dataset(range(20), 0.5, shuffle=True, seed=chosen)
        same = split_dataset(range(20), 0.5, shuffle=True, seed=int(chosen))
        assert list(ours[0]) == list(same[0])


@pytest.mark.parametrize("wrong", [(1,), [1], 1j, object()])
def test_what_is_no_seed_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(TypeError, match="seed must be a number, text, bytes or None"):
        split_dataset(range(10), 0.5, shuffle=True, seed=wrong)


def test_without_a_seed_each_shuffle_has_an_order_of_its_own() -> None:
    orders = [list(split_dataset(range(100), 0.5, shuffle=True)[0]) for _ in range(2)]
    assert orders[0] != orders[1]


def test_without_shuffle_the_seed_changes_nothing() -> None:
    left, right = split_dataset(range(10), 0.5, seed=3)
    assert (list(left), list(right)) == ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])


def test_what_both_sizes_leave_over_is_in_the_middle_and_in_neither_half() -> None:
    left, right = split_dataset(range(10), 0.2, 0.3)
    assert (list(left), list(right)) == ([0, 1], [7, 8, 9])


def states() -> list[bytes]:
    legacy = pickle.dumps(np.random.get_state(legacy=False))
    found = [pickle.dumps(random.getstate()), legacy]
    if importlib.util.find_spec("torch") is not None:
        import torch

        found.append(torch.get_rng_state().numpy().tobytes())
    return found


@pytest.mark.parametrize("chosen", [None, 3])
def test_no_global_random_state_is_touched(chosen: int | None) -> None:
    before = states()
    split_dataset(np.arange(50), 0.5, shuffle=True, seed=chosen)
    assert states() == before


@pytest.mark.parametrize("shuffle", [False, True])
def test_splitting_reads_no_sample(shuffle: bool) -> None:
    source = Counting(100)
    left, right = split_dataset(source, 0.8, shuffle=shuffle, seed=1)
    len(left), left.cardinality(), repr(left), left[10:20]
    assert source.read == []
    sample = right[-1]
    assert source.read == [sample // 10]


def test_a_source_is_asked_by_python_s_integers() -> None:
    source = Counting(10)  # which asserts it
    left, right = split_dataset(source, 0.5, shuffle=True, seed=1)
    assert sorted([*left, *(right[i] for i in range(5))]) == list(range(0, 100, 10))


def test_a_shuffled_half_keeps_four_bytes_a_sample() -> None:
    left, _ = split_dataset(range(10_000), 0.5, shuffle=True, seed=1)
    assert vars(left)["_indices"].nbytes == 4 * 5000


@pytest.mark.parametrize("backend", [None, "torch", "tensorflow", "jax", "nonsense"])
def test_the_preferred_backend_changes_nothing(backend: str | None) -> None:
    left, right = split_dataset(np.arange(4), 0.5, preferred_backend=backend)
    assert (list(left), list(right)) == ([0, 1], [2, 3])


def test_the_documented_arguments_keep_their_places() -> None:
    names = ["dataset", "left_size", "right_size", "shuffle", "seed"]
    parameters = inspect.signature(split_dataset).parameters
    positional = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in positional] == names
    assert list(parameters) == [*names, "preferred_backend"]


@pytest.mark.parametrize(
    ("total", "left", "right", "message"),
    [
        (10, None, None, "left_size or right_size must be given, got None for both"),
        (
            10,
            True,
            None,
            "left_size must be an integer, a float or None, got True; an ",
        ),
        (10, None, "3", "right_size must be an integer, a float or None, got '3'; an "),
        (0, 1, None, "dataset must have samples to split, got an empty one"),
        (
            10,
            0.75,
            0.5,
            r"left_size \+ right_size must be at most 1, got 0.75 and 0.5; ",
        ),
        (10, 1.5, None, "left_size as a float must be between 0 and 1, got 1.5; an "),
        (10, None, 1.0, "right_size as a float must be between 0 and 1, got 1.0; an "),
        (
            10,
            10,
            None,
            "left_size as an integer must be from 1 to 9 of 10 samples, got ",
        ),
        (10, 5, 6, "left_size=5 and right_size=6 come to 5 and 6 samples, but there "),
        (3, 0.5, 0.5, "left_size=0.5 and right_size=0.5 come to 2 and 2 samples, but "),
        (
            10,
            0.04,
            None,
            "each half must get a sample, got 0 and 10 of 10 for left_size",
        ),
        (1, None, 0.5, "each half must get a sample, got 1 and 0 of 1 for left_size="),
    ],
)
def test_a_wrong_size_is_named_with_its_rule(
    total: int, left: Any, right: Any, message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        split_dataset(range(total), left, right)


# --- against Keras, on its torch backend -----------------------------------------------


def keras_split(*arguments: Any, **options: Any) -> Any:
    pytest.importorskip("torch")
    keras = pytest.importorskip("keras")
    return keras.utils.split_dataset(*arguments, **options, preferred_backend="torch")


def arrays(structure: str, total: int) -> Any:
    x = np.arange(3 * total, dtype=np.float32).reshape(total, 3)
    y = np.arange(total)
    return {"array": x, "flat": y, "one": [x], "list": [x, y], "tuple": (x, y, x)}[
        structure
    ]


def values(half: Any) -> list[list[Any]]:
    """Each sample's arrays, flat, as lists: Keras' are tuples of tensors."""
    return [
        [np.asarray(part).tolist() for part in sample]
        if isinstance(sample, tuple)
        else [np.asarray(sample).tolist()]
        for sample in half
    ]


@cases(1000)
@given(
    totals_and_pairs(2, 60),
    st.sampled_from(["array", "flat", "one", "list", "tuple"]),
    st.booleans(),
)
def test_keras_on_torch_has_halves_of_the_same_lengths_and_samples(
    case: tuple[int, tuple[Any, Any]], structure: str, shuffle: bool
) -> None:
    total, (left, right) = case
    dataset = arrays(structure, total)
    theirs = halves_or_error(keras_split, dataset, left, right, shuffle, 1)
    ours = halves_or_error(split_dataset, dataset, left, right, shuffle, 1)
    if isinstance(theirs, type):
        if isinstance(ours, type):
            assert ours is theirs
        else:  # sizes that leave samples over are no error here
            assert theirs is ValueError
            assert sum(map(len, ours)) < total
        return
    assert list(map(len, ours)) == list(map(len, theirs))
    both = sorted(values(ours[0]) + values(ours[1]))
    assert both == sorted(values(theirs[0]) + values(theirs[1]))


@cases(200)
@given(st.integers(2, 40), sizes(40))
def test_keras_splits_a_torch_dataset_into_as_many(total: int, size: Any) -> None:
    torch = pytest.importorskip("torch")
    dataset = torch.utils.data.TensorDataset(torch.arange(total))
    theirs = halves_or_error(keras_split, dataset, size)
    ours = halves_or_error(split_dataset, dataset, size)
    if isinstance(theirs, type):
        assert ours is theirs
        return
    assert list(map(len, ours)) == list(map(len, theirs))
    ours_read, theirs_read = (
        sorted(int(sample[0]) for half in halves for sample in half)
        for halves in (ours, theirs)
    )
    assert ours_read == theirs_read


@pytest.mark.parametrize(
    "wrong", [None, (i for i in range(3)), {1, 2}, 5, object()], ids=type
)
def test_keras_refuses_what_is_no_dataset_with_the_same_error(wrong: Any) -> None:
    keras = pytest.importorskip("keras")
    with pytest.raises(TypeError):
        keras.utils.split_dataset(wrong, 0.5)
    with pytest.raises(TypeError, match="dataset must be arrays, or an object with"):
        split_dataset(wrong, 0.5)
