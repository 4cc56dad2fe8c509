"""Every fault with every pool has the outcome that the table shows, and leaves nothing."""

from __future__ import annotations

import itertools
import re
import sys

import pytest

from .judge import allowed, judge
from .rows import NOT_HERE
from .table import PAGE, cases, page, rows, shown

CASES = cases()
# The oldest Python plays them all, every other one a half.
OLDEST, HALF = 11, sys.version_info.minor % 2
PLAYED = [*CASES] if sys.version_info.minor == OLDEST else [*CASES][HALF::2]


@pytest.mark.parametrize("case", PLAYED, ids="-".join)
def test_a_fault_ends_as_it_must_in_time_and_leaves_nothing(
    case: tuple[str, str, str],
) -> None:
    module, _, pool = case
    row = CASES[case]
    report = judge(module, row, pool)
    if report.outcome == NOT_HERE:
        pytest.xfail(report.detail)
    assert report.outcome == row.outcome, f"{report.outcome}\n{report.detail}"
    assert report.left == ()
    assert report.seconds is not None
    assert report.seconds < allowed(row), f"{report.seconds:.2f} s"


def test_the_page_shows_every_row_with_its_outcomes_and_nothing_left() -> None:
    assert without_times(PAGE.read_text()) == without_times(page({}))


def test_the_page_shows_times_and_none_beyond_its_bar() -> None:
    reports = shown()
    assert reports.keys() >= CASES.keys()
    for case, row in CASES.items():
        seconds = reports[case].seconds
        assert seconds is not None
        assert 0 <= seconds <= row.within, case


def test_no_two_rows_have_the_same_words() -> None:
    words = [row.fault for row in itertools.chain(*rows().values())]
    assert len(words) == len(set(words))


def without_times(text: str) -> str:
    """Measured seconds have two decimals; the peers', which stand still, have one."""
    return re.sub(r" \d+\.\d\ds", " 0.00s", text)
