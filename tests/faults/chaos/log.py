"""What the engine logs while it is soaked: which batches it leaves out, and why."""

from __future__ import annotations

import logging
import re

_LEFT_OUT = re.compile(r"batch (\d+) of epoch \d+ is left out: (\w+)")


class Log(logging.Handler):
    """Keeps the engine's log from the terminal, and what it says of skipped batches."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.skipped: list[tuple[int, str]] = []  # indices, types of their errors
        engine = logging.getLogger("feedline")
        engine.addHandler(self)
        engine.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Hear one line."""
        if found := _LEFT_OUT.match(record.getMessage()):
            index, why = found.groups()
            self.skipped.append((int(index), why))

    def forget(self) -> None:
        """Begin anew."""
        self.skipped.clear()
