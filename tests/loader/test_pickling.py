"""Everything comes back equal: dtype, order, strides' meaning and writability."""

from __future__ import annotations

import collections
import dataclasses
import pickle
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from feedline.pickling import REFUSALS, find_refused, pickled
from tests.optional import needs_torch, torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def trip(value: Any, *, smallest: int = 1, files: bool = False, **options: Any) -> Any:
    whole = pickled(value, smallest=smallest, files=files, **options)
    # What the arena gives: writable memory that is not the sender's.
    buffers = [memoryview(bytearray(buffer)) for buffer in whole.buffers]
    return pickle.loads(bytes(whole.body), buffers=buffers)


def same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


STRUCTURE = np.dtype(
    [("a", "<i4"), ("b", ">f8", (2, 2)), ("c", "S3"), ("d", [("e", "u1")])], align=True
)
DTYPES = [
    "?", "i1", "u1", "<i2", ">i2", "<u2", "<i4", "<u4", ">u4", "<i8", "<u8", "<f2",
    ">f2", "<f4", "<f8", ">f8", "g", "<c8", "<c16", "G", "<M8[ns]", "<M8[D]", ">m8[s]",
    "S7", "U5", ">U5", "V6", STRUCTURE, "S0", "U0",
]  # fmt: skip


def filled(dtype: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    array = np.zeros(shape, dtype)
    raw = np.random.default_rng(0).integers(33, 120, array.nbytes, np.uint8)
    if array.dtype.kind in "?b":
        raw %= 2
    if array.dtype.kind == "U":
        array[...] = "täö"
    elif array.dtype.kind == "M":
        array[...] = np.datetime64("2031-05-06")
    elif array.nbytes and array.dtype.itemsize:
        array = raw.view(array.dtype).reshape(shape).copy()
    return array


SHAPES: list[tuple[int, ...]] = [(), (0,), (3, 0, 2), (1,), (4, 3)]
OUTSIDE, INSIDE = 1, 2**62  # where a buffer goes: out of the stream, into it


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_array_of_any_dtype_and_shape_comes_back(dtype: Any) -> None:
    for shape in SHAPES:
        for smallest in (OUTSIDE, INSIDE):
            array = filled(dtype, shape)
            twin = trip(array, smallest=smallest)
            same(array, twin)
            assert twin.flags.writeable


@pytest.mark.parametrize("dtype", ["<f4", ">i2", "<M8[ns]", STRUCTURE], ids=str)
def test_an_array_in_any_memory_layout_comes_back(dtype: Any) -> None:
    array = filled(dtype, (4, 6, 5))
    for view in (
        np.asfortranarray(array),
        array.T,
        array[::2],
        array[:, ::-1],
        array[..., 1],
        array[::-1].T,
        array.transpose(1, 0, 2),
        np.broadcast_to(array, (3, 4, 6, 5)),
        np.asfortranarray(array)[1:, :-1],
        array[1:1],
    ):
        twin = trip(view)
        same(view, twin)
        assert twin.flags.f_contiguous == view.flags.f_contiguous


def test_the_columns_of_a_fortran_array_stay_next_to_each_other() -> None:
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    assert trip(array).strides == array.strides


def test_a_read_only_array_stays_read_only() -> None:
    array = np.arange(12).reshape(3, 4)
    array.flags.writeable = False
    for view in (array, array.T, array[:, ::2]):
        for smallest in (OUTSIDE, INSIDE):
            twin = trip(view, smallest=smallest)
            same(view, twin)
            assert not twin.flags.writeable


def test_broadcast_arrays_come_back_without_a_warning() -> None:
    one, other = np.broadcast_arrays(np.arange(3), np.zeros((2, 1)))
    twin = trip([one, other])
    same(one, twin[0])
    same(other, twin[1])


@given(npst.arrays(npst.array_dtypes() | npst.scalar_dtypes(), npst.array_shapes()))
def test_arrays_that_nobody_thought_of_come_back(array: Any) -> None:
    twin = trip(array)
    assert twin.dtype == array.dtype
    assert twin.shape == array.shape
    assert twin.tobytes() == array.tobytes()


def test_object_arrays_come_back() -> None:
    array = np.array([{"a": 1}, None, [2], "text"], dtype=object).reshape(2, 2)
    same(array, trip(array))
    mixed = np.array([(1, [2])], dtype=[("a", "i4"), ("b", "O")])
    same(mixed, trip(mixed))


def test_arrays_of_variable_strings_come_back() -> None:
    array = np.array(["a", "", "long" * 100, "täö"], dtype=np.dtypes.StringDType())
    same(array, trip(array))
    same(array[::2], trip(array[::2]))


def test_arrays_of_a_foreign_dtype_come_back() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.arange(12).reshape(3, 4).astype(ml_dtypes.bfloat16)
    for view in (array, array.T, array[:, ::2]):
        twin = trip(view)
        assert twin.dtype == array.dtype
        assert np.array_equal(twin.astype("f4"), view.astype("f4"))


def test_subclasses_of_arrays_come_back_as_they_were() -> None:
    masked = np.ma.masked_array(
        np.arange(6.0).reshape(2, 3),
        mask=np.array([[0, 1, 0], [1, 0, 0]], bool),
        fill_value=-7,
    )
    twin = trip(masked)
    assert type(twin) is type(masked)
    assert twin.fill_value == -7
    assert np.array_equal(twin.mask, masked.mask)
    assert np.array_equal(twin.data, masked.data)
    records = np.rec.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")])
    twin = trip(records)
    same(records, twin)
    assert twin.b.tolist() == [2.0, 4.0]
    with quiet():
        matrix = np.matrix([[1, 2], [3, 4]])
        same(matrix, trip(matrix))
        chars = np.char.array(["ab", "cd"])
        same(chars, trip(chars))


class Labelled(np.ndarray[Any, Any]):
    label: str

    def __reduce__(self) -> Any:
        return _labelled, (np.asarray(self), self.label)


def _labelled(array: np.ndarray[Any, Any], label: str) -> Labelled:
    twin = array.view(Labelled)
    twin.label = label
    return twin


def test_a_subclass_with_a_reduction_of_its_own_keeps_what_it_knows() -> None:
    twin = trip(_labelled(np.arange(4), "four"))
    assert type(twin) is Labelled
    assert twin.label == "four"
    assert twin.tolist() == [0, 1, 2, 3]


def test_numpy_scalars_and_dtypes_come_back() -> None:
    for value in (
        np.float32(1.5),
        np.datetime64("2031-01-01"),
        np.str_("a"),
        STRUCTURE,
    ):
        twin = trip(value)
        assert type(twin) is type(value)
        assert twin == value


def test_one_array_that_stands_twice_is_one_array_afterwards() -> None:
    array = np.arange(4)
    twin = trip({"a": array, "b": [array]})
    assert twin["a"] is twin["b"][0]
    strided = np.arange(8)[::2]
    twin = trip([strided, strided])
    assert twin[0] is twin[1]


def test_small_buffers_stay_in_the_stream_and_large_ones_do_not() -> None:
    assert pickled(np.zeros(10, np.uint8), smallest=11).buffers == []
    (buffer,) = pickled(np.zeros(11, np.uint8), smallest=11).buffers
    assert buffer.nbytes == 11


def test_a_contiguous_array_is_not_copied() -> None:
    for array in (np.zeros((3, 4)), np.zeros((3, 4)).T, filled(STRUCTURE, (5,))):
        (buffer,) = pickled(array, smallest=1).buffers
        assert np.shares_memory(np.frombuffer(buffer, np.uint8), array)


def test_a_strided_array_is_copied_once_and_where_it_was_told() -> None:
    asked = []

    def place(size: int) -> Any:
        asked.append(np.zeros(size, np.uint8))
        return asked[-1]

    array = np.arange(100, dtype="<i4")[::2]
    (buffer,) = pickled(array, smallest=1, place=place).buffers
    (room,) = asked
    assert room.nbytes == array.nbytes
    assert np.shares_memory(np.frombuffer(buffer, np.uint8), room)
    assert np.array_equal(room.view("<i4"), array)


def mapped(path: Path, mode: Any = "r", **options: Any) -> np.memmap[Any, Any]:
    np.arange(24, dtype="<i4").tofile(path)
    return np.memmap(path, "<i4", mode, **options)


def test_a_mapped_array_in_a_batch_travels_by_its_content(tmp_path: Path) -> None:
    source = mapped(tmp_path / "a", shape=(4, 6))
    for view in (source, source[1:], source.T, source[:, ::2]):
        whole = pickled(view, smallest=1)
        assert b"tmp" not in bytes(whole.body)
        twin = trip(view)
        same(view, twin)
    source.flags.writeable = False
    assert not trip(source).flags.writeable


def views(source: Any) -> list[Any]:
    return [
        source,
        source[1:],
        source[2],
        source[1:3],
        np.asarray(source)[1:],
        np.asarray(source[1:])[1:],
        source.reshape(6, 4)[2:],
        source.view("<i2")[3:],
        source.T,
        source[1, 2:4],
        source[2, 3:4].reshape(()),
    ]


@pytest.mark.parametrize("offset", [0, 4, 4096, 5000])
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_mapped_array_in_a_dataset_travels_by_the_name_of_its_file(
    tmp_path: Path, mode: Any, offset: int
) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(offset) + np.arange(24, dtype="<i4").tobytes())
    source: Any = np.memmap(path, "<i4", mode, offset, (4, 6))
    for number, view in enumerate(views(source)):
        whole = pickled(view, smallest=1, files=True)
        assert whole.buffers == [], number
        assert str(path).encode() in bytes(whole.body), number
        twin = trip(view, files=True)
        same(view, twin)
        assert twin.strides == view.strides, number
        assert twin.flags.writeable == (mode == "r+")


def test_a_mapped_fortran_array_keeps_its_order(tmp_path: Path) -> None:
    source = mapped(tmp_path / "a", shape=(4, 6), order="F")
    twin = trip(source, files=True)
    same(source, twin)
    assert twin.strides == source.strides
    assert pickled(source, smallest=1, files=True).buffers == []


def test_a_mapped_array_with_gaps_travels_by_its_content(tmp_path: Path) -> None:
    source = mapped(tmp_path / "a", shape=(4, 6))
    for view in (source[:, ::2], source[::-1], np.asarray(source)[::2, 1:]):
        twin = trip(view, files=True)
        np.testing.assert_array_equal(twin, view)


def test_an_array_mapped_from_a_deleted_file_travels_by_its_content(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a"
    source = mapped(path, shape=(4, 6))
    path.unlink()
    same(source, trip(source, files=True))


def test_a_private_mapping_keeps_what_was_written_into_it(tmp_path: Path) -> None:
    source = mapped(tmp_path / "a", "c", shape=(4, 6))
    source[0, 0] = 99
    assert trip(source, files=True)[0, 0] == 99


def test_an_empty_view_of_a_mapped_array_comes_back(tmp_path: Path) -> None:
    source = mapped(tmp_path / "a", shape=(4, 6))
    same(source[4:], trip(source[4:], files=True))


def test_a_copy_of_a_mapped_array_is_no_mapped_array(tmp_path: Path) -> None:
    source = mapped(tmp_path / "a", shape=(4, 6))
    for copy in (np.array(source), source + 1, np.copy(source)[1:]):
        same(copy, trip(copy, files=True))
        assert pickled(copy, smallest=1, files=True).buffers


TORCH_DTYPES = [
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2",
    "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "complex128", "complex64",
    "complex32", "bool", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64",
    "uint64",
]  # fmt: skip


def tensor_of(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    dtype = getattr(torch, name)
    count = int(np.prod(shape, dtype=int)) * dtype.itemsize
    raw = torch.from_numpy(np.random.default_rng(0).integers(0, 2, count, np.uint8))
    return raw.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


def bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


@contextmanager
def quiet() -> Iterator[None]:
    """Let torch and numpy warn of their own plans."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def alike(one: torch.Tensor, other: Any) -> None:
    assert type(other) is type(one)
    assert other.dtype == one.dtype
    assert other.shape == one.shape
    assert other.requires_grad == one.requires_grad
    assert bits(other) == bits(one)


@needs_torch
@pytest.mark.parametrize("name", TORCH_DTYPES)
def test_a_tensor_of_any_dtype_and_shape_comes_back(name: str) -> None:
    for shape in SHAPES:
        for smallest in (OUTSIDE, INSIDE):
            with quiet():
                tensor = tensor_of(name, shape)
                alike(tensor, trip(tensor, smallest=smallest))


@needs_torch
@pytest.mark.parametrize("name", ["float32", "bfloat16", "complex64", "bool", "uint16"])
def test_a_tensor_in_any_memory_layout_comes_back(name: str) -> None:
    tensor = tensor_of(name, (2, 3, 4, 5))
    for view in (
        tensor.permute(0, 3, 1, 2),
        tensor.contiguous(memory_format=torch.channels_last),
        tensor[:, 1:, ::2],
        tensor.transpose(0, 3)[1:],
        tensor[:, :1].expand(2, 3, 4, 5),
        tensor[0, 0, 0, 1],
        tensor[1:1],
        torch.as_strided(tensor, (3, 3), (1, 1)),
    ):
        alike(view, trip(view))


@needs_torch
def test_a_channels_last_tensor_stays_one() -> None:
    tensor = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    twin = trip(tensor)
    assert twin.stride() == tensor.stride()
    assert twin.is_contiguous(memory_format=torch.channels_last)


@needs_torch
def test_a_tensor_that_wants_a_gradient_still_does() -> None:
    tensor = torch.rand(3, 4, requires_grad=True)
    alike(tensor, trip(tensor))
    assert trip(tensor).is_leaf
    parameter = torch.nn.Parameter(torch.rand(3))
    alike(parameter, trip(parameter))


@needs_torch
def test_lazy_conjugates_and_negatives_come_back() -> None:
    tensor = torch.tensor([1 + 2j, 3 - 4j])
    for view in (tensor.conj(), tensor.conj().imag):
        twin = trip(view)
        assert torch.equal(twin, view)


@needs_torch
def test_sparse_tensors_come_back() -> None:
    dense = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    with quiet():
        for sparse in (dense.to_sparse(), dense.to_sparse_csr()):
            twin = trip(sparse)
            assert twin.layout == sparse.layout
            assert torch.equal(twin.to_dense(), dense)


@needs_torch
def test_tensors_without_memory_here_come_back() -> None:
    twin = trip(torch.empty(3, 4, device="meta"))
    assert twin.device.type == "meta"
    assert twin.shape == (3, 4)


@needs_torch
def test_a_quantized_tensor_comes_back() -> None:
    with quiet():
        tensor = torch.quantize_per_tensor(torch.rand(3, 4), 0.1, 2, torch.qint8)
        twin = trip(tensor)
    assert twin.is_quantized
    assert torch.equal(twin.int_repr(), tensor.int_repr())


@needs_torch
def test_an_attribute_on_a_tensor_comes_back() -> None:
    tensor: Any = torch.rand(3)
    tensor.label = "mine"
    assert trip(tensor).label == "mine"


@needs_torch
def test_a_tensor_is_not_copied_on_the_way_out() -> None:
    for tensor in (torch.rand(3, 4), torch.rand(3, 4).T, torch.rand(3, 4).bfloat16()):
        (buffer,) = pickled(tensor, smallest=1).buffers
        address = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
        assert address == tensor.data_ptr()


@dataclasses.dataclass
class Sample:
    x: Any
    y: Any = None


@dataclasses.dataclass(slots=True)
class Slotted:
    x: Any
    y: Any = None


Point = collections.namedtuple("Point", ["x", "y"])  # noqa: PYI024 - as users write it


def test_containers_and_objects_come_back() -> None:
    value = {
        "a": [1, 2.5, None, True, b"bytes", bytearray(b"more"), "täö", {3, 4}],
        ("key", 1): Point(1, [2]),
        "s": Sample(1, Slotted(2)),
        "o": collections.OrderedDict(a=1),
        "d": collections.deque([1, 2]),
    }
    assert trip(value) == value


def test_a_lambda_and_a_local_class_come_back() -> None:
    class Local:
        value = 3

    function, kind, array = trip([lambda x: x + 1, Local, np.arange(3)])
    assert function(2) == 3
    assert kind.value == 3
    assert array.tolist() == [0, 1, 2]


def test_a_reference_to_itself_comes_back() -> None:
    value: list[Any] = [np.arange(3)]
    value.append(value)
    twin = trip(value)
    assert twin[1] is twin


@pytest.mark.parametrize("prefer_value", [False, True])
def test_what_neither_pickler_can_take_is_refused(prefer_value: bool) -> None:
    for value in (threading.Lock(), (n for n in "ab")):
        with pytest.raises(REFUSALS):
            pickled([value], smallest=1, prefer_value=prefer_value)


def test_what_a_reduction_raises_comes_through() -> None:
    class Broken:
        def __reduce__(self) -> Any:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pickled(Broken(), smallest=1)


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, "batch"),
        ({"x": [1, LOCK]}, "batch['x'][1]"),
        ([1, {"a": (2, LOCK)}], "batch[1]['a'][1]"),
        (Sample(1, [LOCK]), "batch.y[0]"),
        ({"s": Sample(LOCK)}, "batch['s'].x"),
        (Point(1, LOCK), "batch[1]"),
        (Slotted(1, LOCK), "batch.y"),
        ({3: {4.5: LOCK}}, "batch[3][4.5]"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_the_path_leads_to_the_innermost_refused_part(value: Any, path: str) -> None:
    found, reason = find_refused(value, "batch")
    assert found == path
    assert "'lock'" in reason


def test_the_first_of_several_refused_parts_is_named() -> None:
    path, reason = find_refused([1, (n for n in "ab"), LOCK], "batch")
    assert path == "batch[1]"
    assert "generator" in reason


def test_a_loop_in_the_data_does_not_keep_the_search_from_ending() -> None:
    value: dict[str, Any] = {"lock": LOCK}
    value["self"] = value
    other = Sample(value)
    other.y = other
    path, _ = find_refused(other, "dataset")
    assert path.endswith("['lock']")


class LeavesOut:
    """Leaves its lock out, and forgets the generator."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stream = (n for n in "ab")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "lock"}


def test_what_getstate_leaves_out_is_not_blamed() -> None:
    path, reason = find_refused(LeavesOut(), "dataset")
    assert path == "dataset.stream"
    assert "generator" in reason


@given(st.recursive(st.none() | st.integers() | st.text() | st.binary(), st.lists))
def test_plain_data_comes_back(value: Any) -> None:
    assert trip(value) == value
