"""Tests for examples/lightning_cnn.py, run as a user runs it.

Few runs: importing Lightning takes longer than the training.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.examples.program import Program, loader, weights

pytest.importorskip("torch")
pytest.importorskip("sklearn")
if find_spec("lightning") is None:  # importing it here would take seconds, too
    pytest.skip("lightning is not installed", allow_module_level=True)

PROGRAM = Program("lightning_cnn.py")
PLAIN_LOOP = Program("pytorch_cnn.py")


def test_lightning_trains_to_the_weights_of_the_plain_loop() -> None:
    lines = PROGRAM.print_lines("--epochs", 1, "--workers", 2, "--processes")
    plain = PLAIN_LOOP.print_lines("--epochs", 1, "--workers", 0)
    assert lines[:-1] == plain[:-1]  # losses, test accuracy, weights
    assert lines[0].startswith("epoch 1/1  loss ")
    assert weights(lines) == weights(plain)
    assert loader(lines).startswith("45 batches, waited ")
    assert "2 process workers busy " in loader(lines)


def test_ctrl_c_ends_it_with_one_line_and_status_130() -> None:
    ended = PROGRAM.interrupt_after("epoch 1/", "--epochs", 99999, "--threads")
    assert ended == (130, "interrupted\n")
