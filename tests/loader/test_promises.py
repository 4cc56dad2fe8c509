"""What a loader promises, over every pool: one suite, the same bytes."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import pickle
import random
import resource
import subprocess
import sys
import textwrap
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import pytest

from feedline import (
    BatchTimeoutError,
    DatasetEncodingError,
    Loader,
    LoaderBusyError,
    LoaderClosedError,
    LoaderError,
    PyDataset,
    get_worker_info,
)
from feedline.pool import size_of
from tests import datasets
from tests.datasets import PATIENCE, Gate, block, wait_until
from tests.likeness import same
from tests.optional import needs_torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT = Path(__file__).parents[2]


class PortableLoader(Loader):
    """Does without what only Linux has."""

    _portable = True


KINDS: dict[str, dict[str, Any]] = {
    "inline": {"workers": 0},
    "thread": {"workers": 2},
    **{
        method: {"workers": 2, "use_multiprocessing": True, "start_method": method}
        for method in ("fork", "forkserver", "spawn")
    },
}
QUICK = ["inline", "thread", "fork"]  # no Python has to start anew
POOLS = ["thread", "fork", "forkserver", "spawn"]
PROCESSES = ["fork", "forkserver", "spawn"]
PORTABLE = ["portable fork", "portable spawn"]


class OpenLoader(Protocol):
    """Opens loaders of one kind."""

    kind: str

    def __call__(self, dataset: Any, **options: Any) -> Loader: ...


class _Opener:
    def __init__(self, kind: str, opened: ExitStack) -> None:
        self.kind = kind
        self._opened = opened

    def __call__(self, dataset: Any, **options: Any) -> Loader:
        method = self.kind.removeprefix("portable ")
        make = Loader if method == self.kind else PortableLoader
        return self._opened.enter_context(make(dataset, **{**KINDS[method], **options}))


@pytest.fixture(params=list(KINDS))
def open_loader(request: pytest.FixtureRequest) -> Iterator[OpenLoader]:
    """Open loaders of one kind; close them all when the test ends."""
    with ExitStack() as opened:
        yield _Opener(request.param, opened)


def over(*kinds: str) -> pytest.MarkDecorator:
    """Run a test over these kinds instead of all."""
    return pytest.mark.parametrize("open_loader", kinds, indirect=True)


core = over(*KINDS, *PORTABLE)
pools = over(*POOLS)
processes = over(*PROCESSES)
quick = over(*QUICK)


def checked(batches: Iterable[Any]) -> list[int]:
    """The indices of ``Blocks`` batches, each compared byte for byte."""
    indices = []
    for index, array in batches:
        right = block(index, len(array))
        assert array.dtype == right.dtype
        assert array.tobytes() == right.tobytes(), index
        indices.append(index)
    return indices


def digest(batches: Iterable[Any]) -> str:
    """Names the bytes of batches, in their order."""
    sum_ = hashlib.sha256()
    for batch in batches:
        sum_.update(pickle.dumps(batch, protocol=4))
    return sum_.hexdigest()


def run_script(
    text: str, folder: Path, *, options: tuple[str, ...] = (), limit: float = 30.0
) -> subprocess.CompletedProcess[str]:
    """Run a program of its own, with a hard limit."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(text))
    return subprocess.run(
        [sys.executable, *options, str(script)],
        capture_output=True,
        text=True,
        timeout=limit,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


# Order, exactly once, the same bytes


@core
def test_batches_come_in_order_once_in_every_epoch(open_loader: OpenLoader) -> None:
    loader = open_loader(datasets.Blocks(25))
    for _ in range(3):
        assert checked(loader) == list(range(25))
    assert len(loader) == 25
    assert loader.stats().batches == 75
    assert loader.stats().epochs == 3


def test_shuffled_epochs_are_permutations_and_the_same_in_every_pool(
    open_loader: OpenLoader,
) -> None:
    loader = open_loader(datasets.Blocks(40), shuffle=True, seed=5)
    orders = [checked(loader) for _ in range(3)]
    with Loader(datasets.Blocks(40), workers=0, shuffle=True, seed=5) as inline:
        assert orders == [checked(inline) for _ in range(3)]
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


@core
def test_a_batch_has_the_same_rng_in_every_pool(open_loader: OpenLoader) -> None:
    loader = open_loader(datasets.RngDraws(10), seed=11, shuffle=True)
    first, second = list(loader), list(loader)
    with Loader(datasets.RngDraws(10), workers=0, seed=11, shuffle=True) as inline:
        assert digest(first) == digest(inline)
        assert digest(second) == digest(inline)
    assert digest(first) != digest(second)
    assert len({seed for *_, seed in [*first, *second]}) == 20


@over("inline", "fork", "forkserver", "spawn")
def test_global_generators_give_the_same_draws_inline_and_in_processes(
    open_loader: OpenLoader,
) -> None:
    loader = open_loader(datasets.GlobalDraws(6), seed=3)
    draws = [*loader, *loader]
    with Loader(datasets.GlobalDraws(6), workers=0, seed=3) as inline:
        assert digest(draws) == digest([*inline, *inline])
    assert len({value for _, value, _ in draws}) == 12
    assert len({values[0] for *_, values in draws}) == 12


@needs_torch
@over("inline", "fork", "forkserver", "spawn")
def test_torch_s_generator_gives_the_same_draws_inline_and_in_processes(
    open_loader: OpenLoader,
) -> None:
    init = None if open_loader.kind == "inline" else datasets.import_torch
    loader = open_loader(datasets.TorchDraws(6), seed=3, worker_init_fn=init)
    draws = [*loader, *loader]
    with Loader(datasets.TorchDraws(6), workers=0, seed=3) as inline:
        assert digest(draws) == digest([*inline, *inline])
    assert len({first for _, first, *_ in draws}) == 12


def test_loading_leaves_the_callers_own_draws_alone(open_loader: OpenLoader) -> None:
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    list(open_loader(datasets.RngDraws(4)))
    assert (random.random(), np.random.random()) == expected


@pools
def test_the_number_of_workers_does_not_change_a_byte(open_loader: OpenLoader) -> None:
    with Loader(datasets.RngDraws(9), workers=0, seed=8) as inline:
        expected = digest(inline)
    for workers in (1, 3):
        loader = open_loader(datasets.RngDraws(9), seed=8, workers=workers)
        assert digest(loader) == expected


@over("thread", "fork")
def test_without_order_the_same_batches_come_as_they_are_built(
    open_loader: OpenLoader, tmp_path: Path
) -> None:
    loader = open_loader(datasets.Reversing(tmp_path), in_order=False)
    order = list(loader)
    assert 0 in order[-2:]  # the last one had begun before it, and ends when it likes
    assert sorted(order) == list(range(6))


def test_without_order_every_batch_comes_once(open_loader: OpenLoader) -> None:
    loader = open_loader(datasets.Blocks(30), in_order=False, shuffle=True)
    for _ in range(2):
        assert sorted(checked(loader)) == list(range(30))


def test_an_object_with_len_and_getitem_is_a_dataset(open_loader: OpenLoader) -> None:
    assert list(open_loader(datasets.Bare())) == [0, 10, 20, 30, 40]


# The bound


@pools
@pytest.mark.parametrize("bound", [1, 3])
def test_no_more_than_max_queue_size_batches_are_started_ahead(
    open_loader: OpenLoader, tmp_path: Path, bound: int
) -> None:
    dataset = datasets.Reporting(tmp_path)
    loader = open_loader(dataset, max_queue_size=bound)
    iterator = iter(loader)
    taken = [int(next(iterator)[0]) for _ in range(4)]
    assert taken == [0, 1, 2, 3]
    # Orders may be sent in portions, but never beyond the bound.
    with pytest.raises(TimeoutError):
        dataset.gate.await_arrival(4 + bound, seconds=0.2)
    assert [int(batch[0]) for batch in iterator] == list(range(4, 24))


@over("thread", "fork")
def test_a_consumer_that_waits_finds_the_queue_full(
    open_loader: OpenLoader, tmp_path: Path
) -> None:
    dataset = datasets.Reporting(tmp_path)
    iterator = iter(open_loader(dataset, max_queue_size=4))
    next(iterator)
    for index in range(4):
        dataset.gate.await_arrival(index)
    list(iterator)


@over("thread", "fork")
def test_max_bytes_bounds_what_is_started_ahead(
    open_loader: OpenLoader, tmp_path: Path
) -> None:
    dataset = datasets.Reporting(tmp_path, size=100_000)
    iterator = iter(open_loader(dataset, max_bytes="350KB", max_queue_size=20))
    next(iterator)
    with pytest.raises(TimeoutError):
        dataset.gate.await_arrival(1 + 3, seconds=0.2)
    assert len(list(iterator)) == 23


@over("thread", *PROCESSES)
def test_max_bytes_is_exceeded_by_one_batch_of_each_worker_at_most(
    open_loader: OpenLoader, tmp_path: Path
) -> None:
    dataset = datasets.Uneven(tmp_path, length=60)
    loader = open_loader(dataset, max_bytes="1.5MB", max_queue_size=30)
    most = 0
    for taken, batch in enumerate(loader):
        assert len(batch) == dataset.bytes_of(taken)
        begun = {int(name) for name in dataset.gate.arrived()} - set(range(taken))
        most = max(most, sum(map(dataset.bytes_of, begun)))
    assert 2_000_000 <= most <= 1_500_000 + loader.options.workers * 1_000_000


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        ([b"12345", "678"], 8),
        ({"x": np.zeros(10, "f4"), "y": (bytearray(3), None)}, 44),
        ([], 1),
        (object(), 1),
    ],
    ids=["strings", "nested", "empty", "unknown"],
)
def test_max_bytes_counts_arrays_and_text_in_any_nesting(batch: Any, size: int) -> None:
    assert size_of(batch) == size


def test_an_epoch_without_end_has_no_random_order() -> None:
    with pytest.raises(ValueError, match=r"dataset with an end, got num_batches=None"):
        Loader(datasets.Blocks(None), shuffle=True)


def test_one_batch_larger_than_max_bytes_still_comes(open_loader: OpenLoader) -> None:
    loader = open_loader(datasets.Blocks(5, size=50_000), max_bytes=1000)
    assert checked(loader) == list(range(5))


def test_the_bound_may_exceed_what_a_pipe_holds() -> None:
    dataset = datasets.Numbers(9000)
    with Loader(dataset, **KINDS["fork"], max_queue_size=8000) as loader:
        assert list(loader) == list(range(9000))
        for number, _ in zip(range(5), loader, strict=False):
            assert number < 5
        assert list(loader) == list(range(9000))


# Hooks


@core
def test_what_either_hook_changes_is_seen_by_every_batch_of_the_next_epoch(
    open_loader: OpenLoader,
) -> None:
    dataset = datasets.Stateful()
    loader = open_loader(dataset)
    pids: list[set[int]] = []
    for epoch in range(4):
        level = float(epoch + 1 + 1000 * epoch)
        batches = list(loader)
        assert [batch[:5] for batch in batches] == [
            (index, epoch + 1, epoch, level, level) for index in range(len(dataset))
        ]
        pids.append({batch[5] for batch in batches})
    steps = [step for _ in range(4) for step in ("begin", "end")]
    assert dataset.calls == [(step, os.getpid()) for step in steps]
    workers = len(set.union(*pids))
    assert workers <= (1 if open_loader.kind in {"inline", "thread"} else 2)


@pools
def test_no_worker_reads_a_stale_state_in_1000_epochs(open_loader: OpenLoader) -> None:
    dataset = datasets.Stateful(4, large=10_000)
    loader = open_loader(dataset)
    workers: set[int] = set()
    for epoch in range(1000):
        level = float(epoch + 1 + 1000 * epoch)
        for number, (*state, pid) in enumerate(loader):
            assert state == [number, epoch + 1, epoch, level, level]
            workers.add(pid)
    assert loader.stats().batches == 4000
    assert len(workers) <= (1 if open_loader.kind == "thread" else 2)


@core
def test_what_the_user_changes_between_epochs_is_seen(open_loader: OpenLoader) -> None:
    dataset = datasets.Blocks(4, 5000)
    loader = open_loader(dataset)
    assert checked(loader) == [0, 1, 2, 3]
    dataset.size = 9000
    assert [len(array) for _, array in loader] == [9000] * 4
    dataset.size = 5000
    assert [len(array) for _, array in loader] == [5000] * 4


class FirstValues(datasets.Stateful):
    """Tells one value of the large array and writes over it afterwards."""

    def on_epoch_begin(self) -> None:
        pass

    on_epoch_end = on_epoch_begin

    def __getitem__(self, index: int) -> Any:
        return float(self.large[index])


def test_a_large_array_changed_in_place_and_back_is_seen_each_time(
    open_loader: OpenLoader,
) -> None:
    dataset = FirstValues()
    loader = open_loader(dataset)
    for value in (0.0, 7.0, 0.0, 7.0, 8.0, 7.0):
        dataset.large[:] = value
        assert list(loader) == [value] * len(dataset)


def test_a_slow_hook_runs_while_no_batch_is_being_built(tmp_path: Path) -> None:
    class Watched(PyDataset):
        building = 0
        overlaps = 0

        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> int:
            self.building += 1
            gate.arrive(index)
            if index == 1:
                gate.pass_through("late")
            self.building -= 1
            return index

        def on_epoch_begin(self) -> None:
            self.overlaps += self.building

    gate = Gate(tmp_path)
    dataset = Watched()
    with Loader(dataset, workers=2) as loader, ThreadPoolExecutor(1) as other:
        iterator = iter(loader)
        next(iterator)
        gate.await_arrival("late")
        del iterator  # as a break does
        second = other.submit(list, loader)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.2)  # the hook waits for batch 1
        gate.let_all()
        assert second.result(timeout=PATIENCE) == list(range(8))
    assert dataset.overlaps == 0


def test_a_dataset_that_cannot_be_pickled_is_forked_anew_for_each_epoch() -> None:
    dataset = datasets.Unpicklable()
    with Loader(dataset, **KINDS["fork"]) as loader:
        pids: list[set[int]] = []
        for epoch in range(3):
            batches = list(loader)
            level = float(epoch + 1 + 1000 * epoch)
            assert [batch[:5] for batch in batches] == [
                (index, epoch + 1, epoch, level, level) for index in range(8)
            ]
            pids.append({batch[5] for batch in batches})
        assert not pids[0] & pids[1]
        assert not pids[1] & pids[2]


@over("forkserver", "spawn")
def test_a_dataset_that_cannot_be_pickled_is_refused_by_the_name_of_the_attribute(
    open_loader: OpenLoader,
) -> None:
    loader = open_loader(datasets.Unpicklable())
    for _ in range(2):
        with pytest.raises(DatasetEncodingError, match=r"dataset\.lock is of type"):
            list(loader)


@quick
def test_an_epoch_whose_hook_raised_is_the_next_one_still(
    open_loader: OpenLoader,
) -> None:
    class Once(datasets.Numbers):
        seen: ClassVar[list[int]] = []

        def on_epoch_begin(self) -> None:
            self.seen.append(loader.epoch)
            if len(self.seen) == 2:
                raise ValueError("not today")

    loader = open_loader(Once(6), shuffle=True, seed=3)
    first = list(loader)
    with pytest.raises(ValueError, match="not today"):
        list(loader)
    state = loader.state_dict()
    second = list(loader)
    assert Once.seen == [0, 1, 1]
    with Loader(datasets.Numbers(6), workers=0, shuffle=True, seed=3) as inline:
        assert [first, second] == [list(inline), list(inline)]
        inline.load_state_dict(state)
        assert list(inline) == second


@over("forkserver", "spawn")
def test_an_epoch_whose_dataset_cannot_be_sent_is_the_next_one_still(
    open_loader: OpenLoader,
) -> None:
    dataset = datasets.Stateful(6)
    dataset.lock = threading.Lock()  # type: ignore[attr-defined]
    loader = open_loader(dataset)
    for _ in range(2):
        with pytest.raises(DatasetEncodingError, match="lock"):
            list(loader)
    assert (loader.epoch, dataset.begun) == (0, 1)
    del dataset.lock  # type: ignore[attr-defined]
    assert len(list(loader)) == 6
    assert (loader.epoch, dataset.begun, dataset.ended) == (1, 1, 1)


@quick
@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_epoch_end"])
def test_a_hook_that_raises_ends_its_epoch_and_no_other(
    open_loader: OpenLoader, hook: str
) -> None:
    dataset = datasets.HookRaises(hook, epoch=1)
    loader = open_loader(dataset)
    assert list(loader) == list(range(12))
    seen: list[int] = []
    with pytest.raises(LookupError, match=f"^{hook} failed$"):
        seen.extend(loader)
    assert seen == ([] if hook == "on_epoch_begin" else list(range(12)))
    assert list(loader) == list(range(12))


@quick
def test_on_epoch_end_runs_only_when_the_epoch_was_consumed_whole(
    open_loader: OpenLoader,
) -> None:
    dataset = datasets.Stateful()
    loader = open_loader(dataset)
    iterator = iter(loader)
    for _ in range(8):
        next(iterator)
    assert dataset.ended == 0
    assert next(iterator, None) is None
    assert dataset.ended == 1
    for _ in loader:
        break
    assert (dataset.begun, dataset.ended) == (2, 1)


@core
def test_an_epoch_after_an_early_break_is_exact(open_loader: OpenLoader) -> None:
    dataset = datasets.Stateful(20)
    loader = open_loader(dataset, max_queue_size=7)
    for number in (1, 3, 7, 1):
        for _ in islice(loader, number):
            pass
        begun = dataset.begun + 1
        assert [batch[:2] for batch in loader] == [(i, begun) for i in range(20)]


@quick
def test_a_hook_may_change_the_length(open_loader: OpenLoader) -> None:
    loader = open_loader(datasets.Growing(0))
    assert [list(loader) for _ in range(3)] == [[0], [0, 1], [0, 1, 2]]


# Errors


def seen_before_error(
    loader: Loader, kind: type[BaseException], words: str
) -> tuple[list[Any], BaseException]:
    """One epoch that must raise: what came before, and the error."""
    seen: list[Any] = []
    with pytest.raises(kind, match=words) as caught:
        seen.extend(loader)
    return seen, caught.value


@quick
def test_skipped_batches_are_left_out_and_counted(
    open_loader: OpenLoader, caplog: pytest.LogCaptureFixture
) -> None:
    loader = open_loader(datasets.Raises(5, "chained"), on_error="skip")
    with caplog.at_level(logging.WARNING, "feedline"):
        assert list(loader) == [0, 1, 2, 3, 4, 6, 7]
    assert loader.stats().skipped == 1
    assert "batch 5 of epoch 0 is left out: ValueError('outer')" in caplog.text
    assert list(loader) == [0, 1, 2, 3, 4, 6, 7]
    assert loader.stats().skipped == 2


@quick
def test_a_keyboard_interrupt_in_a_batch_is_never_skipped(
    open_loader: OpenLoader,
) -> None:
    loader = open_loader(datasets.Raises(5, "KeyboardInterrupt"), on_error="skip")
    seen, _ = seen_before_error(loader, KeyboardInterrupt, "in a batch")
    assert seen == [0, 1, 2, 3, 4]


@quick
def test_a_batch_is_tried_again_as_often_as_asked(
    open_loader: OpenLoader, tmp_path: Path
) -> None:
    loader = open_loader(datasets.RaisesTwice(tmp_path), retries=2)
    assert list(loader) == list(range(6))
    assert loader.stats().retries == 12


@quick
def test_a_batch_is_not_tried_more_often_than_asked(
    open_loader: OpenLoader, tmp_path: Path
) -> None:
    loader = open_loader(datasets.RaisesTwice(tmp_path), retries=1)
    seen, _ = seen_before_error(loader, OSError, "attempt 1")
    assert seen == []


@pools
def test_worker_init_fn_runs_in_each_worker_with_its_number(
    open_loader: OpenLoader,
) -> None:
    loader = open_loader(
        datasets.Remembered(), worker_init_fn=datasets.Remember(offset=100)
    )
    assert list(loader) == [100] * 12


@pools
def test_a_worker_init_fn_that_fails_is_that_error_each_time(
    open_loader: OpenLoader,
) -> None:
    loader = open_loader(datasets.Numbers(), worker_init_fn=datasets.fail_in_worker)
    for _ in range(2):
        seen, _ = seen_before_error(loader, OSError, "no licence for worker [01]")
        assert seen == []


def test_a_worker_init_fn_that_fails_in_one_thread_leaves_no_other(
    tmp_path: Path,
) -> None:
    broken = True

    def init(worker: int) -> None:
        if worker == 1 and broken:
            raise OSError("one")

    dataset = datasets.Gated(tmp_path)
    with Loader(dataset, workers=2, worker_init_fn=init) as loader:
        for number in range(3):
            folder = tmp_path / str(number)
            folder.mkdir()
            gate = dataset.gate = Gate(folder)  # holds the other thread's batch back
            seen, _ = seen_before_error(loader, OSError, "one")
            assert seen == []
            gate.let_all()
        broken = False
        assert list(loader) == list(range(12))
        names = [t.name for t in threading.enumerate() if "feedline" in t.name]
        assert sorted(names) == ["feedline-0", "feedline-1"]


@over("thread", "fork")
def test_a_timeout_names_the_batch_and_the_stack_and_the_loader_goes_on(
    open_loader: OpenLoader, tmp_path: Path
) -> None:
    dataset = datasets.Slow(tmp_path)
    loader = open_loader(dataset, timeout=1.0)
    seen, error = seen_before_error(loader, BatchTimeoutError, r"^batch 3 took longer")
    assert seen == [0, 1, 2]
    assert isinstance(error, BatchTimeoutError)
    assert (error.index, error.seconds) == (3, 1.0)
    assert "hang_here" in error.where
    dataset.gate.arrive("over")
    assert list(loader) == list(range(8))


# Lengths


@over(*PORTABLE)
def test_an_empty_dataset_has_empty_epochs_with_hooks_and_no_worker(
    open_loader: OpenLoader,
) -> None:
    dataset = datasets.Stateful(0)
    loader = open_loader(dataset)
    assert list(loader) == []
    assert list(loader) == []
    assert (dataset.begun, dataset.ended) == (2, 2)
    assert not getattr(loader._pool, "pids", [])
    assert not [t for t in threading.enumerate() if t.name.startswith("feedline")]


def test_a_dataset_without_end_goes_on_and_starts_anew(open_loader: OpenLoader) -> None:
    loader = open_loader(datasets.Blocks(None))
    assert checked(islice(loader, 50)) == list(range(50))
    assert checked(islice(loader, 20)) == list(range(20))
    with pytest.raises(TypeError, match="no length"):
        len(loader)


# What the consumer keeps, and what it writes


@over(*PORTABLE)
def test_kept_batches_stay_intact_under_a_flood_and_after_close(
    open_loader: OpenLoader,
) -> None:
    loader = open_loader(datasets.Blocks(30, size=20_000), max_queue_size=5)
    kept = list(loader)
    parts = [array[7:9] for _, array in loader]  # a part keeps the whole alive
    for _ in range(3):
        assert checked(loader) == list(range(30))
    loader.close()
    assert checked(kept) == list(range(30))
    assert [part.tolist() for part in parts] == [
        block(index, 20_000)[7:9].tolist() for index in range(30)
    ]


def test_memory_of_batches_that_are_gone_is_used_again() -> None:
    with Loader(datasets.Blocks(60, size=250_000), **KINDS["fork"]) as loader:
        assert checked(loader) == list(range(60))
        pool: Any = loader._pool
        used = os.fstat(pool._dispatch.crew.slots.arena.fd).st_blocks * 512
    assert used < 2 * 10 * 250_000 * 8 + 30 * 2**20


@over(*PORTABLE)
def test_batches_of_every_type_arrive_as_they_were_made(
    open_loader: OpenLoader,
) -> None:
    made = datasets.odd_batches()
    arrived = list(open_loader(datasets.OddBatches(with_torch=False)))
    assert [name for name, _ in arrived] == list(made)
    assert [name for name, got in arrived if not same(got, made[name])] == []


# Going on where another loader was


def rest(state: dict[str, Any], **options: Any) -> list[Any]:
    """What a new loader gives, after the state, in this epoch and the next."""
    with Loader(datasets.RngDraws(20), **options) as loader:
        loader.load_state_dict(json.loads(json.dumps(state)))
        return [*loader, *loader]


@core
@pytest.mark.parametrize("shuffle", [False, True])
def test_another_loader_goes_on_at_the_next_batch(
    open_loader: OpenLoader, shuffle: bool
) -> None:
    with Loader(datasets.RngDraws(20), workers=0, seed=5, shuffle=shuffle) as inline:
        whole = [[*inline] for _ in range(3)]
    loader = open_loader(datasets.RngDraws(20), seed=5, shuffle=shuffle)
    list(loader)
    iterator = iter(loader)
    for taken in range(8):
        if taken:
            next(iterator)
        state = loader.state_dict()
        assert len(json.dumps(state)) < 1000
        assert (state["epoch"], state["position"]) == (1, taken)
    expected = digest([*whole[1][7:], *whole[2]])
    for options in KINDS["inline"], {"workers": 3}, KINDS["fork"] | {"workers": 5}:
        assert digest(rest(state, shuffle=shuffle, **options)) == expected
    other = open_loader(datasets.RngDraws(20), seed=5, shuffle=shuffle)
    other.load_state_dict(state)
    assert digest([*other, *other]) == expected
    assert digest(iterator) == digest(whole[1][7:])  # telling it disturbed nothing


@quick
def test_between_epochs_the_state_is_the_beginning_of_the_next(
    open_loader: OpenLoader,
) -> None:
    loader = open_loader(datasets.Numbers(4), seed=1)
    assert (loader.epoch, loader.state_dict()["position"]) == (0, 0)
    iterator = iter(loader)
    assert [next(iterator) for _ in range(4)] == [0, 1, 2, 3]
    assert (loader.epoch, loader.state_dict()["position"]) == (0, 4)
    last = loader.state_dict()
    assert next(iterator, None) is None
    assert (loader.epoch, loader.state_dict()["position"]) == (1, 0)
    other = open_loader(datasets.Numbers(4), seed=1)
    other.load_state_dict(last)  # nothing is left of that epoch but its end
    assert list(other) == []
    assert other.epoch == 1
    assert list(other) == [0, 1, 2, 3]


@quick
def test_after_a_break_the_state_is_where_it_was(open_loader: OpenLoader) -> None:
    loader = open_loader(datasets.Numbers(12), seed=1)
    for number in loader:
        if number == 4:
            break
    gc.collect()
    state = loader.state_dict()
    assert (state["epoch"], state["position"], state["missing"]) == (0, 5, [])
    assert list(loader) == list(range(12))  # by itself a loader begins anew
    loader.load_state_dict(state)
    assert list(loader) == list(range(5, 12))
    assert loader.epoch == 1


@quick
def test_a_batch_that_raised_was_not_received(open_loader: OpenLoader) -> None:
    loader = open_loader(datasets.Raises(5, "chained"), seed=1)
    with pytest.raises(ValueError, match="outer"):
        list(loader)
    loader.load_state_dict(loader.state_dict())
    loader.dataset.at = 99
    assert list(loader) == [5, 6, 7]


def test_a_batch_that_was_skipped_is_not_tried_again() -> None:
    dataset = datasets.Raises(5, "chained")
    with Loader(dataset, workers=2, on_error="skip") as loader:
        iterator = iter(loader)
        assert [next(iterator) for _ in range(6)] == [0, 1, 2, 3, 4, 6]
        state = loader.state_dict()
        iterator.close()
        dataset.at = 99
        loader.load_state_dict(state)
        assert list(loader) == [7]


@core
def test_an_epoch_taken_back_comes_again_whole_and_its_hook_does_not(
    open_loader: OpenLoader,
) -> None:
    dataset = datasets.Stateful()
    loader = open_loader(dataset, shuffle=True, seed=3)
    with Loader(datasets.Stateful(), workers=0, shuffle=True, seed=3) as inline:
        orders = [[batch[0] for batch in inline] for _ in range(3)]
    list(loader)
    for _ in range(2):
        look = iter(loader)
        next(look)
        look.close()
        loader.restart()
        assert (loader.epoch, loader.state_dict()["position"]) == (1, 0)
    dataset.large += 5
    for epoch in 1, 2:
        batches = list(loader)
        assert [batch[0] for batch in batches] == orders[epoch]
        # The hooks' state, and what was changed after the look, in every batch.
        assert {batch[1:3] for batch in batches} == {(epoch + 1, epoch)}
        assert {batch[3:5] for batch in batches} == {(epoch * 1001 + 6,) * 2}
    assert [name for name, _ in dataset.calls] == ["begin", "end"] * 3


@quick
def test_only_an_epoch_that_was_left_half_way_is_taken_back(
    open_loader: OpenLoader,
) -> None:
    loader = open_loader(datasets.Numbers(6), seed=1)
    with pytest.raises(LoaderError, match="no epoch was left half-way"):
        loader.restart()
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(LoaderBusyError, match="when none is under way"):
        loader.restart()
    assert list(iterator) == [1, 2, 3, 4, 5]
    with pytest.raises(LoaderError, match="no epoch was left half-way"):
        loader.restart()
    other = open_loader(datasets.Numbers(6), seed=1)
    state = loader.state_dict() | {"epoch": 4, "position": 2, "length": 6}
    other.load_state_dict(state)
    assert next(iter(other)) == 2
    gc.collect()
    other.restart()  # an epoch that was gone on with begins again where it was
    assert (other.epoch, list(other)) == (4, [2, 3, 4, 5])


@over("thread", "fork")
def test_out_of_order_what_is_left_is_what_was_not_received(
    open_loader: OpenLoader, tmp_path: Path
) -> None:
    dataset = datasets.Gated(tmp_path, 12)
    loader = open_loader(dataset, workers=4, in_order=False, seed=1, max_queue_size=4)
    iterator = iter(loader)
    for index in (1, 2, 3, 5, 6):
        dataset.gate.let(index)
    received = []
    for let in (None, None, None, 7, 8):
        if let is not None:
            dataset.gate.let(let)
        received.append(next(iterator))
    state = loader.state_dict()
    dataset.gate.let_all()
    iterator.close()
    with Loader(datasets.Numbers(12), workers=0) as other:
        other.load_state_dict(state)
        left = list(other)
        assert sorted([*received, *left]) == list(range(12))
        assert left == sorted(left)
        assert list(other) == list(range(12))


def test_a_loader_without_end_goes_on_too() -> None:
    with Loader(datasets.Blocks(None), workers=2) as loader:
        assert checked(islice(loader, 5)) == [0, 1, 2, 3, 4]
        state = loader.state_dict()
    with Loader(datasets.Blocks(None), workers=0) as loader:
        loader.load_state_dict(state)
        assert checked(islice(loader, 3)) == [5, 6, 7]


def test_a_far_position_is_reached_without_building_what_is_before_it() -> None:
    with Loader(datasets.Numbers(10**9), workers=0, shuffle=True, seed=3) as loader:
        state = loader.state_dict() | {"position": 10**9 - 2, "length": 10**9}
        loader.load_state_dict(state)
        assert len(list(loader)) == 2


def test_the_seed_is_taken_over_by_a_loader_without_one() -> None:
    with Loader(datasets.RngDraws(6), workers=2, shuffle=True) as loader:
        iterator = iter(loader)
        next(iterator)
        state = loader.state_dict()
        left = digest(iterator)
    with Loader(datasets.RngDraws(6), workers=2, shuffle=True) as other:
        list(other)  # with a seed of its own, which its pool knows
        other.load_state_dict(state)
        assert other.seed == loader.seed
        assert digest(other) == left


def test_a_state_of_another_order_is_refused_and_changes_nothing() -> None:
    with Loader(datasets.Numbers(6), workers=0, shuffle=True, seed=3) as loader:
        iterator = iter(loader)
        next(iterator)
        state = loader.state_dict()
        with pytest.raises(LoaderBusyError, match="between two epochs"):
            loader.load_state_dict(state)
        assert len(list(iterator)) == 5
    with Loader(datasets.Numbers(6), workers=0, shuffle=True, seed=4) as other:
        with pytest.raises(ValueError, match="seed=3, got it for one with seed=4"):
            other.load_state_dict(state)
        with pytest.raises(ValueError, match="must have format 1"):
            other.load_state_dict({**state, "format": None})
        assert sorted(other) == list(range(6))
    with (
        Loader(datasets.Numbers(6), workers=0, seed=3) as other,
        pytest.raises(ValueError, match="shuffle=True, got it for one with shuffle=F"),
    ):
        other.load_state_dict(state)
    with Loader(datasets.Numbers(7), workers=0, shuffle=True, seed=3) as other:
        other.load_state_dict(state)
        for _ in range(2):
            with pytest.raises(ValueError, match=r"epoch of 6 batches, got .* of 7"):
                list(other)
        other.dataset.length = 6
        assert len(list(other)) == 5
    with pytest.raises(LoaderClosedError):
        other.load_state_dict(state)


# More than one at once


@over(*PORTABLE)
def test_two_iterators_of_one_loader_are_exact_each(open_loader: OpenLoader) -> None:
    loader = open_loader(datasets.Blocks(15), shuffle=True, seed=2)
    left, right = iter(loader), iter(loader)
    pairs = list(zip(left, right, strict=True))
    assert sorted(checked(pair[0] for pair in pairs)) == list(range(15))
    assert sorted(checked(pair[1] for pair in pairs)) == list(range(15))


@processes
def test_a_second_epoch_is_refused_when_the_dataset_has_changed_in_the_first(
    open_loader: OpenLoader,
) -> None:
    dataset = datasets.Blocks(6)
    loader = open_loader(dataset)
    first = iter(loader)
    begun = [next(first)]
    dataset.size = 77
    with pytest.raises(LoaderBusyError, match="dataset was changed"):
        next(iter(loader))
    assert checked([*begun, *first]) == list(range(6))


def test_threads_may_start_worker_processes_at_the_same_time() -> None:
    import filelock  # noqa: F401 - forbids a fork beside another thread's

    def use(_: int) -> list[int]:
        with Loader(datasets.Blocks(3), **KINDS["fork"]) as loader:
            return checked(loader)

    with ThreadPoolExecutor(6) as others:
        assert list(others.map(use, range(30))) == [[0, 1, 2]] * 30


def test_an_iterator_that_is_over_keeps_no_loader() -> None:
    loader = Loader([1, 2], workers=0)
    iterator = iter(loader)
    assert list(iterator) == [1, 2]
    watch = weakref.ref(loader)
    del loader
    gc.collect()
    assert watch() is None
    assert next(iterator, None) is None


def test_an_iterator_is_not_closed_under_a_thread_that_waits_for_it(
    open_loader: OpenLoader, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    iterator = iter(open_loader(datasets.Gated(tmp_path, 3)))
    with ThreadPoolExecutor(1) as other:
        first = other.submit(next, iterator)
        gate.await_arrival(0)
        with pytest.raises(
            LoaderBusyError, match=r"another thread waits .* the loader"
        ):
            iterator.close()
        gate.let_all()
        first.result(timeout=PATIENCE)
    iterator.close()
    assert list(iterator) == []


# The end


def test_a_closed_loader_says_so(open_loader: OpenLoader) -> None:
    loader = open_loader(datasets.Numbers())
    assert list(loader) == list(range(12))
    loader.close()
    loader.close()
    with pytest.raises(LoaderClosedError, match="make a new Loader"):
        iter(loader)
    assert loader.stats().batches == 12


@core
def test_closing_in_mid_epoch_ends_the_iterator_with_an_error(
    open_loader: OpenLoader,
) -> None:
    loader = open_loader(datasets.Numbers())
    iterator = iter(loader)
    assert next(iterator) == 0
    loader.close()
    with pytest.raises(LoaderClosedError, match="make a new Loader"):
        next(iterator)
    with pytest.raises(StopIteration):
        next(iterator)


class SlowToSend(datasets.Numbers):
    """Takes its time to be pickled."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.gate = Gate(folder)

    def __getstate__(self) -> dict[str, Any]:
        self.gate.pass_through("pickled")
        return self.__dict__


@processes
def test_closing_while_another_thread_begins_an_epoch_leaves_no_workers(
    open_loader: OpenLoader, tmp_path: Path
) -> None:
    dataset = SlowToSend(tmp_path)
    loader = open_loader(dataset)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(next, iter(loader))
        dataset.gate.await_arrival("pickled")
        pool: Any = loader._pool
        crew = pool._dispatch.crew
        closing = threads.submit(loader.close)
        wait_until(lambda: crew.leaving, "close() is under way")
        dataset.gate.let_all()
        with pytest.raises(LoaderClosedError):
            first.result()
        closing.result()
    assert pool._dispatch is None
    assert pool.pids == []


class Watched(datasets.Numbers):
    """Knows which of its arrays are alive, in threads."""

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.made: list[weakref.ref[Any]] = []

    def __getitem__(self, index: int) -> Any:
        array = block(index)
        self.made.append(weakref.ref(array))
        return array

    def alive(self) -> int:
        return sum(array() is not None for array in self.made)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "made": []}


@over("thread", "fork")
def test_batches_that_were_ready_are_dropped_with_their_epoch(
    open_loader: OpenLoader,
) -> None:
    dataset = Watched(3)
    loader = open_loader(dataset, max_queue_size=3)
    batches = iter(loader)
    next(batches)
    epoch = loader._epochs[0]
    while len(epoch._delivery._ready) < 2:
        epoch._hear(None, [epoch])
    pool: Any = loader._pool

    def alive() -> int:
        if open_loader.kind == "fork":
            leased: int = pool._dispatch.crew.slots.leased
            return leased
        return dataset.alive()

    assert alive() >= 2
    batches.close()
    assert alive() == 0


def test_answers_that_nobody_has_heard_are_dropped_when_threads_are_closed() -> None:
    dataset = Watched(4)
    loader = Loader(dataset, workers=2)
    batches = iter(loader)
    next(batches)
    wait_until(lambda: len(dataset.made) == 4, "all are built")
    loader.close()
    with pytest.raises(LoaderClosedError):
        next(batches)
    assert dataset.alive() == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_was_not_used_yet_travels_by_pickle(workers: int) -> None:
    loader = Loader(range(5), workers=workers, shuffle=True, seed=3)
    with pickle.loads(pickle.dumps(loader)) as twin:
        assert list(twin) == list(loader)
        assert twin.seed == 3
    loader.close()


@pools
def test_a_loader_dropped_unclosed_warns_and_leaves_nothing(
    open_loader: OpenLoader,
) -> None:
    dataset = datasets.Numbers()
    loader = Loader(dataset, **KINDS[open_loader.kind])
    iterator = iter(loader)
    assert next(iterator) == 0
    del iterator
    with pytest.warns(ResourceWarning, match=r"unclosed <Loader of Numbers"):
        del loader


def test_worker_info_tells_worker_batch_and_epoch(open_loader: OpenLoader) -> None:
    assert get_worker_info() is None
    loader = open_loader(datasets.Infos())
    for epoch in range(2):
        infos = list(loader)
        assert [info[0] for info in infos] == list(range(12))
        workers = loader.options.workers
        for index, worker, count, seen_epoch, seen_index, seed in infos:
            assert (seen_index, seen_epoch, count) == (index, epoch, workers)
            assert 0 <= worker < max(1, workers)
            assert 0 <= seed < 2**64
    assert get_worker_info() is None


# Code that cannot be imported by name


@core
def test_a_local_class_with_a_lambda_is_a_dataset(open_loader: OpenLoader) -> None:
    class Local(PyDataset):
        def __init__(self) -> None:
            super().__init__()
            self.make: Callable[[int], Any] = lambda index: (index, block(index))

        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> Any:
            return self.make(index)

    loader = open_loader(Local())
    assert checked(loader) == list(range(6))
    loader.dataset.make = lambda index: (index + 1, block(index + 1))
    assert checked(loader) == list(range(1, 7))


@pytest.mark.parametrize("method", PROCESSES)
def test_a_class_of_the_main_script_is_a_dataset_and_a_batch(
    method: str, tmp_path: Path
) -> None:
    done = run_script(
        f"""
        from dataclasses import dataclass
        from feedline import Loader, PyDataset

        @dataclass
        class Sample:
            value: int

        class Mine(PyDataset):
            scale = 1
            def __len__(self):
                return 5
            def __getitem__(self, index):
                if index == 4:
                    raise MyError(index)
                return Sample(index * self.scale)

        class MyError(Exception):
            pass

        if __name__ == "__main__":
            dataset = Mine()
            with Loader(dataset, workers=2, use_multiprocessing=True,
                        start_method={method!r}) as loader:
                for scale in (1, 2):
                    dataset.scale = scale
                    seen = []
                    try:
                        for batch in loader:
                            seen.append(batch)
                    except MyError:
                        pass
                    assert seen == [Sample(scale * k) for k in range(4)], seen
                    assert all(type(s) is Sample for s in seen)
            print("fine")
        """,
        tmp_path,
        options=("-Werror",),
    )
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


# Sizes


def test_descriptors_above_1024_work() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.fail(f"this test needs 2048 descriptors, the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        with Loader(datasets.Blocks(12), **KINDS["fork"]) as loader:
            assert checked(loader) == list(range(12))
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_workers_start_only_with_the_first_epoch_and_stay(tmp_path: Path) -> None:
    with Loader(datasets.Pids(tmp_path), **KINDS["fork"]) as loader:
        assert loader._pool is None
        first = {pid for _, pid in loader}
        second = {pid for _, pid in loader}
        assert len(first | second) <= 2
        pids = set(loader._pool.pids)  # type: ignore[attr-defined]
        assert pids >= first | second
    wait_until(
        lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "they end"
    )
