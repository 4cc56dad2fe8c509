"""Programs that are ended, interrupted or forked, and what becomes of their processes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.datasets import PATIENCE, Blocks, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .scene import Scene

ROOT = Path(__file__).parents[2]

# Two batches are taken; then something happens.
CONSUMER = """
import os, signal, sys, time
from pathlib import Path
from tests.faults.programs import Work
from tests.faults.scene import Scene, check

def main():
    global loader, batches
    loader = scene.loader(Work(scene, long={long}))
    batches = iter(loader)
    for due, batch in enumerate(batches):
        check(batch, due)
        if due == 1:
            if {long}:
                scene.gate.await_arrival("long-2")
                scene.gate.await_arrival("long-3")
            scene.gate.arrive("ready")
            {then}

scene = Scene({pool!r}, Path({folder!r}))

if __name__ == "__main__":
    main()
"""


class Work(Blocks):
    """A thousand blocks; from the third on, each may take half a minute."""

    def __init__(self, scene: Scene, *, long: bool) -> None:
        super().__init__(1000)
        self.scene = scene
        self.long = long

    def __getitem__(self, index: int) -> Any:
        if self.long and index >= 2:
            self.scene.gate.arrive(f"long-{index}")
            time.sleep(30)
        return super().__getitem__(index)


@contextmanager
def consumer(
    scene: Scene, then: str = "pass", *, long: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Run that program until two batches are taken."""
    text = CONSUMER.format(
        pool=scene.pool, folder=str(scene.folder), then=then, long=long
    )
    with program(text, scene.folder) as process:
        scene.gate.await_arrival("ready")
        yield process


@contextmanager
def program(text: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program in a process group of its own, and end it whatever happens."""
    script = folder / "program.py"
    script.write_text(text)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        with process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def family(pid: int) -> list[psutil.Process]:
    """Children, and theirs."""
    return list(psutil.Process(pid).children(recursive=True))


def is_gone(process: psutil.Process) -> bool:
    """Whether it has ended, waited for or not."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def ended(pid: int) -> bool:
    """The same by number, while that is not given again."""
    try:
        return is_gone(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


def expect_all_gone(processes: list[psutil.Process], seconds: float) -> None:
    """Wait for their end."""
    wait_until(lambda: all(map(is_gone, processes)), f"{processes} end", seconds)


def consumer_waits(pid: int) -> bool:
    """Whether it has used no time for a while."""
    process = psutil.Process(pid)
    before = process.cpu_times()
    time.sleep(0.1)
    return bool(process.cpu_times() == before)


def in_child(act: Callable[[], int]) -> int:
    """Run something in a forked copy of this process; its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = act()
        finally:
            os._exit(code)
    end = os.pidfd_open(pid)
    try:
        hangs = not select.select([end], [], [], PATIENCE)[0]
        if hangs:
            os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(end)
    if hangs:
        raise TimeoutError("the child hangs")
    return code
