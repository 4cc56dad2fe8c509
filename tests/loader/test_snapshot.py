"""Workers see the dataset as it is at the start of an epoch; what has not changed stays."""

from __future__ import annotations

import pickle
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from feedline import PyDataset
from feedline.arena import Arena
from feedline.errors import DatasetEncodingError
from feedline.slots import Slots
from feedline.snapshot import Versions, load
from tests.optional import needs_torch, torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGE = 100_000


class Data(PyDataset):
    """A dataset with a large array and a small state."""

    large: Any
    more: Any
    tensor: Any
    alias: Any

    def __init__(self, **state: Any) -> None:
        super().__init__()
        self.large = np.arange(LARGE, dtype="i4")
        self.flag = 0
        vars(self).update(state)


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena.create()
    yield made
    made.close()


@pytest.fixture
def slots(arena: Arena) -> Slots:
    return Slots(arena, spare=2)


def spawned(dataset: Any, slots: Slots) -> Versions:
    return Versions(dataset, slots, forked=False)


def forked(dataset: Any, slots: Slots) -> Versions:
    """Versions whose workers were born with the dataset."""
    versions = Versions(dataset, slots, forked=True)
    assert versions.renew()
    versions.birth(alone=True)
    return versions


def seen(versions: Versions, slots: Slots, inherited: Any = None) -> Any:
    """The dataset that a worker loads."""
    return load(slots.arena, versions.current.slot, inherited or {})


def written(versions: Versions) -> int:
    return versions.current.slot


def test_a_worker_that_is_spawned_loads_what_the_dataset_is(slots: Slots) -> None:
    dataset = Data(
        flag=3,
        strided=np.arange(2 * LARGE)[::2],
        fortran=np.asfortranarray(np.random.default_rng(0).random((300, 400))),
        function=lambda x: x + 1,
        small=np.arange(5),
        workers=4,
    )
    versions = spawned(dataset, slots)
    assert versions.renew()
    birth = versions.birth(alone=True)
    assert birth.dataset is None
    assert birth.slot == versions.current.slot > 0
    assert birth.version == versions.current.number > 0
    twin = load(slots.arena, birth.slot, birth.inherited)
    assert twin.flag == 3
    assert twin.function(1) == 2
    for name in ("large", "strided", "fortran", "small"):
        assert np.array_equal(getattr(twin, name), getattr(dataset, name)), name
    assert twin.fortran.flags.f_contiguous


@needs_torch
def test_a_worker_that_is_spawned_loads_tensors_too(slots: Slots) -> None:
    dataset = Data(tensor=torch.arange(LARGE).bfloat16())
    versions = spawned(dataset, slots)
    assert versions.renew()
    assert torch.equal(seen(versions, slots).tensor, dataset.tensor)


@pytest.mark.parametrize("make", [forked, spawned])
def test_an_unchanged_dataset_writes_nothing_new(make: Any, slots: Slots) -> None:
    class Local(Data):
        pass

    for dataset in (
        Data(),
        Local(function=lambda x: x + 1, table={"a": {3, 4}, "b": frozenset("xyz")}),
        Data(rng=np.random.default_rng(3), strided=np.zeros((LARGE, 2))[:, 0]),
        [np.zeros(LARGE), "a", 3],
    ):
        versions = make(dataset, slots)
        versions.renew()
        before = versions.current
        for _ in range(3):
            assert versions.changed() is False
            assert versions.renew() is True
            assert versions.current is before


def test_a_fork_is_born_with_the_dataset_and_nothing_is_written(slots: Slots) -> None:
    dataset = Data()
    versions = Versions(dataset, slots, forked=True)
    assert versions.renew()
    birth = versions.birth(alone=True)
    assert birth.dataset is dataset
    assert birth.slot == 0
    assert birth.version == versions.current.number
    (buffer,) = birth.inherited.values()
    assert np.shares_memory(np.frombuffer(buffer, np.uint8), dataset.large)
    assert slots.lend() == 1


def change_flag(dataset: Any) -> None:
    dataset.flag += 1


def change_in_place(dataset: Any) -> None:
    dataset.large[LARGE // 2] += 1


def change_array(dataset: Any) -> None:
    dataset.large = np.zeros(LARGE)


def change_shape(dataset: Any) -> None:
    dataset.large = dataset.large.reshape(2, -1)


def change_dtype(dataset: Any) -> None:
    dataset.large = dataset.large.view("u4")


def add_attribute(dataset: Any) -> None:
    dataset.more = "more"


CHANGES = [
    change_flag, change_in_place, change_array, change_shape, change_dtype, add_attribute
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("make", [forked, spawned])
def test_every_change_is_seen_by_workers_that_live(
    make: Any, change: Any, slots: Slots
) -> None:
    dataset = Data()
    versions = make(dataset, slots)
    versions.renew()
    inherited = versions.birth(alone=True).inherited
    before = versions.current.number
    # What a fork inherits is a copy of the memory as it was.
    inherited = {print_: memoryview(bytes(b)) for print_, b in inherited.items()}
    change(dataset)
    assert versions.changed()
    assert versions.renew() is True
    assert versions.current.number > before
    assert not versions.changed()
    twin = seen(versions, slots, inherited)
    assert np.array_equal(twin.large, dataset.large)
    assert twin.large.dtype == dataset.large.dtype
    assert twin.large.shape == dataset.large.shape
    rest = {name: value for name, value in vars(twin).items() if name != "large"}
    assert rest == {n: value for n, value in vars(dataset).items() if n != "large"}


def test_changing_back_is_a_change_too(slots: Slots) -> None:
    dataset = Data()
    versions = spawned(dataset, slots)
    numbers = []
    for flag in (1, 2, 1):
        dataset.flag = flag
        versions.renew()
        numbers.append(versions.current.number)
        assert seen(versions, slots).flag == flag
    assert numbers == sorted(set(numbers))


def memory(slots: Slots, slot: int) -> int:
    """Bytes that the version in a slot fills."""
    return slots._leases[slot].size


@pytest.mark.parametrize("make", [forked, spawned])
def test_a_large_array_is_not_written_again_when_the_small_state_changes(
    make: Any, slots: Slots
) -> None:
    dataset = Data()
    versions = make(dataset, slots)
    versions.renew()
    inherited = versions.birth(alone=True).inherited
    for flag in range(1, 6):
        dataset.flag = flag
        versions.renew()
        assert memory(slots, versions.current.slot) < 10_000
        twin = seen(versions, slots, inherited)
        assert twin.flag == flag
        assert np.array_equal(twin.large, dataset.large)


def test_an_array_that_a_later_version_brought_is_not_written_again(
    slots: Slots,
) -> None:
    dataset = Data()
    versions = forked(dataset, slots)
    dataset.more = np.random.default_rng(0).random(LARGE)
    versions.renew()
    assert memory(slots, versions.current.slot) > dataset.more.nbytes
    birth = versions.birth(alone=False)
    inherited = {p: memoryview(bytes(b)) for p, b in birth.inherited.items()}
    bringer = versions.current.slot
    for flag in range(1, 4):
        dataset.flag = flag
        versions.renew()
        assert memory(slots, versions.current.slot) < 10_000
        twin = seen(versions, slots, inherited)
        assert np.array_equal(twin.more, dataset.more)
        assert bringer in slots._leases


def test_a_version_that_nobody_needs_gives_its_slot_back(slots: Slots) -> None:
    dataset = Data()
    versions = spawned(dataset, slots)
    used = set()
    for flag in range(50):
        dataset.flag = flag
        dataset.large = np.full(LARGE, flag)
        versions.renew()
        used.add(written(versions))
    assert len(used) <= 3
    assert slots.leased == 1


def test_a_version_is_kept_for_as_long_as_someone_holds_it(slots: Slots) -> None:
    dataset = Data()
    versions = spawned(dataset, slots)
    versions.renew()
    old = versions.current
    dataset.large[:] = 0
    versions.renew()
    for _ in range(5):
        slot = slots.lend()
        assert slot not in (old.slot, versions.current.slot)
    twin = load(slots.arena, old.slot, {})
    assert np.array_equal(twin.large, np.arange(LARGE))
    watch = weakref.ref(old.stored)
    del old
    assert watch() is None


def test_what_a_worker_writes_stays_its_own(slots: Slots) -> None:
    dataset = Data()
    versions = spawned(dataset, slots)
    versions.renew()
    one, other = seen(versions, slots), seen(versions, slots)
    one.large[:] = -1
    one.flag = 9
    assert np.array_equal(other.large, np.arange(LARGE))
    assert np.array_equal(seen(versions, slots).large, np.arange(LARGE))
    assert np.array_equal(dataset.large, np.arange(LARGE))


def test_what_the_main_process_writes_later_is_not_seen_in_mid_epoch(
    slots: Slots,
) -> None:
    dataset = Data()
    versions = spawned(dataset, slots)
    versions.renew()
    dataset.large[:] = -1
    dataset.flag = 9
    twin = load(slots.arena, versions.birth(alone=False).slot, {})
    assert np.array_equal(twin.large, np.arange(LARGE))
    assert twin.flag == 0


@pytest.mark.parametrize("later", [False, True], ids=["at first", "later"])
@pytest.mark.parametrize("make", [forked, spawned])
def test_equal_arrays_of_a_dataset_do_not_become_one(
    make: Any, later: bool, slots: Slots
) -> None:
    dataset = Data(one=np.zeros(LARGE), other=np.zeros(LARGE))
    versions = make(dataset, slots)
    versions.renew()
    birth = versions.birth(alone=True)
    # What a fork inherits is a copy of the memory as it was.
    inherited = {p: memoryview(bytearray(b)) for p, b in birth.inherited.items()}
    if later or make is forked:
        dataset.flag = 1
        versions.renew()
    twin = seen(versions, slots, inherited)
    twin.one[:] = 1
    assert twin.other.sum() == 0


def test_one_array_under_two_names_stays_one(slots: Slots) -> None:
    dataset = Data()
    dataset.alias = dataset.large
    versions = spawned(dataset, slots)
    versions.renew()
    twin = seen(versions, slots)
    assert twin.alias is twin.large


def test_a_read_only_array_is_read_only_in_the_worker(slots: Slots) -> None:
    dataset = Data()
    dataset.large.flags.writeable = False
    versions = spawned(dataset, slots)
    versions.renew()
    assert not seen(versions, slots).large.flags.writeable


def test_a_file_that_is_mapped_travels_by_its_name(
    slots: Slots, tmp_path: Path
) -> None:
    path = tmp_path / "data.npy"
    np.save(path, np.arange(LARGE))
    dataset = Data(mapped=np.load(path, mmap_mode="r"), large=None)
    versions = spawned(dataset, slots)
    versions.renew()
    assert memory(slots, versions.current.slot) < 10_000
    twin = seen(versions, slots)
    assert isinstance(twin.mapped, np.memmap)
    assert np.array_equal(twin.mapped, np.arange(LARGE))


class Locked(Data):
    def __init__(self) -> None:
        super().__init__()
        self.inside = {"lock": threading.Lock()}


def test_without_fork_a_dataset_that_cannot_be_pickled_names_the_attribute(
    slots: Slots,
) -> None:
    versions = spawned(Locked(), slots)
    with pytest.raises(DatasetEncodingError) as caught:
        versions.renew()
    assert caught.value.path == "dataset.inside['lock']"
    assert "'lock'" in caught.value.reason
    assert slots.leased == 0


class BrokenState(Data):
    def __getstate__(self) -> Any:
        raise ZeroDivisionError("my own words")


def test_without_fork_what_the_dataset_s_pickling_raises_comes_through(
    slots: Slots,
) -> None:
    with pytest.raises(ZeroDivisionError, match="my own words"):
        spawned(BrokenState(), slots).renew()


@pytest.mark.parametrize("kind", [Locked, BrokenState])
def test_with_fork_a_dataset_that_cannot_be_pickled_is_forked_for_each_epoch(
    kind: type[Data], slots: Slots
) -> None:
    dataset = kind()
    versions = Versions(dataset, slots, forked=True)
    assert versions.renew() is True
    birth = versions.birth(alone=True)
    assert birth.dataset is dataset
    assert birth.slot == 0
    first = versions.current.number
    assert versions.changed()
    assert versions.renew() is False
    assert versions.current.number > first
    assert versions.birth(alone=True).dataset is dataset


def test_a_forked_dataset_that_becomes_picklable_is_forked_once_more(
    slots: Slots,
) -> None:
    dataset = Locked()
    versions = forked(dataset, slots)
    dataset.inside = {}
    assert versions.renew() is False
    versions = forked(dataset, slots)
    dataset.flag = 5
    assert versions.renew() is True


def test_the_numbers_of_versions_go_on_from_the_last_crew_s(slots: Slots) -> None:
    versions = Versions(Data(), slots, forked=True, number=41)
    versions.renew()
    assert versions.current.number == 42


def test_a_worker_that_is_replaced_in_mid_epoch_gets_the_epoch_s_state(
    slots: Slots,
) -> None:
    dataset = Data()
    versions = forked(dataset, slots)
    number = versions.current.number
    dataset.flag = 9
    birth = versions.birth(alone=False)
    assert birth.version == number
    assert birth.dataset is None
    assert birth.slot > 0
    twin = load(slots.arena, birth.slot, birth.inherited)
    assert twin.flag == 0
    assert np.array_equal(twin.large, np.arange(LARGE))


def test_an_unchanged_dataset_is_simply_forked_again(slots: Slots) -> None:
    dataset = Data()
    versions = forked(dataset, slots)
    birth = versions.birth(alone=False)
    assert birth.dataset is dataset
    assert birth.slot == 0


def test_a_large_array_that_changed_in_mid_epoch_is_an_error_and_not_a_wrong_batch(
    slots: Slots,
) -> None:
    dataset = Data()
    versions = forked(dataset, slots)
    dataset.large[3] = 99
    with pytest.raises(RuntimeError, match="between epochs"):
        versions.birth(alone=False)


def test_after_a_replacement_no_version_refers_to_what_the_new_one_lacks(
    slots: Slots,
) -> None:
    dataset = Data(more=np.ones(LARGE))
    versions = forked(dataset, slots)
    more, dataset.more = dataset.more, None
    versions.renew()
    newer = versions.birth(alone=False)  # born without ``more``
    dataset.more = more
    versions.renew()
    twin = seen(versions, slots, newer.inherited)
    assert np.array_equal(twin.more, more)
    assert np.array_equal(twin.large, dataset.large)


def test_what_a_worker_took_from_a_state_survives_the_next_state(slots: Slots) -> None:
    dataset = Data()
    versions = spawned(dataset, slots)
    versions.renew()
    cached = seen(versions, slots).large[LARGE // 2 :]  # such as a module-level cache
    slots.arena.detach()  # what a worker does before it takes the next state
    for flag in range(4):
        dataset.large = np.full(LARGE, -flag)
        versions.renew()
        slot = slots.lend()
        slots.arena.reserve(slot, 500_000)[64:500_000] = 255
        slots.free(slot, 500_000)
    assert np.array_equal(cached, np.arange(LARGE // 2, LARGE))


def test_a_snapshot_s_stream_is_stable_after_a_load(slots: Slots) -> None:
    dataset = Data(table={"a": [1, 2], "b": ("x", "y")}, name="".join(["a", "b"]))
    twin = pickle.loads(pickle.dumps(dataset))
    versions = spawned(twin, slots)
    versions.renew()
    assert not versions.changed()
