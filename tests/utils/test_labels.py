"""Tests for feedline.utils.labels."""

from __future__ import annotations

import sys
import tracemalloc
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from feedline.utils import labels, to_categorical
from tests.utils.tensors import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.utils.tensors import Kind

NAN, INF = float("nan"), float("inf")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


# ---- arrays --------------------------------------------------------------------------


def test_each_label_is_a_row_with_one_1() -> None:
    rows = to_categorical([3, 0, 1])
    assert rows.tolist() == [[0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]
    assert rows.dtype == np.float64


def test_rows_can_be_longer_than_the_labels_need() -> None:
    assert to_categorical([1], num_classes=3).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(
    ("shape", "rows_shape"),
    [
        ((), (5,)),
        ((1,), (1, 5)),
        ((3,), (3, 5)),
        ((3, 1), (3, 5)),
        ((1, 1), (1, 5)),
        ((2, 1, 1), (2, 1, 5)),
        ((2, 3), (2, 3, 5)),
        ((0,), (0, 5)),
        ((2, 0), (2, 0, 5)),
        ((0, 1), (0, 5)),
    ],
)
def test_a_last_dimension_of_1_is_dropped_once(shape: Any, rows_shape: Any) -> None:
    assert to_categorical(np.zeros(shape, int), 5).shape == rows_shape


@pytest.mark.parametrize("count", [labels._PIECE + d for d in (-1, 0, 1)] + [200_000])
@pytest.mark.parametrize("dtype", ["u1", "f4", "i8"])
def test_rows_are_right_across_the_pieces(count: int, dtype: str) -> None:
    x = np.random.default_rng(0).integers(0, 7, count).astype(dtype)
    for classes in (7, None):
        rows = to_categorical(x, classes)
        assert np.array_equal(rows.argmax(axis=1), x)
        assert np.array_equal(rows.sum(axis=1), np.ones(count))


@pytest.mark.parametrize("count", [10, 200_000])
def test_labels_of_any_memory_order_are_read_in_theirs(count: int) -> None:
    x = np.arange(count).reshape(2, -1) % 7
    expected = to_categorical(x)
    assert np.array_equal(to_categorical(np.asfortranarray(x)), expected)
    assert np.array_equal(to_categorical(x[::-1])[::-1], expected)
    assert np.array_equal(to_categorical(np.repeat(x, 2, axis=1)[:, ::2]), expected)


@pytest.mark.parametrize(
    ("x", "classes", "value", "place"),
    [
        ([0, -1, 2], None, "-1", "[1]"),
        ([0, -1, 2], 3, "-1", "[1]"),
        ([[0, 1], [2, -7]], 9, "-7", "[1, 1]"),
        ([[0], [-3]], 9, "-3", "[1]"),
        ([0, 3, 9], 3, "3", "[1]"),
        (-1, 3, "-1", "[]"),
        (np.array([0.0, -1.5]), 3, "-1.5", "[1]"),
        (np.array([0.0, NAN]), None, "nan", "[1]"),
        (np.array([0.0, NAN]), 3, "nan", "[1]"),
        (np.array([0.0, INF]), None, "inf", "[1]"),
        (np.array([-INF]), 3, "-inf", "[0]"),
        (np.array([2**64 - 1], np.uint64), 3, "18446744073709551615", "[0]"),
        (np.array(["0", "-2"]), 3, "'-2'", "[1]"),
        (np.array([0] * 200_000 + [-5]), None, "-5", "[200000]"),
    ],
)
def test_the_first_label_that_is_no_class_is_named(
    x: Any, classes: Any, value: str, place: str
) -> None:
    with pytest.raises(IndexError) as caught:
        to_categorical(x, classes)
    below = "" if classes is None else f" and below num_classes={classes}"
    assert str(caught.value) == (
        f"labels must be 0 or more{below}, got {value} at {place}"
    )


def test_a_fraction_under_zero_is_class_0_as_it_is_truncated() -> None:
    assert to_categorical(np.array([-0.9, 0.9, 1.0])).tolist() == [
        [1, 0],
        [1, 0],
        [0, 1],
    ]


def test_without_labels_the_number_of_classes_must_be_given() -> None:
    with pytest.raises(ValueError, match=r"^num_classes must be given if there are no"):
        to_categorical([])
    assert to_categorical([], 3).shape == (0, 3)


@pytest.mark.parametrize("classes", [True, np.True_, 3.0, "3", [3], np.array([3])])
def test_a_number_of_classes_that_is_no_integer_is_refused(classes: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^num_classes must be an integer or None, got"
    ):
        to_categorical([0, 1], classes)


def test_a_negative_number_of_classes_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^num_classes must be 1 or more, got -2; None"
    ):
        to_categorical([0, 1], -2)


def test_the_result_is_new_even_for_what_is_one_hot_already() -> None:
    x = np.zeros((3, 1))
    rows = to_categorical(x)
    assert not np.shares_memory(rows, x)
    rows[:] = 5
    assert not x.any()


@pytest.mark.parametrize("dtype", ["u1", "i4", "i8", "f4"])
def test_nothing_of_the_size_of_the_labels_is_made_beside_the_result(
    dtype: str,
) -> None:
    count, classes = 2_000_000, 3
    x = (np.arange(count) % classes).astype(dtype)
    to_categorical(x[:10])  # what is imported on the way
    tracemalloc.start()
    try:
        rows = to_categorical(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A copy as bytes would be 2 MB, one as int64 16 MB.
    assert rows.nbytes <= peak < rows.nbytes + 50 * labels._PIECE
    assert x.nbytes >= 2_000_000


# ---- tensors -------------------------------------------------------------------------


def test_a_tensor_gives_a_tensor_of_its_library_with_the_dtype_of_zeros(
    kind: Kind,
) -> None:
    x = kind.make([[2], [0], [1]])
    for classes in (None, 3):
        rows = to_categorical(x, classes)
        assert type(rows) is type(x)
        assert kind.dtype_of(rows) == kind.zeros
        assert rows.device == x.device
        assert kind.array_of(rows).tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("shape", [(), (1,), (4,), (4, 1), (2, 2, 1), (0,), (0, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "float32", "bool"])
def test_tensors_obey_the_rules_of_arrays(kind: Kind, shape: Any, dtype: str) -> None:
    array = (np.arange(np.prod(shape, dtype=int)).reshape(shape) * 1.4).astype(dtype)
    for classes in (7, None) if array.size else (7,):
        rows = kind.array_of(to_categorical(kind.make(array), classes))
        assert np.array_equal(rows, to_categorical(array, classes))


@pytest.mark.parametrize(
    ("x", "value"),
    [([0, -1], "-1"), ([0.0, -1.5], "-1.5"), ([0.0, NAN], "nan"), ([0.0, INF], "inf")],
)
@pytest.mark.parametrize("classes", [None, 3])
def test_a_tensor_s_label_that_is_no_class_is_named(
    kind: Kind, x: Any, value: str, classes: Any
) -> None:
    with pytest.raises(IndexError, match=rf"got {value} at \[1\]$"):
        to_categorical(kind.make(x), classes)


def test_a_tensor_s_label_that_is_too_large_is_named(kind: Kind) -> None:
    with pytest.raises(IndexError, match=r"below num_classes=3, got 3 at \[1, 0\]$"):
        to_categorical(kind.make([[0, 1], [3, 2]]), 3)


def test_an_empty_tensor_needs_a_number_of_classes(kind: Kind) -> None:
    with pytest.raises(ValueError, match=r"^num_classes must be given"):
        to_categorical(kind.make(np.zeros((0, 2), np.int32)))


if "strict" in KINDS:  # left out otherwise, because a skipped test may fail the run

    def test_a_tensor_s_rows_stay_on_its_device() -> None:
        strict: Any = import_module("array_api_strict")
        elsewhere = strict.Device("device1")
        x = strict.asarray([1, 0], device=elsewhere)
        assert to_categorical(x).device == elsewhere
        assert to_categorical(strict.astype(x, strict.float32), 3).device == elsewhere


class FakeTensor:
    """Of a TensorFlow that has no more than what is needed here."""

    device = "GPU:3"

    def __init__(self, array: Any) -> None:
        self.array = np.asarray(array)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array.astype(dtype or self.array.dtype)


def test_a_tensorflow_tensor_is_made_on_the_device_of_the_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    devices: list[str] = []

    @contextmanager
    def device(name: str) -> Iterator[None]:
        devices.append(name)
        yield

    monkeypatch.setitem(
        sys.modules,
        "tensorflow",
        SimpleNamespace(
            is_tensor=lambda x: isinstance(x, FakeTensor),
            device=device,
            convert_to_tensor=FakeTensor,
        ),
    )
    rows = to_categorical(FakeTensor([1, 0]))
    assert isinstance(rows, FakeTensor)
    assert rows.array.tolist() == [[0, 1], [1, 0]]
    assert rows.array.dtype == np.float32
    assert devices == ["GPU:3"]
    assert isinstance(to_categorical([1, 0]), np.ndarray)
