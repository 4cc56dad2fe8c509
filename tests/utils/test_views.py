"""Halves: how they are indexed, what they leave unread, and how they load."""

from __future__ import annotations

import pickle
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline import Loader, PyDataset
from feedline.utils import split_dataset
from tests import datasets
from tests.utils.differential import cases

WAYS: dict[str, dict[str, Any]] = {
    "inline": {"workers": 0},
    "thread": {"workers": 2, "use_multiprocessing": False},
    **{
        method: {"workers": 2, "use_multiprocessing": True, "start_method": method}
        for method in ("fork", "forkserver", "spawn")
    },
}
QUICK = ["inline", "thread", "fork"]

X = np.arange(30.0).reshape(10, 3)
Y = np.arange(10)


def plain(value: Any) -> Any:
    """Arrays as lists, so that samples can be compared."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return value.tolist() if hasattr(value, "tolist") else value


# --- a sequence ------------------------------------------------------------------------


@cases(500)
@given(
    st.integers(2, 30),
    st.booleans(),
    st.lists(st.slices(30), max_size=3),
    st.integers(-40, 40),
)
def test_a_half_is_indexed_sliced_and_iterated_as_a_list_is(
    total: int, shuffle: bool, slices: list[slice], index: int
) -> None:
    half, _ = split_dataset(
        range(100, 100 + total), total // 2, shuffle=shuffle, seed=1
    )
    whole = list(half)
    for part in slices:
        half, whole = half[part], whole[part]
    assert list(half) == whole
    assert len(half) == half.cardinality() == len(whole)
    if -len(whole) <= index < len(whole):
        assert half[index] == half[np.int8(index)] == whole[index]
    else:
        with pytest.raises(IndexError, match=f"got {index}$"):
            half[index]


@pytest.mark.parametrize("index", [1.0, "1", None, (1, 2)])
def test_an_index_is_an_integer_or_a_slice(index: Any) -> None:
    with pytest.raises(TypeError):
        split_dataset(X, 0.5)[0][index]


def test_the_documented_example_holds() -> None:
    data = np.random.default_rng(0).random(size=(1000, 4))
    left, right = split_dataset(data, left_size=0.8)
    assert int(left.cardinality()) == 800
    assert int(right.cardinality()) == 200


def test_a_half_says_what_it_is() -> None:
    assert repr(split_dataset(X, 0.8)[0]) == "<8 samples of ndarray>"
    assert repr(split_dataset(datasets.Numbers(), 3)[1]) == "<9 batches of Numbers>"


def test_a_half_shows_what_its_source_becomes() -> None:
    array = np.zeros(4)
    left, _ = split_dataset(array, 0.5)
    array[1] = 7
    assert left[1] == 7


def test_a_half_can_be_split_again() -> None:
    left, test = split_dataset(range(10), 0.8, shuffle=True, seed=3)
    train, validation = split_dataset(left, 0.75)
    assert [*train, *validation, *test] == [1, 5, 6, 0, 9, 4, 7, 2, 8, 3]


def test_the_loader_of_torch_takes_a_half() -> None:
    torch = pytest.importorskip("torch")
    left, _ = split_dataset((X, Y), 0.5)
    batches = list(torch.utils.data.DataLoader(left, batch_size=2))
    assert [y.tolist() for _, y in batches] == [[0, 1], [2, 3], [4]]


# --- datasets of other kinds -----------------------------------------------------------


def test_a_torch_dataset_gives_what_it_gives() -> None:
    torch = pytest.importorskip("torch")
    source = torch.utils.data.TensorDataset(torch.arange(10), torch.ones(10, 2))
    left, right = split_dataset(source, 0.8)
    assert [int(x) for x, _ in right] == [8, 9]
    assert left[0][1].tolist() == [1, 1]


def test_a_torch_dataset_without_indices_or_length_is_refused() -> None:
    torch = pytest.importorskip("torch")
    iterable: Any = torch.utils.data.IterableDataset
    map_style: Any = torch.utils.data.Dataset

    class Stream(iterable):  # type: ignore[misc]
        def __len__(self) -> int:
            return 5

        def __iter__(self) -> Any:
            return iter(range(5))

    class Lengthless(map_style):  # type: ignore[misc]
        def __getitem__(self, index: int) -> int:
            return index

    with pytest.raises(TypeError, match=r"; an IterableDataset has no indices$"):
        split_dataset(Stream(), 0.5)
    with pytest.raises(TypeError, match="an object with __len__ and __getitem__"):
        split_dataset(Lengthless(), 0.5)


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ("text", "text is no dataset"),
        (b"text", "text is no dataset"),
        (datasets.Numbers, r"make an object of it: Numbers\(...\)"),
        (datasets.Bare, r"make an object of it: Bare\(...\)"),
        (iter([1, 2]), r"list\(...\) makes a dataset of what can only be iterated"),
    ],
)
def test_what_is_no_dataset_is_refused_with_a_way_out(wrong: Any, remedy: str) -> None:
    with pytest.raises(TypeError, match=f"; {remedy}$"):
        split_dataset(wrong, 0.5)


# --- what is not read ------------------------------------------------------------------


ROWS, COLUMNS = 100_000_000, 250  # of four bytes: 100 GB


def mapped(folder: Path) -> Any:
    """An array of 100 GB in a file that takes no room."""
    path = folder / "large"
    with path.open("wb") as file:
        file.truncate(4 * ROWS * COLUMNS)
    return np.memmap(path, np.float32, "r+", shape=(ROWS, COLUMNS))


def resident(array: Any) -> int:
    """Bytes of a file's mappings that lie in memory."""
    found = re.findall(
        rf"{re.escape(str(array.filename))}\n(?:.*\n)*?Rss: +(\d+) kB",
        Path("/proc/self/smaps").read_text(),
    )
    assert found
    return 1024 * sum(map(int, found))


@pytest.mark.parametrize("structure", ["array", "nest"])
def test_a_file_of_100_gb_is_split_without_touching_it(
    tmp_path: Path, structure: str
) -> None:
    large = mapped(tmp_path)
    dataset = large if structure == "array" else {"x": large, "again": (large,)}
    left, right = split_dataset(dataset, 0.8)
    assert (len(left), len(right)) == (80_000_000, 20_000_000)
    assert resident(large) == 0
    sample = right[-1]
    (sample if structure == "array" else sample["x"])[0] = 5
    assert 0 < resident(large) < 2**23
    assert large[-1, 0] == 5


def test_a_file_of_100_gb_is_split_in_random_order_without_touching_it(
    tmp_path: Path,
) -> None:
    large = mapped(tmp_path)
    blocks = large.reshape(1000, -1, COLUMNS)
    left, right = split_dataset(blocks, 0.8, shuffle=True, seed=3)
    assert (len(left), len(right)) == (800, 200)
    assert resident(large) == 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_half_of_a_file_of_100_gb_goes_to_workers_as_its_name(
    tmp_path: Path, method: str
) -> None:
    large = mapped(tmp_path)
    large[80_000_000:80_000_003, 7] = (1, 2, 3)
    _, right = split_dataset({"x": large}, 0.8)
    with Loader(right, **WAYS[method]) as loader:
        seen = [float(sample["x"][7]) for sample in islice(loader, 4)]
    assert seen == [1, 2, 3, 0]


# --- in a loader -----------------------------------------------------------------------


SOURCES: dict[str, Any] = {
    "array": X,
    "nest": {"x": X, "pair": (Y, [X])},
    "list": ["a.png", "b.png", "c.png", "d.png", "e.png"],
    "object": datasets.Bare(),
    "batches": datasets.Blocks(),
    "half of a half": split_dataset(X, 0.9, shuffle=True, seed=2)[0],
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("way", QUICK)
def test_both_halves_load_as_they_are_iterated(way: str, source: str) -> None:
    for half in split_dataset(SOURCES[source], 0.6, shuffle=True, seed=1):
        with Loader(half, **WAYS[way]) as loader:
            assert len(loader) == len(half)
            for _ in range(2):
                assert list(map(plain, loader)) == list(map(plain, half))


@pytest.mark.parametrize("way", ["forkserver", "spawn"])
def test_halves_load_in_processes_that_start_anew(way: str) -> None:
    nest, batches = SOURCES["nest"], datasets.Blocks()
    for dataset in (nest, batches):
        _, half = split_dataset(dataset, 0.6, shuffle=True, seed=1)
        with Loader(half, **WAYS[way]) as loader:
            assert list(map(plain, loader)) == list(map(plain, half))


def test_a_pickled_half_takes_its_own_indices_along_alone() -> None:
    left, _ = split_dataset(range(100_000), 1000, shuffle=True, seed=1)
    stream = pickle.dumps(left)
    assert len(stream) < 10_000
    assert list(pickle.loads(stream)) == list(left)


# --- datasets of batches ---------------------------------------------------------------


def test_the_halves_of_batches_are_datasets_with_the_settings_of_the_source() -> None:
    source = datasets.Numbers()
    source.workers, source.use_multiprocessing, source.max_queue_size = 3, True, 7
    left, right = split_dataset(source, 0.75)
    expected: list[tuple[Any, int]] = [(left, 9), (right, 3), (left[:4], 4)]
    for half, length in expected:
        assert issubclass(type(half), PyDataset)
        assert half.num_batches == len(half) == half.cardinality() == length
        options = Loader(half).options
        assert (options.workers, options.max_queue_size) == (3, 7)
        assert options.use_multiprocessing
    left.workers = 5
    assert (left[:4].workers, right.workers, source.workers) == (5, 3, 3)


@pytest.mark.parametrize("way", QUICK)
def test_each_epoch_of_a_half_runs_the_hooks_of_the_source(way: str) -> None:
    source = datasets.Stateful(length=4)
    left, right = split_dataset(source, 0.5)
    with Loader(left, **WAYS[way]) as first, Loader(right, **WAYS[way]) as second:
        for epoch in (0, 2):
            begun = 1 + epoch
            # index, begun, ended, and the large array, which hooks change in place
            value = begun + 1000.0 * epoch
            seen = [batch[:5] for batch in first]
            assert seen == [(i, begun, epoch, value, value) for i in (0, 1)]
            value = (begun + 1) + 1000.0 * (epoch + 1)
            seen = [batch[:5] for batch in second]
            assert seen == [(i, begun + 1, epoch + 1, value, value) for i in (2, 3)]
    assert [call for call, _ in source.calls] == ["begin", "end"] * 4


def test_only_the_halves_of_a_dataset_with_hooks_are_bound_to_one_epoch_at_a_time() -> (
    None
):
    left, _ = split_dataset(datasets.Numbers(), 0.5)
    with Loader(left, workers=0) as loader:
        assert list(zip(loader, loader, strict=True)) == [(i, i) for i in range(6)]


class Hooked:
    """No PyDataset, but with a hook and a count, as a loader takes them."""

    def __init__(self) -> None:
        self.num_batches: int | None = 4
        self.begun = 0

    def on_epoch_begin(self) -> None:
        self.begun += 1

    def __getitem__(self, index: int) -> tuple[int, int]:
        return index, self.begun


def test_an_object_that_a_loader_takes_for_batches_is_split_as_such() -> None:
    source = Hooked()
    _, right = split_dataset(source, 1)
    assert isinstance(right, PyDataset)
    with Loader(right, workers=0) as loader:
        assert list(loader) == [(1, 1), (2, 1), (3, 1)]
        assert list(loader) == [(1, 2), (2, 2), (3, 2)]


def test_a_keras_dataset_is_split_with_its_settings_and_hooks() -> None:
    base: Any = pytest.importorskip("keras").utils.PyDataset

    class Counting(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(workers=2, max_queue_size=4)
            self.epoch = 0

        @property
        def num_batches(self) -> int:
            return 5

        def on_epoch_begin(self) -> None:
            self.epoch += 1

        def __getitem__(self, index: int) -> Any:
            return np.full(2, index), self.epoch

    left, right = split_dataset(Counting(), 0.6)
    assert isinstance(left, PyDataset)
    assert (left.workers, left.max_queue_size) == (2, 4)
    with Loader(right) as loader:
        assert [(int(x[0]), epoch) for x, epoch in loader] == [(3, 1), (4, 1)]


def test_batches_without_end_or_length_are_refused() -> None:
    with pytest.raises(ValueError, match="must have an end, got num_batches=None of "):
        split_dataset(datasets.Blocks(None), 0.5)
    endless = Hooked()
    endless.num_batches = None
    with pytest.raises(ValueError, match=r"got num_batches=None of Hooked$"):
        split_dataset(endless, 0.5)

    class Lengthless(PyDataset):
        def __getitem__(self, index: int) -> int:
            return index

    with pytest.raises(TypeError, match="an object with __len__ and __getitem__"):
        split_dataset(Lengthless(), 0.5)


def test_the_rng_of_a_half_is_keyed_by_seed_epoch_and_index_in_every_pool() -> None:
    halves = split_dataset(datasets.RngDraws(length=6), 0.5)
    drawn: dict[str, Any] = {}
    for way in QUICK:
        with Loader(halves[1], seed=5, **WAYS[way]) as loader:
            drawn[way] = [plain(tuple(batch)) for _ in range(2) for batch in loader]
    assert drawn["inline"] == drawn["thread"] == drawn["fork"]
    # index 0 to 2 of the half, which are batches 3 to 5 of the source
    with Loader(datasets.RngDraws(length=3), seed=5, workers=0) as loader:
        alone = [plain(tuple(batch)) for _ in range(2) for batch in loader]
    assert [batch[1:] for batch in drawn["inline"]] == [batch[1:] for batch in alone]
    assert [batch[0] for batch in drawn["inline"]] == [3, 4, 5] * 2
