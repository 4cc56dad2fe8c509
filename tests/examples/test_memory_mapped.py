"""Tests for examples/memory_mapped.py, run as a user runs it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.examples.program import (
    LOADER_LINES,
    WAYS,
    Program,
    accuracy,
    loader,
    weights,
)

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = Program("memory_mapped.py")
SAMPLES = 100_000  # 102 MB, four times what a process of NumPy takes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "kept"


@pytest.fixture(scope="module")
def printed(folder: Path) -> dict[str, list[str]]:
    options = ["--epochs", 1, "--samples", SAMPLES, "--folder", folder]
    return {way: PROGRAM.print_lines(*options, *WAYS[way]) for way in WAYS}


def test_one_epoch_classifies_95_percent(printed: dict[str, list[str]]) -> None:
    assert printed["2 processes"][0] == "100000 rows, 102 MB"
    assert accuracy(printed["2 processes"]) >= 95


def test_weights_are_the_same_with_every_kind_of_worker(
    printed: dict[str, list[str]],
) -> None:
    assert len({weights(lines) for lines in printed.values()}) == 1, printed
    for way, lines in printed.items():
        assert loader(lines).startswith("352 batches, waited ")  # of 256 rows of 90,000
        assert LOADER_LINES[way] in loader(lines)


def test_no_process_has_a_copy_of_the_file(printed: dict[str, list[str]]) -> None:
    for way, lines in printed.items():
        took = [int(number) for number in re.findall(r"(\d+) MB", lines[-1])]
        assert len(took) == (3 if way == "2 processes" else 1), lines[-1]
        assert max(took) < 70, lines[-1]


def test_files_are_written_once_and_then_used_whatever_their_size(
    folder: Path, printed: dict[str, list[str]]
) -> None:
    assert printed
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {path.name for path in before} == {"features.npy", "labels.npy"}
    x = np.load(folder / "features.npy", mmap_mode="r")
    assert x.shape == (SAMPLES, 256)
    assert x.dtype == np.float32
    lines = PROGRAM.print_lines("--folder", folder, "--epochs", 1, "--samples", 20)
    assert lines[0] == "100000 rows, 102 MB"
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_files_of_ones_own_are_trained_on(tmp_path: Path) -> None:
    labels = np.arange(300) % 3
    np.save(tmp_path / "features.npy", np.eye(5, dtype=np.float32)[labels])
    np.save(tmp_path / "labels.npy", labels)
    assert accuracy(PROGRAM.print_lines("--folder", tmp_path)) == 100


def test_temporary_files_are_gone_after_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    options = ["--samples", 1000, "--epochs", 99999, "--processes"]
    assert PROGRAM.interrupt_after("Epoch 2/", *options) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_used_get_one_line_and_status_2(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", np.zeros((30, 5), np.float32))
    said = f"memory_mapped.py: error: cannot use the files in {tmp_path}: "
    assert PROGRAM.refuse("--folder", tmp_path).startswith(f"{said}[Errno 2]")
    np.save(tmp_path / "labels.npy", np.zeros(29, np.int64))
    assert PROGRAM.refuse("--folder", tmp_path) == (
        f"{said}features.npy must have shape (samples, width) and labels.npy (samples,), "
        "got (30, 5) and (29,)"
    )
    (tmp_path / "labels.npy").write_text("no array")
    assert PROGRAM.refuse("--folder", tmp_path).startswith(said)
