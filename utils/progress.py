"""Where a loop stands, and the line that says so: with a bar, or plain.

Pure: nothing here looks at a clock or a stream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from .cells import cells, cut, printable
from .console import BAR

__all__ = ["Line", "Progress"]

_NONE, _BOLD, _GREEN, _WHITE = "", "1", "32", "37"
_Parts: TypeAlias = list[tuple[str, str]]  # (style, text)


@dataclass(frozen=True, slots=True)
class Line:
    """A line to draw on a terminal.

    Attributes:
        text: With the escapes that colour it.
        columns: How many it takes.
    """

    text: str = ""
    columns: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a loop stands at one moment.

    Attributes:
        current: Units done.
        target: Units in all, more than 0; None if there is no end to get to.
        elapsed: Seconds since the start.
        pace: Seconds for one unit.
        unit_name: What one unit is called.
        metrics: Names and values, in the order to show them in.
        final: Whether nothing more is to come.
    """

    current: float
    target: float | None
    elapsed: float
    pace: float
    unit_name: str
    metrics: tuple[tuple[str, float], ...]
    final: bool

    def line(self, width: int, room: int) -> Line:
        """The line with a bar of ``width`` cells, as far as ``room`` columns allow it.

        The bar gives way before the metrics do; a metric is shown whole or not at all.
        """
        metrics = self._shown_metrics()
        bare = self._parts(0, metrics)
        while metrics and _columns(bare) > room:
            metrics.pop()
            bare = self._parts(0, metrics)
        spare = max(room - _columns(bare), 0)
        parts = _cut(self._parts(min(width, spare), metrics), room)
        return Line(_painted(parts), _columns(parts))

    def plain(self) -> str:
        """The line without a bar and without colours, for a file."""
        said = [self._count().lstrip() if self.target is None else self._count()]
        said.append(f"{self.elapsed:.0f}s")
        if self._counts_down:
            said.append(f"ETA {self._time()}")
        return " - ".join([*said, self._shown_pace(), *self._shown_metrics()])

    @property
    def _counts_down(self) -> bool:
        return self.target is not None and not self.final

    def _parts(self, width: int, metrics: list[str]) -> _Parts:
        said = " - ".join([self._shown_pace(), *metrics])
        end: _Parts = [(_NONE, " "), (_BOLD, self._time()), (_NONE, f" {said}")]
        if self.target is None:
            return [(_NONE, self._count()), *end]
        done = int(width * (float(self.current) / self.target))
        done = min(max(done, 0), width)
        bar = [(_GREEN, BAR * done)] if done else []
        bar.append((_WHITE, BAR * (width - done)))
        return [(_BOLD, self._count()), (_NONE, " "), *bar, *end]

    def _count(self) -> str:
        if self.target is None:
            return f"{int(self.current):7d}/Unknown"
        digits = max(int(math.log10(self.target)) + 1, 1)
        return f"{int(self.current):{digits}d}/{int(self.target)}"

    def _time(self) -> str:
        """The time that is left, or that it took if that is not known."""
        if self.target is None or self.final:
            return f"{self.elapsed:.0f}s"
        seconds = self.pace * (self.target - self.current)
        left = max(int(seconds), 0)
        if seconds > 3600:
            return f"{left // 3600}:{left % 3600 // 60:02d}:{left % 60:02d}"
        if seconds > 60:
            return f"{left // 60}:{left % 60:02d}"
        return f"{left}s"

    def _shown_pace(self) -> str:
        unit = printable(self.unit_name)
        if self.pace >= 1 or self.pace == 0:
            return f"{self.pace:.0f}s/{unit}"
        if self.pace >= 1e-3:
            return f"{self.pace * 1e3:.0f}ms/{unit}"
        return f"{self.pace * 1e6:.0f}us/{unit}"

    def _shown_metrics(self) -> list[str]:
        return [
            f"{printable(name)}: {value:{'.4f' if abs(value) > 1e-3 else '.4e'}}"
            for name, value in self.metrics
        ]


def _columns(parts: _Parts) -> int:
    return sum(cells(text) for _, text in parts)


def _cut(parts: _Parts, room: int) -> _Parts:
    kept: _Parts = []
    for style, text in parts:
        kept.append((style, cut(text, room)))
        room -= cells(kept[-1][1])
        if kept[-1][1] != text:
            break
    return kept


def _painted(parts: _Parts) -> str:
    return "".join(
        f"\033[{style}m{text}\033[0m" if style else text for style, text in parts
    )
