"""Workers that do not answer."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from feedline import BatchTimeoutError
from tests.datasets import Blocks, wait_until

from .programs import ended, is_gone
from .rows import POOLS, PROCESSES, row
from .scene import Armed, Scene, Struck, check, pids

LIMIT = 0.5  # seconds
BAR = (
    "BatchTimeoutError at the limit with index, worker, the stuck stack; "
    "`on_timeout` replaces the worker and goes on if asked"
)
SAME = "same; the worker is gone"
NOTICED = LIMIT + 0.4


def hang(scene: Scene) -> None:
    """Sleep for ever, or rather until the row is over: threads cannot be ended."""
    (scene.folder / f"{os.getpid()}.pid").touch()
    scene.gate.pass_through("over")


def hang_stubbornly(scene: Scene) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    hang(scene)


def freeze(scene: Scene) -> None:
    (scene.folder / f"{os.getpid()}.pid").touch()
    os.kill(os.getpid(), signal.SIGSTOP)


def stuck(scene: Scene) -> int:
    """Who is it."""
    (pid,) = scene.folder.glob("*.pid")
    return int(pid.stem)


def expect_in_time(
    scene: Scene, dataset: Any, words: str, at: int = 7, **options: Any
) -> None:
    """The error at its time; then an epoch without a loss, by others."""
    with scene.loader(dataset, timeout=LIMIT, **options) as loader:
        error = scene.expect_error(loader, BatchTimeoutError, words, at)
        assert (error.index, error.seconds) == (at, LIMIT)
        assert scene.seconds is not None
        assert scene.seconds > LIMIT * 0.9, "an error before its time"
        scene.expect_blocks(loader)
        if scene.pool in PROCESSES:
            wait_until(lambda: ended(stuck(scene)), "it is gone", seconds=1)
        scene.gate.let_all()


@row(
    "item 7 sleeps for ever; timeout=0.5",
    bar=BAR,
    outcome="CLEAN",
    pools=POOLS,
    peers="HANG | CLEAN 3.0s | CLEAN 3.0s | HANG | CLEAN 3.0s",
    within=NOTICED,
)
def sleeps(scene: Scene) -> None:
    who = r"worker [01] \(pid" if scene.pool in PROCESSES else "thread [01] "
    dataset = Struck(scene, lambda: hang(scene))
    expect_in_time(scene, dataset, f"^batch 7 .*{who}.*in hang")


@row(
    "... with SIGTERM and SIGINT ignored",
    bar=SAME,
    outcome="CLEAN",
    peers="HANG | CLEAN+HANG 3.0s | CLEAN+HANG 3.0s | HANG | CLEAN 3.0s",
    within=NOTICED,
)
def stubborn(scene: Scene) -> None:
    dataset = Struck(scene, lambda: hang_stubbornly(scene))
    expect_in_time(scene, dataset, r"^batch 7 .*worker [01] \(pid.*in hang")


@row(
    "... in C, without letting go of Python's lock",
    bar=f"{SAME}; the stack is that of the Python code that called it",
    outcome="CLEAN",
    within=NOTICED,
    pools=("fork", "spawn"),
)
def in_c(scene: Scene) -> None:
    def hang_in_c() -> None:
        (scene.folder / f"{os.getpid()}.pid").touch()
        ctypes.PyDLL(None).sleep(60)

    dataset = Struck(scene, hang_in_c)
    expect_in_time(scene, dataset, r"^batch 7 .*worker [01] \(pid.*in hang_in_c")


@row(
    "... in a loop of Python code",
    bar=BAR,
    outcome="CLEAN",
    within=NOTICED,
    pools=("fork", "spawn"),
)
def in_a_loop(scene: Scene) -> None:
    def spin() -> None:
        (scene.folder / f"{os.getpid()}.pid").touch()
        while True:
            pass

    dataset = Struck(scene, spin)
    expect_in_time(scene, dataset, r"^batch 7 .*worker [01] \(pid.*in spin")


@row(
    "... for a lock that another thread of the parent held when the worker was forked",
    bar=BAR,
    outcome="CLEAN",
    pools=("fork",),
    within=NOTICED,
)
def for_a_lock(scene: Scene) -> None:
    lock = threading.Lock()

    class Locking(Blocks):
        def __getitem__(self, index: int) -> Any:
            if index == 7 and scene.strike():
                (scene.folder / f"{os.getpid()}.pid").touch()
                lock.acquire()
            return super().__getitem__(index)

    with lock:
        expect_in_time(scene, Locking(20), r"^batch 7 .*worker [01] \(pid.*__getitem__")


@row(
    "... while it is encoded",
    bar=BAR,
    outcome="CLEAN",
    within=NOTICED,
    pools=("fork", "spawn"),
)
def while_encoding(scene: Scene) -> None:
    dataset = Armed(scene, lambda: hang(scene))
    expect_in_time(scene, dataset, r"^batch 7 .*worker [01] \(pid.*in __reduce__")


@row(
    "`worker_init_fn` sleeps for ever in both workers; timeout=0.5, and 3 s for the start",
    bar="BatchTimeoutError with the stuck stacks; the workers are replaced",
    outcome="CLEAN",
    within=4.0,
)
def in_init(scene: Scene) -> None:
    def init(number: int) -> None:
        if scene.strike(times=2):
            hang(scene)

    words = r"^batch 0 .*no worker had begun it.*worker 1 \(pid \d+\) .*in hang"
    start = LIMIT if scene.pool == "fork" else 3.0
    with (
        mock.patch("feedline.process_pool._SLOWEST_START", start),
        scene.loader(Blocks(20), timeout=LIMIT, worker_init_fn=init) as loader,
    ):
        scene.expect_error(loader, BatchTimeoutError, words, at=0)
        scene.expect_blocks(loader)
        stuck = [int(path.stem) for path in scene.folder.glob("*.pid")]
        assert len(stuck) == 2
        assert all(map(ended, stuck))


@row(
    "... in threads",
    bar="BatchTimeoutError at the limit",
    outcome="CLEAN",
    pools=("threads",),
    within=NOTICED,
)
def in_init_of_threads(scene: Scene) -> None:
    def init(number: int) -> None:
        if scene.strike(times=2):
            hang(scene)

    with scene.loader(Blocks(20), timeout=LIMIT, worker_init_fn=init) as loader:
        scene.expect_error(
            loader, BatchTimeoutError, "^batch 0 .*no thread had begun it", at=0
        )
        scene.gate.let_all()
        scene.expect_blocks(loader)


@row(
    "item 7 sleeps for ever in the only worker; another takes longer than timeout=0.5 to "
    "start",
    bar="BatchTimeoutError at the limit; the next epoch waits for the worker",
    outcome="CLEAN",
    pools=("forkserver", "spawn"),
    within=NOTICED,
)
def in_the_only_worker(scene: Scene) -> None:
    def init(number: int) -> None:
        time.sleep(LIMIT + 0.2)

    dataset = Struck(scene, lambda: hang(scene))
    expect_in_time(scene, dataset, "^batch 7 ", workers=1, worker_init_fn=init)


@row(
    "a worker frozen by SIGSTOP; timeout=0.5",
    bar=f"{SAME}; the error says that it is stopped",
    outcome="CLEAN",
    peers="HANG | CLEAN+HANG 3.1s | CLEAN+HANG 3.1s | HANG | CLEAN 3.0s",
    within=NOTICED,
)
def frozen(scene: Scene) -> None:
    expect_in_time(scene, Struck(scene, lambda: freeze(scene)), "^batch 7 .*SIGSTOP")


@row(
    "... and woken by SIGCONT before the limit",
    bar="all batches once and in order, by the same workers",
    within=1.0,
    pools=("fork", "spawn"),
)
def frozen_and_woken(scene: Scene) -> None:
    def wake() -> None:
        wait_until(lambda: list(scene.folder.glob("*.pid")), "one is frozen")
        victim = psutil.Process(stuck(scene))
        wait_until(lambda: victim.status() == psutil.STATUS_STOPPED, "it is frozen")
        victim.send_signal(signal.SIGCONT)

    dataset = Struck(scene, lambda: freeze(scene))
    with scene.loader(dataset, timeout=20) as loader:
        waker = threading.Thread(target=wake)
        waker.start()
        scene.expect_blocks(loader)
        waker.join()
        assert loader.stats().deaths == 0


@row(
    "... while it is idle",
    bar="the others do its work; closing takes < 1 s, and it is gone",
)
def frozen_idle(scene: Scene) -> None:
    with scene.loader(Blocks(20)) as loader:
        for due, batch in enumerate(loader):
            check(batch, due)
        frozen = psutil.Process(pids(loader)[0])
        scene.strike()
        frozen.suspend()
        wait_until(lambda: frozen.status() == psutil.STATUS_STOPPED, "it is frozen")
        scene.expect_blocks(loader)
        start = time.monotonic()
    assert time.monotonic() - start < 1
    assert is_gone(frozen)


PROGRAM = "from tests.faults.rows_hangs import leave; leave()"


def leave() -> None:
    """``POOL FOLDER HOW``: leave the loop while item 7 hangs; the interpreter ends."""
    pool, folder, how = sys.argv[1:]
    scene = Scene(pool, Path(folder))
    fault = {"meekly": hang, "stubbornly": hang_stubbornly}[how]
    loader = scene.loader(Struck(scene, lambda: fault(scene)))
    for index, _ in loader:
        if index == 3:
            wait_until(lambda: scene.strikes, "item 7 hangs")
            wait_until(lambda: list(scene.folder.glob("*.pid")), "it is told who")
            break
    family = psutil.Process().children(recursive=True)
    (scene.folder / "family").write_text(" ".join(str(p.pid) for p in family))
    (scene.folder / "fault-0.stamp").write_text(f"{time.monotonic()}")


def expect_quick_end(scene: Scene, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, scene.pool, str(scene.folder), how],
        timeout=10,
        check=False,
    )
    scene.notice()
    assert done.returncode == 0
    family = [int(pid) for pid in (scene.folder / "family").read_text().split()]
    assert family or scene.pool == "threads"
    wait_until(lambda: all(map(ended, family)), "all are gone", 1.0)


@row(
    "loop left while item 7 hangs; main returns",
    bar="interpreter ends < 1 s, no child left",
    outcome="OK",
    pools=POOLS,
    peers="OK | POOR | POOR | HANG | OK",
)
def left(scene: Scene) -> None:
    expect_quick_end(scene, "meekly")


@row(
    "... and the worker ignores SIGTERM",
    bar="same",
    outcome="OK",
    peers="HANG | HANG | HANG | HANG | POOR",
)
def left_stubborn(scene: Scene) -> None:
    expect_quick_end(scene, "stubbornly")


@row(
    "... and a new epoch begins instead; timeout=0.5",
    bar="the worker is replaced at the limit; all batches of the new epoch, once and in "
    "order",
    pools=POOLS,
    within=NOTICED,
)
def left_for_a_new_epoch(scene: Scene) -> None:
    dataset = Struck(scene, lambda: hang(scene))
    with scene.loader(dataset, timeout=LIMIT) as loader:
        for index, _ in loader:
            if index == 3:
                wait_until(lambda: scene.strikes, "item 7 hangs")
                break
        scene.expect_blocks(loader, at=0)
        scene.gate.let_all()


@row(
    "... and the loader is closed",
    bar="closing takes < 1 s; the worker is gone",
    outcome="OK",
    pools=("fork", "spawn"),
)
def left_and_closed(scene: Scene) -> None:
    with scene.loader(Struck(scene, lambda: hang_stubbornly(scene))) as loader:
        for index, _ in loader:
            if index == 3:
                wait_until(lambda: list(scene.folder.glob("*.pid")), "item 7 hangs")
                break
        start = time.monotonic()
    scene.notice()
    assert time.monotonic() - start < 1
    assert ended(stuck(scene))
