"""Tests for examples/pytorch_cnn.py, run as a user runs it."""

from __future__ import annotations

import pytest

from tests.examples.program import (
    LOADER_LINES,
    WAYS,
    Program,
    accuracy,
    loader,
    weights,
)

pytest.importorskip("torch")
pytest.importorskip("sklearn")

PROGRAM = Program("pytorch_cnn.py")


@pytest.fixture(scope="module")
def printed() -> dict[str, list[str]]:
    return {
        way: PROGRAM.print_lines("--epochs", 6, *options)
        for way, options in WAYS.items()
    }


def test_six_epochs_classify_95_percent_of_the_test_images(
    printed: dict[str, list[str]],
) -> None:
    lines = printed["2 processes"]
    assert accuracy(lines) >= 95
    assert lines[-3].endswith(" of 359)")
    assert [line.split()[1] for line in lines[:-3]] == [f"{i}/6" for i in range(1, 7)]


def test_weights_are_the_same_with_every_kind_of_worker(
    printed: dict[str, list[str]],
) -> None:
    assert len({weights(lines) for lines in printed.values()}) == 1, printed
    for way, lines in printed.items():
        assert loader(lines).startswith("270 batches, waited ")  # 6 epochs of 45
        assert LOADER_LINES[way] in loader(lines)
