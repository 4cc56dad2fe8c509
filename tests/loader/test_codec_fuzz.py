"""Random nested batches through the arena and back, beside what plain pickle makes."""

from __future__ import annotations

import pickle
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tests.optional import needs_torch, torch
from tests.utils.differential import cases

from .test_codec import Courier, Pair, Sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

DTYPES = st.one_of(
    npst.scalar_dtypes(),
    npst.array_dtypes(max_size=3),
    st.sampled_from(
        ["f2", "g", "c8", "?", "S3", "U2", "V5", ">i4", ">f8", "M8[D]", "m8"]
    ),
).map(np.dtype)
# Around the size from which buffers stay out of the stream, and around pages.
SIZES = st.sampled_from(
    [0, 1, 63, 64, 65, 4095, 4096, 4097, 8191, 8192, 20_000, 65_537]
)
LAYOUTS = st.sampled_from(
    ["C", "F", "strided", "reversed", "transposed", "broadcast", "0-d", "read only"]
)


@pytest.fixture
def courier() -> Iterator[Courier]:
    made = Courier()
    yield made
    made.close()


@st.composite
def arrays(draw: Any) -> NDArray[Any]:
    """An array of any dtype in any layout."""
    dtype, layout = draw(DTYPES), draw(LAYOUTS)
    count = draw(SIZES) // max(1, dtype.itemsize)
    data = draw(st.binary(min_size=1, max_size=40)) * (count * dtype.itemsize + 1)
    flat = np.frombuffer(data, np.uint8)[: count * dtype.itemsize].copy()
    if not dtype.itemsize:
        return np.zeros(3, dtype)
    array = _filled(flat, dtype)
    match layout:
        case "F":
            return np.asfortranarray(array.reshape(-1, _divisor(array.size)))
        case "strided":
            return array[::3]
        case "reversed":
            return array.reshape(-1, _divisor(array.size))[::-1]
        case "transposed":
            return array.reshape(1, -1, _divisor(array.size)).transpose(2, 0, 1)
        case "broadcast":
            return np.broadcast_to(array, (2, array.size))
        case "0-d" if array.size:
            return array[:1].reshape(())
        case "read only":
            array.flags.writeable = False
        case _:
            pass
    return array


def _filled(flat: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Any bytes make numbers; not all make text."""
    if dtype.kind == "U" or dtype.names or dtype.subdtype:
        return np.zeros(len(flat) // dtype.itemsize, dtype)
    return flat.view(dtype)


def _divisor(size: int) -> int:
    return next((d for d in (7, 5, 3, 2) if size % d == 0 and size), 1)


def ring(part: Any) -> list[Any]:
    """A list that holds itself, and a dictionary that holds the list."""
    made: list[Any] = [part]
    made += [made, {"up": made, "part": part}]
    return made


PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.sampled_from([b"x" * 5000, "y" * 5000, 2**200, np.float32(2.5), range(4)]),
)


@st.composite
def objects(draw: Any) -> NDArray[Any]:
    array = np.empty(2, object)
    array[:] = [draw(PLAIN), draw(arrays())]
    return array


LEAVES = st.one_of(PLAIN, arrays(), arrays(), objects())
BATCHES = st.recursive(
    LEAVES,
    lambda part: st.one_of(
        st.lists(part, max_size=4),
        st.tuples(part, part),
        st.dictionaries(st.text(max_size=3), part, max_size=4),
        st.builds(Pair, part, part),
        st.builds(Sample, part, part),
        part.map(lambda shared: [shared, {"again": shared}]),
        part.map(ring),
    ),
    max_leaves=10,
)


def expect_alike(one: Any, other: Any, *, by_pickle: bool = False) -> None:
    """The same types, values and shared references.

    Args:
        one: Any batch.
        other: Its copy.
        by_pickle: Whether the first one is pickle's copy, which has every array in the
            machine's byte order, and those that were not contiguous writable.
    """
    twins: dict[int, int] = {}
    waiting = [(one, other)]
    while waiting:
        one, other = waiting.pop()
        assert type(one) is type(other)
        if isinstance(one, (list, dict, np.ndarray, Sample)) and id(one) in twins:
            assert twins[id(one)] == id(other), "a shared reference came apart"
            continue
        twins[id(one)] = id(other)
        if isinstance(one, np.ndarray):
            if by_pickle and other.dtype != one.dtype:
                other = other.astype(other.dtype.newbyteorder("="))
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            if not (by_pickle or one.dtype.hasobject or not one.dtype.itemsize):
                read_only = [a.__array_interface__["data"][1] for a in (one, other)]
                assert read_only[0] == read_only[1]
            if one.dtype.hasobject:
                waiting += zip(one.flat, other.flat, strict=True)
            else:
                assert one.tobytes() == other.tobytes()
        elif isinstance(one, dict):
            waiting += zip(one.items(), other.items(), strict=True)
        elif isinstance(one, (list, tuple)):
            waiting += zip(one, other, strict=True)
        elif is_dataclass(one):
            waiting += [
                (getattr(one, f.name), getattr(other, f.name)) for f in fields(one)
            ]
        else:
            assert repr(one) == repr(other)


@cases(300)
@given(BATCHES)
def test_a_batch_comes_back_as_it_was_and_as_pickle_would_bring_it(
    courier: Courier, batch: Any
) -> None:
    twin = courier.send(batch)
    expect_alike(batch, twin)
    expect_alike(pickle.loads(pickle.dumps(batch, 5)), twin, by_pickle=True)


@cases(80)
@given(st.lists(BATCHES, min_size=2, max_size=5))
def test_batches_that_are_kept_stay_what_they_were_while_others_come(
    courier: Courier, batches: list[Any]
) -> None:
    kept = [courier.send(batch) for batch in batches]
    for _ in range(3):
        courier.send(np.full(30_000, 7))
    for batch, twin in zip(batches, kept, strict=True):
        expect_alike(batch, twin)


TORCH = [
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "complex64",
    "int8",
    "int64",
    "bool",
]


@st.composite
def tensors(draw: Any) -> Any:
    """A tensor of any dtype in any layout."""
    dtype = getattr(torch, draw(st.sampled_from(TORCH)))
    count = draw(SIZES) // dtype.itemsize
    flat = torch.arange(count).to(dtype)
    wide = flat.reshape(-1, _divisor(count))
    match draw(st.sampled_from(["plain", "T", "strided", "part", "expanded", "0-d"])):
        case "T":
            return wide.T
        case "strided":
            return wide[::2]
        case "part":
            return wide[:, :1]
        case "expanded":
            return flat.expand(3, count)
        case "0-d" if count:
            return flat[0]
    return flat


@needs_torch
@cases(150)
@given(st.data())
def test_tensors_come_back_as_they_were_among_anything_else(
    courier: Courier, data: Any
) -> None:
    sent = [data.draw(tensors()) for _ in range(data.draw(st.integers(1, 3)))]
    batch = {"x": [*sent, sent[0]], "y": data.draw(BATCHES)}
    twin = courier.send(batch)
    assert twin["x"][0] is twin["x"][-1]
    expect_alike(batch["y"], twin["y"])
    for tensor, other in zip(sent, twin["x"], strict=False):
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape)
        assert torch.equal(tensor, other)
        other.add_(1) if other.dtype is not torch.bool else other.logical_not_()
