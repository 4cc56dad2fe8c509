"""What the engine logs while it is soaked: which batches it leaves out, and why."""

from __future__ import annotations

import logging
import re
from typing import Self

_LEFT_OUT = re.compile(r"batch (\d+) of epoch \d+ is left out: (\w+)")


class Log(logging.Handler):
    """Keeps the engine's log from the terminal, and what it says of skipped batches."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.skipped: list[tuple[int, str]] = []  # indices, types of their errors
        self._engine = logging.getLogger("feedline")

    def __enter__(self) -> Self:
        self._engine.addHandler(self)
        self._engine.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.removeHandler(self)
        self._engine.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        """Hear one line."""
        if found := _LEFT_OUT.match(record.getMessage()):
            index, why = found.groups()
            self.skipped.append((int(index), why))

    def forget(self) -> None:
        """Begin anew."""
        self.skipped.clear()
