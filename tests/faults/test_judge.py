"""The judge sees what goes wrong: without this, the table would prove nothing."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from . import rows_broken
from .judge import MARK, Report, judge
from .table import cases


def verdict(name: str) -> Report:
    row = getattr(rows_broken, name)
    return judge("rows_broken", row, *row.pools)


@pytest.mark.parametrize(
    ("name", "outcome", "detail"),
    [
        ("no_fault", "NO FAULT", "no stamp of its fault"),
        ("swapped", "LOSS", "block 0 is due, got"),
        ("too_few", "LOSS", "the epoch has 20 batches, got 19"),
        ("vague", "VAGUE", "what happened is due, got LookupError: something"),
        ("no_error", "LOSS", "an error is due at batch 7, got 20 batches and none"),
        ("exits", "ENDED with 3", ""),
    ],
)
def test_a_row_that_goes_wrong_is_told_as_what_it_is(
    name: str, outcome: str, detail: str
) -> None:
    report = verdict(name)
    assert report.outcome == outcome, report.detail
    assert detail in report.detail


def test_a_row_that_hangs_is_ended_with_all_its_processes() -> None:
    report = verdict("hangs")
    assert report.outcome == "HANG"
    assert re.search(r"sleep 61\) waits in \w+", report.detail)
    assert not [p for p in psutil.process_iter() if sleeps(p, "61")]


def test_nothing_that_is_left_behind_is_overlooked_or_outlives_the_judge() -> None:
    report = verdict("leaves")
    left = "\n".join(report.left)
    for what in (
        r"process .*sleep 62", r"process .*tests\.faults\.child", "thread a-thread",
        r"descriptor \d+ -> pipe:", r"mappings? of an arena", r"\d+ MB of memory",
        "tmp/a-file", "feedline-a-name",
    ):  # fmt: skip
        assert re.search(what, left), f"{what} in\n{left}"
    with suppress(FileNotFoundError):
        Path("/dev/shm/feedline-a-name").unlink()
    assert not [p for p in psutil.process_iter() if sleeps(p, "62")]


def sleeps(process: psutil.Process, seconds: str) -> bool:
    with suppress(psutil.Error):
        return process.cmdline() == ["sleep", seconds] and MARK in process.environ()
    return False


def test_the_broken_rows_are_not_in_the_table() -> None:
    assert not any(module == "rows_broken" for module, *_ in cases())
