"""What was measured, what was to be reached, and the table of both."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Report", "Result", "Target", "summary"]

_PEERS = ("feedline", "numpy", "torch", "keras", "grain", "spdl", "joblib")


@dataclass(frozen=True, slots=True)
class Result:
    """One figure of one contestant.

    Attributes:
        row: What was measured.
        who: Who was measured.
        unit: Of the figures; less is better.
        best: The least; nan if there is none.
        median: Of all rounds.
        note: Why there is no figure, or what it stands for.
    """

    row: str
    who: str
    unit: str
    best: float
    median: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure is to reach.

    Attributes:
        row: Of the figure.
        who: Of the figure.
        bound: How many times the peer must take what this one takes, at the least; or,
            without a peer, the most that the figure may be.
        peer: Whom it is compared with.
    """

    row: str
    who: str
    bound: float
    peer: str | None = None


def summary(
    row: str, who: str, unit: str, values: list[float], note: str = ""
) -> Result:
    """The result of some rounds."""
    return Result(row, who, unit, min(values), statistics.median(values), note)


class Report:
    """All results of a run."""

    def __init__(self, results: Iterable[Result], machine: dict[str, Any]) -> None:
        self.results = list(results)
        self.machine = machine

    @classmethod
    def of_this_machine(cls) -> Report:
        """An empty one."""
        versions = {}
        for name in _PEERS:
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                versions[name] = "not installed"
        machine = {
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
            **versions,
        }
        return cls([], machine)

    @classmethod
    def load(cls, path: Path) -> Report:
        """An earlier one."""
        stored = json.loads(path.read_text())
        return cls(
            [Result(**result) for result in stored["results"]], stored["machine"]
        )

    def save(self, path: Path) -> None:
        """Keep it, to compare with later."""
        stored = {"machine": self.machine, "results": list(map(asdict, self.results))}
        path.write_text(json.dumps(stored, indent=1) + "\n")

    @property
    def rows(self) -> list[str]:
        """Names of the rows, as they were measured."""
        return list(dict.fromkeys(result.row for result in self.results))

    def of(self, row: str) -> list[Result]:
        """The results of a row."""
        return [result for result in self.results if result.row == row]

    def find(self, row: str, who: str) -> Result | None:
        """One result."""
        return next((result for result in self.of(row) if result.who == who), None)

    def table(self, targets: Iterable[Target], before: Report | None) -> str:
        """Everything, in Markdown."""
        said = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        lines = [f"{said}.", ""]
        for row in self.rows:
            lines += [*self._row(row, before), ""]
        lines += self._targets(targets)
        return "\n".join(lines) + "\n"

    def _row(self, row: str, before: Report | None) -> list[str]:
        results = self.of(row)
        ours = self._ours(row)
        head, rule = f"| {row} ({results[0].unit}) | best | median |", "|---|--:|--:|"
        if ours is not None:
            head, rule = head + f" to {ours.who} |", rule + "--:|"
        if before is not None:
            head, rule = head + " before |", rule + "--:|"
        lines = [head, rule]
        for result in results:
            if result.best != result.best:
                columns = head.count("|") - 2
                lines.append(f"| {result.who} | {result.note} |" + " |" * (columns - 1))
                continue
            note = f" ({result.note})" if result.note else ""
            line = (
                f"| {result.who}{note} | {_number(result.best)} "
                f"| {_number(result.median)} |"
            )
            if ours is not None:
                line += f" {result.best / ours.best:.2f}x |"
            if before is not None:
                earlier = before.find(row, result.who)
                line += f" {_number(earlier.best)} |" if earlier else " |"
            lines.append(line)
        return lines

    def _ours(self, row: str) -> Result | None:
        for who in ("feedline processes", "feedline threads"):
            found = self.find(row, who)
            if found is not None and found.best > 0:
                return found
        return None

    def _targets(self, targets: Iterable[Target]) -> list[str]:
        lines = ["| target | to reach | reached | |", "|---|--:|--:|---|"]
        for target in targets:
            ours = self.find(target.row, target.who)
            if ours is None:
                continue
            what = f"{target.row}: {target.who}"
            if target.peer is None:
                reached, good = _number(ours.best), ours.best <= target.bound
                asked = f"at most {_number(target.bound)} {ours.unit}"
                reached = f"{reached} {ours.unit}"
            else:
                theirs = self.find(target.row, target.peer)
                what = f"{what} to {target.peer}"
                asked = f"{target.bound:.3g}x"
                if theirs is None or theirs.best != theirs.best:
                    lines.append(f"| {what} | {asked} | not measured | |")
                    continue
                ratio = theirs.best / ours.best
                reached, good = f"{ratio:.2f}x", ratio >= target.bound
            lines.append(
                f"| {what} | {asked} | {reached} | {'yes' if good else 'no'} |"
            )
        return lines


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
