"""The process in which one row is played with one pool; what it says in the end."""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.belongings import Belongings, memory

from .rows import NOT_HERE
from .scene import Lost, Refused, Scene, Vague

if TYPE_CHECKING:
    from .rows import Row

SETTLING = 2.0  # seconds that what is ending may take to end; most need none


def main() -> None:
    """``MODULE ROW POOL FOLDER VERDICT``: play a row of a module; write the verdict."""
    module, name, pool, folder, verdict = sys.argv[1:]
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
        outcome = (
            "LOSS"
            if isinstance(error, Lost)
            else "VAGUE"
            if isinstance(error, Vague)
            else "FAILED"
        )
        detail = traceback.format_exc()[-5000:]
        if scene.strikes == 0:
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
