"""Tensors lie over what a worker wrote; a ``DataLoader`` is what torch expects."""

from __future__ import annotations

import collections
import gc
import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline import Loader, PyDataset, from_samples
from feedline.torch import as_dataloader, as_tensors, tensors
from tests import datasets
from tests.optional import needs_torch, torch
from tests.utils.differential import cases

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = needs_torch

KINDS: dict[str, dict[str, Any]] = {
    "inline": {"workers": 0},
    "thread": {"workers": 2},
    **{
        method: {"workers": 2, "use_multiprocessing": True, "start_method": method}
        for method in ("fork", "forkserver", "spawn")
    },
}
FORK = KINDS["fork"]
Pair = collections.namedtuple("Pair", ["x", "y"])  # noqa: PYI024 - as users write it


@dataclass(frozen=True)
class Sample:
    x: Any
    y: Any


class Blocks(PyDataset):
    """Batch ``i`` is full of ``i``."""

    def __init__(self, length: int = 8) -> None:
        super().__init__()
        self.length = length
        self.epochs = 0

    def __len__(self) -> int:
        return self.length

    def on_epoch_begin(self) -> None:
        self.epochs += 1

    def __getitem__(self, index: int) -> Any:
        return np.full((4, 1000), index, np.float32), np.array([self.epochs] * 4)


# Arrays to tensors


@pytest.mark.parametrize(
    "dtype",
    [
        "?",
        "u1",
        "i1",
        "i2",
        "i4",
        "i8",
        "u2",
        "u4",
        "u8",
        "f2",
        "f4",
        "f8",
        "c8",
        "c16",
    ],
)
@pytest.mark.parametrize("kind", ["inline", "fork"])
def test_a_tensor_shares_the_memory_of_its_array(kind: str, dtype: str) -> None:
    with Loader([np.ones((30, 200), dtype)], **KINDS[kind]) as loader:
        (array,) = loader
        tensor = as_tensors(array)
        assert tensor.data_ptr() == array.__array_interface__["data"][0]
        assert tensor.shape == array.shape
        assert tensor.numpy().dtype == array.dtype
        tensor[3, 3] = 0
        assert not array[3, 3]


def test_structures_are_kept() -> None:
    array = np.ones(3)
    ordered = collections.OrderedDict(b=array, a=(array, "text"))
    batch = {"x": [array, {"y": (array, None)}], 3: Pair(array, 5), "d": ordered}
    twin = as_tensors(batch)
    assert list(twin) == ["x", 3, "d"]
    assert type(twin["x"]) is list
    assert type(twin["x"][1]["y"]) is tuple
    assert twin["x"][1]["y"][1] is None
    assert type(twin[3]) is Pair
    assert twin[3].y == 5
    assert type(twin["d"]) is collections.OrderedDict
    assert list(twin["d"]) == ["b", "a"]
    assert twin["d"]["a"][1] == "text"
    for tensor in (twin["x"][0], twin["x"][1]["y"][0], twin[3].x, twin["d"]["a"][0]):
        assert torch.equal(tensor, torch.ones(3, dtype=torch.float64))
    assert batch["x"][0] is array  # type: ignore[index]


def test_dataclasses_and_mappings_keep_what_else_they_have() -> None:
    sample = Sample(np.ones(3), "text")
    twin = as_tensors(sample)
    assert type(twin) is Sample
    assert torch.is_tensor(twin.x)
    assert twin.y == "text"
    assert isinstance(sample.x, np.ndarray)
    counts = as_tensors(collections.defaultdict(list, {"x": np.ones(3)}))
    assert torch.is_tensor(counts["x"])
    assert counts["missing"] == []


@pytest.mark.parametrize(
    "thing",
    [
        "text", b"bytes", 5, 2.5, None, {1, 2}, object(), Sample,
        np.array(["a", "b"]), np.array([None, 1]), np.array(["2031-01-01"], "M8[D]"),
        np.zeros(3, [("a", "f4")]), np.zeros(3, np.longdouble),
        np.ma.masked_array([1.0, 2.0], [True, False]),
    ],
    ids=lambda thing: type(thing).__name__,
)  # fmt: skip
def test_what_torch_has_no_tensor_for_is_left_as_it_is(thing: Any) -> None:
    assert as_tensors(thing) is thing
    assert as_tensors([thing])[0] is thing


def test_tuples_of_a_class_that_wants_more_are_left_as_they_are() -> None:
    size = torch.Size([2, 3])
    assert as_tensors(size) is size


def test_tensors_are_left_as_they_are() -> None:
    tensor = torch.ones(3)
    assert as_tensors((tensor,))[0] is tensor


def test_numbers_of_numpy_become_tensors_without_axes() -> None:
    tensor = as_tensors(np.float32(2.5))
    assert tensor.dtype == torch.float32
    assert tensor.shape == ()
    assert float(tensor) == 2.5


@pytest.mark.parametrize(
    "change",
    [
        lambda a: np.broadcast_to(a, (3, *a.shape)),
        lambda a: a[::-1],
        lambda a: a.astype(">f4"),
        np.require,
    ],
)
def test_arrays_that_a_tensor_cannot_share_are_copied_without_a_warning(
    change: Callable[[Any], Any],
) -> None:
    array = np.arange(6, dtype="f4").reshape(2, 3)
    array.flags.writeable = False
    changed = change(array)
    tensor = as_tensors(changed)
    np.testing.assert_array_equal(tensor.numpy(), changed)
    tensor[...] = 7
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_transposed_array_is_shared_too() -> None:
    array = np.arange(6.0).reshape(2, 3)
    tensor = as_tensors(array.T)
    assert tensor.shape == (3, 2)
    assert tensor.data_ptr() == array.__array_interface__["data"][0]


# A loader of tensors


@pytest.mark.parametrize("kind", KINDS)
def test_every_batch_comes_as_tensors_in_every_epoch(kind: str) -> None:
    with Loader(Blocks(), **KINDS[kind]) as loader:
        batches = tensors(loader)
        assert len(batches) == 8
        for epoch in (1, 2):
            for index, (x, y) in enumerate(batches):
                assert torch.equal(x, torch.full((4, 1000), float(index)))
                assert y.tolist() == [epoch] * 4
            assert index == 7
        assert batches.loader is loader


def test_memory_is_not_used_again_while_a_tensor_over_it_lives() -> None:
    with Loader(Blocks(40), max_queue_size=2, **FORK) as loader:
        kept = [x[1:, ::2] for x, _ in tensors(loader)]
        for index, part in enumerate(kept):
            assert (part == index).all()


def test_memory_is_used_again_when_the_last_tensor_over_it_is_gone() -> None:
    with Loader(Blocks(200), max_queue_size=4, **FORK) as loader:
        places = set()
        for x, _ in tensors(loader):
            places.add(x.data_ptr())
            del x
    assert len(places) < 50


def test_tensors_stay_valid_after_the_loader_is_closed() -> None:
    with Loader(Blocks(), **FORK) as loader:
        kept = [x for x, _ in tensors(loader)]
    gc.collect()
    assert [float(x.mean()) for x in kept] == list(range(8))


def test_a_break_ends_the_epoch_and_the_next_one_is_whole() -> None:
    with Loader(Blocks(), **FORK) as loader:
        for x, _ in tensors(loader):
            if float(x[0, 0]) == 2:
                break
        assert [float(x[0, 0]) for x, _ in tensors(loader)] == list(range(8))


# A DataLoader


@pytest.mark.parametrize("kind", KINDS)
def test_a_dataloader_gives_an_epoch_of_the_loader_each_time(kind: str) -> None:
    with Loader(Blocks(), **KINDS[kind]) as loader:
        batches = as_dataloader(loader)
        assert isinstance(batches, torch.utils.data.DataLoader)
        assert len(batches) == len(batches.dataset) == 8
        assert batches.dataset.loader is loader
        assert batches.batch_size is None
        assert batches.batch_sampler is None
        assert batches.num_workers == 0
        for epoch in (1, 2):
            seen = [(float(x[0, 0]), int(y[0])) for x, y in batches]
            assert seen == [(float(index), epoch) for index in range(8)]
        assert loader.stats().epochs == 2


def test_a_dataloader_copies_nothing_and_keeps_nothing() -> None:
    with Loader(Blocks(200), max_queue_size=4, **FORK) as loader:
        places = set()
        for x, _ in as_dataloader(loader):
            assert x.numpy().base is not None
            places.add(x.data_ptr())
            del x
        assert len(places) < 50
        assert loader._pool._dispatch.crew.slots.leased <= 1  # type: ignore[union-attr]


def test_a_dataloader_made_anew_from_the_parts_of_another_is_the_same() -> None:
    # As accelerate and Lightning do it.
    with Loader(Blocks(), **FORK) as loader:
        first = as_dataloader(loader)
        second = torch.utils.data.DataLoader(
            first.dataset,
            batch_size=first.batch_size,
            collate_fn=first.collate_fn,
            num_workers=first.num_workers,
        )
        assert [float(x[0, 0]) for x, _ in second] == list(range(8))


def test_iterating_a_dataloader_draws_nothing_from_torch_s_generator() -> None:
    with Loader(Blocks(), workers=1) as loader:
        torch.manual_seed(3)
        before = torch.get_rng_state()
        list(as_dataloader(loader))
        assert torch.equal(torch.get_rng_state(), before)


def test_a_dataset_without_end_has_no_length_as_a_dataloader_either() -> None:
    class Endless(datasets.Numbers):
        @property
        def num_batches(self) -> None:
            return None

    with Loader(Endless(1), workers=1) as loader:
        batches = as_dataloader(loader)
        with pytest.raises(TypeError, match="no length"):
            len(batches)
        assert next(iter(batches)) == 0


def test_an_exception_comes_through_a_dataloader_as_itself() -> None:
    class Fails(Blocks):
        def __getitem__(self, index: int) -> Any:
            if index == 2:
                raise LookupError("no such file")
            return super().__getitem__(index)

    with Loader(Fails(), **FORK) as loader:
        batches = iter(as_dataloader(loader))
        next(batches), next(batches)
        with pytest.raises(LookupError, match="no such file"):
            next(batches)


def test_workers_of_torch_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with Loader(Blocks(), workers=1) as loader:
        batches = iter(as_dataloader(loader).dataset)
        assert next(batches)
        monkeypatch.setattr(torch.utils.data._utils.worker, "_worker_info", object())
        with pytest.raises(RuntimeError, match="num_workers of the DataLoader at 0"):
            iter(as_dataloader(loader).dataset)


def test_in_a_group_of_several_it_must_be_said_that_batches_are_shared_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    with Loader(Blocks(), workers=1) as loader:
        with pytest.raises(RuntimeError, match="each of 4 processes would train on"):
            list(as_dataloader(loader))
        assert len(list(as_dataloader(loader, distributed=True))) == 8


# Beside torch's own


class Plain:
    """A map-style dataset."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def leaf(kind: str, draw: random.Random) -> Callable[[], Any]:
    """Makes values of one kind and shape, each another."""
    shape = tuple(draw.randrange(1, 4) for _ in range(draw.randrange(4)))
    wide = (2, 700)

    def numbers(size: tuple[int, ...]) -> Any:
        return np.array(draw.choices(range(100), k=int(np.prod(size)))).reshape(size)

    makers: dict[str, Callable[[], Any]] = {
        "int": lambda: draw.randrange(-9, 9),
        "float": draw.random,
        "bool": lambda: draw.random() < 0.5,
        "str": lambda: draw.choice(["a", "bc", ""]),
        "bytes": lambda: draw.choice([b"a", b"bc"]),
        "f4 number": lambda: np.float32(draw.random()),
        "f8 number": lambda: np.float64(draw.random()),
        "i2 number": lambda: np.int16(draw.randrange(9)),
        "? number": lambda: np.bool_(draw.random() < 0.5),
        "f2": lambda: numbers(shape).astype("f2"),
        "f4": lambda: numbers(wide).astype("f4"),
        "u1": lambda: numbers(wide).astype("u1"),
        "i8": lambda: numbers(shape).astype("i8"),
        "?": lambda: numbers(shape) > 50,
        "c8": lambda: numbers(shape).astype("c8"),
        "strided": lambda: numbers((8, 700)).T[::2],
        "float tensor": lambda: torch.from_numpy(numbers(wide)).float(),
        "half tensor": lambda: torch.from_numpy(numbers(wide)).bfloat16(),
        "int tensor": lambda: torch.from_numpy(numbers(shape)),
        "turned tensor": lambda: torch.from_numpy(numbers((3, 500))).T,
    }
    return makers[kind]


KINDS_OF_LEAF = [
    "int", "float", "bool", "str", "bytes", "f4 number", "f8 number", "i2 number",
    "? number", "f2", "f4", "u1", "i8", "?", "c8", "strided", "float tensor",
    "half tensor", "int tensor", "turned tensor",
]  # fmt: skip
STRUCTURES = st.recursive(
    st.sampled_from(KINDS_OF_LEAF),
    lambda parts: (
        st.tuples(st.just("tuple"), st.lists(parts, max_size=3))
        | st.tuples(st.just("list"), st.lists(parts, max_size=3))
        | st.tuples(st.just("dict"), st.lists(parts, max_size=3))
        | st.tuples(st.just("ordered"), st.lists(parts, max_size=3))
        | st.tuples(st.just("named"), st.lists(parts, min_size=2, max_size=2))
    ),
    max_leaves=6,
)


def maker(structure: Any, draw: random.Random) -> Callable[[], Any]:
    """Makes samples of one structure."""
    if isinstance(structure, str):
        return leaf(structure, draw)
    kind, parts = structure
    makers = [maker(part, draw) for part in parts]
    builders: dict[str, Callable[[list[Any]], Any]] = {
        "tuple": tuple,
        "list": list,
        "dict": lambda values: dict(enumerate(values)),
        "ordered": lambda values: collections.OrderedDict(enumerate(values)),
        "named": lambda values: Pair(*values),
    }
    return lambda: builders[kind]([make() for make in makers])


def check_alike(ours: Any, theirs: Any) -> None:
    """Ours is theirs, but that tuples stay tuples and strings are lists."""
    if torch.is_tensor(theirs):
        assert torch.is_tensor(ours)
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
        return
    if isinstance(theirs, (list, tuple)) and all(
        isinstance(part, (str, bytes)) for part in theirs
    ):
        assert ours in (list(theirs), tuple(theirs))
        assert type(ours) is list or not theirs
        return
    assert type(ours) in (type(theirs), tuple)
    assert len(ours) == len(theirs)
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        ours, theirs = list(ours.values()), list(theirs.values())
    for one, other in zip(ours, theirs, strict=True):
        check_alike(one, other)


def compare(structure: Any, number: int, count: int, size: int, **kind: Any) -> None:
    make = maker(structure, random.Random(number))
    dataset: Any = Plain([make() for _ in range(count)])
    theirs = list(torch.utils.data.DataLoader(dataset, batch_size=size))
    with Loader(from_samples(dataset, size), **kind) as loader:
        ours = list(tensors(loader))
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        check_alike(one, other)


@cases(200)
@given(STRUCTURES, st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 4))
def test_samples_are_joined_as_torch_joins_them(
    structure: Any, number: int, count: int, size: int
) -> None:
    compare(structure, number, count, size, workers=0)


@cases(25)
@given(STRUCTURES, st.integers(0, 2**32))
def test_samples_are_joined_in_worker_processes_as_torch_joins_them(
    structure: Any, number: int
) -> None:
    compare(structure, number, 5, 2, **FORK)


@pytest.mark.parametrize("kind", ["inline", "thread", "fork"])
@pytest.mark.parametrize("drop_last", [False, True])
def test_an_epoch_visits_the_samples_that_torch_s_visits(
    kind: str, drop_last: bool
) -> None:
    dataset: Any = torch.utils.data.TensorDataset(
        torch.arange(101), torch.arange(101.0)
    )
    theirs: Any = torch.utils.data.DataLoader(
        dataset, batch_size=8, shuffle=True, drop_last=drop_last
    )
    ours = from_samples(dataset, 8, shuffle=True, drop_last=drop_last)
    with Loader(ours, **KINDS[kind]) as loader:
        assert len(loader) == len(theirs)
        for _ in range(3):
            one = [(x.tolist(), y.tolist()) for x, y in tensors(loader)]
            other = [(x.tolist(), y.tolist()) for x, y in theirs]
            assert all(x == y for x, y in one)
            assert [len(x) for x, _ in one] == [len(x) for x, _ in other]
            seen, count = (Counter(n for x, _ in e for n in x) for e in (one, other))
            assert max(seen.values()) == max(count.values()) == 1
            assert len(seen) == len(count) == (96 if drop_last else 101)


def test_torch_s_samplers_and_subsets_are_taken_as_they_are() -> None:
    data = torch.utils.data
    dataset: Any = data.Subset(data.TensorDataset(torch.arange(40)), range(10, 30))
    sampler = data.WeightedRandomSampler(
        [1.0] * 20, 15, generator=torch.Generator().manual_seed(1)
    )
    batch_sampler = data.BatchSampler(
        data.SequentialSampler(dataset), 6, drop_last=True
    )
    with Loader(from_samples(dataset, 4, sampler=sampler), **FORK) as loader:
        epochs = [[x.tolist() for (x,) in tensors(loader)] for _ in range(2)]
    assert [len(x) for x in epochs[0]] == [4, 4, 4, 3]
    assert epochs[0] != epochs[1]
    assert all(10 <= number < 30 for epoch in epochs for x in epoch for number in x)
    with Loader(from_samples(dataset, batch_sampler=batch_sampler), **FORK) as loader:
        batches = [x.tolist() for (x,) in tensors(loader)]
    assert batches == [list(range(k, k + 6)) for k in (10, 16, 22)]
