"""The main process is interrupted, or ends."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from tests.datasets import PATIENCE, wait_until

from .programs import (
    consumer,
    consumer_waits,
    expect_all_gone,
    family,
    program,
)
from .rows import EVERYWHERE, POOLS, row

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from .scene import Scene

GONE = 3.0  # seconds after which a worker stays

NAPS = "[time.sleep(0.01) for _ in range(3000)]"  # an interrupt ends one of them


def interrupt(scene: Scene, send: Callable[[subprocess.Popen[str]], object]) -> None:
    """Send an interrupt; the program must end at once, with one traceback."""
    long = scene.pool != "inline"
    with consumer(scene, "pass" if long else NAPS, long=long) as process:
        workers = family(process.pid)
        scene.strike()
        send(process)
        _, errors = process.communicate(timeout=PATIENCE)
        expect_all_gone(workers, GONE)
        scene.notice()
    assert process.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1, errors
    assert errors.rstrip().endswith("KeyboardInterrupt")


@row(
    "Ctrl-C to the process group in mid-epoch",
    bar="KeyboardInterrupt at once, < 0.5 s to a clean end, one traceback",
    outcome="OK",
    pools=EVERYWHERE,
    peers="HANG | OK | OK | POOR | POOR",
    within=0.5,
)
def interrupt_of_all(scene: Scene) -> None:
    interrupt(scene, lambda process: os.killpg(process.pid, signal.SIGINT))


@row(
    "SIGINT to the parent only",
    bar="same",
    outcome="OK",
    pools=EVERYWHERE,
    peers="OK | OK | POOR | OK | OK",
    within=0.5,
)
def interrupt_of_the_parent(scene: Scene) -> None:
    interrupt(scene, lambda process: os.kill(process.pid, signal.SIGINT))


CAUGHT = """
from pathlib import Path
from tests.datasets import Slow
from tests.faults.scene import Scene

scene = Scene({pool!r}, Path({folder!r}))

if __name__ == "__main__":
    with scene.loader(Slow(scene.folder, at=3)) as loader:
        batches = iter(loader)
        assert [next(batches) for _ in range(3)] == [0, 1, 2]
        try:
            next(batches)
        except KeyboardInterrupt:
            scene.notice()
        scene.gate.arrive("over")
        assert list(loader) == list(range(8))
    print("exact")
"""


@row(
    "... caught, then a new epoch",
    bar="exact",
    pools=POOLS,
    peers="CLEAN | CLEAN | CLEAN | CLEAN | CLEAN",
    within=0.5,
)
def caught(scene: Scene) -> None:
    text = CAUGHT.format(pool=scene.pool, folder=str(scene.folder))
    with program(text, scene.folder) as process:
        scene.gate.await_arrival("hanging")
        # The consumer has what came before the batch that hangs, or is about to.
        wait_until(lambda: consumer_waits(process.pid), "the consumer waits")
        scene.strike()
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
    assert (output, errors) == ("exact\n", "")


def end(scene: Scene, sent: signal.Signals, *, long: bool = False) -> None:
    """End the program; its workers must go with it."""
    with consumer(scene, "pass" if long else NAPS, long=long) as process:
        workers = family(process.pid)
        assert len(workers) >= 2
        scene.strike()
        process.send_signal(sent)
        expect_all_gone(workers, GONE)
        scene.notice()
        assert process.wait(timeout=PATIENCE) == -sent


@row(
    "SIGTERM to the parent",
    bar="workers gone < 0.5 s, nothing left",
    outcome="OK",
    peers="OK | POOR | POOR | POOR | POOR",
    within=0.5,
)
def terminated(scene: Scene) -> None:
    end(scene, signal.SIGTERM)


@row(
    "SIGKILL to the parent",
    bar="workers gone < 0.5 s, nothing left",
    outcome="OK",
    peers="OK | POOR | POOR | POOR | POOR",
    within=0.5,
)
def killed(scene: Scene) -> None:
    end(scene, signal.SIGKILL)


@row(
    "... while both workers are in a long item",
    bar="same",
    outcome="OK",
    peers="POOR | POOR | POOR | POOR | POOR",
    within=0.5,
)
def killed_while_workers_are_busy(scene: Scene) -> None:
    end(scene, signal.SIGKILL, long=True)


def leave(
    scene: Scene, how: str, code: int, last: str = "", *, long: bool = False
) -> None:
    """Let the program end by itself; nothing may hold it up or stay behind."""
    then = f"scene.gate.pass_through('end'); {how}"
    with consumer(scene, then, long=long) as process:
        scene.gate.await_arrival("end")
        workers = family(process.pid)
        scene.strike()
        scene.gate.let_all()
        output, errors = process.communicate(timeout=PATIENCE)
        expect_all_gone(workers, GONE)
        scene.notice()
    assert (process.returncode, output) == (code, ""), errors
    assert errors.rstrip().endswith(last)
    assert errors.count("Traceback") == bool(last), errors


@row(
    "sys.exit(7) with a live iterator in a global",
    bar="rc 7, < 1 s, nothing left",
    outcome="OK",
    pools=EVERYWHERE,
    peers="OK | POOR | POOR | OK | POOR",
)
def exits(scene: Scene) -> None:
    leave(scene, "sys.exit(7)", 7)


@row(
    "... while both workers are in a long item (sys.exit)",
    bar="same",
    outcome="OK",
    pools=POOLS,
)
def exits_while_workers_are_busy(scene: Scene) -> None:
    leave(scene, "sys.exit(7)", 7, long=True)


@row(
    "exception in the loop body",
    bar="its traceback alone, < 1 s, nothing left",
    outcome="OK",
    pools=EVERYWHERE,
    peers="OK | OK | POOR | OK | OK",
)
def raises(scene: Scene) -> None:
    leave(scene, "raise ValueError('mine')", 1, "ValueError: mine")


@row(
    "os._exit(9) in the consumer",
    bar="workers gone < 0.5 s",
    outcome="OK",
    pools=EVERYWHERE,
    peers="POOR | OK | OK | POOR | POOR",
    within=0.5,
)
def exits_at_once(scene: Scene) -> None:
    leave(scene, "os._exit(9)", 9)


PHASES = """
import os, sys, threading
from contextlib import suppress
from pathlib import Path
from feedline import LoaderClosedError
from tests.datasets import Blocks
from tests.faults.scene import Scene

class Hooked(Blocks):
    begins = ends = False
    def on_epoch_begin(self):
        if self.begins: sys.exit(7)
    def on_epoch_end(self):
        if self.ends: sys.exit(7)

def begun():
    next(batches)
def over():
    list(batches)
def kept():
    keep.extend(batches)
def begins():
    loader.dataset.begins = True; next(batches)
def ends():
    loader.dataset.ends = True; list(batches)
def closed():
    next(batches); loader.close()
def dropped():
    global loader, batches
    next(batches); del loader, batches
def elsewhere():
    taken = threading.Event()
    def take():
        with suppress(LoaderClosedError):
            for batch in batches: taken.set()
    threading.Thread(target=take, daemon=True).start()
    taken.wait()
def tied():
    knot = [loader, batches]
    knot.append(knot)
    next(batches)

scene = Scene({pool!r}, Path({folder!r}))
keep = []
acts = [begun, kept, begins, elsewhere]
if scene.pool not in ("forkserver", "spawn"):  # a new Python takes its time
    acts += [list, over, ends, closed, dropped, tied]

if __name__ == "__main__":
    for act in acts:
        pid = os.fork()
        if pid == 0:
            loader = scene.loader(Hooked(50))
            batches = iter(loader)
            act()
            sys.exit(7)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == 7, (act, code)
        print(act.__name__, flush=True)
"""


@row(
    "the interpreter exits at every phase of a loader's life, everything open",
    bar="rc 7 each time, at once, not a word, nothing left",
    outcome="OK",
    pools=EVERYWHERE,
    within=10.0,
)
def exits_at_every_phase(scene: Scene) -> None:
    text = PHASES.format(pool=scene.pool, folder=str(scene.folder))
    scene.strike()
    with program(text, scene.folder) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    scene.notice()
    assert process.returncode == 0, errors
    assert errors == "", errors
    assert len(output.split()) in (4, 10)
