"""``to_categorical`` beside the installed Keras, over generated inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from feedline.utils import to_categorical
from tests.utils.differential import cases, outcome

keras: Any = pytest.importorskip("keras")
theirs = keras.utils.to_categorical

INTEGERS = [np.dtype(code) for code in "bhilqBHILQ"] + [np.dtype(">i4")]
OTHERS = [
    np.dtype(code) for code in ("?", "e", "f", "d", "g", "O", "U2", "S2", "D", "M8[D]")
]
SHAPES = st.lists(st.integers(0, 5), max_size=4).flatmap(
    lambda dims: st.sampled_from([tuple(dims), (*dims, 1), (*dims, 1, 1)])
)
CLASSES = st.sampled_from(
    [None, 0, False, 0.0, np.int64(0), 10, 12, np.int64(10), np.uint8(11), np.array(10)]
)
BAD_CLASSES = st.sampled_from(
    [
        True,
        np.True_,
        3.0,
        np.float64(10),
        "3",
        -1,
        np.int64(-3),
        [4],
        (4,),
        np.array([4]),
        1j,
    ]
)


def expect_equal(mine: Any, other: Any) -> None:
    if isinstance(other, type):
        assert isinstance(mine, type), f"Keras raised {other}"
        assert issubclass(mine, other)
        return
    assert type(mine) is type(other) is np.ndarray
    assert mine.dtype == other.dtype
    assert mine.shape == other.shape
    assert np.array_equal(mine, other)
    assert mine.flags.c_contiguous
    assert mine.flags.writeable


def compare(x: Any, classes: Any) -> None:
    expect_equal(outcome(to_categorical, x, classes), outcome(theirs, x, classes))


@st.composite
def labels(draw: st.DrawFn, lowest: int = 0) -> Any:
    """Arrays of many shapes, dtypes and memory layouts."""
    shape = draw(SHAPES)
    small = draw(hnp.arrays(np.int64, shape, elements=st.integers(lowest, 9)))
    dtype = draw(st.sampled_from(INTEGERS + OTHERS))
    array = small.astype(dtype)
    if dtype.kind == "f":
        array = np.asarray(array + np.asarray(0.75, dtype))  # not a scalar
    layout = draw(
        st.sampled_from(["C", "F", "reversed", "strided", "frozen", "masked"])
    )
    if layout == "F":
        array = np.asfortranarray(array)
    elif layout == "reversed" and array.ndim:
        array = array[::-1]
    elif layout == "strided" and array.ndim:
        array = np.repeat(array, 2, axis=0)[::2]
    elif layout == "frozen":
        array.flags.writeable = False
    elif layout == "masked" and dtype.kind not in "OM":
        array = np.ma.masked_array(array, mask=small % 2)
    return array


@cases(1500)
@given(labels(), CLASSES)
def test_arrays_give_the_same(x: Any, classes: Any) -> None:
    compare(x, classes)


@cases(500)
@given(labels(), st.integers(1, 9))
def test_labels_that_are_too_large_are_refused_alike(x: Any, classes: int) -> None:
    compare(x, classes)


@cases(300)
@given(labels(), BAD_CLASSES)
def test_class_counts_that_are_none_are_refused_alike(x: Any, classes: Any) -> None:
    compare(x, classes)


NUMBERS = st.one_of(
    st.integers(0, 9),
    st.booleans(),
    st.floats(-0.9, 9.5),
    st.sampled_from(["7", " 3 ", b"2", np.uint8(4), np.float32(2.5), np.str_("1")]),
)
LEAVES = st.one_of(
    NUMBERS,
    st.sampled_from(
        [
            None,
            float("nan"),
            float("inf"),
            "three",
            1j,
            {1},
            {"a": 1},
            object(),
            2**63,
            2**70,
        ]
    ),
)
SEQUENCES = st.one_of(
    NUMBERS,
    st.lists(NUMBERS, max_size=6),
    st.lists(NUMBERS, max_size=6).map(tuple),
    st.integers(0, 9).map(range),
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(NUMBERS, min_size=n, max_size=n), max_size=4)
    ),
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=1), max_size=4),
)


@cases(700)
@given(SEQUENCES, CLASSES)
def test_what_becomes_an_array_gives_the_same(x: Any, classes: Any) -> None:
    compare(x, classes)


@cases(700)
@given(
    st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=6),
    CLASSES,
)
def test_what_is_not_labels_is_refused_alike(x: Any, classes: Any) -> None:
    compare(x, classes)


@pytest.mark.parametrize(
    "x", [np.array(["one"]), np.array([None]), np.array([1, [2]], object)]
)
@pytest.mark.parametrize("classes", [None, 3])
def test_arrays_of_no_numbers_are_refused_alike(x: Any, classes: Any) -> None:
    compare(x, classes)
    compare((number for number in range(3)), classes)


@cases(500)
@given(labels(lowest=-12), CLASSES)
def test_only_negative_labels_make_a_difference(x: Any, classes: Any) -> None:
    with np.errstate(all="ignore"):
        smallest = int(
            np.array(np.real(x) if x.dtype.kind == "c" else x, np.int64).min(initial=0)
        )
    assume(smallest < 0)
    assert outcome(to_categorical, x, classes) is IndexError
    other = outcome(theirs, x, classes)
    wrapped = not isinstance(other, type)
    assert wrapped or issubclass(other, (IndexError, ValueError))


@cases(300)
@given(labels(), st.integers(10, 12))
def test_torch_s_tensors_give_the_same_but_for_the_dtype(x: Any, classes: int) -> None:
    torch: Any = pytest.importorskip("torch")
    assume(x.dtype.kind in "bif" and x.dtype.itemsize <= 8)
    tensor = torch.tensor(np.asarray(x).astype(x.dtype.newbyteorder("=")))
    mine, other = to_categorical(tensor, classes), theirs(tensor, classes)
    assert mine.dtype == torch.float32
    assert other.dtype == torch.int64
    assert torch.equal(mine, other.to(torch.float32))
