"""A worker process ends while it should not."""

from __future__ import annotations

import logging
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

import feedline
from feedline import WorkerDiedError, WorkerStartError, worker
from tests.datasets import Blocks, block, die, wait_until

from .rows import POOLS, row
from .scene import Lost, Scene, Struck, check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from feedline import Loader

REDONE = "redone elsewhere, run goes on, all batches once and in order"
TOLD = f"{REDONE}; a log line tells signal and the worker's last Python stack"
CLEAN = "CLEAN 0.0s | CLEAN 0.0s"
END = b"the end"


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


def pids(loader: Loader) -> list[int]:
    pool: Any = loader._pool
    found: list[int] = pool.pids
    return found


def kill_all(loader: Loader) -> None:
    for pid in pids(loader):
        os.kill(pid, signal.SIGKILL)


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


@row("... a null pointer read in C", bar=TOLD)
def null_pointer(scene: Scene) -> None:
    dataset = Struck(scene, lambda: die("null pointer"))
    expect_redone(scene, dataset, "SIGSEGV", "in die")


@row("... SIGABRT", bar=TOLD, peers=f"HANG | {CLEAN} | CLEAN 1.4s | CLEAN 0.0s")
def abort(scene: Scene) -> None:
    expect_redone(scene, Struck(scene, os.abort), "SIGABRT", "in __getitem__")


@row("... SIGBUS", bar=TOLD)
def bus(scene: Scene) -> None:
    expect_redone(scene, Struck(scene, lambda: die("SIGBUS")), "SIGBUS", "in die")


@row("... SIGFPE", bar=TOLD)
def fpe(scene: Scene) -> None:
    expect_redone(scene, Struck(scene, lambda: die("SIGFPE")), "SIGFPE", "in die")


@row("... SIGILL", bar=TOLD)
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
        scene.expect_blocks(loader)
        assert loader.stats().deaths == 1
        assert victim not in pids(loader)


@row(
    "all workers killed between two epochs",
    bar="next epoch complete",
    peers="EXACT | VAGUE | VAGUE | EXACT | EXACT",
)
def between_epochs(scene: Scene) -> None:
    with scene.loader(Blocks(20)) as loader:
        check_all(loader, 20)
        scene.strike()
        kill_all(loader)
        scene.expect_blocks(loader, at=0)
        assert loader.stats().deaths == 2


def check_all(loader: Loader, length: int) -> None:
    due = 0
    for batch in loader:
        check(batch, due)
        due += 1
    if due != length:
        raise Lost(f"the epoch has {length} batches, got {due}")


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
        assert loader.stats().deaths == 1


@row(
    "all workers killed at once",
    bar=REDONE,
    peers=f"HANG | {CLEAN} | CLEAN 1.0s | CLEAN 0.1s",
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
        assert loader.stats().deaths == 2


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


class Bomb:
    """A block which, while it is encoded, is a fault; once."""

    def __init__(self, scene: Scene, index: int, fault: Callable[[], object]) -> None:
        self.scene = scene
        self.index = index
        self.fault = fault

    def __reduce__(self) -> Any:
        if self.scene.strike():
            self.fault()
        return block, (self.index,)


class Armed(Blocks):
    """Batch 7 is a bomb."""

    def __init__(self, scene: Scene, fault: Callable[[], object]) -> None:
        super().__init__(20)
        self.scene = scene
        self.fault = fault

    def __getitem__(self, index: int) -> Any:
        if index == 7:
            return index, Bomb(self.scene, index, self.fault)
        return super().__getitem__(index)


@row("a worker killed while it encodes batch 7", bar=REDONE)
def while_encoding(scene: Scene) -> None:
    expect_redone(scene, Armed(scene, kill_this), "SIGKILL")


def cut_short(scene: Scene) -> Any:
    """An array over a file that has become shorter: who reads it whole gets a SIGBUS."""
    path = scene.folder / "file"
    path.write_bytes(bytes(2**22))
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
        file.truncate(2**21)
    return np.frombuffer(mapped, np.uint8)


class CutShort(Blocks):
    """Batch 7 cannot be copied beyond its half; once."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(20)
        self.scene = scene

    def __getitem__(self, index: int) -> Any:
        if index == 7 and self.scene.strike():
            return index, cut_short(self.scene)
        return super().__getitem__(index)


@row("... while it copies it into shared memory, half way (SIGBUS)", bar=TOLD)
def while_copying(scene: Scene) -> None:
    expect_redone(scene, CutShort(scene), "SIGBUS", "in write")


class InPlace(Blocks):
    """Batches built in place; whoever builds the 7th is killed half way, once."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(20)
        self.scene = scene

    def __getitem__(self, index: int) -> Any:
        right = block(index)
        array = feedline.empty(right.shape, right.dtype)
        array[:1000] = right[:1000]
        if index == 7 and self.scene.strike():
            kill_this()
        array[1000:] = right[1000:]
        return index, array


@row("... while it builds it in place", bar=REDONE)
def while_in_place(scene: Scene) -> None:
    expect_redone(scene, InPlace(scene), "SIGKILL")


@row(
    "`worker_init_fn` ends every worker (`os._exit(5)`)",
    bar="one WorkerStartError with the exit code and where to look, no restart loop",
    outcome="CLEAN",
)
def in_init(scene: Scene) -> None:
    def init(number: int) -> None:
        scene.strike()
        os._exit(5)

    with scene.loader(Blocks(20), worker_init_fn=init) as loader:
        words = r"worker [01] did not start: .* code 5; .*worker_init_fn"
        error = scene.expect_error(loader, WorkerStartError, words, at=0)
        assert error.exitcode == 5


@row(
    "... is killed in every worker",
    bar="one WorkerStartError with the signal, no restart loop",
    outcome="CLEAN",
    within=3.0,
)
def killed_in_init(scene: Scene) -> None:
    def init(number: int) -> None:
        scene.strike()
        kill_this()

    with scene.loader(Blocks(20), worker_init_fn=init) as loader:
        words = r"worker [01] did not start: .*SIGKILL"
        scene.expect_error(loader, WorkerStartError, words, at=0)


@row("... is killed in the first worker", bar="another is started; all batches exact")
def once_in_init(scene: Scene) -> None:
    def init(number: int) -> None:
        if scene.strike():
            kill_this()

    with scene.loader(Blocks(20), worker_init_fn=init) as loader:
        scene.expect_blocks(loader, at=0)
        scene.expect_blocks(loader)
        assert loader.stats().deaths == 1


class Fatal(Blocks):
    """Kills the first process that unpickles it."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(20)
        self.scene = scene

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.scene.strike():
            kill_this()


@row(
    "a worker killed while it unpickles the dataset, before it is ready",
    bar="another is started; all batches exact",
    pools=("forkserver", "spawn"),
)
def while_unpickling(scene: Scene) -> None:
    with scene.loader(Fatal(scene)) as loader:
        scene.expect_blocks(loader, at=0)
        scene.expect_blocks(loader)
    assert scene.strikes == 1


@row(
    "a worker killed at every line of its main loop, one loader for each",
    bar=REDONE,
    pools=("fork",),
    within=20.0,
    limit=60.0,
)
def at_every_line(scene: Scene) -> None:
    lines = count_lines(scene)
    assert lines > 50
    for line in range(lines):

        def fatal(seen: int, line: int = line) -> None:
            if seen == line and scene._stamp(f"fault-{line}"):
                kill_this()

        with traced(fatal), scene.loader(Blocks(6, 10)) as loader:
            check_all(loader, 6)
            check_all(loader, 6)
            assert loader.stats().deaths <= 1
    scene.notice()
    assert scene.strikes == lines


def count_lines(scene: Scene) -> int:
    """How many lines a lone worker runs for an epoch of 3 batches."""
    told = scene.folder / "lines"

    def tell(seen: int) -> None:
        told.write_text(str(seen))

    with traced(tell), scene.loader(Blocks(3, 10), workers=1) as loader:
        check_all(loader, 3)
    return int(told.read_text())


@contextmanager
def traced(on_line: Callable[[int], None]) -> Iterator[None]:
    """Have forked workers call a function before each line of their room."""
    room = worker.main.__code__.co_filename

    def main(setup: Any) -> None:
        lines = count()

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if frame.f_code.co_filename != room:
                return None
            if event == "line":
                on_line(next(lines))
            return trace

        sys.settrace(trace)
        worker.main(setup)

    with mock.patch("feedline.crew.main", main):
        yield


@row(
    "workers start after random delays, and are killed after random ones, 10 loaders",
    bar=REDONE,
    pools=("fork",),
    within=5.0,
)
def random_delays(scene: Scene) -> None:
    draws = random.Random(1)
    for _ in range(10):
        delays = [draws.uniform(0, 0.03) for _ in range(2)]

        def wait(number: int, delays: list[float] = delays) -> None:
            time.sleep(delays[number])

        with scene.loader(Blocks(20, 10), worker_init_fn=wait) as loader:
            iterator = iter(loader)
            check(next(iterator), 0)
            time.sleep(draws.uniform(0, 0.03))
            scene.strike(times=10)
            kill_all(loader)
            for due, batch in enumerate(iterator, 1):
                check(batch, due)
            assert due == 19
            check_all(loader, 20)
    scene.notice()
    assert scene.strikes == 10


@row(
    "a worker writes 50 MB to stdout and 50 MB to stderr, which are pipes",
    bar="exact; what it wrote arrives whole",
)
def flood(scene: Scene) -> None:
    def write() -> None:
        for _ in range(800):
            for fd in (1, 2):
                os.write(fd, bytes(65536))

    with counting_output() as total, scene.loader(Struck(scene, write)) as loader:
        scene.expect_blocks(loader)
    assert sum(total) == 2 * 800 * 65536


@contextmanager
def counting_output() -> Iterator[list[int]]:
    """Count what this process and its children write to stdout and stderr."""
    out, into = os.pipe()
    kept = os.dup(1), os.dup(2)
    total: list[int] = []

    def drain() -> None:
        # Not to the end of the pipe: Python's own helper processes hold it, too.
        while not (text := os.read(out, 2**20)).endswith(END):
            total.append(len(text))
        total.append(len(text) - len(END))

    for fd in (1, 2):
        os.dup2(into, fd)
    os.close(into)
    reader = threading.Thread(target=drain)
    reader.start()
    try:
        yield total
    finally:
        os.write(1, END)
        for fd in (1, 2):
            os.dup2(kept[fd - 1], fd)
            os.close(kept[fd - 1])
        reader.join()
        os.close(out)


@row(
    "the user's code starts and awaits a process of its own in every batch",
    bar="exact; a worker's child is not taken for a worker",
    pools=POOLS,
)
def own_processes(scene: Scene) -> None:
    class Asking(Blocks):
        def __getitem__(self, index: int) -> Any:
            scene.strike()
            said = subprocess.run(
                ["/bin/echo", str(index)], capture_output=True, check=True
            )
            assert int(said.stdout) == index
            return super().__getitem__(index)

    with scene.loader(Asking(20)) as loader:
        scene.expect_blocks(loader)
        assert loader.stats().deaths == 0


@row(
    "garbage is collected between any two steps (`gc.set_threshold(1)`)",
    bar="exact, with breaks and kept batches",
    pools=("inline", *POOLS),
)
def garbage(scene: Scene) -> None:
    import gc

    class Collecting(Blocks):
        def __getitem__(self, index: int) -> Any:
            gc.set_threshold(1)
            return super().__getitem__(index)

    before = gc.get_threshold()
    gc.set_threshold(1)
    scene.strike()
    try:
        with scene.loader(Collecting(10)) as loader:
            for _ in zip(range(3), loader, strict=False):
                pass
            kept = list(loader)
            scene.expect_blocks(loader, 10)
            for due, batch in enumerate(kept):
                check(batch, due)
    finally:
        gc.set_threshold(*before)
