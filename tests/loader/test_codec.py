"""A batch comes back over its slot, which nobody else gets while any part of it lives."""

from __future__ import annotations

import collections
import copy
import gc
import os
import pickle
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from feedline.arena import Arena
from feedline.codec import Writer, read
from feedline.pickling import REFUSALS
from feedline.slots import Slots
from tests.optional import needs_torch, torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = 4096
Pair = collections.namedtuple("Pair", ["x", "y"])  # noqa: PYI024 - as users write it


@dataclass
class Sample:
    x: Any
    y: Any


class Courier:
    """Both ends of the way of a batch, in one process."""

    def __init__(self, *, anonymous: bool = True) -> None:
        self.arena = Arena.create(anonymous=anonymous)
        self.slots = Slots(self.arena, spare=2)
        # The worker's side, with mappings of its own.
        self.theirs = Arena(os.dup(self.arena.fd), self.arena.stride)
        self.last = (0, 0)

    def send(self, batch: Any) -> Any:
        slot = self.slots.lend()
        size = Writer(self.theirs, slot).write(batch)
        self.last = slot, size
        return read(self.slots, slot, size)

    def close(self) -> None:
        self.theirs.close()
        self.arena.close()


@pytest.fixture
def courier() -> Iterator[Courier]:
    made = Courier()
    yield made
    made.close()


def equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        same = one.dtype == other.dtype and one.shape == other.shape
        return bool(same and one.tobytes() == other.tobytes())
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@pytest.mark.parametrize("count", [0, 1, 10, 4095, 4096, 4097, 100_000])
def test_arrays_of_any_size_come_back(courier: Courier, count: int) -> None:
    array = np.random.default_rng(0).integers(0, 255, count, np.uint8)
    twin = courier.send([array, array[::2], array.astype("f8")])
    assert equal(twin, [array, array[::2].copy(), array.astype("f8")])


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6000, dtype=">f8").reshape(2, 3, 1000),
        np.asfortranarray(np.arange(6000.0).reshape(60, 100)),
        np.arange(6000.0).reshape(60, 100).T,
        np.arange(6000.0).reshape(60, 100)[::2, ::-1],
        np.zeros(1000, [("a", "i4"), ("b", "f8", (2,))]),
        np.full(1000, np.datetime64("2031-01-01")),
        np.array(["täö"] * 1000),
        np.array([b"abc"] * 3000),
        np.broadcast_to(np.float32(3), (50, 60)),
    ],
    ids=lambda a: f"{a.dtype}-{a.shape}",
)
def test_an_array_keeps_values_dtype_shape_and_order(
    courier: Courier, array: np.ndarray[Any, Any]
) -> None:
    twin = courier.send(array)
    assert twin.dtype == array.dtype
    np.testing.assert_array_equal(twin, array)
    assert twin.flags.c_contiguous == (
        array.flags.c_contiguous or not array.flags.f_contiguous
    )
    assert twin.flags.f_contiguous == array.flags.f_contiguous
    assert twin.flags.writeable == array.flags.writeable


def test_what_comes_back_can_be_written_and_lies_in_the_slot(courier: Courier) -> None:
    twin = courier.send({"x": np.zeros(5000), "y": np.zeros(3)})
    twin["x"] += 1
    twin["y"] += 1
    slot, size = courier.last
    assert np.shares_memory(twin["x"], courier.arena.view(slot, size))
    assert twin["x"].sum() == 5000


def test_what_is_written_by_the_consumer_stays_out_of_the_next_batch(
    courier: Courier,
) -> None:
    source = np.arange(5000.0)
    for _ in range(5):
        twin = courier.send(source)
        assert np.array_equal(twin, np.arange(5000.0))
        twin[:] = -1
        del twin
    assert np.array_equal(source, np.arange(5000.0))


@needs_torch
def test_tensors_come_back_over_the_slot(courier: Courier) -> None:
    batch = {
        "x": torch.rand(20, 300),
        "h": torch.rand(20, 300).bfloat16(),
        "c": torch.rand(2, 3, 40, 50).to(memory_format=torch.channels_last),
        "s": torch.rand(200, 300)[::2, 1:],
        "t": torch.tensor(3),
    }
    twin = courier.send(batch)
    for name, tensor in batch.items():
        assert torch.equal(twin[name], tensor), name
        assert twin[name].dtype == tensor.dtype
    assert twin["c"].is_contiguous(memory_format=torch.channels_last)
    slot, size = courier.last
    assert np.shares_memory(twin["x"].numpy(), courier.arena.view(slot, size))
    twin["x"] += 1


def test_every_buffer_begins_at_a_multiple_of_64_bytes(courier: Courier) -> None:
    batch = [np.zeros(size, np.uint8) for size in (4097, 5001, 4999, 70_001, 4096)]
    batch += [np.zeros((5000, 3), np.uint8)[:, 1] for _ in range(3)]
    for array in courier.send(batch):
        assert array.__array_interface__["data"][0] % 64 == 0


def test_a_small_batch_fits_into_one_page_and_holds_no_slot(courier: Courier) -> None:
    twin = courier.send({"x": np.arange(100), "y": [1, "two", None]})
    assert twin["x"].tolist() == list(range(100))
    assert twin["x"].flags.writeable
    slot, size = courier.last
    assert size <= PAGE
    assert courier.slots.leased == 0
    assert courier.slots.lend() == slot
    assert os.fstat(courier.arena.fd).st_blocks * 512 <= PAGE


def test_a_strided_array_is_copied_into_the_slot_and_nowhere_else(
    courier: Courier,
) -> None:
    source = np.arange(200_000.0)[::2]
    courier.send(source)
    _, size = courier.last
    assert size < source.nbytes + 2 * PAGE


ARRAYS = npst.arrays(
    npst.integer_dtypes() | npst.floating_dtypes() | npst.boolean_dtypes(),
    npst.array_shapes(max_dims=3, max_side=40),
    fill=st.just(1),
)
BATCHES = st.recursive(
    ARRAYS | st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda part: (
        st.lists(part, max_size=4)
        | st.tuples(part, part)
        | st.dictionaries(st.text(max_size=3), part, max_size=4)
        | st.builds(Pair, part, part)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(BATCHES, min_size=1, max_size=4))
def test_nested_batches_come_back_whatever_came_before_them(batches: list[Any]) -> None:
    courier = Courier()
    try:
        kept = [courier.send(batch) for batch in batches]
        for batch, twin in zip(batches, kept, strict=True):
            assert equal(twin, batch)
        del kept, twin
        for batch in batches:
            assert equal(courier.send(batch), batch)
    finally:
        courier.close()


def test_objects_of_one_s_own_come_back(courier: Courier) -> None:
    twin = courier.send(Sample(np.arange(3000), [Pair(np.arange(2), lambda x: x + 1)]))
    assert twin.x.tolist() == list(range(3000))
    assert twin.y[0].y(1) == 2


def test_an_array_that_stands_twice_is_sent_once(courier: Courier) -> None:
    array = np.zeros(100_000, np.uint8)
    twin = courier.send([array, array])
    assert twin[0] is twin[1]
    assert courier.last[1] < 110_000


def test_equal_arrays_do_not_share_memory_afterwards(courier: Courier) -> None:
    one, other = courier.send([np.zeros(5000), np.zeros(5000)])
    one[:] = 1
    assert other.sum() == 0


def test_a_batch_that_cannot_be_written_leaves_the_slot_fit_for_another(
    courier: Courier,
) -> None:
    slot = courier.slots.lend()
    strided = np.arange(20_000.0)[::2]
    with pytest.raises(REFUSALS):
        Writer(courier.theirs, slot).write([strided, threading.Lock()])
    size = Writer(courier.theirs, slot).write(["an error", strided])
    assert equal(read(courier.slots, slot, size), ["an error", strided.copy()])


def test_lambdas_beside_strided_arrays_come_back(courier: Courier) -> None:
    """The second pickler begins anew after the first has made room."""
    strided = np.arange(20_000.0)[::2]
    twin = courier.send([strided, lambda: 3, strided[1:]])
    assert np.array_equal(twin[0], strided)
    assert np.array_equal(twin[2], strided[1:])
    assert twin[1]() == 3


def _explode(*parts: Any) -> Any:
    raise ZeroDivisionError


class Explodes:
    def __reduce__(self) -> Any:
        return _explode, (np.zeros(5000),)


def test_an_object_that_cannot_be_put_together_gives_its_slot_back(
    courier: Courier,
) -> None:
    for batch in (Explodes(), [np.zeros(10_000), Explodes()]):
        with pytest.raises(ZeroDivisionError):
            courier.send(batch)
        gc.collect()
        assert courier.slots.leased == 0
        assert np.array_equal(courier.send(np.arange(5000)), np.arange(5000))


def test_a_slot_that_grows_while_it_is_written_keeps_what_was_placed(
    courier: Courier,
) -> None:
    rng = np.random.default_rng(0)
    batch = [
        rng.integers(0, 255, size, np.uint8)[::step]
        for size, step in [(9000, 2), (500_000, 3), (5000, 1), (3_000_000, 2)]
    ]
    for array, twin in zip(batch, courier.send(batch), strict=True):
        assert np.array_equal(array, twin)


KEEPERS: dict[str, Callable[[Any], Any]] = {
    "whole batch": lambda b: b,
    "array": lambda b: b["x"],
    "row": lambda b: b["x"][3],
    "row of a row": lambda b: b["x"][1:][2][3:][::2],
    "transpose": lambda b: b["x"].T,
    "reshape": lambda b: b["x"].reshape(-1)[5:],
    "dtype": lambda b: b["x"].view("u1")[9:],
    "0-d": lambda b: b["x"][0, :1].reshape(()),
    "fortran": lambda b: b["f"][:, 1],
    "structured field": lambda b: b["r"]["b"][2:],
    "recarray": lambda b: b["r"].view(np.recarray).b,
    "masked": lambda b: np.ma.masked_array(b["x"], copy=False)[1:],
    "broadcast": lambda b: np.broadcast_to(b["x"][0], (7, 100)),
    "memoryview": lambda b: memoryview(b["x"])[3:],
    "frombuffer": lambda b: np.frombuffer(b["x"].data, "f8")[7:],
    "ctypes": lambda b: np.ctypeslib.as_ctypes(b["x"]),
    "shallow copy": lambda b: copy.copy(b["o"]),
    "inside an object": lambda b: b["o"].x,
    "object array": lambda b: b["a"],
    "an item of an object array": lambda b: b["a"][0],
    "iterator": lambda b: iter(b["x"]),
    "flat": lambda b: b["x"].flat,
}
TENSOR_KEEPERS: dict[str, Callable[[Any], Any]] = {
    "from numpy": lambda b: torch.from_numpy(b["x"])[2],
    "tensor": lambda b: b["t"],
    "view": lambda b: b["t"][1:].view(-1)[5:],
    "storage": lambda b: b["t"].untyped_storage(),
    "to numpy": lambda b: b["t"].numpy()[1],
    "half": lambda b: b["h"].view(torch.int16)[1],
    "data": lambda b: b["t"].data,
    "dlpack": lambda b: np.from_dlpack(b["t"]),
    "gradient leaf": lambda b: b["g"],
    "gradient graph": lambda b: (b["g"] * 2).sum().grad_fn,
}


def rich(value: int) -> dict[str, Any]:
    full = np.full((20, 100), value, "f8")
    objects = np.empty(2, object)
    objects[0] = full + 0
    records = np.zeros(900, [("a", "i4"), ("b", "i8")])
    records["b"] = value
    return {
        "x": full,
        "f": np.asfortranarray(full),
        "r": records,
        "o": Sample(full + 0, None),
        "a": objects,
        **(tensors(value) if torch is not None else {}),
    }


def tensors(value: int) -> dict[str, Any]:
    full = torch.full((20, 300), float(value))
    return {"t": full, "h": full.bfloat16(), "g": full.clone().requires_grad_()}


@pytest.mark.parametrize("kind", KEEPERS)
def test_no_slot_is_reused_while_anything_of_its_batch_lives(
    courier: Courier, kind: str
) -> None:
    expect_kept_by(KEEPERS[kind], courier)


@needs_torch
@pytest.mark.parametrize("kind", TENSOR_KEEPERS)
def test_no_slot_is_reused_while_any_tensor_of_its_batch_lives(
    courier: Courier, kind: str
) -> None:
    expect_kept_by(TENSOR_KEEPERS[kind], courier)


def expect_kept_by(keep: Callable[[Any], Any], courier: Courier) -> None:
    twin = courier.send(rich(3))
    slot, _ = courier.last
    kept = keep(twin)
    del twin
    gc.collect()
    assert courier.slots.leased == 1
    for _ in range(3):
        courier.send(rich(9))
        assert courier.last[0] != slot
    del kept
    gc.collect()
    assert courier.slots.leased == 0


def test_a_kept_part_stays_what_it_was_while_others_come_and_go(
    courier: Courier,
) -> None:
    kept = []
    for number in range(60):
        batch = courier.send(rich(number))
        kept.append([batch["x"][2][5:9], batch["f"].T[1], batch.get("t")])
        del batch
        if number % 7 == 3:
            kept[number // 2] = []
    for number, parts in enumerate(kept):
        for part in parts[: 2 if torch is None else 3]:
            assert set(np.asarray(part).ravel().tolist()) == {float(number)}


def test_copies_of_a_batch_do_not_hold_its_slot(courier: Courier) -> None:
    twin = courier.send(rich(3))
    copies = [
        copy.deepcopy(twin["x"]),
        pickle.loads(pickle.dumps(twin["x"])),
        twin["x"] + 1,
        twin["f"].copy(),
        twin["x"].tolist(),
        twin["o"].x[[1, 2]],
    ]
    del twin
    gc.collect()
    assert courier.slots.leased == 0
    courier.send(rich(9))
    assert set(copies[0].ravel().tolist()) == {3.0}
    assert set(copies[3].ravel().tolist()) == {3.0}


def test_a_batch_kept_past_the_end_of_the_arena_stays_whole() -> None:
    courier = Courier()
    twin = courier.send(rich(3))
    courier.close()
    del courier
    gc.collect()
    assert (twin["x"] == 3).all()
    twin["f"] += 1
    assert (twin["f"] == 4).all()


def test_beyond_the_most_leases_a_batch_is_a_copy_of_its_own(
    courier: Courier,
) -> None:
    courier.slots.most_leased = 3
    kept = [courier.send(rich(number)) for number in range(8)]
    assert courier.slots.leased <= 3
    for number, batch in enumerate(kept):
        for name in {"x", "f", "t", "h"} & batch.keys():
            assert (batch[name] == number).all(), (number, name)
        batch["x"] += 1
        assert (batch["x"] == number + 1).all()


def test_a_file_has_room_for_as_many_batches_as_a_consumer_keeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if Path("/dev/shm").is_dir():
        monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")  # a disk would be slow
    courier = Courier(anonymous=False)
    kept = []
    for number in range(2100):
        slot = courier.slots.lend()
        end = (slot + 1) * courier.arena.stride
        # Writing behind the end of the file would be a SIGBUS.
        assert end <= os.fstat(courier.arena.fd).st_size, number
        size = Writer(courier.theirs, slot).write(np.full(600, number))
        kept.append(read(courier.slots, slot, size))
    assert all((array == number).all() for number, array in enumerate(kept))
    kept.clear()
    courier.close()
