"""Tests for feedline.utils.cells."""

from __future__ import annotations

import pytest

from feedline.utils.cells import cells, cut, printable


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("", 0),
        ("loss", 4),
        ("━", 1),
        ("損失", 4),
        ("ｱ", 1),
        ("\uff21", 2),  # A of full width
        ("👍", 2),
        ("größe", 5),
    ],
)
def test_text_takes_these_columns(text: str, columns: int) -> None:
    assert cells(text) == columns


@pytest.mark.parametrize(
    ("text", "at_least"),
    [("❤\ufe0f", 2), ("👨\u200d👩", 2), ("\u00ad", 1), ("👍🏽", 2)],
)
def test_what_terminals_disagree_on_is_not_taken_for_less(
    text: str, at_least: int
) -> None:
    assert cells(text) >= at_least


def test_combining_characters_take_no_column_and_stay_with_theirs() -> None:
    assert cells("e\u0301a") == 2
    assert cut("e\u0301a", 1) == "e\u0301"


@pytest.mark.parametrize(
    ("room", "kept"), [(0, ""), (1, ""), (2, "損"), (3, "損"), (4, "損失"), (9, "損失")]
)
def test_wide_character_is_cut_off_whole(room: int, kept: str) -> None:
    assert cut("損失", room) == kept


def test_only_control_characters_are_not_printable() -> None:
    assert printable("a\n\r\b\x1b[0m\x9b\x7f損 e\u0301\u200d") == "a[0m損 e\u0301\u200d"
