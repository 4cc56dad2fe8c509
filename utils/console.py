"""A stdout that may be a terminal, a file, or gone.

``sys.stdout`` is looked up at every call, because notebooks, tests and loggers exchange
it. Nothing here raises: showing progress is never worth a training run.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress

__all__ = ["BAR", "columns", "is_terminal", "write"]

BAR = "━"

# What a write to a stream without a reader, a closed one or a half-made one raises.
_GONE = (OSError, ValueError, AttributeError)


def is_terminal() -> bool:
    """Whether a line on stdout can be redrawn: in a terminal or a notebook cell."""
    stream = sys.stdout
    # A notebook's stream is no tty, but it understands a carriage return.
    if type(stream).__module__.partition(".")[0] == "ipykernel":
        return True
    with suppress(*_GONE):
        return bool(stream.isatty())
    return False


def columns() -> int:
    """Characters that fit into one line of the terminal."""
    return shutil.get_terminal_size().columns


def write(text: str) -> None:
    """Write and flush; what the stream's encoding lacks is replaced or left out.

    Args:
        text: Anything; :data:`BAR` becomes ``=`` where it cannot be encoded.
    """
    stream = sys.stdout
    with suppress(*_GONE):
        try:
            stream.write(text)
        except UnicodeEncodeError as error:
            known = text.replace(BAR, "=").encode(error.encoding, "ignore")
            stream.write(known.decode(error.encoding))
        stream.flush()
