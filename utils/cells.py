"""How many columns of a terminal a text takes.

Characters of East Asian scripts take two columns, combining ones take none. Where
terminals disagree (emoji made of several characters, soft hyphens) the larger number is
given: a line that is taken for longer than it is still fits.
"""

from __future__ import annotations

import unicodedata

__all__ = ["cells", "cut", "printable"]

_EMOJI_STYLE = "\ufe0f"  # makes the character before it one column wider


def cells(text: str) -> int:
    """Columns that a printable text takes.

    >>> cells("loss"), cells("損失"), cells("e\u0301")
    (4, 4, 1)
    """
    return len(text) if text.isascii() else sum(map(_cells_of_one, text))


def cut(text: str, room: int) -> str:
    """The beginning of a printable text, as far as it fits into ``room`` columns.

    >>> cut("損失", 3)
    '損'
    """
    taken = 0
    for position, character in enumerate(text):
        taken += _cells_of_one(character)
        if taken > room:
            return text[:position]
    return text


def printable(text: str) -> str:
    r"""The text without what would move the cursor.

    >>> printable("lo\nss")
    'loss'
    """
    if text.isprintable():
        return text
    return "".join(c for c in text if unicodedata.category(c) != "Cc")


def _cells_of_one(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me") and character != _EMOJI_STYLE:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
