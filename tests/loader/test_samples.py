"""Batches of single samples: which samples, in which order, joined how."""

from __future__ import annotations

import collections.abc
import copy
import pickle
from dataclasses import dataclass
from itertools import chain, islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from feedline import Loader, PyDataset, collate, from_samples
from tests.optional import needs_torch, torch

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS: dict[str, dict[str, Any]] = {
    "inline": {"workers": 0},
    "thread": {"workers": 2},
    **{
        method: {"workers": 2, "use_multiprocessing": True, "start_method": method}
        for method in ("fork", "forkserver", "spawn")
    },
}
QUICK = ["inline", "thread", "fork"]
Pair = collections.namedtuple("Pair", ["x", "y"])  # noqa: PYI024 - as users write it


@dataclass(frozen=True)
class Sample:
    x: Any
    y: Any


class Squares:
    """Samples that cannot be iterated, only asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return index, np.full(2000, index**2)


class Many(Squares):
    """Gives several at once."""

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("asked for one")

    def __getitems__(self, indices: list[int]) -> Any:
        assert all(type(index) is int for index in indices)
        return [(index, index) for index in indices]


def epoch_of(loader: Loader) -> list[list[int]]:
    batches = []
    for indices, squares in loader:
        assert (squares == indices[:, None] ** 2).all()
        batches.append(indices.tolist())
    return batches


# Which samples


@pytest.mark.parametrize(
    ("count", "size", "drop_last", "expected"),
    [
        (5, 2, False, [[0, 1], [2, 3], [4]]),
        (5, 2, True, [[0, 1], [2, 3]]),
        (4, 2, False, [[0, 1], [2, 3]]),
        (4, 2, True, [[0, 1], [2, 3]]),
        (1, 5, False, [[0]]),
        (1, 5, True, []),
        (0, 5, False, []),
    ],
)
def test_batches_are_cut_from_the_samples_in_order(
    count: int, size: int, drop_last: bool, expected: list[list[int]]
) -> None:
    batches = from_samples(Squares(count), size, drop_last=drop_last)
    assert isinstance(batches, PyDataset)
    assert batches.num_batches == len(expected)
    assert [batch[0].tolist() for batch in batches] == expected
    with Loader(batches) as loader:
        assert len(loader) == len(expected)
        assert epoch_of(loader) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_each_epoch_is_shuffled_by_seed_and_epoch_alone(kind: str) -> None:
    batches = from_samples(Squares(43), 5, shuffle=True)
    with Loader(batches, seed=3, **KINDS[kind]) as loader:
        epochs = [epoch_of(loader) for _ in range(3)]
    with Loader(
        from_samples(Squares(43), 5, shuffle=True), seed=3, workers=0
    ) as inline:
        assert [epoch_of(inline) for _ in range(3)] == epochs
    flat = [list(chain.from_iterable(epoch)) for epoch in epochs]
    assert all(sorted(samples) == list(range(43)) for samples in flat)
    assert len({tuple(samples) for samples in flat}) == 3
    assert [len(batch) for batch in epochs[0]] == [5] * 8 + [3]


def test_another_seed_is_another_order() -> None:
    orders = set()
    for seed in range(5):
        with Loader(from_samples(range(50), 50, shuffle=True), seed=seed) as loader:
            orders.add(tuple(next(iter(loader)).tolist()))
    assert len(orders) == 5


def test_the_order_of_the_samples_is_not_that_of_the_batches() -> None:
    with Loader(range(50), shuffle=True, seed=1) as batches:
        of_batches = list(batches)
    with Loader(from_samples(range(50), 1, shuffle=True), seed=1) as samples:
        assert [int(batch[0]) for batch in samples] != of_batches


@pytest.mark.parametrize("drop_last", [False, True])
def test_dropped_samples_are_others_in_each_epoch(drop_last: bool) -> None:
    batches = from_samples(range(10), 4, shuffle=True, drop_last=drop_last)
    with Loader(batches, seed=0) as loader:
        seen = [frozenset(np.concatenate(list(loader)).tolist()) for _ in range(4)]
    assert {len(samples) for samples in seen} == {8 if drop_last else 10}
    assert (len(set(seen)) > 1) == drop_last


def test_a_shuffle_of_a_billion_samples_begins_at_once() -> None:
    batches = from_samples(range(10**9), 100, shuffle=True)
    with Loader(batches, seed=0, workers=0) as loader:
        assert len(loader) == 10**7
        first = np.concatenate(list(islice(loader, 20)))
    assert len(set(first.tolist())) == 2000
    assert first.max() > 9 * 10**8
    assert len(pickle.dumps(batches)) < 1000


def test_what_was_worked_out_for_an_epoch_is_no_change_of_the_dataset() -> None:
    batches = from_samples(range(1000), 10, shuffle=True)
    before = pickle.dumps(batches)
    with Loader(batches, workers=0) as loader:
        list(loader)
    assert pickle.dumps(batches) == before


def test_outside_a_loader_samples_come_in_their_own_order() -> None:
    batches = from_samples(range(5), 2, shuffle=True)
    assert [batch.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    assert batches[-1].tolist() == [4]
    with pytest.raises(IndexError, match="there are 3 batches, got index 3"):
        batches[3]


@pytest.mark.parametrize("kind", QUICK)
def test_samples_that_can_be_had_together_are_asked_for_together(kind: str) -> None:
    with Loader(from_samples(Many(7), 3, shuffle=True), **KINDS[kind]) as loader:
        pairs = [(a.tolist(), b.tolist()) for a, b in loader]
    assert all(a == b for a, b in pairs)
    assert sorted(chain.from_iterable(a for a, _ in pairs)) == list(range(7))


def test_samples_that_grow_between_epochs_are_all_visited() -> None:
    samples = list(range(10))
    with Loader(from_samples(samples, 4, shuffle=True), workers=1) as loader:
        assert sorted(np.concatenate(list(loader))) == list(range(10))
        samples += [10, 11, 12]
        assert sorted(np.concatenate(list(loader))) == list(range(13))


def test_settings_reach_the_loader() -> None:
    batches = from_samples(
        [1], 1, workers=3, use_multiprocessing=True, max_queue_size=4
    )
    options = Loader(batches).options
    assert (options.workers, options.processes, options.max_queue_size) == (3, True, 4)


# Samplers


class EveryOther:
    """A sampler that counts its epochs, and cannot be pickled."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.epochs = 0
        self.lock = iter(lambda: 0, 1)

    def __iter__(self) -> Iterator[int]:
        self.epochs += 1
        return iter(range(self.epochs % 2, self.count, 2))

    def __len__(self) -> int:
        return self.count // 2


class Uncounted:
    """Samples that nobody can count."""

    def __getitem__(self, index: int) -> int:
        return index


def test_samples_that_cannot_be_counted_need_a_sampler() -> None:
    with pytest.raises(TypeError, match=r"must have __len__.*give a sampler"):
        from_samples(Uncounted(), 2)
    with Loader(from_samples(Uncounted(), 2, sampler=[7, 5, 3]), workers=0) as loader:
        assert [batch.tolist() for batch in loader] == [[7, 5], [3]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampler_is_drawn_once_an_epoch(kind: str) -> None:
    sampler = EveryOther(10)
    batches = from_samples(Squares(10), 2, sampler=sampler)
    with Loader(batches, **KINDS[kind]) as loader:
        assert len(loader) == 3
        assert epoch_of(loader) == [[1, 3], [5, 7], [9]]
        assert epoch_of(loader) == [[0, 2], [4, 6], [8]]
    assert sampler.epochs == 2


@pytest.mark.parametrize("kind", QUICK)
def test_a_batch_sampler_decides_whole_batches(kind: str) -> None:
    plan = [[3, 1], [], [4], (0, 2, 2)]
    plan[1] = [5]
    with Loader(from_samples(Squares(6), batch_sampler=plan), **KINDS[kind]) as loader:
        for _ in range(2):
            assert len(loader) == 4
            assert epoch_of(loader) == [[3, 1], [5], [4], [0, 2, 2]]


def test_a_sampler_s_last_batch_is_dropped_where_asked() -> None:
    batches = from_samples(range(9), 2, sampler=[8, 7, 6], drop_last=True)
    with Loader(batches) as loader:
        assert len(loader) == 1
        assert [batch.tolist() for batch in loader] == [[8, 7]]


def test_indices_may_be_keys_of_any_kind() -> None:
    samples = {"a": 1.5, "b": 2.5, "c": 3.5}
    with Loader(from_samples(samples, 2, sampler=["c", "a", "b"])) as loader:
        assert [batch.tolist() for batch in loader] == [[3.5, 1.5], [2.5]]


def test_a_copy_says_that_its_sampler_stayed_behind() -> None:
    twin = copy.deepcopy(from_samples(range(3), 1, sampler=[0]))
    with pytest.raises(RuntimeError, match="has no sampler"):
        Loader(twin)


def test_a_sampler_that_cannot_be_counted_is_drawn_once_an_epoch_all_the_same() -> None:
    class Uncounted:
        epochs = 0

        def __iter__(self) -> Iterator[int]:
            self.epochs += 1
            return iter([self.epochs] * 3)

    sampler: Any = Uncounted()
    with Loader(from_samples(range(9), 2, sampler=sampler), workers=2) as loader:
        assert len(loader) == 2
        for epoch in (1, 2):
            assert [batch.tolist() for batch in loader] == [[epoch] * 2, [epoch]]
    assert sampler.epochs == 2


# Joining


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return bool(
            type(one) is type(other)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and (one == other).all()
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        equal = type(one) is type(other) and len(one) == len(other)
        return equal and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize(
    ("samples", "batch"),
    [
        ([1, 2], np.array([1, 2])),
        ([1.0, 2], np.array([1.0, 2.0])),
        ([True, False], np.array([True, False])),
        ([1j, 2.0], np.array([1j, 2.0])),
        ([np.float32(1), np.float32(2)], np.array([1, 2], np.float32)),
        (["a", "bc"], ["a", "bc"]),
        ([b"a", b"bc"], [b"a", b"bc"]),
        ([(1, "a"), (2, "b")], (np.array([1, 2]), ["a", "b"])),
        ([[1, "a"], [2, "b"]], [np.array([1, 2]), ["a", "b"]]),
        ([Pair(1, 2), Pair(3, 4)], Pair(np.array([1, 3]), np.array([2, 4]))),
        ([{"x": 1, "y": {"z": 2}}], {"x": np.array([1]), "y": {"z": np.array([2])}}),
        ([(), ()], ()),
        ([range(2), range(2)], [np.array([0, 0]), np.array([1, 1])]),
        ([np.zeros((2, 3), "f4")] * 2, np.zeros((2, 2, 3), "f4")),
        ([np.array("ab"), np.array("c")], np.array(["ab", "c"])),
        ([np.array(5)], np.array([5])),
    ],
    ids=repr,
)
def test_samples_are_joined_by_their_structure(samples: Any, batch: Any) -> None:
    assert same(collate(samples), batch), collate(samples)


def test_a_mapping_that_is_made_of_something_else_becomes_a_dict() -> None:
    class Row(collections.abc.Mapping[str, int]):
        def __init__(self, x: int, y: int) -> None:
            self.parts = {"x": x, "y": y}

        def __getitem__(self, name: str) -> int:
            return self.parts[name]

        def __iter__(self) -> Iterator[str]:
            return iter(self.parts)

        def __len__(self) -> int:
            return len(self.parts)

    joined = collate([Row(1, 2), Row(3, 4)])
    assert type(joined) is dict
    assert {name: part.tolist() for name, part in joined.items()} == {
        "x": [1, 3],
        "y": [2, 4],
    }


def test_dataclasses_are_joined_field_by_field() -> None:
    joined = collate([Sample(1, "a"), Sample(2, "b")])
    assert type(joined) is Sample
    assert joined.x.tolist() == [1, 2]
    assert joined.y == ["a", "b"]


def test_mappings_and_sequences_keep_their_class_and_what_else_they_have() -> None:
    first = collections.defaultdict(int, {"x": 1})
    joined = collate([first, {"x": 2}])
    assert type(joined) is collections.defaultdict
    assert joined["x"].tolist() == [1, 2]
    assert joined["missing"] == 0
    assert first == {"x": 1}
    constant = collate([MappingProxyType({"x": 1}), MappingProxyType({"x": 2})])
    assert type(constant) is MappingProxyType
    assert constant["x"].tolist() == [1, 2]
    queue = collate([collections.UserList([1, 2]), collections.UserList([3, 4])])
    assert type(queue) is collections.UserList
    assert [part.tolist() for part in queue] == [[1, 3], [2, 4]]


@pytest.mark.parametrize(
    ("samples", "error", "words"),
    [
        ([], ValueError, "one sample or more"),
        ([None, None], TypeError, "NoneType.*collate_fn"),
        ([{1}, {2}], TypeError, "'set'"),
        ([(1, 2), (1,)], ValueError, r"one length, got \[1, 2\]"),
        ([np.zeros(2), np.zeros(3)], ValueError, r"one shape, got \[\(2,\), \(3,\)\]"),
        ([{"x": 1}, {"y": 1}], KeyError, "x"),
    ],
)
def test_what_cannot_be_joined_is_refused(
    samples: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        collate(samples)


@pytest.mark.parametrize("kind", QUICK)
def test_another_function_may_join_them(kind: str) -> None:
    with Loader(from_samples(range(5), 2, collate_fn=tuple), **KINDS[kind]) as loader:
        assert list(loader) == [(0, 1), (2, 3), (4,)]


@needs_torch
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_joined_to_a_tensor(kind: str) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        samples = [torch.full((3, 500), float(k)).to(dtype) for k in range(5)]
        with Loader(from_samples(samples, 2), **KINDS[kind]) as loader:
            assert torch.equal(torch.cat(list(loader)), torch.stack(samples))


@needs_torch
def test_tensors_that_are_not_plain_are_left_to_torch() -> None:
    grown = torch.ones(2000, requires_grad=True)
    assert collate([grown, grown]).requires_grad
    assert (
        collate([torch.ones(2), torch.ones(2, dtype=torch.int64)]).dtype
        == torch.float32
    )
    assert collate([torch.ones(0), torch.ones(0)]).shape == (2, 0)
    assert collate([torch.tensor(1), torch.tensor(2)]).tolist() == [1, 2]


# Arguments


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be 1 or more, got 0"),
        ({"batch_size": True}, TypeError, "got True"),
        ({"batch_size": 1.5}, TypeError, "batch_size must be an integer, got 1.5"),
        ({}, TypeError, "got None"),
        ({"batch_size": 1, "collate_fn": 3}, TypeError, "callable, got 3"),
        ({"batch_size": 1, "shuffle": True, "sampler": [0]}, ValueError, "exclude"),
        ({"batch_size": 1, "batch_sampler": [[0]]}, ValueError, "exclude each other"),
        ({"shuffle": True, "batch_sampler": [[0]]}, ValueError, "exclude each other"),
        ({"drop_last": True, "batch_sampler": [[0]]}, ValueError, "exclude each other"),
        ({"sampler": [0], "batch_sampler": [[0]]}, ValueError, "exclude each other"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        from_samples([1, 2, 3], **arguments)


@pytest.mark.parametrize("samples", [iter([1]), 5, range(3).__iter__()])
def test_what_has_no_items_is_refused(samples: Any) -> None:
    with pytest.raises(TypeError, match="__getitem__"):
        from_samples(samples, 1)
