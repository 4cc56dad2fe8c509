"""Tests for feedline.utils.arrays."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from feedline.utils import normalize
from tests.optional import needs_torch
from tests.utils.differential import cases
from tests.utils.tensors import KINDS, Kind

INF, NAN = float("inf"), float("nan")
ORDERS = [1, 2, 3, 1.5, 0.5, INF, -1, -INF]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


# ---- arrays --------------------------------------------------------------------------


def test_rows_have_norm_1() -> None:
    rows = normalize(np.array([[3.0, 4.0], [-5.0, 12.0]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [-5 / 13, 12 / 13]], rtol=1e-15)


@pytest.mark.parametrize("shape", [(2, 3), (3, 3), (2, 3, 4), (3, 3, 3)])
def test_axis_0_is_normalized_as_any_other(shape: Any) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    along_last = normalize(np.moveaxis(x, 0, -1), axis=-1)
    np.testing.assert_allclose(normalize(x, axis=0), np.moveaxis(along_last, -1, 0))
    np.testing.assert_allclose(np.linalg.norm(normalize(x, axis=0), axis=0), 1)


def test_a_vector_keeps_its_shape() -> None:
    assert normalize(np.array([3.0, 4.0])).tolist() == [0.6, 0.8]
    assert normalize(np.array([3.0, 4.0]), axis=0).tolist() == [0.6, 0.8]


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 3, 4), (2, 1, 3, 2)])
def test_without_axis_the_whole_array_has_norm_1(shape: Any) -> None:
    x = np.asarray(np.random.default_rng(0).normal(size=shape))
    whole = normalize(x, axis=None)
    assert type(whole) is np.ndarray
    assert whole.shape == shape
    np.testing.assert_allclose(np.sqrt((whole**2).sum()), 1)
    np.testing.assert_allclose(whole / whole.flat[0], x / x.flat[0])


def test_several_axes_have_one_norm() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    result = normalize(x, axis=(0, -1))
    np.testing.assert_allclose(np.sqrt((result**2).sum(axis=(0, 2))), [1, 1, 1])
    np.testing.assert_allclose(normalize(x, axis=(0, 1, 2)), normalize(x, axis=None))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("dtype", "rtol", "exponents"),
    [
        ("f4", 1e-6, (-126, -80, -30, 60, 126)),
        ("f8", 1e-12, (-1022, -600, -300, 500, 1022)),
    ],
)
def test_neither_tiny_nor_huge_values_are_lost(
    dtype: str, rtol: float, exponents: Any, order: float
) -> None:
    x = np.array([[0.75, -1.5, 1.0, 1.25], [1.0, 1.75, -1.0, 1.0]], dtype)
    expected = normalize(x, order=order)
    for exponent in exponents:
        scaled = np.ldexp(x, exponent)
        np.testing.assert_allclose(normalize(scaled, order=order), expected, rtol=rtol)


@pytest.mark.parametrize(("dtype", "tiny"), [("f4", 1e-45), ("f8", 5e-324)])
def test_the_smallest_number_there_is_has_a_norm(dtype: str, tiny: float) -> None:
    x = np.array([tiny, 0, tiny, 0], dtype)
    np.testing.assert_allclose(
        normalize(x), np.array([1, 0, 1, 0]) / np.sqrt(2), rtol=1e-6
    )


@pytest.mark.parametrize("order", [1, 2, 3, INF])
def test_the_largest_complex_numbers_there_are_have_a_norm(order: float) -> None:
    big = np.finfo(float).max
    result = normalize(np.array([complex(big, big), complex(-big, big)]), order=order)
    expected = normalize(np.array([1 + 1j, -1 + 1j]), order=order)
    np.testing.assert_allclose(result, expected)


@pytest.mark.parametrize("order", [-1, -2.5, -INF])
def test_with_a_negative_order_the_small_values_decide(order: float) -> None:
    result = normalize(np.array([1e-200, 1e200, 1e-200]), order=order)
    expected = 2 ** (-1 / order) if order > -INF else 1
    np.testing.assert_allclose(result, [expected, INF, expected])


def test_order_0_divides_by_the_count_of_what_is_not_zero() -> None:
    assert normalize(np.array([0.0, 8.0, 0.0, -4.0]), order=0).tolist() == [0, 4, 0, -2]


def test_half_precision_is_summed_in_single() -> None:
    x = np.full(100_000, 2, np.float16)
    result = normalize(x, order=2)
    assert result.dtype == np.float16
    np.testing.assert_allclose(result.astype(float), 1 / np.sqrt(100_000), rtol=1e-3)


def test_what_has_norm_zero_stays_as_it_is() -> None:
    assert normalize(np.zeros((2, 3))).tolist() == np.zeros((2, 3)).tolist()
    assert normalize(np.array([2.0, 0.0]), order=-1).tolist() == [2.0, 0.0]


def test_infinity_and_nan_follow_ieee_within_their_vector_only() -> None:
    x = np.array([[INF, 1.0], [NAN, 1.0], [3.0, 4.0]])
    np.testing.assert_array_equal(normalize(x), [[NAN, 0], [NAN, NAN], [0.6, 0.8]])


@pytest.mark.parametrize("order", [*ORDERS, 0])
@pytest.mark.parametrize("axis", [0, 1, -1, None, (0, 1)])
def test_an_empty_array_gives_an_empty_one(axis: Any, order: float) -> None:
    x = np.zeros((0, 3), np.int8)
    result = normalize(x, axis, order)
    assert result.shape == (0, 3)
    assert result.dtype == np.float64


def test_integers_and_bools_become_float64() -> None:
    for x in (
        np.array([3, 4], np.uint8),
        np.array([0, 1], bool),
        np.array([1, 1], np.int64),
    ):
        assert normalize(x).dtype == np.float64
    lowest = np.array([-(2**63), 0])
    assert normalize(lowest).tolist() == [-1, 0]


def test_lists_give_an_array() -> None:
    result = normalize([[3, 4], [0, 5]])
    assert type(result) is np.ndarray
    assert result.dtype == np.float64
    assert result.tolist() == [[0.6, 0.8], [0.0, 1.0]]


@pytest.mark.parametrize("order", [2, 0, INF])
@pytest.mark.parametrize("x", [np.array([3.0, 4.0]), np.zeros((0, 2)), np.zeros(3)])
def test_the_result_is_new_and_the_array_untouched(x: Any, order: float) -> None:
    before = x.copy()
    result = normalize(x, order=order)
    assert result is not x
    assert not np.shares_memory(result, x)
    result[...] = 9
    np.testing.assert_array_equal(x, before)


def test_a_masked_array_keeps_its_mask() -> None:
    x = np.ma.masked_array([3.0, 4.0, 5.0], mask=[False, True, False])
    result = normalize(x)
    assert isinstance(result, np.ma.MaskedArray)
    assert np.ma.getmaskarray(result).tolist() == [False, True, False]
    np.testing.assert_allclose(result.compressed(), np.array([3, 5]) / np.sqrt(50))


# ---- errors --------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [2, -3, (0, 2)])
def test_an_axis_that_is_not_there_is_named(axis: Any) -> None:
    rule = r"^axis must be from -2 to 1 for an array of 2 dimensions, got "
    with pytest.raises(np.exceptions.AxisError, match=rule):
        normalize(np.ones((2, 3)), axis)


@pytest.mark.parametrize("axis", [(), (0, 0), (1, -1)])
def test_axes_must_be_some_and_different(axis: Any) -> None:
    with pytest.raises(ValueError, match=r"^axis must name at least one axis and none"):
        normalize(np.ones((2, 3)), axis)


@pytest.mark.parametrize("axis", [1.0, "0", [0]])
def test_an_axis_that_is_no_integer_is_refused(axis: Any) -> None:
    with pytest.raises(TypeError):
        normalize(np.ones((2, 3)), axis)


def test_a_single_number_has_no_axis() -> None:
    with pytest.raises(np.exceptions.AxisError):
        normalize(3.0)


@pytest.mark.parametrize("order", ["fro", "2", 1j, [2]])
def test_an_order_that_is_no_real_number_is_named(order: Any) -> None:
    with pytest.raises(ValueError, match=r"^order must be a real number or None, got "):
        normalize(np.ones(3), order=order)


@pytest.mark.parametrize("x", [None, "text", [None, 1], np.array(["1"]), object()])
def test_what_holds_no_numbers_is_refused(x: Any) -> None:
    with pytest.raises(TypeError, match=r"^x must hold numbers, got dtype "):
        normalize(x)


# ---- tensors -------------------------------------------------------------------------


def test_a_tensor_gives_a_tensor_of_its_library_and_dtype(kind: Kind) -> None:
    for dtype in kind.dtypes:
        x = kind.cast(kind.make([[3.0, 4.0], [0.0, 0.0]]), dtype)
        result = normalize(x)
        assert type(result) is type(x)
        assert kind.dtype_of(result) == dtype
        assert result.device == x.device
        rtol = 1e-2 if "16" in dtype else 1e-6
        np.testing.assert_allclose(
            kind.array_of(result), [[0.6, 0.8], [0.0, 0.0]], rtol=rtol
        )


def test_integer_tensors_become_what_zeros_are(kind: Kind) -> None:
    for x in (kind.make([3, 4]), kind.make([True, False])):
        assert kind.dtype_of(normalize(x)) == kind.zeros


@cases(60)
@given(st.data())
def test_tensors_obey_the_rules_of_arrays(kind: Kind, data: Any) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3))
    exponent = data.draw(st.sampled_from([0, 0, -100, 100]))
    elements = st.integers(-8, 8).map(float)
    x = data.draw(hnp.arrays(np.float32, shape, elements=elements)) * np.float32(
        2.0**exponent
    )
    one = st.integers(-x.ndim, x.ndim - 1)
    axis = data.draw(st.one_of(one, st.none(), st.just(tuple(range(x.ndim)))))
    order = data.draw(st.sampled_from([*ORDERS, 0, None]))
    result = kind.array_of(normalize(kind.make(x), axis, order))
    np.testing.assert_allclose(result, normalize(x, axis, order), rtol=1e-5)


def test_a_tensor_s_wrong_axis_and_order_are_refused_as_an_array_s_are(
    kind: Kind,
) -> None:
    x = kind.make([[1.0, 2.0]])
    with pytest.raises(np.exceptions.AxisError, match=r"^axis must be from -2 to 1"):
        normalize(x, 2)
    with pytest.raises(ValueError, match=r"^order must be a real number"):
        normalize(x, order="fro")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in KINDS if name != "strict"])
def test_complex_tensors_are_normalized(name: str) -> None:
    x = np.array([3 + 4j, 0, 12j], np.complex64)
    result = KINDS[name].array_of(normalize(KINDS[name].make(x)))
    np.testing.assert_allclose(result, x / 13, rtol=1e-6)


@needs_torch
def test_torch_s_gradients_pass() -> None:
    x = KINDS["torch"].make([[3.0, 4.0], [1.0, 2.0]]).requires_grad_()
    normalize(x).sum().backward()
    # Of x / |x| along e = (1, 1): (e - u (u . e)) / |x|.
    expected = [
        [(1 - 0.6 * 1.4) / 5, (1 - 0.8 * 1.4) / 5],
        [0.4 / 5**0.5, -0.2 / 5**0.5],
    ]
    np.testing.assert_allclose(x.grad, expected, rtol=1e-5, atol=1e-7)


# A test that cannot run here is left out, because a skipped one may fail the run.

if "strict" in KINDS:

    def test_a_tensor_s_result_stays_on_its_device() -> None:
        strict: Any = import_module("array_api_strict")
        elsewhere = strict.Device("device1")
        x = strict.asarray([[3.0, 4.0]], device=elsewhere)
        assert normalize(x).device == elsewhere
        assert normalize(x, order=0).device == elsewhere


if "jax" in KINDS:

    def test_it_can_be_compiled_by_jax() -> None:
        jax: Any = import_module("jax")
        result = jax.jit(normalize)(KINDS["jax"].make([[3.0, 4.0], [0.0, 0.0]]))
        np.testing.assert_allclose(result, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


class FakeTensor:
    """Of a TensorFlow that has no more than what is needed here."""

    device = "GPU:3"

    def __init__(self, array: Any) -> None:
        self.array = np.asarray(array)
        floating = self.array.dtype.kind == "f"
        self.dtype = SimpleNamespace(
            is_floating=floating, as_numpy_dtype=self.array.dtype.type
        )

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array.astype(dtype or self.array.dtype)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("i4", "f4"), ("?", "f4"), ("f2", "f2"), ("f8", "f8")]
)
def test_a_tensorflow_tensor_keeps_its_floating_dtype(
    monkeypatch: pytest.MonkeyPatch, dtype: str, expected: str
) -> None:
    fake = SimpleNamespace(
        is_tensor=lambda x: isinstance(x, FakeTensor),
        device=lambda _: nullcontext(),
        convert_to_tensor=FakeTensor,
    )
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    result = normalize(FakeTensor(np.array([0, 1], dtype)))
    assert isinstance(result, FakeTensor)
    assert result.array.dtype == expected
    assert result.array.tolist() == [0, 1]
