"""What a soak has counted, as a table and as JSON."""

from __future__ import annotations

import json
import os
import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .script import DEEDS, FAULTS, KINDS, POOLS

if TYPE_CHECKING:
    from pathlib import Path

_MOST_GROWTH = 40.0  # megabytes, from the first quarter of a long soak to its last
_LONG = 60  # episodes


@dataclass
class Tally:
    """The counts of one soak.

    Attributes:
        seed: Of the soak.
        episodes: How many are over; the number of the next.
        seconds: That all of them took.
        faults: That really happened, by ``"kind/pool"``.
        stalls: Longest time from one to the next batch or error, in seconds, by kind.
        loaders, passes, batches: By pool.
        megabytes: That were compared.
        errors: What reached the consumer and was right to, by type.
        memory: Megabytes of this process after each episode.
        wrong: What was not as it had to be.
        left_behind: What was there after an episode and not before it.
    """

    seed: int
    episodes: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    stalls: dict[str, float] = field(default_factory=dict)
    loaders: Counter[str] = field(default_factory=Counter)
    passes: Counter[str] = field(default_factory=Counter)
    batches: Counter[str] = field(default_factory=Counter)
    megabytes: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    memory: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)

    def fault(self, kind: str, pool: str, stall: float = 0.0) -> None:
        """Count a fault, and the time until the consumer had something again."""
        self.faults[f"{kind}/{pool}"] += 1
        self.stalls[kind] = max(stall, self.stalls.get(kind, 0.0))

    @property
    def number_of_faults(self) -> int:
        """How many there were, without what the consumer did itself."""
        return self._sum(FAULTS)

    def _sum(self, kinds: tuple[str, ...]) -> int:
        return sum(self.faults[f"{kind}/{pool}"] for kind in kinds for pool in POOLS)

    @property
    def growth(self) -> float:
        """Megabytes by which this process grew; 0 where it is too early to tell."""
        if len(self.memory) < _LONG:
            return 0.0
        quarter = len(self.memory) // 4
        first, last = self.memory[quarter : 2 * quarter], self.memory[-quarter:]
        return statistics.median(last) - statistics.median(first)

    @property
    def failed(self) -> bool:
        """Whether anything was not as it had to be."""
        return bool(self.wrong or self.left_behind or self.growth > _MOST_GROWTH)

    def keep(self, file: Path) -> None:
        """Write it as JSON, in one step."""
        draft = file.with_name(file.name + ".draft")
        draft.write_text(json.dumps(vars(self), indent=1))
        os.replace(draft, file)

    @classmethod
    def kept(cls, file: Path) -> Tally:
        """Read what :meth:`keep` wrote."""
        tally = cls(**json.loads(file.read_text()))
        for name in ("faults", "loaders", "passes", "batches", "errors"):
            setattr(tally, name, Counter(getattr(tally, name)))
        return tally

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("", *POOLS, "worst stall")]
        for kind in KINDS:
            counts = [self.faults[f"{kind}/{pool}"] for pool in POOLS]
            if any(counts):
                stall = f"{self.stalls[kind]:.2f} s" if self.stalls[kind] else ""
                rows.append((kind, *map(str, counts), stall))
        for name in ("loaders", "passes", "batches"):
            counted = getattr(self, name)
            rows.append((name, *(str(counted[pool]) for pool in POOLS), ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if place else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([self._head(), "", *lines, "", *self._tail()])

    def _head(self) -> str:
        return (
            f"seed {self.seed}: {self.episodes} episodes in {self.seconds / 60:.1f} "
            f"minutes, {self.number_of_faults} faults, {self._sum(DEEDS)} deeds of the "
            "consumer, "
            f"{sum(self.batches.values())} batches ({self.megabytes:.0f} MB) compared"
        )

    def _tail(self) -> list[str]:
        errors = ", ".join(f"{name} {n}" for name, n in sorted(self.errors.items()))
        lines = [f"errors that reached the consumer as they had to: {errors or 'none'}"]
        if self.memory:
            lines.append(
                f"memory of the parent: {self.memory[0]:.0f} MB after the first episode, "
                f"{self.memory[-1]:.0f} MB after the last, {max(self.memory):.0f} MB at "
                f"the most; growth {self.growth:.0f} MB"
            )
        for name, found in (("wrong", self.wrong), ("left behind", self.left_behind)):
            lines += [f"{name}: {len(found)}", *(f"  {text}" for text in found)]
        return lines
