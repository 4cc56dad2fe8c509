"""``normalize`` beside the installed Keras, over generated inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from feedline.utils import normalize
from tests.utils.differential import cases, outcome

keras: Any = pytest.importorskip("keras")
theirs = keras.utils.normalize

TOLERANCE = {"e": 2e-2, "f": 1e-6, "F": 1e-6}  # by dtype; 1e-12 for wider ones
DTYPES = [np.dtype(code) for code in "efdgFDG?bhiqBHIQ"]
FLOATS = [np.dtype(code) for code in "efdgFDG"]
ORDERS = st.sampled_from(
    [
        1,
        2,
        3,
        1.5,
        0,
        np.inf,
        -np.inf,
        -1,
        -2.5,
        0.5,
        None,
        True,
        np.int64(3),
        np.float32(4),
    ]
)
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)
SPECIAL = [0.0, np.nan, np.inf, -np.inf]


def moderate(dtype: np.dtype[Any]) -> st.SearchStrategy[Any]:
    """Numbers of which no power in use here leaves the dtype's range."""
    if dtype.kind == "b":
        return st.booleans()
    if dtype.kind in "iu":
        return st.integers(0 if dtype.kind == "u" else -50, 50)
    reals = st.one_of(
        st.just(0.0),
        st.integers(-20, 20).map(lambda n: n / 4),
        st.floats(0.25, 5, width=16),
    )
    return st.builds(complex, reals, reals) if dtype.kind == "c" else reals


@st.composite
def arrays(draw: st.DrawFn, dtypes: Any = DTYPES, special: bool = False) -> Any:
    """Arrays of many shapes, dtypes, memory layouts and subclasses."""
    dtype, shape = draw(st.sampled_from(dtypes)), draw(SHAPES)
    elements = moderate(dtype)
    if special:
        elements = st.one_of(elements, st.sampled_from(SPECIAL))
    size = int(np.prod(shape))
    flat = draw(st.lists(elements, min_size=size, max_size=size))
    array = np.array(flat, dtype).reshape(shape)
    layout = draw(
        st.sampled_from(["C", "F", "reversed", "strided", "frozen", "masked"])
    )
    if layout == "F":
        array = np.asfortranarray(array)
    elif layout == "reversed":
        array = array[::-1]
    elif layout == "strided":
        array = np.repeat(array, 2, axis=0)[::2]
    elif layout == "frozen":
        array.flags.writeable = False
    elif layout == "masked":
        array = np.ma.masked_array(array, mask=np.arange(size).reshape(shape) % 3 == 1)
    return array


def expect_equal(mine: Any, other: Any, dtype: np.dtype[Any]) -> None:
    if isinstance(other, type):
        assert isinstance(mine, type), f"Keras raised {other}"
        assert issubclass(mine, other)
        return
    assert type(mine) is type(other)
    assert mine.dtype == other.dtype
    assert mine.shape == other.shape
    if isinstance(other, np.ma.MaskedArray):
        assert np.array_equal(np.ma.getmaskarray(mine), np.ma.getmaskarray(other))
    mine, other = np.asarray(mine), np.asarray(other)
    rtol = TOLERANCE.get(dtype.char, 1e-12)
    assert np.array_equal(mine == 0, other == 0)
    np.testing.assert_allclose(mine, other, rtol=rtol, atol=0)


def as_keras_should(x: Any, axis: Any, order: Any) -> Any:
    """What Keras gives where it is right: counted from the end, and of the shape of x."""
    if isinstance(axis, int) and 0 <= axis < x.ndim:
        axis -= x.ndim
    result = outcome(theirs, x, axis, order)
    return (
        result.reshape(x.shape)
        if isinstance(result, np.ndarray) and x.ndim == 1
        else result
    )


@cases(1500)
@given(arrays(), st.data(), ORDERS)
def test_arrays_give_the_same(x: Any, data: Any, order: Any) -> None:
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    assume(x.size or order != -np.inf)
    mine = outcome(normalize, x, axis, order)
    assert not np.shares_memory(mine, x)
    expect_equal(mine, as_keras_should(x, axis, order), x.dtype)


@cases(700)
@given(
    arrays(FLOATS, special=True), st.data(), st.sampled_from([1, 2, 3, np.inf, 0, None])
)
def test_nan_and_infinity_give_the_same(x: Any, data: Any, order: Any) -> None:
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    expect_equal(
        outcome(normalize, x, axis, order), as_keras_should(x, axis, order), x.dtype
    )


@cases(300)
@given(arrays(), ORDERS)
def test_the_norm_over_a_whole_array_is_that_of_its_elements(
    x: Any, order: Any
) -> None:
    assume(x.size or order != -np.inf)
    flat = as_keras_should(x.reshape(-1), -1, order)
    expect_equal(outcome(normalize, x, None, order), flat.reshape(x.shape), x.dtype)


@cases(300)
@given(arrays(), st.data(), ORDERS)
def test_the_norm_over_two_axes_is_that_of_their_elements(
    x: Any, data: Any, order: Any
) -> None:
    x = np.asarray(x)
    assume(x.ndim > 1)
    assume(x.size or order != -np.inf)
    pair = data.draw(st.permutations(range(x.ndim)))[:2]
    last = np.moveaxis(x, pair, (-2, -1))
    joined = last.reshape(*last.shape[:-2], last.shape[-2] * last.shape[-1])
    flat = np.reshape(as_keras_should(joined, -1, order), last.shape)
    mine = outcome(normalize, x, tuple(pair), order)
    expect_equal(np.moveaxis(mine, pair, (-2, -1)), flat, x.dtype)


BAD_AXES = st.sampled_from([4, -5, 7, 1.0, "0", 1j, np.array([0, 1])])
BAD_ORDERS = st.sampled_from(["fro", "nuc", "2"])


@cases(300)
@given(arrays(), BAD_AXES, ORDERS)
def test_what_is_no_axis_is_refused_alike(x: Any, axis: Any, order: Any) -> None:
    assume(x.size or order != -np.inf)  # which Keras refuses before it sees the axis
    assume(x.ndim > 1 or type(axis) is not float)  # which Keras rounds at first
    other = outcome(theirs, x, axis, order)
    assert isinstance(other, type)
    expect_equal(outcome(normalize, x, axis, order), other, x.dtype)


@cases(200)
@given(arrays(), BAD_ORDERS)
def test_what_is_no_order_is_refused_alike(x: Any, order: Any) -> None:
    other = outcome(theirs, x, -1, order)
    assert other is ValueError
    expect_equal(outcome(normalize, x, -1, order), other, x.dtype)


@pytest.mark.parametrize(
    "x",
    [
        np.array([1, None]),
        np.array(["1", "2"]),
        np.array([b"1"]),
        np.array(["2001"], "M8[D]"),
        np.array([(1, 2)], "i4,i4"),
        np.array(3.0),
        np.array(3),
    ],
)
def test_arrays_without_numbers_or_axes_are_refused_alike(x: Any) -> None:
    other = outcome(theirs, x)
    # NumPy's own are private, and of these two kinds.
    public = next(
        kind for kind in (np.exceptions.AxisError, TypeError) if issubclass(other, kind)
    )
    expect_equal(outcome(normalize, x), public, x.dtype)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("axis", [-1, -2, 1])
def test_a_matrix_gives_the_same(axis: int) -> None:
    x = np.matrix([[3.0, 4.0], [0.0, 0.0], [-5.0, 12.0]])
    expect_equal(normalize(x, axis), theirs(x, axis), x.dtype)


@cases(300)
@given(hnp.arrays(np.float32, SHAPES, elements=st.integers(-8, 8)), st.data())
def test_torch_s_tensors_give_the_same(x: Any, data: Any) -> None:
    torch: Any = pytest.importorskip("torch")
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    order = data.draw(st.sampled_from([1, 2, 3]))
    mine, other = (
        normalize(torch.tensor(x), axis, order),
        theirs(torch.tensor(x), axis, order),
    )
    assert mine.dtype == other.dtype
    torch.testing.assert_close(mine, other, rtol=1e-6, atol=0)
