"""Inputs, targets and weights in one batch and out again, as Keras does it."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline.utils import pack_x_y_sample_weight, unpack_x_y_sample_weight
from tests.utils.differential import cases


class OwnList(list[Any]):
    """A list by inheritance."""


class OwnTuple(tuple[Any, ...]):
    """A tuple by inheritance."""


class Pair(NamedTuple):
    """A tuple with names."""

    first: Any
    second: Any


ARRAY = np.arange(6.0).reshape(3, 2)
XS: list[Any] = [
    ARRAY, {"a": ARRAY}, OrderedDict(b=ARRAY), None, 0, False, 1.5, "x", b"", "", {1},
    range(3), [], [ARRAY], [ARRAY, None], (), (ARRAY,), (ARRAY, ARRAY, ARRAY), [[ARRAY]],
    (None,), OwnList(), OwnList([ARRAY, 1]), OwnTuple((1,)), Pair(ARRAY, 0), np.float32(1),
    np.zeros(0), iter(()), object(),
]  # fmt: skip
YS: list[Any] = [
    None,
    0,
    False,
    "",
    ARRAY,
    [],
    (),
    [ARRAY],
    (ARRAY, None),
    {},
    Pair(1, 2),
]
WEIGHTS: list[Any] = [None, 0, False, ARRAY, [], (ARRAY,), {}]


def keras_utils() -> Any:
    return pytest.importorskip("keras").utils


def same(ours: Any, theirs: Any) -> bool:
    """Whether two batches are one object, or tuples of the same objects."""
    if type(ours) is tuple and type(theirs) is tuple and ours is not theirs:
        return len(ours) == len(theirs) and all(map(lambda a, b: a is b, ours, theirs))
    return ours is theirs


def packed(*arguments: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pack_x_y_sample_weight(*arguments)


def test_every_combination_is_packed_as_keras_packs_it() -> None:
    pack = keras_utils().pack_x_y_sample_weight
    for case in product(XS, YS, WEIGHTS):
        assert same(packed(*case), pack(*case)), case


def test_every_combination_is_unpacked_as_keras_unpacks_it() -> None:
    unpack = keras_utils().unpack_x_y_sample_weight
    for case in product(XS, YS, WEIGHTS):
        batch = packed(*case)
        assert same(unpack_x_y_sample_weight(batch), unpack(batch)), case


def outcome(function: Any, data: Any) -> Any:
    try:
        return function(data)
    except Exception as error:  # noqa: BLE001 - its type is what is compared
        return type(error)


@cases(1500)
@given(
    st.lists(st.sampled_from(XS), max_size=5),
    st.sampled_from([list, tuple, OwnList, OwnTuple]),
)
def test_any_batch_is_unpacked_as_keras_unpacks_it(
    members: list[Any], container: Any
) -> None:
    data = container(members)
    ours = outcome(unpack_x_y_sample_weight, data)
    theirs = outcome(keras_utils().unpack_x_y_sample_weight, data)
    assert same(ours, theirs)


def test_unpacking_gives_back_what_was_packed() -> None:
    for x, y, weight in product(XS, YS, WEIGHTS):
        if y is None and weight is not None:
            continue
        assert same(
            unpack_x_y_sample_weight(pack_x_y_sample_weight(x, y, weight)),
            (x, y, weight),
        )


def test_weights_without_targets_are_left_out_with_a_warning() -> None:
    with pytest.warns(
        UserWarning, match="sample_weight is left out .* give y too"
    ) as seen:
        assert pack_x_y_sample_weight(ARRAY, None, ARRAY) is ARRAY
    assert seen[0].filename == __file__


@pytest.mark.parametrize("data", [(), [], (1, 2, 3, 4), [1] * 5], ids=repr)
def test_a_batch_of_another_length_is_refused_with_its_length(data: Any) -> None:
    message = f"data must be x, .* got a {type(data).__name__} of {len(data)}; pack_"
    with pytest.raises(ValueError, match=message):
        unpack_x_y_sample_weight(data)


def test_the_documented_example_holds() -> None:
    x, y = np.ones((10, 1)), np.ones((10, 1))
    assert isinstance(pack_x_y_sample_weight(x), np.ndarray)
    data = pack_x_y_sample_weight(x, y)
    assert isinstance(data, tuple)
    first, second = data
    assert first is x
    assert second is y
