"""Ctrl-C between two steps of the engine: nothing is lost, built twice or left."""

from __future__ import annotations

import multiprocessing
import threading
import time
import uuid
from collections import Counter
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from feedline import Loader, get_worker_info
from tests import datasets
from tests.datasets import PATIENCE, wait_until
from tests.loader.test_promises import KINDS

from .programs import in_child, program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Counted(datasets.Numbers):
    """Counts, in a folder, how often each batch of each epoch was built."""

    def __init__(self, folder: Path, length: int = 12) -> None:
        super().__init__(length)
        self.folder = folder

    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        assert info is not None
        (self.folder / f"{info.epoch} {index} {uuid.uuid4()}").touch()
        return index

    def built(self, epoch: int) -> Counter[int]:
        names = [path.name.split() for path in self.folder.glob("* * *")]
        return Counter(int(name[1]) for name in names if name[0] == str(epoch))


def interrupt(owner: Any, method: str, calls: int = 1) -> None:
    """Have the n-th call of a method do its work, and then be interrupted, once."""
    real, numbers = getattr(owner, method), count(1)

    def interrupted(*args: Any, **options: Any) -> Any:
        result = real(*args, **options)
        if next(numbers) == calls:
            setattr(owner, method, real)
            raise KeyboardInterrupt
        return result

    setattr(owner, method, interrupted)


@pytest.mark.parametrize("kind", ["inline", "thread", "fork"])
def test_after_an_interrupt_the_next_epoch_is_built_once(
    kind: str, tmp_path: Path
) -> None:
    dataset = Counted(tmp_path)
    with Loader(dataset, **KINDS[kind], max_queue_size=5) as loader:
        batches = iter(loader)
        assert next(batches) == 0
        interrupt(loader._pool, "collect")
        with pytest.raises(KeyboardInterrupt):
            list(batches)
        for epoch in (1, 2):
            assert list(loader) == list(range(12))
            assert dataset.built(epoch) == Counter(range(12))


class Held(Counted):
    """Batches of the second epoch, but for the first, wait in their workers."""

    def __init__(self, folder: Path, *, fail: bool = False) -> None:
        super().__init__(folder, 8)
        self.gate = datasets.Gate(folder / "gate")
        self.gate.folder.mkdir()
        self.fail = fail  # the first try of each

    def __getitem__(self, index: int) -> Any:
        batch = super().__getitem__(index)
        info = get_worker_info()
        assert info is not None
        if info.epoch == 1 and index and self.gate.arrive(index):
            if info.num_workers:
                self.gate.pass_through("go")
            if self.fail:
                raise OSError(index)
        return batch


@pytest.mark.parametrize("kind", ["inline", "fork"])
def test_after_an_interrupt_of_one_iterator_another_builds_nothing_twice(
    kind: str, tmp_path: Path
) -> None:
    dataset = Held(tmp_path)
    options = {**KINDS[kind], "max_queue_size": 2}
    if kind == "fork":
        options["workers"] = 3  # two for what is held, one for the rest
    with Loader(dataset, **options) as loader:
        left, right = iter(loader), iter(loader)
        assert (next(left), next(right)) == (0, 0)
        if kind == "fork":
            dataset.gate.await_arrival(1)
            dataset.gate.await_arrival(2)
        interrupt(loader._pool, "collect")
        with pytest.raises(KeyboardInterrupt):
            list(left)
        dataset.gate.let_all()
        assert list(right) == list(range(1, 8))
        # In the calling thread, the interrupted call had built one of them.
        lost = 1 if kind == "inline" else 0
        assert (dataset.built(1) - Counter(range(8))).total() == lost


def test_a_batch_that_an_interrupt_had_built_twice_is_not_tried_again_after_it_came(
    tmp_path: Path,
) -> None:
    dataset = Held(tmp_path, fail=True)
    options: dict[str, Any] = {"retries": 1, "retry_delay": 0.2, "max_queue_size": 3}
    with Loader(dataset, workers=4, **options) as loader:
        left, right = iter(loader), iter(loader)
        assert (next(left), next(right)) == (0, 0)
        for index in (1, 2, 3):
            dataset.gate.await_arrival(index)
        interrupt(loader._pool, "collect")
        with pytest.raises(KeyboardInterrupt):
            list(left)
        pool: Any = loader._pool
        collect, later = pool.collect, loader._epochs[-1]._later

        def collect_at_last(deadline: float | None) -> Any:
            # All three were asked for again, and the fourth thread builds them.
            pool.collect = collect
            dataset.gate.let_all()
            answers = pool._shared.answers
            wait_until(lambda: answers.qsize() >= 6, "both answers for each")
            return collect(deadline)

        pool.collect = collect_at_last
        seen = []
        for batch in right:
            seen.append(batch)
            while later and time.monotonic() < later[0][0]:
                loader._epochs[-1]._hear(later[0][0], [loader._epochs[-1]])
        assert seen == list(range(1, 8))


def test_an_interrupt_while_workers_are_replaced_leaves_none_without_work() -> None:
    options: dict[str, Any] = {"max_queue_size": 3, "timeout": 10.0}
    with Loader(datasets.Numbers(), **KINDS["fork"], **options) as loader:
        iterators = [iter(loader) for _ in range(3)]
        assert [next(iterator) for iterator in iterators] == [0, 0, 0]
        pool: Any = loader._pool
        interrupt(pool._dispatch, "turn")  # which leaves the crew in no known state
        with pytest.raises(KeyboardInterrupt):
            list(iterators[0])
        assemble = pool._assemble

        def assembled() -> Any:
            pool._assemble = assemble
            dispatch = assemble()
            interrupt(dispatch.versions, "renew")
            return dispatch

        pool._assemble = assembled
        with pytest.raises(KeyboardInterrupt):
            list(iterators[1])
        assert list(iterators[2]) == list(range(1, 12))


IMPATIENT = """
import multiprocessing, os, signal, threading
from pathlib import Path
from feedline import Loader
from tests.datasets import Hangs

if __name__ == "__main__":
    # A thread that is open to signals, as those of compiled libraries are.
    over = threading.Event()
    helper = threading.Thread(target=over.wait)
    helper.start()
    dataset = Hangs(Path({folder!r}), {{1: ["C"]}})
    loader = Loader(dataset, {options})
    batches = iter(loader)
    assert next(batches) == 0
    dataset.gate.await_arrival("1-0")
    pipes = loader._pool._dispatch.crew.pipes
    hang_up = pipes.hang_up

    def while_it_closes():
        hang_up()
        os.kill(os.getpid(), signal.SIGINT)

    pipes.hang_up = while_it_closes
    try:
        loader.close()
    except KeyboardInterrupt:
        print("interrupted")
    over.set()
    helper.join()
    print(multiprocessing.active_children())
"""


def test_an_interrupt_while_it_closes_leaves_no_worker_that_hangs(
    tmp_path: Path,
) -> None:
    options = "workers=2, use_multiprocessing=True, start_method='fork'"
    text = IMPATIENT.format(options=options, folder=str(tmp_path))
    with program(text, tmp_path) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    assert (output, errors) == ("interrupted\n[]\n", "")


@pytest.mark.parametrize("step", ["_those_left", "_part_with", "close"])
def test_an_interrupted_close_is_finished_by_the_next(step: str) -> None:
    loader = Loader(datasets.Numbers(), **KINDS["fork"])
    assert list(loader) == list(range(12))
    pool: Any = loader._pool
    crew = pool._dispatch.crew
    interrupt(crew, step)
    with pytest.raises(KeyboardInterrupt):
        loader.close()
    loader.close()
    assert crew.closed
    assert loader.stats().deaths == 0


def test_a_handler_may_close_what_is_being_closed() -> None:
    loader = Loader(datasets.Numbers(), **KINDS["fork"])
    assert list(loader) == list(range(12))
    pool: Any = loader._pool
    crew = pool._dispatch.crew
    part_with = crew._part_with

    def part(worker: int) -> None:
        crew._part_with = part_with
        part_with(worker)
        loader.close()

    crew._part_with = part
    loader.close()
    assert crew.closed


@pytest.mark.parametrize("at", ["close", "discard"])
def test_a_process_that_was_half_parted_with_is_parted_with(
    at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = Loader(datasets.Numbers(), **KINDS["fork"])
    assert list(loader) == list(range(12))
    pool: Any = loader._pool
    crew = pool._dispatch.crew
    process = crew._members[0].process
    if at == "close":
        interrupt(process, "close")
    else:
        children = Interrupting(multiprocessing.process)
        monkeypatch.setattr(multiprocessing.process, "_children", children)
    with pytest.raises(KeyboardInterrupt):
        loader.close()
    loader.close()
    assert crew.closed


class Interrupting(set[Any]):
    """The children of this process, interrupted when the first of them is discarded."""

    def __init__(self, module: Any) -> None:
        self.all = module._children
        super().__init__(self.all)
        self.first = True

    def discard(self, element: Any) -> None:
        super().discard(element)
        self.all.discard(element)
        if self.first:
            self.first = False
            raise KeyboardInterrupt


@contextmanager
def turn_taken(loader: Loader) -> Iterator[None]:
    """Have another thread in the middle of something with this loader."""
    taken, over = threading.Event(), threading.Event()

    def take() -> None:
        with loader._turn.lock:
            taken.set()
            over.wait()

    thread = threading.Thread(target=take)
    thread.start()
    taken.wait()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_close_that_another_thread_held_up_is_finished_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("feedline.process_pool._LEAVING", 0.01)
    loader = Loader(datasets.Numbers(), **KINDS["fork"])
    assert list(loader) == list(range(12))
    pool: Any = loader._pool
    crew = pool._dispatch.crew
    with turn_taken(loader):
        loader.close()
        assert not crew.closed
    loader.close()
    assert crew.closed


def test_a_forked_copy_that_closes_leaves_the_workers_alone() -> None:
    def close() -> int:
        loader.close()
        return 41

    with Loader(datasets.Numbers(), **KINDS["fork"]) as loader:
        assert next(iter(loader)) == 0
        pool: Any = loader._pool
        pids = pool.pids
        with turn_taken(loader):
            assert in_child(close) == 41
        assert list(loader) == list(range(12))
        assert pool.pids == pids
