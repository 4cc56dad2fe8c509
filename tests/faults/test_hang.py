"""Workers that do not answer."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from feedline import BatchTimeoutError, Loader, WorkerDiedError
from tests import datasets
from tests.datasets import wait_until

from .test_death import expect_blocks, fork, pids

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 0.6  # seconds


def test_a_hanging_thread_is_left_behind_and_replaced(tmp_path: Path) -> None:
    dataset = datasets.Slow(tmp_path)
    with Loader(dataset, workers=2, timeout=LIMIT) as loader:
        with pytest.raises(BatchTimeoutError, match="hang_here"):
            list(loader)
        iterator = iter(loader)
        assert [next(iterator) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(BatchTimeoutError):
            next(iterator)
        dataset.gate.arrive("over")
        assert list(loader) == list(range(8))


def test_a_worker_stuck_in_an_abandoned_batch_does_not_stop_the_next_epoch(
    tmp_path: Path,
) -> None:
    dataset = datasets.Slow(tmp_path, at=3)
    with fork(dataset, timeout=LIMIT) as loader:
        iterator = iter(loader)
        next(iterator)
        dataset.gate.await_arrival("hanging")
        del iterator
        dataset.at = 99
        start = time.monotonic()
        assert list(loader) == list(range(8))
        assert time.monotonic() - start < LIMIT + 1.5


def replacing(dataset: Any, **options: Any) -> Loader:
    chosen = {"timeout": LIMIT, **options}
    return fork(dataset, on_timeout="replace", **chosen)


@pytest.mark.parametrize("way", ["Python", "C"])
def test_a_stuck_worker_is_replaced_and_its_batch_built_by_another(
    way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = datasets.Hangs(tmp_path, {3: [way]})
    with replacing(dataset) as loader:
        with caplog.at_level(logging.WARNING, "feedline"):
            assert list(loader) == list(range(8))
        (stuck,) = dataset.gate.arrived() - {"3-0"}
        assert int(stuck) not in pids(loader)
        assert not os.path.exists(f"/proc/{stuck}")
        assert (loader.stats().timeouts, loader.stats().deaths) == (1, 1)
        assert list(loader) == list(range(8))
    (record,) = caplog.records  # its end is no news beside it
    said = record.getMessage()
    assert f"batch 3 of epoch 0 took longer than timeout={LIMIT} seconds" in said
    assert (
        f"attempt 1 of 3, and is built again; worker {'01'['worker 1' in said]}" in said
    )
    assert f"(pid {stuck})" in said
    assert ("in _hang" if way == "C" else "in hang_here") in said


def test_a_stuck_thread_is_left_behind_and_its_batch_built_by_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = datasets.Hangs(tmp_path, {3: ["Python"], 5: ["Python", "Python"]})
    with Loader(dataset, workers=2, timeout=LIMIT / 3, on_timeout="replace") as loader:
        with caplog.at_level(logging.WARNING, "feedline"):
            assert list(loader) == list(range(8))
        assert loader.stats().timeouts == 3
        dataset.gate.arrive("over")
        assert list(loader) == list(range(8))
    assert "batch 5 of epoch 0" in caplog.text
    assert "attempt 2 of 3" in caplog.text
    assert "in hang_here" in caplog.text


@pytest.mark.parametrize("processes", [True, False])
def test_two_batches_that_hang_side_by_side_are_both_built_once_and_in_order(
    processes: bool, tmp_path: Path
) -> None:
    ways = {3: ["Python"], 4: ["Python", "Python"]}
    dataset = datasets.Hangs(tmp_path, ways)
    with Loader(
        dataset, workers=2, use_multiprocessing=processes, timeout=LIMIT / 3,
        on_timeout="replace",
    ) as loader:  # fmt: skip
        assert list(loader) == list(range(8))
        assert loader.stats().timeouts == 3
        dataset.gate.arrive("over")


@pytest.mark.parametrize("in_order", [True, False])
def test_no_batch_is_lost_or_doubled_when_every_other_one_hangs(
    in_order: bool, tmp_path: Path
) -> None:
    dataset = datasets.Hangs(
        tmp_path, {index: ["Python"] for index in range(0, 12, 4)}, 12
    )
    with replacing(dataset, timeout=LIMIT / 3, in_order=in_order) as loader:
        batches = list(loader)
        assert sorted(batches) == list(range(12))
        assert not in_order or batches == list(range(12))


@pytest.mark.parametrize("processes", [True, False])
def test_the_third_worker_that_hangs_in_a_batch_is_an_error(
    processes: bool, tmp_path: Path
) -> None:
    dataset = datasets.Hangs(tmp_path, {3: ["Python"] * 3})
    with Loader(
        dataset, workers=2, use_multiprocessing=processes, timeout=LIMIT / 3,
        on_timeout="replace",
    ) as loader:  # fmt: skip
        seen: list[Any] = []
        with pytest.raises(
            BatchTimeoutError, match=r"batch 3 .*, in attempt 3; (worker|thread) \d"
        ) as caught:
            seen.extend(loader)
        assert seen == [0, 1, 2]
        assert caught.value.attempts == 3
        assert "in hang_here" in caught.value.where
        assert loader.stats().timeouts == 3
        dataset.gate.arrive("over")
        assert list(loader) == list(range(8))


@pytest.mark.parametrize(
    ("ways", "kind"),
    [
        (["SIGKILL", "SIGKILL", "Python"], BatchTimeoutError),
        (["Python", "Python", "SIGKILL"], WorkerDiedError),
    ],
)
def test_deaths_and_hangs_of_one_batch_are_counted_together(
    ways: list[str], kind: Any, tmp_path: Path
) -> None:
    with replacing(datasets.Hangs(tmp_path, {3: ways}), timeout=LIMIT / 3) as loader:
        with pytest.raises(kind, match="batch 3 ") as caught:
            list(loader)
        assert caught.value.attempts == 3
        assert list(loader) == list(range(8))


def test_workers_that_were_all_frozen_while_they_were_idle_are_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with replacing(datasets.Blocks(20)) as loader:

        def both_are_ready() -> bool:
            expect_blocks(loader, 20)
            pool: Any = loader._pool
            return not pool._dispatch._unready

        wait_until(both_are_ready, "both workers are ready")
        frozen = [psutil.Process(pid) for pid in pids(loader)]
        for process in frozen:
            process.suspend()
        wait_until(
            lambda: {p.status() for p in frozen} == {psutil.STATUS_STOPPED},
            "they are frozen",
        )
        with caplog.at_level(logging.WARNING, "feedline"):
            expect_blocks(loader, 20)

        def both_are_heard() -> bool:
            expect_blocks(loader, 20)
            return loader.stats().deaths == 2

        wait_until(both_are_heard, "both deaths are heard")
        assert loader.stats().timeouts == 1
    assert (
        "no worker had begun it: all build others, start or are stopped; those that are"
        in caplog.text
    )


def test_a_thread_that_answers_after_all_doubles_nothing(tmp_path: Path) -> None:
    """The second try lets the first one go on: both end at about the same time."""
    dataset = datasets.Calls(released_by_the_second_try(datasets.Gate(tmp_path)), 6)
    for _ in range(3):
        with Loader(
            dataset, workers=2, timeout=LIMIT / 6, on_timeout="replace"
        ) as loader:
            assert list(loader) == list(range(6))


def released_by_the_second_try(gate: datasets.Gate) -> Any:
    def build(index: int) -> int:
        if index == 2 and gate.arrive("first"):
            gate.await_arrival("second")
        elif index == 2:
            gate.arrive("second")
        return index

    return build
