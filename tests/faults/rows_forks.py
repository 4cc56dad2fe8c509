"""Scripts without a guard, forks of the parent, signals, and an end from elsewhere."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from feedline import LoaderClosedError, LoaderForkedError
from tests.datasets import PATIENCE, Blocks

from .programs import (
    in_child,
    program,
)
from .rows import EVERYWHERE, POOLS, row
from .scene import check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .scene import Scene

UNGUARDED = """
from pathlib import Path
from tests.datasets import Numbers
from tests.faults.scene import Scene

with Scene({pool!r}, Path({folder!r})).loader(Numbers(20)) as loader:
    print(list(loader))
"""


@row(
    "spawn or forkserver from a script without a main guard",
    bar="one clear error that shows the guard; fork works",
    outcome="CLEAN",
    pools=("forkserver", "spawn"),
    peers="EXACT | EXACT | EXACT | VAGUE | EXACT",
    within=3.0,
)
def no_guard(scene: Scene) -> None:
    scene.strike()
    code, _, errors = run_unguarded(scene)
    scene.notice()
    assert code == 1
    assert "WorkerStartError: worker" in errors
    assert 'if __name__ == "__main__":' in errors.rpartition("WorkerStartError")[2]


@row(
    "fork, threads or none from a script without a main guard",
    bar="exact",
    pools=("inline", "threads", "fork"),
)
def no_guard_needed(scene: Scene) -> None:
    scene.strike()
    assert run_unguarded(scene) == (0, f"{list(range(20))}\n", "")
    scene.notice()


def run_unguarded(scene: Scene) -> tuple[int, str, str]:
    text = UNGUARDED.format(pool=scene.pool, folder=str(scene.folder))
    with program(text, scene.folder) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, output, errors


@row(
    "the child of a fork uses the loader",
    bar="child: clear error; parent unaffected",
    outcome="CLEAN",
    pools=POOLS,
    peers="EXACT | CLEAN 5.0s | CLEAN 5.0s | EXACT | HANG",
)
def child_uses_the_loader(scene: Scene) -> None:
    def go_on() -> int:
        while True:
            next(batches)

    def begin_anew() -> int:
        loader.dataset.size = 4000  # would have to be sent to the workers
        return int(next(iter(loader))[0])

    def is_told(use: Callable[[], int]) -> int:
        try:
            use()
        except LoaderForkedError as error:
            scene.notice()
            return 41 if "make a Loader in this process" in str(error) else 42
        return 43

    with scene.loader(Blocks(200)) as loader:
        batches = iter(loader)
        for due in range(5):
            check(next(batches), due)
        scene.strike()
        assert in_child(lambda: is_told(go_on)) == 41
        assert in_child(lambda: is_told(begin_anew)) == 41
        for due, batch in enumerate(batches, start=5):
            check(batch, due)
        assert due == 199
        assert loader.stats().deaths == 0
        scene.expect_blocks(loader, 200)


@row(
    "the parent forks a child that exits at once",
    bar="parent's epoch exact, workers alive",
    pools=POOLS,
    peers="HANG | VAGUE | VAGUE | VAGUE | EXACT",
)
def child_exits_at_once(scene: Scene) -> None:
    with scene.loader(Blocks(200)) as loader:
        batches = iter(loader)
        for due in range(5):
            check(next(batches), due)
        scene.strike()
        assert in_child(lambda: 0) == 0
        child = multiprocessing.get_context("fork").Process(target=int)
        child.start()
        child.join()
        assert child.exitcode == 0
        child.close()
        for due, batch in enumerate(batches, start=5):
            check(batch, due)
            scene.notice()
        assert due == 199
        assert loader.stats().deaths == 0
        scene.expect_blocks(loader, 200)


@row(
    "a timer's signal every millisecond, with a handler, inside next()",
    bar="exact",
    pools=EVERYWHERE,
)
def signals(scene: Scene) -> None:
    seen = 0

    def handle(*_: object) -> None:
        nonlocal seen
        seen += 1
        scene.strike()

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        with scene.loader(Blocks(500)) as loader:
            scene.expect_blocks(loader, 500, at=499)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert seen >= 5


def alarmed(batches: Iterator[Any]) -> Iterator[Any]:
    """After the first batch an alarm is set, which rings when all that come are taken."""
    yield next(batches)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    yield from batches


class Stuck(Blocks):
    """The block at 7 does not come before it is let through."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(20)
        self.scene = scene

    def __getitem__(self, index: int) -> Any:
        if index == 7:
            self.scene.gate.pass_through("stuck")
        return super().__getitem__(index)


@row(
    "a signal's handler closes the loader while the consumer waits",
    bar="LoaderClosedError at once",
    outcome="CLEAN",
    pools=POOLS,
)
def closed_by_a_handler(scene: Scene) -> None:
    def close(*_: object) -> None:
        scene.strike()
        loader.close()
        scene.gate.let_all()

    before = signal.signal(signal.SIGALRM, close)
    try:
        with scene.loader(Stuck(scene)) as loader:
            scene.expect_error(
                alarmed(iter(loader)), LoaderClosedError, "make a new Loader"
            )
    finally:
        signal.signal(signal.SIGALRM, before)


@row(
    "another thread closes the loader while the consumer waits",
    bar="LoaderClosedError at once",
    outcome="CLEAN",
    pools=POOLS,
)
def closed_by_a_thread(scene: Scene) -> None:
    def close() -> None:
        scene.gate.await_arrival("stuck")
        assert taken.wait(PATIENCE)
        scene.strike()
        loader.close()
        scene.gate.let_all()

    def telling(batches: Iterator[Any]) -> Iterator[Any]:
        for _ in range(7):
            yield next(batches)
        taken.set()
        yield from batches

    taken = threading.Event()
    with scene.loader(Stuck(scene)) as loader, ThreadPoolExecutor(1) as other:
        closing = other.submit(close)
        scene.expect_error(
            telling(iter(loader)), LoaderClosedError, "make a new Loader"
        )
        closing.result(timeout=PATIENCE)
