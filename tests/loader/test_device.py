"""Memory is locked where a device may read it; a batch is held until its copy is done."""

from __future__ import annotations

import gc
import os
import weakref
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from feedline import Loader, PyDataset
from feedline.arena import Arena
from feedline.device import CudaPageLock, checked_prefetch, copied_ahead, usable
from feedline.mapped import Mapped
from feedline.slots import Slots
from feedline.torch import as_dataloader, as_tensors, tensors
from tests.optional import needs_torch, torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from feedline.options import StartMethod

PAGE = 4096


def file_offset(address: int) -> int:
    """Which byte of its file is mapped there."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, _, offset, *_ = line.split()
            start, end = (int(bound, 16) for bound in span.split("-"))
            if start <= address < end:
                return int(offset, 16) + address - start
    raise AssertionError(f"nothing is mapped at {address:#x}")


class Locks:
    """Locks nothing, and insists on what a driver insists on."""

    def __init__(self, *, willing: bool = True) -> None:
        self.willing = willing
        self.held: dict[int, int] = {}  # address -> bytes
        self.offsets: Counter[int] = Counter()  # of the file, how often locked

    def lock(self, address: int, size: int) -> bool:
        assert address % PAGE == 0
        assert size % PAGE == 0
        assert size > 0
        assert not self.covers(address, 1), "locked already"
        if self.willing:
            self.held[address] = size
            self.offsets[file_offset(address)] += 1
        return self.willing

    def unlock(self, address: int, size: int) -> None:
        assert self.held.pop(address) == size
        file_offset(address)  # it is still mapped

    def covers(self, address: int, size: int) -> bool:
        return any(
            start <= address and address + size <= start + held
            for start, held in self.held.items()
        )


class Sized(PyDataset):
    """Batch ``i`` is full of ``i``, and has as many numbers as it is told to."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Any:
        return np.full(self.sizes[index], index, np.int32)


def in_processes(dataset: PyDataset, method: StartMethod = "fork") -> Loader:
    return Loader(
        dataset, workers=2, use_multiprocessing=True, start_method=method, seed=1
    )


def place(array: Any) -> tuple[int, int]:
    return array.__array_interface__["data"][0], array.nbytes


# ---- memory is locked ----------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_every_batch_lies_in_memory_that_was_locked_once(method: StartMethod) -> None:
    locks = Locks()
    with in_processes(Sized(*[20_000] * 200), method) as loader:
        loader.lock_pages(locks)
        for _ in range(2):
            for index, array in enumerate(loader):
                assert locks.covers(*place(array))
                assert (array == index).all()
                del array
        assert len(locks.offsets) < 40
        assert set(locks.offsets.values()) == {1}
    gc.collect()
    assert locks.held == {}


def test_memory_that_grew_is_locked_as_a_whole() -> None:
    locks = Locks()
    with in_processes(Sized(*range(1_500, 200_000, 2_000))) as loader:
        loader.lock_pages(locks)
        for array in loader:
            assert locks.covers(*place(array))
            del array
    assert locks.held == {}


def test_kept_batches_stay_locked_until_they_are_dropped() -> None:
    locks = Locks()
    with in_processes(Sized(*[20_000] * 30)) as loader:
        loader.lock_pages(locks)
        kept = list(loader)
    assert all(locks.covers(*place(array)) for array in kept)
    assert [int(array[-1]) for array in kept] == list(range(30))
    kept.clear()
    assert locks.held == {}


def test_memory_is_unlocked_before_it_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    locks, punched = Locks(), []

    def punch(arena: Arena, slot: int, give: Any = Arena.punch) -> None:
        places = {file_offset(address) for address in locks.held}
        assert slot * arena.stride not in places
        punched.append(slot)
        give(arena, slot)

    monkeypatch.setattr(Arena, "punch", punch)
    with in_processes(Sized(*[20_000] * 60)) as loader:
        loader.lock_pages(locks)
        kept = list(loader)
        kept.clear()
        assert len(list(loader)) == 60
    assert punched


def test_memory_is_locked_from_the_middle_of_an_epoch_on() -> None:
    locks = Locks()
    with in_processes(Sized(*[20_000] * 40)) as loader:
        batches = iter(loader)
        assert not locks.covers(*place(next(batches)))
        loader.lock_pages(locks)
        for index, array in enumerate(batches):
            # Up to ten may have been read before.
            assert locks.covers(*place(array)) or index < 10
            del array


def test_what_cannot_be_locked_is_delivered_all_the_same() -> None:
    with in_processes(Sized(*[20_000] * 20)) as loader:
        loader.lock_pages(Locks(willing=False))
        assert [int(array[0]) for array in loader] == list(range(20))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_built_in_this_process_are_delivered_all_the_same(workers: int) -> None:
    locks = Locks()
    with Loader(Sized(*[20_000] * 5), workers=workers) as loader:
        loader.lock_pages(locks)
        assert [int(array[0]) for array in loader] == list(range(5))
    assert not locks.offsets


def test_a_forked_copy_of_the_memory_has_no_lock_to_undo(tmp_path: Path) -> None:
    locks = Locks()
    with open(tmp_path / "file", "w+b") as file:
        file.truncate(PAGE)
        mapped = Mapped(file.fileno(), 0, PAGE, private=False)
        mapped.lock(locks, PAGE)
        pid = os.fork()
        if pid == 0:
            del mapped
            os._exit(0 if locks.held else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert len(locks.held) == 1
        del mapped
        assert locks.held == {}


def test_small_batches_need_no_lock() -> None:
    arena = Arena.create()
    arena.page_lock = locks = Locks()
    slots = Slots(arena, spare=2)
    slot = slots.lend()
    arena.reserve(slot, 100)
    anchor = arena.anchor(slot, 100)
    assert locks.covers(*place(anchor[:PAGE]))  # a page is the least there is
    del anchor
    slots.retire(slot)
    assert locks.held == {}
    arena.close()


# ---- batches are copied ahead --------------------------------------------------------


class Event:
    def __init__(self) -> None:
        self.done = False

    def synchronize(self) -> None:
        self.done = True


class Source:
    """A batch; its copy is its number."""

    def __init__(self, number: int) -> None:
        self.number = number


class ByHand:
    """Copies that are complete when someone waits for them."""

    def __init__(self) -> None:
        self.begun: list[Event] = []
        self.handed: list[int] = []

    def begin(self, batch: Any) -> tuple[Any, Any]:
        event = Event()
        self.begun.append(event)
        return batch.number, event

    def hand_over(self, copy: Any, event: Any) -> Any:
        assert event is self.begun[copy]
        self.handed.append(copy)
        return copy


class Tracked:
    """Sources, and which of them someone holds."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.made: list[weakref.ref[Source]] = []

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        for number in range(self.length):
            source = [Source(number)]
            self.made.append(weakref.ref(source[0]))
            yield f"tag {number}", source.pop()

    def held(self) -> list[int]:
        return [number for number, source in enumerate(self.made) if source()]


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_batches_come_in_order_with_as_many_on_the_way_as_wished(prefetch: int) -> None:
    copies, batches = ByHand(), Tracked(6)
    seen = []
    for tag, number in copied_ahead(iter(batches), copies, prefetch):
        assert len(copies.begun) == min(number + 1 + prefetch, 6)
        seen.append((tag, number))
    assert seen == [(f"tag {number}", number) for number in range(6)]


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_a_batch_is_held_until_its_copy_is_complete(prefetch: int) -> None:
    copies, batches = ByHand(), Tracked(12)
    for _ in copied_ahead(iter(batches), copies, prefetch):
        undone = [n for n, event in enumerate(copies.begun) if not event.done]
        assert set(undone) <= set(batches.held())
        assert len(batches.held()) <= prefetch + 1
    assert all(event.done for event in copies.begun)
    assert batches.held() == []


def test_a_break_waits_for_the_copies_that_have_begun() -> None:
    copies, batches = ByHand(), Tracked(12)
    ahead = copied_ahead(iter(batches), copies, 2)
    next(ahead)
    assert len(batches.held()) == 3
    ahead.close()  # type: ignore[attr-defined]
    assert [event.done for event in copies.begun] == [True] * 3
    assert batches.held() == []


@needs_torch
class TestTensorsOnADevice:
    """The loader's side, with copies that stay on the processor."""

    @pytest.fixture(autouse=True)
    def device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Clones(ByHand):
            def __init__(self, device: Any) -> None:
                super().__init__()
                assert device.type == "cuda"

            def begin(self, batch: Any) -> tuple[Any, Any]:
                return batch.clone(), Event()

            def hand_over(self, copy: Any, event: Any) -> Any:
                return copy

        locks = Locks()
        monkeypatch.setattr(
            "feedline.torch.usable", lambda name: name and torch.device(name)
        )
        monkeypatch.setattr("feedline.torch.CudaCopies", Clones)
        monkeypatch.setattr("feedline.torch.CudaPageLock", lambda: locks)
        self.locks = locks

    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_every_epoch_is_whole_and_in_order(self, prefetch: int) -> None:
        with in_processes(Sized(*[20_000] * 20)) as loader:
            batches = tensors(loader, device="cuda", prefetch=prefetch)
            for _ in range(2):
                assert [int(x[0]) for x in batches] == list(range(20))
        assert self.locks.offsets
        assert self.locks.held == {}

    def test_a_state_counts_what_the_consumer_has_and_not_what_is_on_its_way(
        self,
    ) -> None:
        dataset = Sized(*[20_000] * 8)
        with in_processes(dataset) as loader:
            batches = tensors(loader, device="cuda", prefetch=3)
            under_way = iter(batches)
            assert [int(next(under_way)[0]) for _ in range(3)] == [0, 1, 2]
            state = batches.state_dict()
            assert [int(x[0]) for x in under_way] == [3, 4, 5, 6, 7]
            assert batches.state_dict() == loader.state_dict()
        with in_processes(dataset) as loader:
            loader.load_state_dict(state)
            assert [int(x[0]) for x in tensors(loader)] == [3, 4, 5, 6, 7]

    def test_a_break_ends_the_epoch_and_leaves_no_lock(self) -> None:
        with in_processes(Sized(*[20_000] * 20)) as loader:
            for x in tensors(loader, device="cuda"):
                if int(x[0]) == 4:
                    break
            assert [int(x[0]) for x in tensors(loader, device="cuda")] == [*range(20)]
        assert self.locks.held == {}


@needs_torch
def test_on_other_devices_batches_are_moved_one_by_one() -> None:
    with Loader(Sized(3, 4), workers=0) as loader:
        assert [x.device.type for x in tensors(loader, device="meta")] == ["meta"] * 2
        on_cpu = list(tensors(loader, device="cpu"))
    assert [x.tolist() for x in on_cpu] == [[0, 0, 0], [1, 1, 1, 1]]


# ---- the driver ----------------------------------------------------------------------


@needs_torch
def test_memory_is_registered_with_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    driver = SimpleNamespace(
        cudaHostRegister=lambda *given: calls.append(given),
        cudaHostUnregister=lambda *given: calls.append(given),
    )
    monkeypatch.setattr(torch.cuda, "cudart", lambda: driver)
    monkeypatch.setattr(torch.cuda, "check_error", lambda code: None)
    assert CudaPageLock().lock(PAGE, 2 * PAGE)
    CudaPageLock().unlock(PAGE, 2 * PAGE)
    assert calls == [(PAGE, 2 * PAGE, 1), (PAGE,)]


@needs_torch
def test_a_driver_that_refuses_is_said_and_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(code: int) -> None:
        raise RuntimeError(f"CUDA error: {code}")

    driver = SimpleNamespace(cudaHostRegister=lambda *arguments: 2)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: driver)
    monkeypatch.setattr(torch.cuda, "check_error", refuse)
    assert not CudaPageLock().lock(PAGE, PAGE)
    assert "4096 bytes of batches could not be page-locked, and" in caplog.text


@needs_torch
@pytest.mark.parametrize("wrong", ["gpu", "cuda:99", 3, b"cuda"], ids=repr)
def test_a_device_that_is_not_there_is_refused(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"device must be .*, got "):
        usable(wrong)


@pytest.mark.parametrize("wrong", [-1, 1.5, True, None, "2"], ids=repr)
def test_a_wrong_number_of_batches_ahead_is_refused(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"prefetch must be .*, got "):
        checked_prefetch(wrong)


@needs_torch
def test_pinned_memory_without_a_device_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", bool)
    with (
        Loader(Sized(3), workers=0) as loader,
        pytest.raises(ValueError, match=r"pin_memory=True needs a CUDA device"),
    ):
        as_dataloader(loader, pin_memory=True)


if torch is not None and torch.cuda.is_available():

    @pytest.mark.parametrize("prefetch", [0, 1, 4])
    def test_what_arrives_on_the_gpu_is_what_workers_wrote(prefetch: int) -> None:
        with in_processes(Sized(*[500_000] * 200), "forkserver") as loader:
            sums = [x.sum() for x in tensors(loader, device="cuda", prefetch=prefetch)]
        assert [int(s) for s in sums] == [500_000 * n for n in range(200)]

    def test_batches_for_the_gpu_are_pinned_where_they_lie() -> None:
        with in_processes(Sized(*[20_000] * 20), "forkserver") as loader:
            loader.lock_pages(CudaPageLock())
            assert all(as_tensors(array).is_pinned() for array in loader)
