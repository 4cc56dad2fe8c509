"""``tf.data`` in, ``tf.data`` out, each sample read once. Collected with TensorFlow."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from feedline.utils import split_dataset
from tests.utils.differential import cases

from .sizes import by_the_rules, head_and_tail, pairs


class Pair(NamedTuple):
    """A tuple with names."""

    x: Any
    y: Any


class Source:
    """A dataset from a generator, which counts what is drawn from it."""

    def __init__(self, length: int) -> None:
        self.drawn: list[int] = []
        self._length = length

    def dataset(self) -> Any:
        return tf.data.Dataset.from_generator(
            self._draw, output_signature=tf.TensorSpec((), tf.int64)
        )

    def _draw(self) -> Any:
        for index in range(self._length):
            self.drawn.append(index)
            yield index


def numbers(dataset: Any) -> list[Any]:
    return [np.asarray(sample).tolist() for sample in dataset]


def test_the_halves_are_datasets_with_a_known_length() -> None:
    for half, length in zip(
        split_dataset(tf.data.Dataset.range(10), 0.8), (8, 2), strict=True
    ):
        assert isinstance(half, tf.data.Dataset)
        assert int(half.cardinality()) == len(half) == length
        assert half.element_spec == tf.TensorSpec((), tf.int64)


@cases(100)
@given(st.integers(2, 40), st.booleans(), st.booleans(), st.data())
def test_samples_go_where_those_of_any_other_dataset_go(
    total: int, shuffle: bool, counted: bool, data: st.DataObject
) -> None:
    left, right = data.draw(pairs(total))
    expected = by_the_rules(total, left, right)
    dataset = tf.data.Dataset.range(total)
    if counted:  # its length is not known before it was read
        dataset = dataset.filter(lambda _: True)
    if isinstance(expected, type):
        with pytest.raises(expected):
            split_dataset(dataset, left, right)
        return
    options: Any = {"shuffle": shuffle, "seed": 3}
    order = [
        *split_dataset(range(total), 1, **options)[0],
        *split_dataset(range(total), 1, **options)[1],
    ]
    halves = split_dataset(dataset, left, right, **options)
    assert tuple(map(numbers, halves)) == head_and_tail(order, expected)


def test_any_structure_and_kind_of_sample_is_kept() -> None:
    text = tf.constant(["a", "b", "c"])
    rows = tf.constant([[1], [2], [3]])
    lists = tf.ragged.constant([[[1]], [[2], [3, 4]], [[5]]])
    sparse = tf.sparse.from_dense([[0, 1], [2, 0], [0, 0]])
    nest = ({"text": text, "pair": Pair(rows, (lists,))}, sparse)
    dataset = tf.data.Dataset.from_tensor_slices(nest)
    left, right = split_dataset(dataset, 1)
    assert right.element_spec == dataset.element_spec
    ((parts, last),) = list(left)
    assert parts["text"].numpy() == b"a"
    assert type(parts["pair"]) is Pair
    assert parts["pair"].y[0].to_list() == [[1]]
    assert tf.sparse.to_dense(last).numpy().tolist() == [0, 1]


def test_samples_may_differ_in_shape() -> None:
    dataset = tf.data.Dataset.range(5).map(lambda i: tf.fill((i,), i))
    assert numbers(split_dataset(dataset, 2)[1]) == [[2, 2], [3, 3, 3], [4, 4, 4, 4]]


def test_a_batched_dataset_is_split_by_samples_and_batched_again() -> None:
    left, right = split_dataset(tf.data.Dataset.range(10).batch(3), 0.7)
    assert numbers(left) == [[0, 1, 2], [3, 4, 5], [6]]
    assert numbers(right) == [[7, 8, 9]]
    dropped = tf.data.Dataset.range(11).batch(3, drop_remainder=True)
    assert numbers(split_dataset(dropped, 4)[1]) == [[4, 5, 6], [7, 8]]


def test_where_batching_is_not_the_last_step_batches_are_split() -> None:
    batched = tf.data.Dataset.range(10).batch(4)
    for dataset in (batched.prefetch(1), batched.map(lambda x: x + 0)):
        assert numbers(split_dataset(dataset, 1)[1]) == [[4, 5, 6, 7], [8, 9]]


def test_no_sample_is_drawn_to_split_and_each_once_to_iterate() -> None:
    source = Source(10)
    sized = source.dataset().apply(tf.data.experimental.assert_cardinality(10))
    left, right = split_dataset(sized, 6, shuffle=True, seed=3)
    assert source.drawn == []
    for _ in range(2):
        assert numbers(left) == [1, 5, 6, 0, 9, 4]
        assert numbers(right) == [7, 2, 8, 3]
    assert source.drawn == list(range(10))


def test_a_source_of_unknown_length_is_counted_in_one_pass() -> None:
    for length in (2, 3, 7, 8, 9, 100):
        source = Source(length)
        left, right = split_dataset(source.dataset(), 1)
        assert len(left) + len(right) == length
        numbers(left)
        numbers(right)
        assert source.drawn == list(range(length))


def test_a_source_that_shuffles_anew_in_each_pass_has_halves_without_common_samples() -> (
    None
):
    left, right = split_dataset(tf.data.Dataset.range(100).shuffle(100), 0.5)
    first = numbers(left), numbers(right)
    assert sorted([*first[0], *first[1]]) == list(range(100))
    assert (numbers(left), numbers(right)) == first


def test_both_halves_can_be_read_at_the_same_time() -> None:
    left, right = split_dataset(
        tf.data.Dataset.range(4000).shuffle(100), 0.5, shuffle=True
    )
    read: dict[str, list[Any]] = {}

    def read_all(name: str, half: Any) -> None:
        read[name] = numbers(half.prefetch(10))

    threads = [
        threading.Thread(target=read_all, args=case)
        for case in (("left", left), ("again", left), ("right", right))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read["left"] == read["again"]
    assert sorted(read["left"] + read["right"]) == list(range(4000))


def test_a_half_can_be_split_again() -> None:
    left, _ = split_dataset(tf.data.Dataset.range(10), 0.8, shuffle=True, seed=3)
    assert list(map(numbers, split_dataset(left, 0.75))) == [[1, 5, 6, 0, 9, 4], [7, 2]]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (tf.data.Dataset.range(3).repeat(), r"must have an end, .* dataset.take\(n\)"),
        (tf.data.Dataset.range(0), "must have samples to split, got an empty one"),
        (tf.data.Dataset.range(3).filter(lambda _: False), "got an empty one"),
    ],
)
def test_what_has_no_end_or_no_sample_is_refused(dataset: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_dataset(dataset, 0.5)


def test_tensors_are_arrays() -> None:
    left, right = split_dataset({"x": tf.reshape(tf.range(8), (4, 2))}, 0.5)
    assert isinstance(left[0]["x"], tf.Tensor)
    assert [sample["x"].numpy().tolist() for sample in right] == [[4, 5], [6, 7]]


def test_splitting_leaves_the_global_seed_of_tensorflow_alone() -> None:
    tf.random.set_seed(5)
    expected = tf.random.uniform((3,)).numpy().tolist()
    tf.random.set_seed(5)
    split_dataset(tf.data.Dataset.range(10), 0.5, shuffle=True)
    assert tf.random.uniform((3,)).numpy().tolist() == expected
