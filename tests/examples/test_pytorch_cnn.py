"""Tests for examples/pytorch_cnn.py, run as a user runs it."""

from __future__ import annotations

import pytest

from tests.examples.program import Program, accuracy, loader

pytest.importorskip("torch")
pytest.importorskip("sklearn")

PROGRAM = Program("pytorch_cnn.py")


def test_six_epochs_reach_95_percent_and_the_same_weights_with_every_kind_of_worker() -> (
    None
):
    lines = PROGRAM.expect_the_same_weights("--epochs", 6)["2 processes"]
    assert accuracy(lines) >= 95
    assert lines[-3].endswith(" of 359)")
    assert [line.split()[1] for line in lines[:-3]] == [f"{i}/6" for i in range(1, 7)]
    assert loader(lines).startswith("270 batches, waited ")  # 6 epochs of 45
