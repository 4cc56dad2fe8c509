"""A worker process ends while it should not."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from .rows import row
from .scene import Struck

if TYPE_CHECKING:
    from .scene import Scene

REDONE = "redone elsewhere, run goes on, all batches once and in order"


@row(
    "worker killed (SIGKILL) while computing item 7",
    bar=REDONE,
    peers="HANG | CLEAN 0.0s | CLEAN 0.0s | CLEAN 1.7s | CLEAN 0.0s",
)
def killed(scene: Scene) -> None:
    dataset = Struck(scene, lambda: os.kill(os.getpid(), signal.SIGKILL))
    with scene.loader(dataset) as loader:
        scene.expect_blocks(loader)
        assert loader.stats().deaths == 1
        scene.expect_blocks(loader)
