"""A stdout that may be a terminal, a notebook, a file, or gone.

``sys.stdout`` is looked up at every call, because notebooks, tests and loggers exchange
it. Nothing here raises: showing progress is never worth a training run.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from typing import Any

__all__ = ["BAR", "columns", "is_notebook", "is_terminal", "show_in_notebook", "write"]

BAR = "━"


def is_notebook() -> bool:
    """Whether stdout is a notebook's cell."""
    return any(
        kind.__module__.partition(".")[0] == "ipykernel"
        for kind in type(sys.stdout).__mro__
    )


def is_terminal() -> bool:
    """Whether stdout is a terminal."""
    with suppress(Exception):  # None, closed, or half made
        return bool(sys.stdout.isatty())
    return False


def columns() -> int:
    """Columns of one line of the terminal as it is now."""
    # Asked of the terminal first: COLUMNS, if exported, is what it was at some time.
    with suppress(Exception):
        if now := os.get_terminal_size(sys.stdout.fileno()).columns:
            return now
    return shutil.get_terminal_size().columns


def write(text: str) -> None:
    """Write and flush; what the stream's encoding lacks is replaced or left out.

    Args:
        text: Anything; :data:`BAR` becomes ``=`` where it cannot be encoded.
    """
    stream = sys.stdout
    with suppress(Exception):  # there are many ways for a stream to be gone
        try:
            stream.write(text)
        except UnicodeEncodeError as error:
            # An error of a code page calls every one of them "charmap".
            encoding = getattr(stream, "encoding", None) or error.encoding
            known = text.replace(BAR, "=").encode(encoding, "ignore")
            stream.write(known.decode(encoding))
        stream.flush()


def show_in_notebook(text: str, shown: Any) -> Any:
    """Show a line in the notebook's cell, in place of one that was shown before.

    Args:
        text: Without an end of line; may have colours.
        shown: What the call that is to be replaced returned; None shows a new line.
    """
    with suppress(Exception):
        from IPython.display import display

        data = {"text/plain": text}
        if shown is None:
            return display(data, raw=True, display_id=True)
        shown.update(data, raw=True)
    return shown
