"""Batches that fail: tried again, left out within bounds, or raised."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import struct
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from feedline import (
    BatchTimeoutError,
    Loader,
    LoaderClosedError,
    LoaderOptions,
    SkipLimitError,
    Skipped,
    WorkerDiedError,
)
from feedline.failures import Failures
from feedline.stats import Counts
from tests import datasets
from tests.datasets import PATIENCE, Gate, Numbers, wait_until

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

KINDS: dict[str, dict[str, Any]] = {
    "inline": {"workers": 0},
    "thread": {"workers": 2},
    "fork": {"workers": 2, "use_multiprocessing": True, "start_method": "fork"},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
AT_ONCE = 10.0  # seconds; far below a retry_delay of 60


class Flaky(Numbers):
    """Some batches raise, the first times; each try leaves its moment."""

    def __init__(
        self, folder: Path, at: Collection[int], times: int = 1, length: int = 8
    ) -> None:
        super().__init__(length)
        self.gate = Gate(folder)
        self.at = at
        self.times = times

    def __getitem__(self, index: int) -> Any:
        tries = [f"{index}-{number}" for number in range(self.times + 1)]
        name = next(name for name in tries if self.gate.arrive(name))
        moment = time.monotonic()
        (self.gate.folder / f"{name}.moment").write_text(str(moment))
        if index in self.at and name != tries[-1]:
            raise OSError(f"{name} failed")
        return index, float(self.rng.random())

    def moment(self, index: int, number: int) -> float:
        text = (self.gate.folder / f"{index}-{number}.moment").read_text()
        return float(text)


class Bad(Numbers):
    """Some batches always raise."""

    def __init__(self, at: Collection[int], length: int = 8) -> None:
        super().__init__(length)
        self.at = at

    def __getitem__(self, index: int) -> Any:
        if index in self.at:
            raise ValueError(f"batch {index} is bad")
        return index


def failures(counts: Counts, length: int | None = 20, **options: Any) -> Failures:
    return Failures(LoaderOptions(**options), counts, 2, length)


def test_the_wait_is_doubled_each_time_and_bounded() -> None:
    counts = Counts()
    some = failures(counts, retries=9, retry_delay=0.5)
    waits = [some.delay(tries) for tries in range(10)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60, 60, None]
    assert counts.retries == 9


def test_without_a_delay_every_retry_is_at_once() -> None:
    some = failures(Counts(), retries=2)
    assert [some.delay(tries) for tries in range(3)] == [0, 0, None]


def test_only_an_exception_is_left_out_and_only_if_asked() -> None:
    counts = Counts()
    assert not failures(counts).leave_out(3, ValueError())
    assert not failures(counts, on_error="skip").leave_out(3, KeyboardInterrupt())
    assert counts.skipped == 0
    assert failures(counts, on_error="skip").leave_out(3, ValueError("x"))
    assert list(counts.left_out) == [Skipped(2, 3, "ValueError('x')")]


def test_one_too_many_is_an_error_from_the_last_that_names_ten() -> None:
    counts = Counts()
    some = failures(counts, on_error="skip", max_errors=0.6)
    assert all(some.leave_out(index, ValueError(index)) for index in range(12))
    last = ValueError(12)
    with pytest.raises(SkipLimitError, match="13 batches of epoch 2") as caught:
        some.leave_out(12, last)
    assert caught.value.__cause__ is last
    assert (caught.value.count, caught.value.limit) == (13, 12)
    assert caught.value.indices == tuple(range(3, 13))
    assert counts.skipped == 12


@every_kind
def test_what_was_left_out_is_listed(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Loader(Bad({2, 5}), on_error="skip", **KINDS[kind]) as loader:
        assert loader.skipped == []
        with caplog.at_level(logging.WARNING, "feedline"):
            assert list(loader) == [0, 1, 3, 4, 6, 7]
        assert loader.skipped == [
            Skipped(0, index, f"ValueError('batch {index} is bad')") for index in (2, 5)
        ]
        loader.dataset.at = {7}
        assert list(loader) == [0, 1, 2, 3, 4, 5, 6]
        assert loader.skipped[2:] == [Skipped(1, 7, "ValueError('batch 7 is bad')")]
        loader.skipped.clear()
        assert len(loader.skipped) == 3  # the list was a copy
    assert "batch 5 of epoch 0 is left out: ValueError('batch 5 is bad')" in caplog.text


def test_the_list_holds_the_last_thousand_and_the_count_holds_all() -> None:
    bad = range(10, 1510)
    with Loader(Bad(bad, 1600), workers=0, on_error="skip") as loader:
        assert len(list(loader)) == 100
        assert [left.index for left in loader.skipped] == list(range(510, 1510))
        assert loader.stats().skipped == 1500


@every_kind
@pytest.mark.parametrize("max_errors", [2, 0.25], ids=["count", "share"])
def test_one_too_many_is_an_error_at_its_batch_and_the_loader_goes_on(
    kind: str, max_errors: float
) -> None:
    dataset = Bad({1, 3, 6})
    with Loader(
        dataset, on_error="skip", max_errors=max_errors, **KINDS[kind]
    ) as loader:
        for epoch in range(2):
            seen: list[Any] = []
            with pytest.raises(SkipLimitError, match="max_errors=") as caught:
                seen.extend(loader)
            assert seen == [0, 2, 4, 5]
            error = caught.value
            assert (error.epoch, error.count, error.limit) == (epoch, 3, 2)
            assert error.indices == (1, 3, 6)
            assert repr(error.__cause__) == "ValueError('batch 6 is bad')"
            assert loader.state_dict()["position"] == 6
        assert loader.stats().skipped == 4
        dataset.at = {1, 3}
        assert list(loader) == [0, 2, 4, 5, 6, 7]  # no more than the bound


@every_kind
@pytest.mark.parametrize("max_errors", [0, 0.0])
def test_a_bound_of_none_raises_at_the_first(kind: str, max_errors: float) -> None:
    with (
        Loader(
            Bad({1, 3}), on_error="skip", max_errors=max_errors, **KINDS[kind]
        ) as loader,
        pytest.raises(SkipLimitError, match="1 batch of epoch 0") as caught,
    ):
        list(loader)
    assert caught.value.indices == (1,)


def test_a_share_of_all_lets_all_be_left_out() -> None:
    with Loader(Bad(range(8)), on_error="skip", max_errors=1.0) as loader:
        assert list(loader) == []
        assert loader.stats().skipped == 8


def test_a_batch_that_ended_its_workers_counts_too(tmp_path: Path) -> None:
    dataset = datasets.Dies(tmp_path, "SIGKILL", times=99)
    with Loader(dataset, on_error="skip", max_errors=0, **KINDS["fork"]) as loader:
        with pytest.raises(SkipLimitError) as caught:
            list(loader)
        assert type(caught.value.__cause__) is WorkerDiedError
        assert caught.value.indices == (7,)
        dataset.at = 99
        assert [index for index, _ in loader] == list(range(20))


@every_kind
def test_a_batch_waits_before_each_try_and_is_the_same_as_ever(
    kind: str, tmp_path: Path
) -> None:
    undisturbed = Flaky(tmp_path / "undisturbed", ())
    dataset = Flaky(tmp_path / "flaky", {0, 3}, times=2)
    for each in (undisturbed, dataset):
        each.gate.folder.mkdir()
    options = {**KINDS[kind], "seed": 5}
    with Loader(undisturbed, **options) as loader:
        expected = list(loader)
    with Loader(dataset, retries=2, retry_delay=0.1, **options) as loader:
        assert list(loader) == expected
        assert loader.stats().retries == 4
    for index in (0, 3):
        moments = [dataset.moment(index, number) for number in range(3)]
        waits = [after - before for before, after in pairwise(moments)]
        assert waits[0] >= 0.1
        assert waits[1] >= 0.2


@every_kind
def test_the_last_error_is_raised_when_every_try_has_failed(
    kind: str, tmp_path: Path
) -> None:
    dataset = Flaky(tmp_path, {2}, times=3)
    with Loader(dataset, retries=2, retry_delay=0.01, **KINDS[kind]) as loader:
        seen: list[Any] = []
        with pytest.raises(OSError, match="2-2 failed"):
            seen.extend(index for index, _ in loader)
        assert seen == [0, 1]
        assert loader.stats().retries == 2


@every_kind
def test_the_wait_counts_towards_the_timeout(kind: str, tmp_path: Path) -> None:
    dataset = Flaky(tmp_path, {1})
    with Loader(
        dataset, retries=1, retry_delay=60, timeout=1.0, **KINDS[kind]
    ) as loader:
        batches = iter(loader)
        next(batches)
        start = time.monotonic()
        with pytest.raises(
            BatchTimeoutError, match=r"batch 1 .* after OSError\('1-0 failed'\)"
        ):
            next(batches)
        assert 0.9 < time.monotonic() - start < AT_ONCE


def tasks_waiting(loader: Loader) -> int:
    pool: Any = loader._pool
    if not loader.options.processes:
        waiting: int = pool._shared.orders.qsize()
        return waiting
    unread = fcntl.ioctl(pool._dispatch.crew.pipes.tasks, termios.FIONREAD, b"\0" * 4)
    size: int = struct.unpack("i", unread)[0]
    return size // 32


class FailsAndWaits(datasets.Gated):
    """Batch 0 raises once, the others wait; each try is written down."""

    def __getitem__(self, index: int) -> Any:
        if not index and self.gate.arrive("failed"):
            raise OSError("once")
        with (self.gate.folder / "order").open("a") as order:
            order.write(f"{index} ")
        return super().__getitem__(index)


@pytest.mark.parametrize("kind", ["thread", "fork"])
def test_a_batch_that_is_tried_again_goes_before_those_that_nobody_has_begun(
    kind: str, tmp_path: Path
) -> None:
    options = {**KINDS[kind], "workers": 1, "max_queue_size": 4}
    dataset = FailsAndWaits(tmp_path, 4)
    with (
        Loader(dataset, retries=1, **options) as loader,
        ThreadPoolExecutor(1) as other,
    ):
        taken = other.submit(list, loader)
        wait_until(
            lambda: dataset.gate.arrived() & {"0", "1"} and tasks_waiting(loader) == 3,
            "it is asked for again",
        )
        dataset.gate.let_all()
        assert taken.result(timeout=PATIENCE) == [0, 1, 2, 3]
    # The worker may have taken the second before the first was asked for again.
    assert (tmp_path / "order").read_text() in ("0 1 2 3 ", "1 0 2 3 ")


@pytest.mark.parametrize("kind", ["thread", "fork"])
def test_no_worker_and_no_later_epoch_waits_with_a_batch(
    kind: str, tmp_path: Path
) -> None:
    dataset = Flaky(tmp_path, {1}, times=9)
    options = {**KINDS[kind], "workers": 1}
    with Loader(dataset, retries=9, retry_delay=60, **options) as loader:
        batches: Any = iter(loader)
        next(batches)
        dataset.gate.await_arrival("1-0")
        wait_until(lambda: dataset.gate.has_arrived("7-0"), "the others are built")
        start = time.monotonic()
        batches.close()
        dataset.at = ()
        assert [index for index, _ in loader] == list(range(8))
    assert time.monotonic() - start < AT_ONCE


@every_kind
def test_ctrl_c_ends_a_wait_at_once(kind: str, tmp_path: Path) -> None:
    dataset = Flaky(tmp_path, {0}, times=9)
    with Loader(dataset, retries=9, retry_delay=60, **KINDS[kind]) as loader:
        interrupt = threading.Thread(target=interrupt_after, args=(dataset.gate,))
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            list(loader)
        left = time.monotonic()
        interrupt.join()
        dataset.at = ()
        assert [index for index, _ in loader] == list(range(8))
    assert time.monotonic() - left < AT_ONCE


def interrupt_after(gate: Gate) -> None:
    gate.await_arrival("0-0")
    time.sleep(0.1)  # for the consumer to hear of it; too short is harmless
    os.kill(os.getpid(), signal.SIGINT)


def test_closing_ends_a_wait_in_another_thread_at_once(tmp_path: Path) -> None:
    dataset = Flaky(tmp_path, {0}, times=9)
    with ThreadPoolExecutor(1) as other:
        with Loader(dataset, retries=9, retry_delay=60, workers=2) as loader:
            taken = other.submit(list, loader)
            wait_until(lambda: loader.stats().retries == 1, "it waits")
        with pytest.raises(LoaderClosedError):
            taken.result(timeout=AT_ONCE)
