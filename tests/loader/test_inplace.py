"""What is built in place is sent without a copy, and what is kept of it never changes."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import feedline
from feedline import Loader, PyDataset, inplace
from feedline.arena import Arena
from feedline.codec import Writer, read
from feedline.inplace import SMALLEST, Site
from feedline.seeding import WorkerInfo, building
from feedline.slots import Slots
from tests.optional import needs_torch, torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

KINDS: dict[str, dict[str, Any]] = {
    "inline": {"workers": 0},
    "thread": {"workers": 2},
    **{
        method: {"workers": 2, "use_multiprocessing": True, "start_method": method}
        for method in ("fork", "forkserver", "spawn")
    },
}
PROCESS: dict[str, Any] = {"workers": 1, "use_multiprocessing": True}
MB = 2**20
SLACK = 2000  # bytes: the pickle stream of a small batch, and the rounding of its top


class Yard:
    """Both ends of the way of a batch that is built in place, in one process."""

    def __init__(self, *, anonymous: bool = True) -> None:
        self.arena = Arena.create(anonymous=anonymous)
        self.slots = Slots(self.arena, spare=4)
        self.theirs = Arena(os.dup(self.arena.fd), self.arena.stride)
        self.site = Site()
        self.size = 0

    @contextmanager
    def building(self, *, inside: bool = True) -> Iterator[Writer]:
        """Build in the slot that comes next, or beside it."""
        self.slot = self.slots.lend()
        writer = Writer(self.theirs, self.slot)
        self.site.room = writer
        info = WorkerInfo(0, 1, 0, 0, 0)
        token = inplace._site.set(self.site)
        self.site.begin(info)
        try:
            with building(info if inside else WorkerInfo(0, 1, 0, 0, 0)):
                yield writer
        finally:
            inplace._site.reset(token)
        self.site.room = None

    def send(self, make: Callable[[], Any]) -> Any:
        with self.building() as writer:
            self.size = writer.write(make())
        writer.release()
        return read(self.slots, self.slot, self.size)

    def overwrite(self) -> None:
        """Do to the slot what another worker does to it later."""
        self.arena.view(self.slot, 64)[64:] = 0xAA

    def close(self) -> None:
        self.theirs.close()
        self.arena.close()


@pytest.fixture(params=["anonymous", "file"])
def yard(request: pytest.FixtureRequest) -> Iterator[Yard]:
    made = Yard(anonymous=request.param == "anonymous")
    yield made
    made.close()


def filled(shape: Any, dtype: Any = "f4", start: int = 0) -> NDArray[Any]:
    """An array made in place, with values that tell their place."""
    array = feedline.empty(shape, dtype)
    array[...] = np.arange(start, start + array.size).reshape(array.shape)
    return array


# The two functions, wherever they are called


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (5000, "u1"),
        ((50, 60), "f4"),
        ([8, 16, 32], np.int64),
        (np.int64(4096), "?"),
        ((0, 9), "f8"),
        ((), "c16"),
        ((3000,), "U"),
        ((3000,), "U5"),
        ((2000,), "M8[s]"),
        ((3000,), ">f4"),
        ((900,), [("a", "i4"), ("b", "f8", (2,))]),
        ((900,), "(2,)f4"),
        ((3000,), object),
    ],
    ids=str,
)
def test_empty_makes_what_numpy_s_makes(
    yard: Yard, inside: bool, shape: Any, dtype: Any
) -> None:
    with yard.building(inside=inside):
        ours, theirs = feedline.empty(shape, dtype), np.empty(shape, dtype)
        assert type(ours) is np.ndarray
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert ours.strides == theirs.strides
        assert ours.flags.writeable
        assert ours.flags.aligned
        asked = (
            ours.size * np.dtype(dtype).itemsize
        )  # of "U", whose text has no size: 0
        large = asked >= SMALLEST and ours.dtype != object
        assert (ours.base is not None) == large
        assert not large or ours.ctypes.data % 64 == 0
        del ours


def test_the_default_dtype_is_numpy_s() -> None:
    assert feedline.empty(3).dtype == np.empty(3).dtype


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(-1, "f4"), ((-200, -300), "f4"), ((2.5, 2), "f4"), ("ab", "f4"), (3, "no")],
)
def test_empty_refuses_what_numpy_refuses(yard: Yard, shape: Any, dtype: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as theirs:
        np.empty(shape, dtype)
    with yard.building(), pytest.raises(theirs.type):
        feedline.empty(shape, dtype)


@seed(1)
@settings(max_examples=200, database=None, deadline=None)
@given(
    shape=npst.array_shapes(min_dims=0, max_dims=3, max_side=30),
    dtypes=st.lists(
        st.sampled_from(["?", "u1", "i2", "i8", "f2", "f4", "f8", "c8", "U3", "O"]),
        min_size=1,
        max_size=6,
    ),
)
def test_stack_gives_what_numpy_s_gives(shape: Any, dtypes: list[str]) -> None:
    def kept(make: Callable[[Any], Any], parts: Any) -> Any:
        try:
            return make(parts)
        except TypeError as error:
            return type(error)

    parts = [np.ones(shape, dtype) for dtype in dtypes]
    yard = Yard()
    try:
        theirs = kept(np.stack, parts)
        with yard.building():
            ours = kept(feedline.stack, parts)
        if isinstance(theirs, type):
            assert ours is theirs or issubclass(ours, theirs)
            return
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
        del ours
    finally:
        yard.close()


def test_stack_takes_numbers_generators_and_tensors(yard: Yard) -> None:
    for inside in (False, True):
        with yard.building(inside=inside):
            assert feedline.stack([1, 2.5]).tolist() == [1.0, 2.5]
            rows = feedline.stack(np.full(2000, k) for k in range(3))
            assert rows[:, 0].tolist() == [0, 1, 2]
            del rows
            if torch is not None:
                rows = feedline.stack([torch.ones(2000), torch.zeros(2000)])
                assert rows.dtype == np.float32
                assert rows[:, 7].tolist() == [1, 0]
                del rows


@pytest.mark.parametrize("parts", [[], [np.zeros(3000), np.zeros(3001)]])
def test_stack_refuses_none_and_unequal_ones(yard: Yard, parts: list[Any]) -> None:
    for inside in (False, True):
        with yard.building(inside=inside), pytest.raises(ValueError, match="array"):
            feedline.stack(parts)


# Nothing is copied


OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "whole": lambda a: a,
    "rows": lambda a: a[1:],
    "last": lambda a: a[-1] if a.ndim > 1 else a,
    "every other": lambda a: a[::2],
    "backwards": lambda a: a[::-1],
    "columns": lambda a: a[..., : max(1, a.shape[-1] // 2)],
    "columns backwards": lambda a: a[..., ::-1],
    "transposed": lambda a: a.T,
    "axes moved": lambda a: np.moveaxis(a, -1, 0),
    "flat": lambda a: a.reshape(-1),
    "bytes": lambda a: np.ascontiguousarray(a).reshape(-1).view("u1"),
    "wider": lambda a: np.broadcast_to(a, (2, *a.shape)),
    "another axis": lambda a: a[:, None],
}


@seed(2)
@settings(max_examples=300, database=None, deadline=None)
@given(
    shape=st.lists(st.integers(2, 12), min_size=2, max_size=4),
    dtype=st.sampled_from(
        ["u1", "f4", ">i8", "c16", "M8[s]", [("a", "i4"), ("b", "u1")]]
    ),
    names=st.lists(st.sampled_from(list(OPERATIONS)), min_size=1, max_size=3),
    locked=st.booleans(),
)
def test_every_view_of_what_is_built_in_place_travels_as_it_lies(
    shape: list[int], dtype: Any, names: list[str], locked: bool
) -> None:
    shape = [200, *shape]
    rows = np.random.default_rng(0).integers(0, 256, (math.prod(shape), 16), np.uint8)
    kind = np.dtype(dtype)
    right = np.ascontiguousarray(rows[:, : kind.itemsize]).view(kind).reshape(shape)

    def viewed(array: Any) -> Any:
        for name in names:
            array = OPERATIONS[name](array)
        if locked:
            array = array[...]
            array.flags.writeable = False
        return array

    def make() -> Any:
        array = feedline.empty(shape, kind)
        array[...] = right
        return [viewed(array)]

    yard = Yard()
    try:
        (twin,) = yard.send(make)
        expected = viewed(right)
        assert (
            not np.shares_memory(expected, right)  # numpy itself had to copy
            or yard.size
            < right.nbytes + SMALLEST + SLACK  # a small part is in the stream
        )
        assert twin.dtype == expected.dtype
        assert twin.shape == expected.shape
        assert twin.tobytes() == expected.tobytes()
        assert twin.flags.writeable == expected.flags.writeable
        del twin
    finally:
        yard.close()


def test_two_views_of_one_array_share_memory_at_the_consumer_as_they_did(
    yard: Yard,
) -> None:
    def make() -> Any:
        array = filled((4, 5000))
        return {
            "all": array,
            "again": array,
            "tail": array[1:],
            "columns": array[:, ::7],
        }

    batch = yard.send(make)
    assert yard.size < 4 * 5000 * 4 + SLACK
    assert batch["again"] is batch["all"]
    batch["all"][...] = 3
    assert (batch["tail"] == 3).all()
    assert (batch["columns"] == 3).all()


@needs_torch
@pytest.mark.parametrize("dtype", ["u1", "f4", "i8", "c8"])
def test_a_tensor_over_it_travels_as_it_lies(yard: Yard, dtype: str) -> None:
    def make() -> Any:
        tensor = torch.from_numpy(filled((8, 30, 40, 3), dtype))
        return tensor, tensor.permute(0, 3, 1, 2), tensor[2:], tensor.view(torch.uint8)

    whole, channels_first, tail, raw = yard.send(make)
    expected = torch.arange(8 * 30 * 40 * 3).reshape(8, 30, 40, 3).to(whole.dtype)
    assert yard.size < whole.nbytes + SLACK
    assert torch.equal(whole, expected)
    assert torch.equal(channels_first, expected.permute(0, 3, 1, 2))
    assert torch.equal(tail, expected[2:])
    assert torch.equal(raw, expected.view(torch.uint8))
    assert tail.data_ptr() == whole[2:].data_ptr()


def test_small_arrays_and_objects_are_not_built_in_place(yard: Yard) -> None:
    with yard.building() as writer:
        small = feedline.empty(SMALLEST - 1, "u1")
        objects = feedline.empty(SMALLEST, object)
        large = feedline.empty(SMALLEST, "u1")
        assert writer.offset_of(small) is None
        assert objects.base is None
        assert writer.offset_of(large) == 64
        del large


def test_what_the_batch_does_not_contain_is_only_room(yard: Yard) -> None:
    def make() -> Any:
        filled(50_000)
        return filled(3000, start=7), "text"

    array, text = yard.send(make)
    assert array.tolist() == list(range(7, 3007))
    assert text == "text"


def test_an_array_beside_it_is_copied_as_ever(yard: Yard) -> None:
    def make() -> Any:
        return (
            filled(3000),
            np.arange(5000),
            np.arange(20_000).reshape(100, 200)[:, ::3],
        )

    ours, plain, strided = yard.send(make)
    assert ours.tolist() == list(range(3000))
    assert plain.tolist() == list(range(5000))
    np.testing.assert_array_equal(strided, np.arange(20_000).reshape(100, 200)[:, ::3])


def test_growth_moves_the_mapping_and_leaves_every_array_valid(yard: Yard) -> None:
    def make() -> Any:
        arrays = [filled(count, "i8", count) for count in (600, 9000, MB, 3 * MB)]
        arrays[0][0] = -1  # through the first mapping, which is long not the last
        return [array[:] for array in arrays]

    arrays = yard.send(make)
    assert yard.size < sum(a.nbytes for a in arrays) + SLACK
    assert arrays[0][0] == -1
    for array, count in zip(arrays, (600, 9000, MB, 3 * MB), strict=True):
        assert array[1] == count + 1
        np.testing.assert_array_equal(array[1:], np.arange(count + 1, 2 * count))


def test_a_shortage_is_a_memory_error(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    with yard.building(), pytest.raises(MemoryError, match="bytes"):
        feedline.empty(yard.arena.stride)
    with yard.building(), pytest.raises(MemoryError, match="a batch may have"):
        feedline.empty((2**40, 2**40, 2**40))

    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with yard.building(), pytest.raises(MemoryError, match="no shared memory"):
        feedline.empty(MB)


# What is kept


def kept_as(kind: str, array: Any) -> Any:
    ways: dict[str, Callable[[], Any]] = {
        "array": lambda: array,
        "part": lambda: array[3:7],
        "transpose": lambda: array[:12].reshape(3, 4).T,
        "memoryview": lambda: memoryview(array),
        "closure": lambda: lambda: array,
        "cycle": lambda: _cycle(array),
        "tensor": lambda: torch.from_numpy(array)[2:],
    }
    return ways[kind]()


def _cycle(array: Any) -> Any:
    knot = [array]
    knot.append(knot)
    return knot


def values_of(thing: Any) -> bytes:
    if callable(thing):
        thing = thing()
    if isinstance(thing, list):
        thing = thing[0]
    return np.asarray(thing).tobytes()


HOLDS = ["array", "part", "transpose", "memoryview", "closure", "cycle"]
HOLDS += ["tensor"] if torch is not None else []


@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize("count", [2000, 300_000])
def test_what_is_kept_beyond_its_batch_never_changes(
    yard: Yard, hold: str, count: int
) -> None:
    kept = []

    def make() -> Any:
        array = filled(count)
        kept.append(kept_as(hold, array))
        return array

    batch = yard.send(make)
    before = values_of(kept[0])
    batch[...] = -1  # what the consumer does with its own
    del batch
    yard.overwrite()
    assert values_of(kept[0]) == before


def test_what_is_written_to_what_was_kept_is_seen_by_nobody(yard: Yard) -> None:
    kept = []

    def make() -> Any:
        kept.append(filled(5000))
        return kept[0]

    batch = yard.send(make)
    kept[0][...] = -1
    assert batch.tolist() == list(range(5000))


def test_what_is_kept_of_a_mapping_that_was_outgrown_never_changes_either(
    yard: Yard,
) -> None:
    kept = []

    def make() -> Any:
        kept.append(filled(2000))
        kept.append(filled(MB, start=5))
        return kept[1]

    yard.send(make)
    yard.overwrite()
    assert kept[0].tolist() == list(range(2000))
    np.testing.assert_array_equal(kept[1], np.arange(5, MB + 5, dtype="f4"))


def test_only_a_kept_batch_costs_the_warm_mapping(yard: Yard) -> None:
    yard.send(lambda: filled(5000))
    mapping = yard.theirs.view(yard.slot, 64).base
    yard.send(lambda: filled(5000))
    assert yard.theirs.view(yard.slot, 64).base is mapping
    yard.send(lambda: _cycle(filled(5000))[0])
    assert yard.theirs.view(yard.slot, 64).base is mapping


def test_a_kept_array_can_be_part_of_a_later_batch(yard: Yard) -> None:
    kept = []

    def make() -> Any:
        kept.append(filled(5000))
        return kept[0]

    first = yard.send(make)
    second = yard.send(lambda: [filled(5000, start=9), kept[0]])
    assert second[0].tolist() == list(range(9, 5009))
    assert second[1].tolist() == list(range(5000)) == first.tolist()
    second[1][0] = 77
    assert kept[0][0] == 0


def test_the_memory_of_what_was_kept_goes_with_it(yard: Yard) -> None:
    kept: list[Any] = []

    def make() -> Any:
        kept.append(filled(5000))
        return 1

    yard.send(make)
    mapping = weakref.ref(kept[0].base.base)
    assert mapping() is not None
    kept.clear()
    gc.collect()
    assert mapping() is None


# Only the thread that builds, only while it builds


def test_other_threads_and_coroutines_left_over_get_plain_arrays(yard: Yard) -> None:
    made: dict[str, Any] = {}

    async def later(ready: asyncio.Event) -> None:
        await ready.wait()
        made["later"] = feedline.empty(5000)

    async def first() -> tuple[asyncio.Event, asyncio.Task[None]]:
        ready = asyncio.Event()
        task = asyncio.ensure_future(later(ready))
        await asyncio.to_thread(lambda: made.update(thread=feedline.empty(5000)))
        return ready, task

    loop = asyncio.new_event_loop()
    with yard.building() as writer:
        ready, task = loop.run_until_complete(first())
        thread = threading.Thread(target=lambda: made.update(bare=feedline.empty(5000)))
        thread.start()
        thread.join()
        mine = feedline.empty(5000)
        assert writer.offset_of(mine) == 64
        del mine
    ready.set()
    loop.run_until_complete(task)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert [writer.offset_of(made[name]) for name in ("thread", "bare", "later")] == [
        None,
        None,
        None,
    ]


def test_a_forked_child_does_not_write_into_its_parent_s_batch(yard: Yard) -> None:
    with yard.building() as writer:
        mine = filled(5000)
        child = os.fork()
        if not child:
            feedline.empty(5000)[...] = -1
            os._exit(0 if writer.offset_of(feedline.empty(5000)) is None else 1)
        assert os.waitpid(child, 0)[1] == 0
        yours = filled(5000, start=1)
        assert mine.tolist() == list(range(5000))
        assert yours.tolist() == list(range(1, 5001))
        del mine, yours


# In a loader


def right(index: int, count: int) -> NDArray[Any]:
    return np.random.default_rng(index).integers(0, 2**31, count)


class InPlace(PyDataset):
    """Batches of very different sizes, built in every way at once."""

    def __init__(self, length: int = 12, *, keep: bool = False) -> None:
        super().__init__()
        self.length = length
        self.keep = keep
        self.kept: list[tuple[int, Any]] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        count = 10 ** (index % 5 + 1)
        whole = feedline.empty(count, "i8")
        whole[:] = right(index, count)
        rows = feedline.stack([right(index, count), right(index + 1, count)])
        bad = [i for i, kept in self.kept if not self._is_right(i, kept)]
        if self.keep:
            self.kept.append((index, (whole, rows[1])))
        return {
            "whole": whole, "rows": rows, "tail": whole[count // 2 :],
            "turned": rows.T, "odd": whole[1::2], "bad": bad, "index": index,
        }  # fmt: skip

    def _is_right(self, index: int, kept: Any) -> bool:
        count = len(kept[0])
        return bool(
            (kept[0] == right(index, count)).all()
            and (kept[1] == right(index + 1, count)).all()
        )


def checked(batch: Any) -> int:
    index = int(batch["index"])
    count = len(batch["whole"])
    one, two = right(index, count), right(index + 1, count)
    np.testing.assert_array_equal(batch["whole"], one)
    np.testing.assert_array_equal(batch["rows"], [one, two])
    np.testing.assert_array_equal(batch["tail"], one[count // 2 :])
    np.testing.assert_array_equal(batch["turned"], np.transpose([one, two]))
    np.testing.assert_array_equal(batch["odd"], one[1::2])
    assert batch["bad"] == []
    return index


@pytest.mark.parametrize("keep", [False, True], ids=["lets go", "keeps all"])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_built_in_place_are_right_in_every_pool(kind: str, keep: bool) -> None:
    with Loader(InPlace(keep=keep), seed=1, shuffle=True, **KINDS[kind]) as loader:
        for _ in range(3):
            assert sorted(checked(batch) for batch in loader) == list(range(12))


def test_batches_that_the_consumer_keeps_and_changes_stay_its_own() -> None:
    with Loader(InPlace(40, keep=True), max_queue_size=4, **KINDS["fork"]) as loader:
        kept = []
        for batch in loader:
            checked(batch)
            batch["whole"][...] = -1
            kept.append(batch)
    assert len(kept) == 40
    assert all((batch["whole"] == -1).all() for batch in kept)


class Retried(PyDataset):
    """Fails twice at each batch, each time with more built and some of it kept."""

    def __init__(self, *, end: bool = False) -> None:
        super().__init__()
        self.tries: dict[int, int] = {}
        self.kept: list[Any] = []
        self.end = end

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        tries = self.tries[index] = self.tries.get(index, -1) + 1
        whole = filled(3000 + 20_000 * (2 - min(tries, 2)), "i8", index)
        if tries < 2 or self.end:
            self.kept.append(whole)
            error = ValueError("not yet")
            error.whole = whole  # type: ignore[attr-defined]
            raise error
        sound = all((np.diff(kept) == 1).all() for kept in self.kept)
        return whole, sound


def test_a_retry_begins_again_and_what_failed_tries_kept_stays() -> None:
    with Loader(Retried(), retries=2, max_queue_size=1, **PROCESS) as loader:
        for index, (whole, sound) in enumerate(loader):
            assert whole.tolist() == list(range(index, index + 3000))
            assert sound
        assert loader.stats().retries == 12


def test_an_exception_brings_what_was_built_in_place_with_it() -> None:
    with Loader(Retried(end=True), **PROCESS) as loader:
        for _ in range(3):
            with pytest.raises(ValueError, match="not yet") as caught:
                list(loader)
            whole = caught.value.whole  # type: ignore[attr-defined]
            assert (np.diff(whole) == 1).all()
            assert whole[0] == 0


class Dying(PyDataset):
    """Ends its worker once at each odd batch, when half of it is built."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        before = filled(20_000, "i8", index)
        if index % 2 and not (self.folder / f"{index}").exists():
            (self.folder / f"{index}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return before, filled(20_000, "i8", index + 1)


def test_a_batch_whose_worker_died_half_way_is_built_anew(tmp_path: Path) -> None:
    with Loader(Dying(tmp_path), **KINDS["fork"]) as loader:
        for _ in range(2):
            for index, (before, after) in enumerate(loader):
                assert before.tolist() == list(range(index, index + 20_000))
                assert after.tolist() == list(range(index + 1, index + 20_001))
        assert loader.stats().deaths == 4


class TooLarge(PyDataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return feedline.empty(2**50 if index == 1 else 5000, "u1").shape


def test_in_a_worker_a_shortage_is_a_memory_error_at_its_batch() -> None:
    with Loader(TooLarge(), **PROCESS) as loader:
        batches = iter(loader)
        assert next(batches) == (5000,)
        with pytest.raises(MemoryError, match="bytes"):
            next(batches)


class Nesting(PyDataset):
    """Builds some batches through loaders of its own."""

    def __init__(self, **inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        before = filled(5000, "i8", index)
        with Loader(InPlace(6), **self.inner) as loader:
            inner = list(loader)
        return before, inner, filled(5000, "i8", index + 1)


@pytest.mark.parametrize("kind", ["inline", "thread", "fork"])
def test_loaders_inside_getitem_build_on_ground_of_their_own(kind: str) -> None:
    with Loader(Nesting(**KINDS[kind]), **PROCESS) as loader:
        for index, (before, inner, after) in enumerate(loader):
            assert before.tolist() == list(range(index, index + 5000))
            assert after.tolist() == list(range(index + 1, index + 5001))
            assert [checked(batch) for batch in inner] == list(range(6))
