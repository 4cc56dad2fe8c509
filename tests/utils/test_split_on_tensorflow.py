"""Against Keras' TensorFlow path. Collected if TensorFlow is there."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from feedline.utils import split_dataset
from tests.utils.differential import cases

from .sizes import totals_and_pairs

STRUCTURES = [
    "array", "flat", "one", "list", "tuple", "tf", "tf tuple", "tf dict", "batched",
]  # fmt: skip
SEEDS = st.one_of(st.integers(-(2**70), 2**70), st.text(), st.booleans())


def made(structure: str, total: int, dtype: str) -> Any:
    x = np.arange(2 * total).reshape(total, 2).astype(dtype)
    y = np.arange(total)
    slices = tf.data.Dataset.from_tensor_slices
    makers: dict[str, Any] = {
        "array": lambda: x,
        "flat": lambda: y / 2,
        "one": lambda: [x],
        "list": lambda: [x, y],
        "tuple": lambda: (x, y, x),
        "tf": lambda: slices(x),
        "tf tuple": lambda: slices((x, y)),
        "tf dict": lambda: slices({"x": x, "y": (y, x)}),
        "batched": lambda: slices((x, y)).batch(3),
    }
    return makers[structure]()


def plain(sample: Any) -> Any:
    """A sample as containers of (dtype, values)."""
    if isinstance(sample, dict):
        return {key: plain(part) for key, part in sample.items()}
    if isinstance(sample, (tuple, list)):
        return type(sample)(map(plain, sample))
    array = np.asarray(sample)
    return array.dtype.name, array.tolist()


def outcome(split: Any, *arguments: Any, **options: Any) -> Any:
    try:
        halves = split(*arguments, **options)
    except Exception as error:  # noqa: BLE001 - its type is what is compared
        return type(error)
    lengths = [int(half.cardinality()) for half in halves]
    return lengths, [[plain(sample) for sample in half] for half in halves]


def theirs(*arguments: Any, **options: Any) -> Any:
    before = random.getstate()  # which Keras sets
    try:
        return outcome(
            keras.utils.split_dataset,
            *arguments,
            **options,
            preferred_backend="tensorflow",
        )
    finally:
        random.setstate(before)


@cases(100)
@given(
    totals_and_pairs(1, 40),
    st.sampled_from(STRUCTURES),
    st.sampled_from(["float32", "float64", "int8", "uint16", "bool", "float16"]),
    st.booleans(),
    SEEDS,
)
def test_halves_have_the_samples_structure_and_order_of_keras(
    case: tuple[int, tuple[Any, Any]],
    structure: str,
    dtype: str,
    shuffle: bool,
    chosen: Any,
) -> None:
    total, sizes = case
    dataset = made(structure, total, dtype)
    ours = outcome(split_dataset, dataset, *sizes, shuffle=shuffle, seed=chosen)
    assert ours == theirs(dataset, *sizes, shuffle=shuffle, seed=chosen)


@cases(300)
@given(totals_and_pairs(0, 200))
def test_sizes_come_to_what_they_come_to_in_keras(
    case: tuple[int, tuple[Any, Any]],
) -> None:
    total, sizes = case
    dataset = np.arange(float(total))
    assert outcome(split_dataset, dataset, *sizes) == theirs(dataset, *sizes)


WRONG: list[Any] = [
    [], (), None, 5, "text", np.array(3), np.zeros((0, 3)), [np.zeros(3), [1, 2, 3]],
    [np.zeros(3), 1], (np.zeros(3), np.zeros(2)), [np.array(3)], [[1, 2], [3, 4]], {1, 2},
    iter([1, 2]), tf.data.Dataset.range(0),
]  # fmt: skip


def test_what_is_no_dataset_is_refused_with_the_error_of_keras() -> None:
    for dataset in WRONG:
        ours = outcome(split_dataset, dataset, 0.5)
        assert isinstance(ours, type), dataset
        assert ours is theirs(dataset, 0.5), dataset


def test_integers_keep_their_type_which_keras_makes_int32() -> None:
    array = np.arange(5, dtype=np.int64)
    assert outcome(split_dataset, array, 2)[1][0] == [("int64", 0), ("int64", 1)]
    assert theirs(array, 2)[1][0] == [("int32", 0), ("int32", 1)]
