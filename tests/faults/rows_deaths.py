"""A worker process ends while it should not."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from feedline import WorkerDiedError
from tests.datasets import Blocks, die, wait_until

from .programs import ended
from .rows import row
from .scene import Lost, Scene, Struck, check, check_all, kill_all, pids

if TYPE_CHECKING:
    from collections.abc import Iterator


REDONE = "redone elsewhere, run goes on, all batches once and in order"
TOLD = f"{REDONE}; a log line tells signal and the worker's last Python stack"
CLEAN = "CLEAN 0.0s | CLEAN 0.0s"


@contextmanager
def heard() -> Iterator[list[str]]:
    """What feedline logs meanwhile."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("feedline")
    log.addHandler(handler)
    try:
        yield said
    finally:
        log.removeHandler(handler)


def kill_this() -> None:
    die("SIGKILL")


def expect_redone(scene: Scene, dataset: Blocks, *words: str, **options: Any) -> None:
    """One death, which the log tells in these words, and two epochs without a loss."""
    with heard() as said, scene.loader(dataset, **options) as loader:
        scene.expect_blocks(loader)
        assert loader.stats().deaths == 1
        scene.expect_blocks(loader)
    (line,) = said
    for word in ("while it built batch 7 of epoch 0", *words):
        assert word in line, line


@row(
    "worker killed (SIGKILL) while computing item 7",
    bar=REDONE,
    peers=f"HANG | {CLEAN} | CLEAN 1.7s | CLEAN 0.0s",
)
def killed(scene: Scene) -> None:
    expect_redone(scene, Struck(scene, kill_this), "SIGKILL")


@row("... SIGSEGV", bar=TOLD, peers=f"HANG | {CLEAN} | CLEAN 1.5s | CLEAN 0.0s")
def segv(scene: Scene) -> None:
    expect_redone(scene, Struck(scene, lambda: die("SIGSEGV")), "SIGSEGV", "in die")


@row("... a null pointer read in C", bar=TOLD, pools=("fork",))
def null_pointer(scene: Scene) -> None:
    dataset = Struck(scene, lambda: die("null pointer"))
    expect_redone(scene, dataset, "SIGSEGV", "in die")


@row("... SIGABRT", bar=TOLD, peers=f"HANG | {CLEAN} | CLEAN 1.4s | CLEAN 0.0s")
def abort(scene: Scene) -> None:
    expect_redone(scene, Struck(scene, os.abort), "SIGABRT", "in __getitem__")


@row("... SIGBUS", bar=TOLD, pools=("fork",))
def bus(scene: Scene) -> None:
    expect_redone(scene, Struck(scene, lambda: die("SIGBUS")), "SIGBUS", "in die")


@row("... SIGFPE", bar=TOLD, pools=("fork",))
def fpe(scene: Scene) -> None:
    expect_redone(scene, Struck(scene, lambda: die("SIGFPE")), "SIGFPE", "in die")


@row("... SIGILL", bar=TOLD, pools=("fork",))
def ill(scene: Scene) -> None:
    expect_redone(scene, Struck(scene, lambda: die("SIGILL")), "SIGILL", "in die")


@row("... SIGTERM", bar=REDONE, peers=f"HANG | {CLEAN} | CLEAN 1.3s | CLEAN 0.0s")
def term(scene: Scene) -> None:
    expect_redone(scene, Struck(scene, lambda: die("SIGTERM")), "SIGTERM")


@row("... `os._exit(3)`", bar=REDONE, peers=f"HANG | {CLEAN} | CLEAN 1.2s | CLEAN 0.1s")
def exit_3(scene: Scene) -> None:
    expect_redone(scene, Struck(scene, lambda: os._exit(3)), "code 3")


@row(
    "... `os._exit(0)`",
    bar=REDONE,
    peers="HANG | CLEAN 4.8s | CLEAN 4.9s | HANG | CLEAN 0.0s",
)
def exit_0(scene: Scene) -> None:
    expect_redone(scene, Struck(scene, lambda: os._exit(0)), "code 0")


@row(
    "`sys.exit(3)` in `__getitem__`",
    bar="treated as the worker's end: redone elsewhere, run goes on, all batches once and "
    "in order, and a warning that names the batch",
    peers=f"HANG | {CLEAN} | CLEAN 1.5s | CLEAN 0.0s",
)
def sys_exit(scene: Scene) -> None:
    expect_redone(scene, Struck(scene, lambda: sys.exit(3)), "code 3")


@row("... `sys.exit()`, without a code", bar=REDONE, pools=("fork",))
def sys_exit_without_a_code(scene: Scene) -> None:
    expect_redone(scene, Struck(scene, sys.exit), "code 0")


@row(
    "... `sys.exit(3)` in a thread, or without workers",
    bar="at batch 7, after batches 0-6: itself; the loader stays usable",
    outcome="CLEAN",
    pools=("inline", "threads"),
)
def sys_exit_without_processes(scene: Scene) -> None:
    with scene.loader(Struck(scene, lambda: sys.exit(3))) as loader:
        assert scene.expect_error(loader, SystemExit).code == 3
        scene.expect_blocks(loader)


@row(
    "item 7 kills its worker on every attempt",
    bar="WorkerDiedError after the allowed attempts, < 1 s: index, signal, attempts, cause "
    "(OOM or not), what to do; the loader stays usable",
    outcome="CLEAN",
    peers=f"HANG | {CLEAN} | CLEAN 1.5s | CLEAN 0.1s",
)
def always(scene: Scene) -> None:
    dataset = Struck(scene, kill_this, times=99)
    with scene.loader(dataset) as loader:
        words = r"^batch 7 ended .* worker [01]: .*SIGKILL.*memory"
        error = scene.expect_error(loader, WorkerDiedError, words)
        assert (error.index, error.exitcode, error.attempts) == (7, -9, 3)
        assert scene.strikes == 3
        dataset.at = 99
        scene.expect_blocks(loader)


@row(
    "... by a crash in C",
    bar="the same, with the last Python stack",
    outcome="CLEAN",
    pools=("fork",),
)
def always_in_c(scene: Scene) -> None:
    dataset = Struck(scene, lambda: die("null pointer"), times=99)
    with scene.loader(dataset) as loader:
        words = r"^batch 7 ended .* worker [01]: .*SIGSEGV.*compiled code.*in die"
        assert scene.expect_error(loader, WorkerDiedError, words).attempts == 3


@row(
    "... by `os._exit(3)`",
    bar="the same, with the exit code",
    outcome="CLEAN",
    pools=("fork",),
)
def always_by_exit(scene: Scene) -> None:
    with scene.loader(Struck(scene, lambda: os._exit(3), times=99)) as loader:
        words = r"^batch 7 ended .* worker [01]: .*code 3; .*os\._exit"
        assert scene.expect_error(loader, WorkerDiedError, words).exitcode == 3


@row("item 7 kills its worker on the first two attempts", bar=REDONE, pools=("fork",))
def twice(scene: Scene) -> None:
    with scene.loader(Struck(scene, kill_this, times=2)) as loader:
        scene.expect_blocks(loader)
        assert loader.stats().deaths == scene.strikes == 2


class Held(Blocks):
    """Batch 8 tells who builds it, and waits."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(20)
        self.scene = scene

    def __getitem__(self, index: int) -> Any:
        if index == 8:
            (self.scene.folder / f"{os.getpid()}.pid").touch()
            self.scene.gate.pass_through(8)
        return super().__getitem__(index)


@row(
    "an idle worker killed in mid-epoch",
    bar=REDONE,
    peers=f"HANG | {CLEAN} | CLEAN 1.7s | CLEAN 0.5s",
)
def idle(scene: Scene) -> None:
    with scene.loader(Held(scene), max_queue_size=1) as loader:
        for due, batch in enumerate(loader):
            check(batch, due)
            if due == 7:  # the one batch that may be under way is held by the other
                scene.gate.await_arrival(8)
                (busy,) = scene.folder.glob("*.pid")
                (victim,) = set(pids(loader)) - {int(busy.stem)}
                scene.strike()
                os.kill(victim, signal.SIGKILL)
                scene.gate.let(8)
            if due == 8:
                scene.notice()
        assert due == 19
        # A death that held nothing up is seen when there is nothing else to hear.
        assert loader.stats().deaths <= 1
        scene.expect_blocks(loader)


@row(
    "all workers killed between two epochs",
    bar="next epoch complete",
    peers="EXACT | VAGUE | VAGUE | EXACT | EXACT",
    within=2.0,
)
def between_epochs(scene: Scene) -> None:
    with scene.loader(Blocks(20)) as loader:
        check_all(loader, 20)
        scene.strike()
        kill_all(loader)
        scene.expect_blocks(loader, at=0)
        assert loader.stats().deaths >= 1


class Big(Blocks):
    """Batch 7 has 256 MB; whoever builds it is killed 30 ms after it has returned it."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(20)
        self.scene = scene

    def __getitem__(self, index: int) -> Any:
        if index != 7:
            return super().__getitem__(index)
        big = np.full(2**28, 7, np.uint8)
        if self.scene.strike():
            (self.scene.folder / f"{os.getpid()}.pid").touch()
            threading.Timer(0.03, kill_this).start()
        return 7, big


@row(
    "killed 30 ms after it returned a 256 MB batch",
    bar=REDONE,
    peers="HANG | VAGUE 5.5s | VAGUE 5.4s | CLEAN 2.0s | CLEAN 1.4s",
    within=2.0,
)
def after_a_big_batch(scene: Scene) -> None:
    with scene.loader(Big(scene)) as loader:
        for due, batch in enumerate(loader):
            if due != 7:
                check(batch, due)
                continue
            scene.notice()
            index, big = batch
            if index != 7 or big.min() != 7 or big.max() != 7:
                raise Lost("the big batch is wrong")
            del big, batch
        assert due == 19
        (victim,) = scene.folder.glob("*.pid")
        wait_until(lambda: ended(int(victim.stem)), "it is killed")


@row(
    "all workers killed at once",
    bar=REDONE,
    peers=f"HANG | {CLEAN} | CLEAN 1.0s | CLEAN 0.1s",
    within=2.0,
)
def all_at_once(scene: Scene) -> None:
    with scene.loader(Blocks(20), max_queue_size=3) as loader:
        for due, batch in enumerate(loader):
            check(batch, due)
            if due == 7:
                scene.strike()
                kill_all(loader)
            if due == 19:
                scene.notice()
        assert due == 19
        scene.expect_blocks(loader)
        assert loader.stats().deaths >= 1


def fork_and_die(scene: Scene) -> None:
    """Die with a child that holds every descriptor that it inherited."""
    if os.fork() == 0:
        (scene.folder / f"{os.getpid()}.pid").touch()
        scene.gate.pass_through("end")
        os._exit(0)
    wait_until(lambda: list(scene.folder.glob("*.pid")), "the grandchild is there")
    kill_this()


@row(
    "worker forks a long-lived child, then is killed",
    bar=f"{REDONE}; the death is noticed at once though the grandchild holds every "
    "inherited end",
    peers=f"HANG | {CLEAN} | CLEAN 1.4s | HANG",
)
def with_a_child(scene: Scene) -> None:
    expect_redone(scene, Struck(scene, lambda: fork_and_die(scene)), "SIGKILL")
    (pid,) = scene.folder.glob("*.pid")
    os.kill(int(pid.stem), 0)  # it has lived to the end
    scene.gate.let_all()
