"""The process in which one row is played with one pool; what it says in the end."""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.belongings import Belongings, memory

from . import mounts
from .rows import NOT_HERE
from .scene import Refused, Scene

if TYPE_CHECKING:
    from .rows import Row

SETTLING = 2.0  # seconds that what is ending may take to end; most need none


def main() -> None:
    """``MODULE ROW POOL FOLDER VERDICT SHARED``: play a row; write the verdict.

    Where root plays it, the folder SHARED is its /dev/shm, which is no one else's.
    """
    module, name, pool, folder, verdict, shared = sys.argv[1:]
    if os.getuid() == 0:
        with suppress(Refused):
            mounts.instead(shared, "/dev/shm")
    row: Row = getattr(importlib.import_module(f"tests.faults.{module}"), name)
    for needed in row.needs:
        importlib.import_module(needed)
    said = play(row, Scene(pool, Path(folder)))
    Path(verdict).write_text(json.dumps(said))


def play(row: Row, scene: Scene) -> dict[str, Any]:
    """Play a row; what came of it, and what it left in this process."""
    before, used = Belongings.now(), memory()
    outcome, detail = row.outcome, ""
    try:
        row.play(scene)
        if not scene.strikes:
            outcome, detail = "NO FAULT", "the row left no stamp of its fault"
    except Refused as refusal:
        outcome, detail = NOT_HERE, str(refusal)
    except BaseException as error:  # noqa: BLE001 - told to the judge
        outcome = getattr(error, "outcome", "FAILED")
        detail = traceback.format_exc()[-5000:]
        if not scene.strikes:
            detail += "\nand the row left no stamp of its fault"
        del error
    left = settled(before)
    gc.collect()
    grown = memory() - used
    if grown > row.memory:
        left.append(f"{grown / 2**20:.0f} MB of memory")
    return {
        "outcome": outcome,
        "seconds": scene.seconds,
        "detail": detail,
        "left": left,
    }


def settled(before: Belongings) -> list[str]:
    """What is left beyond that when everything has had time to end."""
    deadline = time.monotonic() + SETTLING
    while left := Belongings.now().beyond(before):
        gc.collect()
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return left
