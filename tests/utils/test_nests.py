"""Arrays in structures, and what is none."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import pytest

from feedline.utils import split_dataset

X = np.arange(12.0).reshape(4, 3)
Y = np.arange(4)


class Pair(NamedTuple):
    """A tuple with names."""

    x: Any
    y: Any


def first(dataset: Any) -> Any:
    return split_dataset(dataset, 0.5)[0][0]


def test_a_sample_of_an_array_is_a_view_of_its_row() -> None:
    left, right = split_dataset(X, 3)
    assert np.shares_memory(left[1], X[1])
    assert right[0].tolist() == [9, 10, 11]
    assert right[0].dtype == X.dtype


@pytest.mark.parametrize("container", [list, tuple])
def test_a_sample_of_a_list_or_tuple_of_arrays_is_a_tuple(container: Any) -> None:
    for arrays in ([X], [X, Y], [X, Y, X]):
        sample = first(container(arrays))
        assert type(sample) is tuple
        assert [part.tolist() for part in sample] == [a[0].tolist() for a in arrays]


def test_a_sample_of_a_dict_is_a_dict_with_its_keys_in_order() -> None:
    for kind in (dict, OrderedDict):
        sample = first(kind(y=Y, x=X))
        assert type(sample) is dict
        assert list(sample) == ["y", "x"]
        assert sample["x"].tolist() == [0, 1, 2]


def test_a_nest_of_any_depth_is_kept_with_tuples_for_lists() -> None:
    nest = ({"a": [X, (Y,)], 2: Pair(X, {"y": Y})}, [[Y]])
    sample = split_dataset(nest, 1)[1][-1]
    expected = ({"a": (X[3], (3,)), 2: Pair(X[3], {"y": 3})}, ((3,),))
    assert repr(sample) == repr(expected).replace("(3,)", "(np.int64(3),)").replace(
        "'y': 3", "'y': np.int64(3)"
    )
    assert type(sample[0][2]) is Pair


@pytest.mark.parametrize(
    "dtype", ["f2", "f8", "?", "u2", "c8", "U3", "S2", "O", "M8[s]", "i4,f4"]
)
def test_every_dtype_is_kept(dtype: str) -> None:
    array = np.zeros((4, 2), dtype)
    assert first(array).dtype == array.dtype
    assert first([array])[0].dtype == array.dtype


def test_a_masked_array_keeps_its_mask() -> None:
    array = np.ma.masked_array(X, X > 1)
    assert first(array).mask.tolist() == [False, False, True]


def test_a_torch_tensor_is_an_array_and_gives_tensors() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(12).reshape(4, 3)
    sample = first(tensor)
    assert isinstance(sample, torch.Tensor)
    assert sample.data_ptr() == tensor.data_ptr()
    x, y = first((tensor, Y))
    assert isinstance(x, torch.Tensor)
    assert isinstance(y, np.integer)


# In a Python of its own: JAX starts threads, and warns of every fork from then on.
@pytest.mark.parametrize(
    "library", ["numpy", *(["jax.numpy"] if importlib.util.find_spec("jax") else [])]
)
def test_arrays_of_any_library_give_arrays_of_it(library: str) -> None:
    code = f"""
import {library} as library
from feedline.utils import split_dataset

array = library.arange(12).reshape(4, 3)
left, right = split_dataset({{"x": array}}, 0.5)
assert type(left[1]["x"]) is type(array)
assert left[1]["x"].tolist() == [3, 4, 5]
assert split_dataset(array, 0.5)[1][-1].tolist() == [9, 10, 11]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "samples",
    [
        ["a.png", "b.png", "c.png"],
        [3, 1, 2],
        (0.5, 1.5, None),
        [np.int64(3), np.int64(4), np.float32(1)],
        [{1, 2}, frozenset(), b"x"],
    ],
    ids=repr,
)
def test_a_list_without_arrays_or_structures_is_one_of_samples(samples: Any) -> None:
    left, right = split_dataset(samples, 2)
    assert [*left, *right] == list(samples)
    assert left[0] is samples[0]


@pytest.mark.parametrize("dataset", [[], (), {}, [[]], ({}, ())], ids=repr)
def test_a_structure_without_arrays_is_refused(dataset: Any) -> None:
    with pytest.raises(ValueError, match="dataset must have an array in it, got "):
        split_dataset(dataset, 0.5)


@pytest.mark.parametrize(
    ("dataset", "path"),
    [
        ([X, [0, 1, 2, 3]], r"dataset\[1\]\[0\] must be an array, got 0; "),
        ((X, 5), r"dataset\[1\] must be an array, got 5; "),
        ((X, None), r"dataset\[1\] must be an array, got None; "),
        ((X, "text"), r"dataset\[1\] must be an array, got 'text'; "),
        ({"x": X, "y": range(4)}, r"dataset\['y'\] must be an array, got range"),
        ([[1, 2], [3, 4]], r"dataset\[0\]\[0\] must be an array, got 1; "),
        ([("a.png", 0), ("b.png", 1)], r"dataset\[0\]\[0\] must be an array, got 'a"),
        ((X, np.float64(1)), r"dataset\[1\] must be an array, got np.float64"),
    ],
)
def test_what_is_no_array_in_a_structure_is_named(dataset: Any, path: str) -> None:
    with pytest.raises(ValueError, match=f"^{path}"):
        split_dataset(dataset, 0.5)


def test_arrays_of_different_lengths_are_refused_with_all_lengths() -> None:
    message = r"but dataset\['x'\] has 4, dataset\['y'\]\[0\] has 3$"
    with pytest.raises(ValueError, match=message):
        split_dataset({"x": X, "y": [Y[:3]]}, 0.5)


@pytest.mark.parametrize("dataset", [np.array(3), [np.array(3)], (X, np.array(3))])
def test_an_array_without_an_axis_is_refused(dataset: Any) -> None:
    with pytest.raises(TypeError, match="must have an axis of samples, got array"):
        split_dataset(dataset, 0.5)


class Frame:
    """Has a shape, and labels for indices, as a pandas frame has."""

    shape = (4, 2)
    iloc: Any = None

    def __len__(self) -> int:
        return 4

    def __getitem__(self, label: str) -> Any:
        raise KeyError(label)


def test_a_frame_with_labels_is_refused_rather_than_split_by_label() -> None:
    with pytest.raises(TypeError, match=r"; to_numpy\(\) makes an array of it$"):
        split_dataset(Frame(), 0.5)
    with pytest.raises(ValueError, match=r"^dataset\[1\] must be an array, got "):
        split_dataset((X, Frame()), 0.5)


@pytest.mark.parametrize(
    "dataset",
    [
        [],
        (),
        [X, [0, 1, 2, 3]],
        [X, 3],
        (X, Y[:3]),
        np.array(3),
        np.zeros((0, 3)),
        [np.zeros(0)],
    ],
    ids=repr,
)
def test_keras_refuses_the_same_structures(dataset: Any) -> None:
    keras = pytest.importorskip("keras")
    with pytest.raises((TypeError, ValueError, AssertionError, IndexError)):
        keras.utils.split_dataset(dataset, 0.5)
    with pytest.raises((TypeError, ValueError)):
        split_dataset(dataset, 0.5)
