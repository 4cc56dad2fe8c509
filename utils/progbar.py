"""``Progbar``: the line that tells how far training is, how fast, and how well.

A drop-in for ``keras.utils.Progbar``. On a terminal the line is redrawn in place, byte
for byte as there. Elsewhere (a file, a pipe, a log) it is a plain line without control
characters, at most one every ten seconds, and one at the end.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from .console import BAR, columns, is_terminal, write
from .metrics import RunningMeans, metric_value

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Progbar"]

_PLAIN_INTERVAL = 10.0  # seconds between lines in a log: few enough to read afterwards

_NONE, _BOLD, _GREEN, _WHITE = "", "1", "32", "37"
_Parts: TypeAlias = list[tuple[str, str]]  # (style, text)


class Progbar:
    """Progress of a loop, with metrics.

    Every method may be called from any thread. A stdout that is closed, broken or None
    is passed over.

    Args:
        target: Number of units in all; None if it is not known.
        width: Cells of the bar.
        verbose: 1 draws a bar, 2 writes one line at the end; anything else shows
            nothing and counts all the same.
        interval: Least time between two drawings, in seconds; the final one is exempt.
        stateful_metrics: Names of the metrics to show as they come. The others are
            averaged over the units since the first update.
        unit_name: What one unit is called: ``12ms/step``.
        stateless_metrics: The other way round: names of the metrics to average. The
            others are shown as they come.

    Attributes:
        target: As given; assign it once the length is known.

    Raises:
        ValueError: Both ``stateful_metrics`` and ``stateless_metrics`` are given.

    >>> bar = Progbar(3, verbose=2)
    >>> for loss in (3.0, 2.0, 1.0):
    ...     bar.add(1, [("loss", loss)])  # doctest: +ELLIPSIS
    3/3 - 0s - ...s/step - loss: 1.0000
    """

    def __init__(
        self,
        target: float | None,
        width: int = 20,
        verbose: int = 1,
        interval: float = 0.05,
        stateful_metrics: Iterable[str] | None = None,
        unit_name: str = "step",
        *,
        stateless_metrics: Iterable[str] | None = None,
    ) -> None:
        if stateful_metrics is not None and stateless_metrics is not None:
            raise ValueError(
                "stateful_metrics and stateless_metrics exclude each other, got "
                f"{stateful_metrics!r} and {stateless_metrics!r}; a metric that is not "
                "of the one kind is of the other"
            )
        self.target = target
        self.width = width
        self.verbose = verbose
        self.interval = interval
        self.unit_name = unit_name
        self.stateless_metrics = _names(stateless_metrics)
        self.stateful_metrics = _names(stateful_metrics)
        if self.stateful_metrics is None and self.stateless_metrics is None:
            self.stateful_metrics = set()
        self._means = RunningMeans()
        self._current: float = 0
        self._started = time.monotonic()
        self._first_step: float | None = None  # when unit 1 was done
        self._drawn: float | None = None  # when the bar was last drawn
        self._logged = self._started  # a short run needs no line but its last
        self._visible = 0  # characters of the line on the terminal
        self._within_line = False
        # Held while writing too, so that two lines never mix.
        self._lock = threading.RLock()

    def update(
        self,
        current: float,
        values: Iterable[tuple[str, Any]] | Mapping[str, Any] | None = None,
        finalize: bool | None = None,
    ) -> None:
        """Tell how many units are done, and what the metrics are.

        Args:
            current: Units done so far.
            values: Pairs of name and value, or a mapping. A value is a number or an
                array of numbers, of which the mean is taken. An averaged metric weighs
                as much as the units done since the update before; in the final update
                the value replaces the average.
            finalize: Whether this is the final update. None decides by
                ``current >= target``.

        Raises:
            TypeError: A value is not a number or an array of numbers.
        """
        with self._lock:
            if finalize is None:
                finalize = self.target is not None and bool(current >= self.target)
            self._count(current, values, finalize)
            now = time.monotonic()
            seconds_per_unit = self._seconds_per_unit(current, now)
            if self.verbose == 1 and is_terminal():
                self._draw(now, seconds_per_unit, finalize)
            elif self.verbose == 1:
                self._log(now, seconds_per_unit, finalize)
            elif self.verbose == 2 and finalize and self._length:
                write(self._plain_line(now, seconds_per_unit, final=True))

    def add(
        self,
        n: float,
        values: Iterable[tuple[str, Any]] | Mapping[str, Any] | None = None,
    ) -> None:
        """Tell that ``n`` more units are done; see :meth:`update`."""
        with self._lock:
            self.update(self._current + n, values)

    def close(self) -> None:
        """End the line if the bar was left in the middle of it.

        For a loop that stops before its final update, so that what is printed next
        starts on a line of its own. Nothing happens otherwise.
        """
        with self._lock:
            if self._within_line:
                self._within_line = False
                write("\n")

    @property
    def _length(self) -> float | None:
        """The target if there is one to get to, else None."""
        known = self.target is not None and 0 < self.target < math.inf
        return self.target if known else None

    def _count(
        self,
        current: float,
        values: Iterable[tuple[str, Any]] | Mapping[str, Any] | None,
        finalize: bool,
    ) -> None:
        weight = max(current - self._current, 1)
        self._current = current
        pairs = values.items() if isinstance(values, Mapping) else values or ()
        for name, value in pairs:
            number = metric_value(name, value)
            if finalize or not self._averaged(name):
                self._means.replace(name, number)
            else:
                self._means.add(name, number, weight)

    def _averaged(self, name: str) -> bool:
        if self.stateless_metrics is not None:
            return name in self.stateless_metrics
        return self.stateful_metrics is None or name not in self.stateful_metrics

    def _seconds_per_unit(self, current: float, now: float) -> float:
        """Time per unit; the first one, which warms everything up, is left out."""
        if not current:
            return 0.0
        if self._first_step is not None and current > 1:
            return (now - self._first_step) / (current - 1)
        if current == 1:
            self._first_step = now
        return (now - self._started) / current

    def _draw(self, now: float, seconds_per_unit: float, final: bool) -> None:
        early = self._drawn is not None and now - self._drawn < self.interval
        if early and not final:
            return
        self._drawn = now
        # The last column stays free: a terminal that has filled it may have wrapped.
        room = max(columns() - 1, 1)
        parts = self._parts(self.width, now, seconds_per_unit, final)
        excess = _visible(parts) - room
        if excess > 0:  # the numbers say more than the bar does
            width = max(self.width - excess, 0)
            parts = _cut(self._parts(width, now, seconds_per_unit, final), room)
        visible = _visible(parts)
        rest = " " * (min(self._visible, room) - visible)
        write(
            "\b" * self._visible + "\r" + _paint(parts) + rest + ("\n" if final else "")
        )
        self._visible = visible
        self._within_line = not final

    def _log(self, now: float, seconds_per_unit: float, final: bool) -> None:
        if final or now - self._logged >= max(_PLAIN_INTERVAL, self.interval):
            self._logged = now
            write(self._plain_line(now, seconds_per_unit, final))

    def _parts(
        self, width: int, now: float, seconds_per_unit: float, final: bool
    ) -> _Parts:
        length = self._length
        parts: _Parts = []
        if length is None:
            parts.append((_NONE, f"{int(self._current):7d}/Unknown"))
        else:
            parts += [(_BOLD, self._fraction(length)), (_NONE, " ")]
            done = min(max(int(width * self._current / length), 0), width)
            if done:
                parts.append((_GREEN, BAR * done))
            parts.append((_WHITE, BAR * (width - done)))
        if length is None or final:
            shown_time = f"{now - self._started:.0f}s"
        else:
            shown_time = _time_left(seconds_per_unit * (length - self._current))
        text = f" {_pace(seconds_per_unit)}/{self.unit_name}"
        metrics = "".join(f" - {shown}" for shown in self._shown_metrics())
        return [*parts, (_NONE, " "), (_BOLD, shown_time), (_NONE, text + metrics)]

    def _plain_line(self, now: float, seconds_per_unit: float, final: bool) -> str:
        length = self._length
        if length is None:
            said = [f"{int(self._current)}/Unknown"]
        else:
            said = [self._fraction(length)]
        said.append(f"{now - self._started:.0f}s")
        if length is not None and not final:
            left = seconds_per_unit * (length - self._current)
            said.append(f"ETA {_time_left(left)}")
        said.append(f"{_pace(seconds_per_unit)}/{self.unit_name}")
        return " - ".join([*said, *self._shown_metrics()]) + "\n"

    def _fraction(self, length: float) -> str:
        digits = int(math.log10(length)) + 1
        return f"{int(self._current):{digits}d}/{int(length)}"

    def _shown_metrics(self) -> list[str]:
        return [
            f"{name}: {mean:.4f}" if abs(mean) > 1e-3 else f"{name}: {mean:.4e}"
            for name, mean in self._means
        ]


def _names(names: Iterable[str] | None) -> set[str] | None:
    if names is None:
        return None
    return {names} if isinstance(names, str) else set(names)


def _time_left(seconds: float) -> str:
    left = max(int(seconds), 0)
    if seconds > 3600:
        return f"{left // 3600}:{left % 3600 // 60:02d}:{left % 60:02d}"
    if seconds > 60:
        return f"{left // 60}:{left % 60:02d}"
    return f"{left}s"


def _pace(seconds: float) -> str:
    if seconds >= 1 or seconds == 0:
        return f"{seconds:.0f}s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.0f}ms"
    return f"{seconds * 1e6:.0f}us"


def _visible(parts: _Parts) -> int:
    return sum(len(text) for _, text in parts)


def _cut(parts: _Parts, room: int) -> _Parts:
    """As many characters of the parts as there is room for."""
    kept: _Parts = []
    for style, text in parts:
        kept.append((style, text[:room]))
        room -= len(kept[-1][1])
    return kept


def _paint(parts: _Parts) -> str:
    return "".join(
        f"\033[{style}m{text}\033[0m" if style else text for style, text in parts
    )
