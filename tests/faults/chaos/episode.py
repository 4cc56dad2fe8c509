"""One episode: one or two lives side by side, and what strikes them from outside."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from .life import Life
from .outside import Outside

if TYPE_CHECKING:
    from pathlib import Path

    from .log import Log
    from .outside import Moments
    from .script import Script
    from .tally import Tally

_SHARE = 0.04  # of the moments between two batches at which something strikes


def play(script: Script, folder: Path, tally: Tally, log: Log) -> None:
    """Play an episode.

    Args:
        script: What happens in it.
        folder: Empty; for the signs that faults leave.
        tally: Counts.
        log: What the engine logs.

    Raises:
        Wrong: A batch, an error or a state was not as it had to be.
    """
    random_ = random.Random(script.seed)
    lives: list[Life] = []

    def owner_of(pid: int) -> Moments | None:
        having = sorted(lives, key=lambda life: life.may_have(pid), reverse=True)
        return having[0].struck if having and having[0].may_have(pid) else None

    def pause() -> float:
        return max((life.pause for life in lives), default=0.1) / script.haste

    with Outside(random_, script.signals, pause, owner_of) as outside:
        for number, part in enumerate(script.parts):
            signs = folder / str(number)
            signs.mkdir()
            lives.append(Life(part, signs, tally, log, outside))
        try:
            going = [life.steps() for life in lives]
            while going:
                steps = random_.choice(going)
                if next(steps, "over") == "over":
                    going.remove(steps)
                elif random_.random() < _SHARE:
                    outside.strike_between_batches()
        finally:
            for life in lives:
                life.close()
