"""A row of the fault table: what is caused, in which pools, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .scene import Scene

    Play = Callable[[Scene], None]

PROCESSES = ("fork", "forkserver", "spawn")
POOLS = ("threads", *PROCESSES)
EVERYWHERE = ("inline", *POOLS)
PEERS = ("Keras", "torch", "SDL", "Grain", "joblib")
OUTCOMES = ("EXACT", "CLEAN", "OK")
NOT_HERE = "NOT HERE"  # in place of one of these, where a machine refuses the fault


@dataclass(frozen=True)
class Row:
    """One fault.

    Attributes:
        play: Causes it, and asserts what came of it.
        fault: In words, as the table shows it.
        bar: What feedline has to do.
        outcome: What that is called: EXACT, CLEAN or OK.
        pools: Where it is played.
        peers: What came of it elsewhere, in the order of ``PEERS``.
        within: Most seconds from the fault to the right batch or the error.
        limit: Seconds after which everything is killed, and the outcome is HANG.
        needs: Modules to import before it begins; without them the row is not played.
        memory: Most bytes that the process may have more at the end than at the start.
    """

    play: Play
    fault: str
    bar: str
    outcome: str
    pools: tuple[str, ...]
    peers: tuple[str, ...]
    within: float
    limit: float
    needs: tuple[str, ...]
    memory: int

    @property
    def name(self) -> str:
        return self.play.__name__


def row(
    fault: str,
    *,
    bar: str,
    outcome: str = "EXACT",
    pools: tuple[str, ...] = PROCESSES,
    peers: str = "- | - | - | - | -",
    within: float = 1.0,
    limit: float = 20.0,
    needs: tuple[str, ...] = (),
    memory: int = 32 * 2**20,
) -> Callable[[Play], Row]:
    """Make a row of a function that plays it."""
    seen = tuple(said.strip() for said in peers.split("|"))
    assert len(seen) == len(PEERS), peers
    assert outcome in OUTCOMES, outcome
    assert set(pools) <= set(EVERYWHERE), pools

    def make(play: Play) -> Row:
        return Row(play, fault, bar, outcome, pools, seen, within, limit, needs, memory)

    return make
