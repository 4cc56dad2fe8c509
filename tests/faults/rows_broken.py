"""Rows that go wrong in every way, to see that the judge sees it. Not in the table."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.datasets import Blocks

from .rows import row
from .scene import Struck

if TYPE_CHECKING:
    from .scene import Scene

HERE = ("fork",)
_kept: list[Any] = []


def nothing() -> None:
    """No fault at all."""


@row("a fault that never comes", bar="told", pools=HERE)
def no_fault(scene: Scene) -> None:
    with scene.loader(Struck(scene, nothing, at=99)) as loader:
        scene.expect_blocks(loader)


@row("a batch in another's place", bar="told", pools=HERE)
def swapped(scene: Scene) -> None:
    scene.strike()
    with scene.loader(Blocks(20), shuffle=True, seed=1) as loader:
        scene.expect_blocks(loader)


@row("a batch too few", bar="told", pools=HERE)
def too_few(scene: Scene) -> None:
    scene.strike()
    with scene.loader(Blocks(19)) as loader:
        scene.expect_blocks(loader)


def refuse() -> None:
    raise LookupError("something")


@row("an error that says nothing", bar="told", outcome="CLEAN", pools=HERE)
def vague(scene: Scene) -> None:
    with scene.loader(Struck(scene, refuse)) as loader:
        scene.expect_error(loader, LookupError, "what happened")


@row("an error that never comes", bar="told", outcome="CLEAN", pools=HERE)
def no_error(scene: Scene) -> None:
    with scene.loader(Struck(scene, nothing)) as loader:
        scene.expect_error(loader, LookupError)


@row("no answer", bar="told", pools=HERE, limit=1.0)
def hangs(scene: Scene) -> None:
    scene.strike()
    subprocess.Popen(["sleep", "61"], start_new_session=True)
    time.sleep(60)


@row("the process is gone", bar="told", pools=HERE)
def exits(scene: Scene) -> None:
    scene.strike()
    os._exit(3)


@row("everything is left behind", bar="told", pools=HERE)
def leaves(scene: Scene) -> None:
    scene.strike()
    subprocess.run(["sh", "-c", "sleep 62 &"], check=True, start_new_session=True)
    Path(tempfile.gettempdir(), "a-file").touch()
    Path("/dev/shm/feedline-a-name").touch()
    threading.Thread(target=time.sleep, args=(4,), name="a-thread", daemon=True).start()
    loader = scene.loader(Blocks(20))
    iterator = iter(loader)
    _kept.extend([bytearray(50_000_000), os.pipe(), loader, iterator, next(iterator)])
    scene.notice()
