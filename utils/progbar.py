"""``Progbar``: the line that tells how far training is, how fast, and how well.

A drop-in for ``keras.utils.Progbar``. On a terminal the line is redrawn in place, byte
for byte as there; in a notebook it is one output that is replaced. Elsewhere (a file, a
pipe, a log) it is a plain line without control characters, at most one every ten
seconds, and one at the end.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .console import columns, is_notebook, is_terminal, show_in_notebook, write
from .metrics import RunningMeans, metric_value
from .progress import Line, Progress

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Progbar"]

_PLAIN_INTERVAL = 10.0  # seconds between lines in a log: few enough to read afterwards


class Progbar:
    """Progress of a loop, with metrics.

    Every method may be called from any thread. A stdout that is closed, broken, full or
    None is passed over.

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

    Differs from Keras: ``stateless_metrics`` is a keyword alone, and ``unit_name`` the
    sixth position, as in the public documentation.
    Differs from Keras: a file or a pipe gets plain lines, no control characters.
    Differs from Keras: in a notebook the line is one output, replaced in place.
    Differs from Keras: a line never gets wider than the terminal; the bar gives way
    first, then metrics from the last one on. Wide characters count as two columns.
    Differs from Keras: past the target the bar is full and the time left is 0.
    Differs from Keras: ``verbose=2`` writes its line also where the length is unknown,
    and shows -2.0 as ``-2.0000``.
    Differs from Keras: an infinite target is an unknown one.
    Differs from Keras: the clock is monotonic.
    Differs from Keras: one name may be given for a list of names.
    Differs from Keras: control characters in names are left out.

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
        self._shown = -math.inf  # when a line was last shown
        self._line = Line()  # the one on the terminal
        self._within_line = False
        self._in_notebook: Any = None
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
            TypeError: A value is not a number or an array of numbers; nothing is
                counted then.

        Differs from Keras: ``values`` may be a mapping.
        Differs from Keras: a list is averaged as an array is, and arrays of several
        lengths may follow each other.
        Differs from Keras: averages are taken in double precision, whatever comes in.
        """
        with self._lock:
            if finalize is None:
                finalize = self.target is not None and bool(current >= self.target)
            self._count(current, values, finalize)
            now = time.monotonic()
            if current == 1:
                self._first_step = now
            if self.verbose == 1:
                self._show(now, finalize)
            elif self.verbose == 2 and finalize:
                write(self._progress(now, finalize).plain() + "\n")

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

    def _count(
        self,
        current: float,
        values: Iterable[tuple[str, Any]] | Mapping[str, Any] | None,
        finalize: bool,
    ) -> None:
        pairs = values.items() if isinstance(values, Mapping) else values or ()
        numbers = [(name, metric_value(name, value)) for name, value in pairs]
        weight = max(current - self._current, 1)
        self._current = current
        for name, number in numbers:
            if finalize or not self._averaged(name):
                self._means.replace(name, number)
            else:
                self._means.add(name, number, weight)

    def _averaged(self, name: str) -> bool:
        if self.stateless_metrics is not None:
            return name in self.stateless_metrics
        return self.stateful_metrics is None or name not in self.stateful_metrics

    def _show(self, now: float, final: bool) -> None:
        if not final and now - self._shown < self.interval:
            return
        notebook = is_notebook()
        redrawn = notebook or is_terminal()
        if not (final or redrawn or self._due_in_file(now)):
            return
        self._shown = now
        progress = self._progress(now, final)
        if notebook:
            # A saved notebook keeps every write to stdout, and nothing that was replaced.
            line = progress.line(self.width, sys.maxsize)
            self._in_notebook = show_in_notebook(line.text, self._in_notebook)
        elif redrawn:
            self._redraw(progress)
        else:
            write(progress.plain() + "\n")

    def _due_in_file(self, now: float) -> bool:
        # A short run needs no line but its last.
        since = max(self._shown, self._started)
        return now - since >= max(_PLAIN_INTERVAL, self.interval)

    def _redraw(self, progress: Progress) -> None:
        # The last column stays free: a terminal that has filled it may have wrapped.
        room = max(columns() - 1, 1)
        line = progress.line(self.width, room)
        before = self._line.columns
        # What is wider than the terminal was drawn before it was made narrower.
        rest = " " * (before - line.columns) if before <= room else "\033[K"
        end = "\n" if progress.final else ""
        write("\b" * before + "\r" + line.text + rest + end)
        self._line = line
        self._within_line = not progress.final

    def _progress(self, now: float, final: bool) -> Progress:
        ends = self.target is not None and 0 < self.target < math.inf
        return Progress(
            current=self._current,
            target=self.target if ends else None,
            elapsed=now - self._started,
            pace=self._pace(now),
            unit_name=self.unit_name,
            metrics=tuple(self._means),
            final=final,
        )

    def _pace(self, now: float) -> float:
        """Seconds per unit; the first one, which warms everything up, is left out."""
        if not self._current:
            return 0.0
        if self._first_step is not None and self._current > 1:
            return (now - self._first_step) / (self._current - 1)
        return (now - self._started) / self._current


def _names(names: Iterable[str] | None) -> set[str] | None:
    if names is None:
        return None
    return {names} if isinstance(names, str) else set(names)
